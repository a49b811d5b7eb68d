"""Letterbox geometry as a value: fit it once from two shapes, use it for everything.

Coordinates are *continuous image coordinates*: points are (x, y), the origin is the outer
top-left corner of the top-left pixel, pixel (row i, column j) covers [j, j+1) x [i, i+1) and
its centre is (j + 0.5, i + 0.5).  An H x W image spans [0, W] x [0, H].  In these coordinates
a letterbox is exactly ``p_img = scale_xy * p_source + pad_xy``.

Shapes are (H, W).  Points are ``(..., 2)`` numpy arrays or torch tensors whose last axis is
(x, y); a plain ``(x, y)`` tuple works too and gives a tuple.  The maths never clips, rounds,
mutates or downcasts; NaN passes through; integers become float64.

This module imports pydantic and nothing heavier.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from schemas.base import Pair, Ratio, Record, Shape

Points = TypeVar("Points")
"""numpy array, torch tensor (..., 2), or a tuple of two numbers."""

Orientation = Literal[
    "none", "hflip", "vflip", "rot90", "rot180", "rot270", "transpose", "antitranspose"
]
"""How stored pixels are turned to be seen upright; rotations are clockwise."""

QUARTER_TURNED: frozenset[str] = frozenset({"rot90", "rot270", "transpose", "antitranspose"})


def as_float_points(points: Any, axes: int = 2) -> Any:
    """Return a floating-point copy of ``points`` (..., axes), same library and dtype.

    Integer arrays become float64.  Raises TypeError for lists and other non-arrays (their
    dtype would be a guess) and for booleans and complex numbers, ValueError for a wrong
    last axis.
    """
    if not (hasattr(points, "shape") and hasattr(points, "dtype")):
        raise TypeError(
            f"points must be a numpy array or torch tensor (..., {axes}), got "
            f"{type(points).__name__}; convert it first, for example with numpy.asarray"
        )
    if len(points.shape) == 0 or points.shape[-1] != axes:
        raise ValueError(f"points must have shape (..., {axes}), got {tuple(points.shape)}")
    if hasattr(points, "is_floating_point"):  # torch
        if points.is_floating_point():
            return points * 1.0
        if points.is_complex() or str(points.dtype) == "torch.bool":
            raise TypeError(f"points must be real numbers, got {points.dtype}")
        return points.double()
    kind = points.dtype.kind
    if kind == "f":
        return points * 1.0
    if kind not in "iu":
        raise TypeError(f"points must be real numbers, got dtype {points.dtype}")
    return points.astype("float64")


def swap_xy(points: Points) -> Points:
    """Swap the two components of every point: (x, y) <-> (row, col).

    The only place where the order changes.  ``points`` is (..., 2) or a pair; returns a view
    or copy of the same kind and dtype.
    """
    if isinstance(points, tuple):
        first, second = points
        return (second, first)  # type: ignore[return-value]
    array: Any = points
    if not hasattr(array, "shape") or len(array.shape) == 0 or array.shape[-1] != 2:
        raise ValueError(f"points must have shape (..., 2), got {getattr(array, 'shape', array)}")
    return array[..., [1, 0]]


class AxisAffine(Record):
    """An invertible map ``out = scale_xy * p + offset_xy``, per axis.

    With ``transpose`` the input's x and y are swapped first, which makes quarter turns and
    mirrors members of the family.  ``b @ a`` applies ``a`` first; ``~a`` is the inverse.
    """

    scale_xy: Pair = (1.0, 1.0)
    offset_xy: Pair = (0.0, 0.0)
    transpose: bool = False

    @model_validator(mode="after")
    def _invertible(self) -> AxisAffine:
        if 0.0 in self.scale_xy:
            raise ValueError(f"scale_xy must not contain 0, got {self.scale_xy}")
        return self

    def __call__(self, points: Points) -> Points:
        """Map points (..., 2) or one (x, y) tuple; see the module's rules."""
        return self._map(points, self.offset_xy)

    def displacements(self, vectors: Points) -> Points:
        """Map displacement vectors (..., 2): scaled and turned, never shifted."""
        return self._map(vectors, (0.0, 0.0))

    def boxes(self, boxes: Any) -> Any:
        """Map axis-aligned boxes (..., 4) as (x0, y0, x1, y1); x0 <= x1, y0 <= y1 stay so."""
        out = as_float_points(boxes, axes=4)
        low, high = self(boxes[..., :2]), self(boxes[..., 2:])
        for axis in (0, 1):
            # A mirrored axis swaps the roles of its two ends.
            first, second = (low, high) if self.scale_xy[axis] > 0 else (high, low)
            out[..., axis] = first[..., axis]
            out[..., axis + 2] = second[..., axis]
        return out

    def __matmul__(self, first: AxisAffine) -> AxisAffine:
        """Compose: ``(self @ first)(p) == self(first(p))``."""
        if not isinstance(first, AxisAffine):
            return NotImplemented
        inner = (first.scale_xy, first.offset_xy)
        if self.transpose:
            inner = (swap_xy(inner[0]), swap_xy(inner[1]))
        (in_sx, in_sy), (in_ox, in_oy) = inner
        sx, sy = self.scale_xy
        ox, oy = self.offset_xy
        return AxisAffine(
            scale_xy=(sx * in_sx, sy * in_sy),
            offset_xy=(sx * in_ox + ox, sy * in_oy + oy),
            transpose=self.transpose != first.transpose,
        )

    def __invert__(self) -> AxisAffine:
        """Return the inverse map."""
        sx, sy = self.scale_xy
        ox, oy = self.offset_xy
        scale, offset = (1.0 / sx, 1.0 / sy), (-ox / sx, -oy / sy)
        if self.transpose:
            scale, offset = swap_xy(scale), swap_xy(offset)
        return AxisAffine(scale_xy=scale, offset_xy=offset, transpose=self.transpose)

    def _map(self, points: Any, offset_xy: tuple[float, float]) -> Any:
        if isinstance(points, tuple):
            x, y = swap_xy(points) if self.transpose else points
            return (
                float(x) * self.scale_xy[0] + offset_xy[0],
                float(y) * self.scale_xy[1] + offset_xy[1],
            )
        out = as_float_points(swap_xy(points) if self.transpose else points)
        # Strided, in place: keeps dtype and gradients and beats two broadcast passes.
        for axis in (0, 1):
            out[..., axis] *= self.scale_xy[axis]
            if offset_xy[axis] != 0.0:
                out[..., axis] += offset_xy[axis]
        return out

    @classmethod
    def normalization(cls, shape: tuple[int, int]) -> AxisAffine:
        """Pixels of an (H, W) image to [-1, 1]: ``n = 2 p / size - 1`` (AMPLIFY's)."""
        height, width = shape
        return cls(scale_xy=(2.0 / width, 2.0 / height), offset_xy=(-1.0, -1.0))

    @classmethod
    def crop(cls, *, top: int, left: int) -> AxisAffine:
        """Coordinates inside a crop whose corner is at (left, top) of the full image."""
        return cls(offset_xy=(-float(left), -float(top)))

    @classmethod
    def orient(cls, orientation: Orientation, shape: tuple[int, int]) -> AxisAffine:
        """Coordinates after an image of ``shape`` (H, W) was turned or mirrored."""
        height, width = (float(side) for side in shape)
        flip_x, flip_y, transpose = _ORIENTATIONS[orientation]
        if transpose:
            height, width = width, height
        return cls(
            scale_xy=(-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0),
            offset_xy=(width if flip_x else 0.0, height if flip_y else 0.0),
            transpose=transpose,
        )


