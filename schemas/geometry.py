"""Letterbox geometry as a value: fit it once from two shapes, use it for everything.

Coordinates are *continuous image coordinates*: points are (x, y), the origin is the outer
top-left corner of the top-left pixel, pixel (row i, column j) covers [j, j+1) x [i, i+1) and
its centre is (j + 0.5, i + 0.5).  An H x W image spans [0, W] x [0, H].  In these coordinates
a letterbox is exactly ``p_img = scale_xy * p_source + pad_xy``.  Shapes are (H, W).

The rules for points (dtype, NaN, tuples) are those of ``schemas.affine``.
This module imports pydantic and nothing heavier.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.affine import (
    AffineBatch,
    AxisAffine,
    Orientation,
    Points,
    as_float_points,
    check_points,
    normalize,
    oriented_shape,
    swap_xy,
    unnormalize,
)
from schemas.base import Ratio, Record, Shape

__all__ = [
    "AffineBatch",
    "AxisAffine",
    "Geometry",
    "Letterbox",
    "Orientation",
    "Pad",
    "Points",
    "Stretch",
    "as_float_points",
    "normalize",
    "oriented_shape",
    "swap_xy",
    "unnormalize",
]


class Pad(Record):
    """Empty pixels around the content, by side."""

    top: Annotated[int, Field(ge=0)]
    bottom: Annotated[int, Field(ge=0)]
    left: Annotated[int, Field(ge=0)]
    right: Annotated[int, Field(ge=0)]


class _Geometry(Record):
    """What both geometries can do, given ``affine`` from source pixels to img pixels."""

    source_shape: Shape
    img_shape: Shape
    pixel_origin: Literal["corner"] = "corner"

    @property
    @abstractmethod
    def affine(self) -> AxisAffine:
        """The map from source pixels to img pixels."""

    @property
    def content_box(self) -> tuple[int, int, int, int]:
        """Where the picture lies on the canvas: (left, top, right, bottom) in img pixels."""
        height, width = self.img_shape
        return (0, 0, width, height)

    @cached_property
    def _to_source(self) -> AxisAffine:
        return ~self.affine

    @cached_property
    def _encode(self) -> AxisAffine:
        return AxisAffine.normalization(self.img_shape) @ self.affine

    @cached_property
    def _decode(self) -> AxisAffine:
        return ~self._encode

    def to_img(self, source_xy: Points) -> Points:
        """Map source pixels (..., 2) (x, y) to pixels of the img_shape canvas."""
        return self.affine(source_xy)

    def to_source(self, img_xy: Points) -> Points:
        """Map canvas pixels (..., 2) (x, y) back to source pixels; inverse of to_img."""
        return self._to_source(img_xy)

    def encode(self, source_xy: Points) -> Points:
        """Map source pixels (x, y) to normalized canvas coordinates, [-1, 1] inside it."""
        return self._encode(source_xy)

    def decode(self, norm_xy: Points) -> Points:
        """Map normalized canvas coordinates (x, y) to source pixels; inverse of encode.

        A model that speaks (row, col) decodes with ``decode(swap_xy(rc))``.
        """
        return self._decode(norm_xy)

    def inside(self, img_xy: Any) -> Any:
        """Tell which canvas points (..., 2) (x, y) lie on the content, edges included.

        Returns a boolean array (...), False for NaN.  Raises what ``to_img`` does for what is
        no array of points.
        """
        left, top, right, bottom = self.content_box
        if not isinstance(img_xy, tuple):
            check_points(img_xy)
            img_xy = (img_xy[..., 0], img_xy[..., 1])
        x, y = img_xy
        return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


class Letterbox(_Geometry):
    """Aspect-preserving placement of a source image, centred, on an ``img_shape`` canvas.

    Only integers are stored; scale and pad vectors are derived from them, per axis.
    ``source_shape`` is the stored pixel grid after orientation, ``sample_aspect_ratio``
    (width:height of one source pixel) makes the content have the displayed aspect.
    Construction rejects a record whose numbers do not agree.
    """

    kind: Literal["letterbox"] = "letterbox"
    sample_aspect_ratio: Ratio = (1, 1)
    content_shape: Shape
    pad: Pad

    @classmethod
    def fit(
        cls,
        source_shape: tuple[int, int],
        img_shape: tuple[int, int],
        sample_aspect_ratio: tuple[int, int] = (1, 1),
    ) -> Letterbox:
        """Fit a source of (H, W) into a canvas of (H, W).

        The content is the ideal aspect-preserving size rounded half up, at least 1 pixel,
        touching two opposite sides; an odd pad pixel goes to the bottom or right.
        Raises ValueError naming what is not two integers >= 1.
        """
        given = {
            "source_shape": source_shape,
            "img_shape": img_shape,
            "sample_aspect_ratio": sample_aspect_ratio,
        }
        try:
            checked = _FitInput.model_validate(given)
        except ValidationError as error:
            name = str(error.errors(include_url=False)[0]["loc"][0])
            pair = "(width, height) of a pixel" if "ratio" in name else "(H, W) in pixels"
            raise ValueError(
                f"Letterbox.fit: {name} is {pair}, whole numbers from 1 up, such as "
                f"{name}={(1, 1) if 'ratio' in name else (480, 640)}; got {given[name]!r:.80}"
            ) from None
        content_shape, pad = _fit(
            checked.source_shape, checked.img_shape, checked.sample_aspect_ratio
        )
        return cls(**dict(checked), content_shape=content_shape, pad=pad)

    @model_validator(mode="after")
    def _numbers_agree(self) -> Letterbox:
        content_shape, pad = _fit(self.source_shape, self.img_shape, self.sample_aspect_ratio)
        if (content_shape, pad) != (self.content_shape, self.pad):
            raise ValueError(
                f"source_shape {self.source_shape} (sample aspect ratio "
                f"{self.sample_aspect_ratio[0]}:{self.sample_aspect_ratio[1]}) in img_shape "
                f"{self.img_shape} gives content_shape {content_shape} and pad ({pad}); "
                f"the record says content_shape {self.content_shape} and pad ({self.pad})"
            )
        return self

    def onto(self, img_shape: tuple[int, int]) -> Letterbox:
        """Fit the same source into another canvas (H, W)."""
        return Letterbox.fit(self.source_shape, img_shape, self.sample_aspect_ratio)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Canvas pixels per source pixel, (x, y); the two differ after rounding."""
        (height, width), (src_height, src_width) = self.content_shape, self.source_shape
        return (width / src_width, height / src_height)

    @property
    def pad_xy(self) -> tuple[int, int]:
        """Where the content's corner lies on the canvas, (x, y) = (left, top)."""
        return (self.pad.left, self.pad.top)

    @property
    def content_box(self) -> tuple[int, int, int, int]:
        """Where the picture lies on the canvas: (left, top, right, bottom) in img pixels."""
        (left, top), (height, width) = self.pad_xy, self.content_shape
        return (left, top, left + width, top + height)

    @cached_property
    def affine(self) -> AxisAffine:
        """The map from source pixels to canvas pixels."""
        return AxisAffine(scale_xy=self.scale_xy, offset_xy=self.content_to_img.offset_xy)

    @cached_property
    def content_to_img(self) -> AxisAffine:
        """The map from pixels of the bare content picture (no bars) to canvas pixels."""
        left, top = self.pad_xy
        return AxisAffine(offset_xy=(float(left), float(top)))


