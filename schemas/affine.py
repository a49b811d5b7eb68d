"""Per-axis affine maps of points, as values: apply, compose (``@``), invert (``~``).

Points are ``(..., 2)`` numpy arrays or torch tensors whose last axis is (x, y), in continuous
image coordinates (see ``schemas.geometry``); a plain ``(x, y)`` tuple works too and gives a
tuple.  The maths never clips, rounds, mutates or downcasts; NaN passes through; integers
become float64.

This module imports pydantic and nothing heavier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import model_validator

from schemas.base import Pair, Record

Points = TypeVar("Points")
"""numpy array, torch tensor (..., 2), or a tuple of two numbers."""

Orientation = Literal[
    "none", "hflip", "vflip", "rot90", "rot180", "rot270", "transpose", "antitranspose"
]
"""How stored pixels are turned to be seen upright; rotations are clockwise."""


def as_float_points(points: Any, axes: int = 2) -> Any:
    """Return a floating-point copy of ``points`` (..., axes), same library and dtype.

    Integer arrays become float64.  Raises TypeError for lists and other non-arrays (their
    dtype would be a guess) and for booleans and complex numbers, ValueError for a wrong
    last axis.
    """
    check_points(points, axes)
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
        first, second = _pair(points)
        return (second, first)  # type: ignore[return-value]
    array: Any = points
    check_points(array)
    return array[..., [1, 0]]


def _pair(point: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(point) != 2:
        raise ValueError(f"a tuple is one point of two numbers, got {len(point)}")
    return point


def check_points(points: Any, axes: int = 2) -> None:
    """Raise TypeError for what is no array, ValueError for a last axis that is not ``axes``."""
    if not (hasattr(points, "shape") and hasattr(points, "dtype")):
        raise TypeError(
            f"points must be a numpy array or torch tensor (..., {axes}), got "
            f"{type(points).__name__}; convert it first, for example with numpy.asarray"
        )
    if len(points.shape) == 0 or points.shape[-1] != axes:
        raise ValueError(f"points must have shape (..., {axes}), got {tuple(points.shape)}")


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
        # 0.0 - z, not -z: a negative zero would be stored as "-0.0".
        scale, offset = (1.0 / sx, 1.0 / sy), (0.0 - ox / sx, 0.0 - oy / sy)
        if self.transpose:
            scale, offset = swap_xy(scale), swap_xy(offset)
        return AxisAffine(scale_xy=scale, offset_xy=offset, transpose=self.transpose)

    def _map(self, points: Any, offset_xy: tuple[float, float]) -> Any:
        if isinstance(points, tuple):
            x, y = swap_xy(points) if self.transpose else _pair(points)
            return (x * self.scale_xy[0] + offset_xy[0], y * self.scale_xy[1] + offset_xy[1])
        out = as_float_points(points)
        if self.transpose:
            out = swap_xy(out)
        # Strided, in place: keeps dtype and gradients and beats two broadcast passes.
        for axis in (0, 1):
            out[..., axis] *= self.scale_xy[axis]
            if offset_xy[axis] != 0.0:
                out[..., axis] += offset_xy[axis]
        return out

    @classmethod
    def normalization(cls, shape: tuple[int, int]) -> AxisAffine:
        """Pixels of an (H, W) image to [-1, 1]: ``n = 2 p / size - 1`` (AMPLIFY's).

        Raises ValueError for a side that is not above 0.
        """
        height, width = shape
        if not (height > 0 and width > 0):
            raise ValueError(f"a shape is (height, width), both above 0, got {shape}")
        return cls(scale_xy=(2.0 / width, 2.0 / height), offset_xy=(-1.0, -1.0))

    @classmethod
    def crop(cls, *, top: int, left: int) -> AxisAffine:
        """Coordinates inside a crop whose corner is at (left, top) of the full image."""
        return cls(offset_xy=(0.0 - left, 0.0 - top))

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
    _, _, transpose = _ORIENTATIONS[orientation]
    return swap_xy(shape) if transpose else shape


def normalize(img_xy: Points, shape: tuple[int, int]) -> Points:
    """Map (x, y) pixels of an (H, W) image to [-1, 1] per axis; not clipped."""
    return AxisAffine.normalization(shape)(img_xy)


def unnormalize(norm_xy: Points, shape: tuple[int, int]) -> Points:
    """Map [-1, 1] back to (x, y) pixels of an (H, W) image; the inverse of normalize."""
    return (~AxisAffine.normalization(shape))(norm_xy)


@dataclass(frozen=True)
class AffineBatch:
    """One map per leading item, for batches that mix sources.

    ``scale_xy`` and ``offset_xy`` are (B, 2) arrays of one library and dtype; float64 keeps
    them exact.  Calling it maps points (B, ..., 2); ``~`` inverts all maps.
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
    def stack(cls, affines: list[AxisAffine], asarray: Callable[[list], Any]) -> AffineBatch:
        """Stack maps; ``asarray`` makes an array of nested lists.

        That is ``numpy.asarray``, or ``functools.partial(torch.tensor, dtype=torch.float64)``:
        torch.tensor alone would round the maps to float32.  Raises ValueError when the list is
        empty or mixes transposed and upright maps.
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
        out = as_float_points(points)
        count = self.scale_xy.shape[0]
        if len(out.shape) < 2 or out.shape[0] != count:
            raise ValueError(
                f"{count} maps need points of shape ({count}, ..., 2), got {tuple(out.shape)}"
            )
        if self.transpose:
            out = swap_xy(out)
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