# (mirror x, mirror y, transpose first): out = mirror(transpose(p)); rotations are clockwise.
_ORIENTATIONS: dict[str, tuple[bool, bool, bool]] = {
    "none": (False, False, False),
    "hflip": (True, False, False),
    "vflip": (False, True, False),
    "rot180": (True, True, False),
    "rot90": (True, False, True),
    "rot270": (False, True, True),
    "transpose": (False, False, True),
    "antitranspose": (True, True, True),
}


def oriented_shape(orientation: Orientation, shape: tuple[int, int]) -> tuple[int, int]:
    """Shape (H, W) of an image of ``shape`` after turning it."""
    return swap_xy(shape) if orientation in QUARTER_TURNED else shape


def normalize(img_xy: Points, shape: tuple[int, int]) -> Points:
    """Map (x, y) pixels of an (H, W) image to [-1, 1] per axis; not clipped."""
    return AxisAffine.normalization(shape)(img_xy)


def unnormalize(norm_xy: Points, shape: tuple[int, int]) -> Points:
    """Map [-1, 1] back to (x, y) pixels of an (H, W) image; the inverse of normalize."""
    return (~AxisAffine.normalization(shape))(norm_xy)


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
    def affine(self) -> AxisAffine:
        """The map from source pixels to img pixels."""
        raise TypeError(f"{type(self).__name__} has no affine map")

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

        Returns a boolean array (...), False for NaN.
        """
        left, top, right, bottom = self.content_box
        x, y = img_xy if isinstance(img_xy, tuple) else (img_xy[..., 0], img_xy[..., 1])
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
        Raises pydantic.ValidationError (a ValueError) for sides that are not integers >= 1.
        """
        checked = _FitInput(
            source_shape=source_shape,
            img_shape=img_shape,
            sample_aspect_ratio=sample_aspect_ratio,
        )
        content_shape, pad = _fit(
            checked.source_shape, checked.img_shape, checked.sample_aspect_ratio
        )
        return cls(
            source_shape=checked.source_shape,
            img_shape=checked.img_shape,
            sample_aspect_ratio=checked.sample_aspect_ratio,
            content_shape=content_shape,
            pad=pad,
        )

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

    @cached_property
    def affine(self) -> AxisAffine:
        """The map from source pixels to img pixels."""
        (height, width), (img_height, img_width) = self.source_shape, self.img_shape
        return AxisAffine(scale_xy=(img_width / width, img_height / height))