class _FitInput(Record):
    source_shape: Shape
    img_shape: Shape
    sample_aspect_ratio: Ratio


def _fit(
    source_shape: tuple[int, int],
    img_shape: tuple[int, int],
    sample_aspect_ratio: tuple[int, int],
) -> tuple[tuple[int, int], Pad]:
    """Content shape and padding, in integer arithmetic throughout."""
    numerator, denominator = sample_aspect_ratio
    # The displayed size, times the ratio's denominator.
    height, width = source_shape[0] * denominator, source_shape[1] * numerator
    img_height, img_width = img_shape
    if width * img_height >= height * img_width:
        content = (_scaled(height, img_width, width), img_width)
    else:
        content = (img_height, _scaled(width, img_height, height))
    spare_y, spare_x = img_height - content[0], img_width - content[1]
    top, left = spare_y // 2, spare_x // 2
    return content, Pad(top=top, bottom=spare_y - top, left=left, right=spare_x - left)


def _scaled(side: int, to: int, of: int) -> int:
    """``side * to / of`` rounded half up, at least 1."""
    return max(1, (2 * side * to + of) // (2 * of))


class Stretch(_Geometry):
    """Plain per-axis stretching: what older datasets without letterboxing imply."""

    kind: Literal["stretch"] = "stretch"

    @classmethod
    def shorter(cls, source_shape: tuple[int, int], short_side: int) -> Stretch:
        """Resize a source (H, W) until its short side has ``short_side`` pixels, aspect kept.

        The long side is rounded half up; nothing is padded.  The older preprocessing.  Raises
        ValueError for a side below 1.
        """
        if short_side < 1:
            raise ValueError(f"short_side must be at least 1, got {short_side}")
        short = min(source_shape)
        height, width = (_scaled(side, short_side, short) for side in source_shape)
        return cls(source_shape=source_shape, img_shape=(height, width))

    def onto(self, img_shape: tuple[int, int]) -> Stretch:
        """Stretch the same source to another canvas (H, W)."""
        return Stretch(source_shape=self.source_shape, img_shape=img_shape)

    @property
    def content_shape(self) -> tuple[int, int]:
        """Shape (H, W) of the picture on the canvas: all of it."""
        return self.img_shape

    @property
    def pad(self) -> Pad:
        """Empty pixels around the picture: none."""
        return Pad(top=0, bottom=0, left=0, right=0)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Canvas pixels per source pixel, (x, y)."""
        return self.affine.scale_xy

    @property
    def content_to_img(self) -> AxisAffine:
        """The map from pixels of the picture to canvas pixels: nothing changes."""
        return AxisAffine()

    @property
    def sample_aspect_ratio(self) -> tuple[int, int]:
        """The older route knows square pixels only."""
        return (1, 1)

    @cached_property
    def affine(self) -> AxisAffine:
        """The map from source pixels to img pixels."""
        (height, width), (img_height, img_width) = self.source_shape, self.img_shape
        return AxisAffine(scale_xy=(img_width / width, img_height / height))


Geometry = Annotated[Letterbox | Stretch, Field(discriminator="kind")]
"""How one source is placed on a canvas; ``kind`` tells which way."""
