"""Augmentation that cannot lose track of geometry: one affine map for points and pictures.

Everything that moves pixels is drawn as a single :class:`schemas.AxisAffine` on the canvas.
The tracks go through the map, the pictures are resampled by it, and its inverse joins the
sample's decode, so that a prediction on an augmented sample still decodes exactly.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import cv2
import numpy as np
from pydantic import Field, ValidationError, model_validator

from builder.canvas.model_points import affine_matrix
from builder.core.errors import ConfigError
from builder.core.explain import explain
from schemas.affine import AxisAffine
from schemas.base import Record

Probability = Annotated[float, Field(ge=0, le=1)]


class Augment(Protocol):
    """Draws one map per sample, the same for all its views and frames."""

    def draw(self, rng: np.random.Generator, img_shape: tuple[int, int]) -> AxisAffine | None:
        """Return a map of the canvas (H, W) onto itself, (x, y) pixels; None for none."""
        ...

    def recolor(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change the colours of pictures (..., H, W, 3), uint8 or float32 in [0, 1]."""
        ...


def check_augment(augment: Augment | None, img_shape: tuple[int, int]) -> None:
    """Raise ConfigError for what is no :class:`Augment`; one map is drawn to see."""
    if augment is None:
        return
    lacks = [name for name in ("draw", "recolor") if not callable(getattr(augment, name, None))]
    if lacks or isinstance(augment, type):
        raise ConfigError(
            f"augment takes an object with draw(rng, img_shape) and recolor(images, rng), such as "
            f"RandomAugment(hflip=0.5); got {augment!r}"
        )
    affine = augment.draw(np.random.default_rng(0), img_shape)
    if not isinstance(affine, AxisAffine | None):
        raise ConfigError(
            f"{augment!r}: draw must return a schemas.AxisAffine of the canvas, or None; got "
            f"{type(affine).__name__}"
        )


class RandomAugment(Record):
    """Flips, quarter turns, zoomed crops, brightness and contrast, each at random.

    ``zoom`` is the range of magnification; above 1 a part of the canvas is cropped at a random
    place and blown up, below 1 the canvas shrinks and black comes in.  Quarter turns are for
    square canvases: on others they would change the shape.
    """

    hflip: Probability = 0.0
    vflip: Probability = 0.0
    quarter_turns: bool = False
    zoom: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0)
    brightness: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="largest shift, as a share of full white"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="largest change of the factor around mid grey"
    )

    def __init__(self, **options: Any) -> None:
        """Take options by name.  Raises ConfigError for one that cannot be."""
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise ConfigError(explain(error, RandomAugment, write=repr)) from None

    @model_validator(mode="after")
    def _least_zoom_first(self) -> RandomAugment:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom is (least, largest), got {self.zoom}")
        return self

    def draw(self, rng: np.random.Generator, img_shape: tuple[int, int]) -> AxisAffine | None:
        """Return this sample's map.  Raises ValueError for quarter turns of a non-square."""
        height, width = img_shape
        affine = AxisAffine()
        for name, probability in (("hflip", self.hflip), ("vflip", self.vflip)):
            if rng.random() < probability:
                affine = AxisAffine.orient(name, img_shape) @ affine  # type: ignore[arg-type]
        if self.quarter_turns:
            if height != width:
                raise ValueError(f"quarter turns need a square img_shape, got {img_shape}")
            names = ("none", "rot90", "rot180", "rot270")
            affine = AxisAffine.orient(names[rng.integers(4)], img_shape) @ affine  # type: ignore[arg-type]
        zoom = float(rng.uniform(*self.zoom))
        if zoom != 1.0:
            # Where the zoomed canvas may lie: covering the view above 1, inside it below.
            spare = (1 - zoom) * rng.random(2)
            offset_xy = (float(width * spare[0]), float(height * spare[1]))
            affine = AxisAffine(scale_xy=(zoom, zoom), offset_xy=offset_xy) @ affine
        return None if affine == AxisAffine() else affine

    def recolor(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shift brightness and stretch contrast, the same for all pictures of a sample."""
        if not self.brightness and not self.contrast:
            return images
        white = 255 if images.dtype == np.uint8 else 1
        factor = np.float32(1 + rng.uniform(-self.contrast, self.contrast))
        shift = np.float32(white * rng.uniform(-self.brightness, self.brightness))
        changed = (images.astype(np.float32) - white / 2) * factor + white / 2 + shift
        changed = changed.clip(0, white)
        return changed.round().astype(np.uint8) if white == 255 else changed


def warp(image: np.ndarray, affine: AxisAffine) -> np.ndarray:
    """Resample a picture (H, W, 3) by a map of its canvas onto itself; black from outside.

    Flips and turns are exact; anything else is linear interpolation.
    """
    height, width = image.shape[:2]
    rows = affine_matrix(affine)
    rows[:, 2] += rows[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV counts from pixel centres
    return cv2.warpAffine(image, rows, (width, height), flags=cv2.INTER_LINEAR)