Geometry = Annotated[Letterbox | Stretch, Field(discriminator="kind")]


@dataclass(frozen=True)
class AffineBatch:
    """One map per leading item, for batches that mix sources.

    ``scale_xy`` and ``offset_xy`` are (B, 2) arrays of one library and dtype.  Calling it maps
    points (B, ..., 2); ``~`` inverts all maps.
    """

    scale_xy: Any
    offset_xy: Any
    transpose: bool = False

    def __post_init__(self) -> None:
        shapes = (tuple(self.scale_xy.shape), tuple(self.offset_xy.shape))
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] != 2:
            raise ValueError(
                f"scale_xy and offset_xy must both be (B, 2), got {shapes[0]} and {shapes[1]}"
            )

    @classmethod
    def stack(cls, affines: list[AxisAffine], asarray: Any) -> AffineBatch:
        """Stack maps; ``asarray`` is numpy.asarray, torch.tensor or alike.

        Raises ValueError when the list is empty or mixes transposed and upright maps.
        """
        turns = {affine.transpose for affine in affines}
        if len(turns) != 1:
            raise ValueError(
                "cannot stack an empty list of maps"
                if not turns
                else "cannot stack transposed and upright maps in one batch; split it by .transpose"
            )
        return cls(
            asarray([list(affine.scale_xy) for affine in affines]),
            asarray([list(affine.offset_xy) for affine in affines]),
            turns.pop(),
        )

    def __call__(self, points: Points) -> Points:
        """Map points (B, ..., 2), item b through map b; dtype and gradients are kept."""
        out = as_float_points(swap_xy(points) if self.transpose else points)
        if out.shape[0] != self.scale_xy.shape[0]:
            raise ValueError(
                f"{self.scale_xy.shape[0]} maps cannot be applied to points of shape "
                f"{tuple(out.shape)}: the leading axes must agree"
            )
        column = (-1,) + (1,) * (len(out.shape) - 2)
        for axis in (0, 1):
            out[..., axis] *= self.scale_xy[:, axis].reshape(column)
            out[..., axis] += self.offset_xy[:, axis].reshape(column)
        return out

    def __invert__(self) -> AffineBatch:
        """Return the batch of inverse maps."""
        scale, offset = 1.0 / self.scale_xy, -self.offset_xy / self.scale_xy
        if self.transpose:
            scale, offset = swap_xy(scale), swap_xy(offset)
        return AffineBatch(scale, offset, self.transpose)
