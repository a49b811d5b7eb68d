"""The older route: tracks stored in the pixels of the resolution they were tracked in.

The only place that knows the ``height``/``width`` attributes of older AMPLIFY-layout files.
Its operations and their order are fixed, because results must be bit-equal to that route:
rows ``* (img_h / height)``, columns ``* (img_w / width)``, each ratio taken in float64 and
applied in the array's own dtype.  ``Stretch(tracked_shape, img_shape).to_img`` is the same
map for (x, y) points, bit for bit.

Remapping to img_shape and then normalizing by img_shape equals normalizing by the tracked
size.  What is lost without the attributes is therefore the amplitude, not the shape of motion.
"""

from collections.abc import Mapping
from operator import index
from typing import Any, Literal

from schemas.base import MAX_SIDE
from schemas.geometry import Points, Stretch, as_float_points

PixelOrigin = Literal["corner", "center"]
"""``center``: pixel i's centre is at i (CoTracker's); ``corner``: at i + 0.5 (ours)."""

QUERY_SLACK_PX = 1.0
"""How far query points may lie outside the declared size: rounding, not another size."""


def tracked_shape(attrs: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Read the size (H, W) a view was tracked in; None when neither attribute is there.

    ``where`` names the file and view in errors.  Raises ValueError for exactly one
    attribute and for anything but a whole number from 1 to 1,000,000.
    """
    present = [name for name in ("height", "width") if name in attrs]
    if not present:
        return None
    if len(present) == 1:
        missing = "width" if present == ["height"] else "height"
        raise ValueError(
            f"{where}: has the attribute {present[0]!r} but not {missing!r}; the tracked size "
            f"needs both, or neither when the tracks are in pixels of img_shape"
        )
    return (_side(attrs["height"], "height", where), _side(attrs["width"], "width", where))


def _side(value: Any, name: str, where: str) -> int:
    boolean = isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool"
    try:
        whole = hasattr(value, "is_integer") and value.is_integer()  # also floats such as 480.0
        side = 0 if boolean else int(value) if whole else index(value)
    except TypeError:
        side = 0
    if not 1 <= side <= MAX_SIDE:
        raise ValueError(
            f"{where}: attribute {name!r} must be a whole number of pixels, from 1 to {MAX_SIDE}, "
            f"got {value!r}; set it to the size of the frames that were tracked"
        )
    return side


def check_queries(queries_xy: Any, shape: tuple[int, int], where: str) -> None:
    """Refuse query points (..., 2) (x, y) that cannot belong to frames of ``shape`` (H, W).

    The older route scales its grid by the height on both axes: in a portrait picture x goes up to
    the height, beyond the right edge.  Raises ValueError when a point is not finite or more than
    ``QUERY_SLACK_PX`` outside of that, too.  Meant for step 0 of a window only: later steps may
    leave the frame.
    """
    for axis, name, size in ((0, "x", max(shape)), (1, "y", shape[0])):
        values = queries_xy[..., axis]
        if 0 in values.shape:
            return
        low, high = float(values.min()), float(values.max())
        if not (low >= -QUERY_SLACK_PX and high <= size + QUERY_SLACK_PX):
            raise ValueError(
                f"{where}: query points (step 0) have {name} from {low:g} to {high:g}, but the "
                f"declared size (height, width) is {shape}; the attributes do not describe the "
                f"frames these points were tracked in"
            )


def implied_geometry(tracked: tuple[int, int] | None, img_shape: tuple[int, int]) -> Stretch:
    """Geometry that a tracked size implies; without one, tracks count as img pixels."""
    return Stretch(source_shape=tracked or img_shape, img_shape=img_shape)


def remap_rc(points_rc: Points, tracked: tuple[int, int], img_shape: tuple[int, int]) -> Points:
    """Scale (row, col) points (..., 2) from the tracked size to img_shape, both (H, W).

    Numpy or torch; the dtype is kept, integers become float64.  Not clipped.
    """
    out: Any = as_float_points(points_rc)
    out[..., 0] *= img_shape[0] / tracked[0]
    out[..., 1] *= img_shape[1] / tracked[1]
    return out


def to_corner_origin(points: Points, pixel_origin: PixelOrigin) -> Points:
    """Bring points (..., 2) in tracked pixels to edge coordinates; ``corner`` changes nothing.

    Trackers such as CoTracker answer in pixel-centre indices: half a pixel short.
    """
    if pixel_origin == "corner":
        return points
    out: Any = as_float_points(points)
    out += 0.5
    return out


def resized_by_shorter(shape: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return the size (H, W) that the older route gives frames of ``shape`` before it tracks them.

    The short side becomes ``short_side``, the other one is rounded as Python does.
    """
    height, width = (max(1, round(side * short_side / min(shape))) for side in shape)
    return (height, width)


def missing_size_note(names: list[str], img_shape: tuple[int, int]) -> str:
    """Say that views without a tracked size are taken as img pixels, and what to do."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"no height/width attributes in {shown}: the tracks are taken as pixels of img_shape "
        f"{img_shape}. If they were tracked at another size, motion comes out too small or "
        f"clipped: `letterset doctor` says what the files reveal of it, and takes --tracked or "
        f"--videos, as `letterset migrate` does"
    )
