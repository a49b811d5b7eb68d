"""How a video is to be displayed: display matrix, sample aspect ratio, colours."""

import struct
from fractions import Fraction
from typing import Any

from av.sidedata.sidedata import Type as SideDataType

from schemas.dataset import ColorInfo
from schemas.geometry import Orientation, oriented_shape

# Signs of (a, b, c, d) in x' = a x + c y, y' = b x + d y; y points down.
_ORIENTATIONS: dict[tuple[int, int, int, int], Orientation] = {
    (1, 0, 0, 1): "none",
    (-1, 0, 0, 1): "hflip",
    (1, 0, 0, -1): "vflip",
    (-1, 0, 0, -1): "rot180",
    (0, 1, -1, 0): "rot90",
    (0, -1, 1, 0): "rot270",
    (0, 1, 1, 0): "transpose",
    (0, -1, -1, 0): "antitranspose",
}
# AVColorSpace numbers; those left out cannot be converted by one 3x3 matrix.
_MATRICES = {
    0: "rgb",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
}
_UNSPECIFIED, _FULL = 2, 2
_ABSURD_RATIO = 10


def orientation_of(frame: Any) -> Orientation:
    """Read the whole display matrix of a frame, mirrors included.

    Raises ValueError for a matrix that is neither a quarter turn nor a mirror.
    """
    try:
        matrix = bytes(frame.side_data[SideDataType.DISPLAYMATRIX])
    except KeyError:
        return "none"
    except ValueError:
        # PyAV builds all side data at once and stops at kinds it does not know.
        raise ValueError(
            "it carries side data of a kind that hides its orientation (EXIF or stereo, for "
            "example); re-encode it upright, or set the source's orientation by hand"
        ) from None
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if not any((a, b, c, d)):
        return "none"
    # Turns are stored in fixed point: what is tiny beside the largest number is zero.
    tiny = max(map(abs, (a, b, c, d))) / 1000
    signs = tuple((value > tiny) - (value < -tiny) for value in (a, b, c, d))
    if signs not in _ORIENTATIONS:
        numbers = ", ".join(f"{value / 65536:.3f}" for value in (a, b, c, d))
        raise ValueError(
            f"its display matrix ({numbers}) is not a multiple of 90 degrees, mirrored or not; "
            f"re-encode it upright, or set the source's orientation by hand"
        )
    return _ORIENTATIONS[signs]


def pixel_aspect(
    ratio: Fraction | None, orientation: Orientation
) -> tuple[tuple[int, int], str | None]:
    """Return the upright sample aspect ratio as (numerator, denominator), and a note or None.

    Absent and unknown (0) mean square pixels; so does an absurd ratio, with a note.
    """
    if ratio is None or ratio == 0:
        return (1, 1), None
    if not Fraction(1, _ABSURD_RATIO) <= ratio <= _ABSURD_RATIO:
        note = f"sample aspect ratio {ratio.numerator}:{ratio.denominator} is absurd, read as 1:1"
        return (1, 1), note
    small = ratio.limit_denominator(10_000)
    pair = (small.numerator, small.denominator)
    return oriented_shape(orientation, pair), None


def color_info(frame: Any) -> ColorInfo:
    """Tell how a frame's YUV is read as RGB; the same rules as the scaler's.

    Untagged YUV is read as BT.601, limited range, whatever its size; gray and "yuvj" formats
    as full range.  Raises ValueError for a matrix that cannot be converted.
    """
    name = frame.format.name
    if frame.format.is_rgb:
        return ColorInfo(matrix="rgb", matrix_tagged=True, full_range=True, range_tagged=True)
    space, color_range = int(frame.colorspace), int(frame.color_range)
    if space != _UNSPECIFIED and space not in _MATRICES:
        raise ValueError(f"its colour matrix (number {space}) is not supported; re-encode it")
    return ColorInfo(
        matrix=_MATRICES.get(space, "smpte170m"),
        matrix_tagged=space != _UNSPECIFIED,
        full_range=color_range == _FULL
        or (color_range == 0 and name.startswith(("gray", "ya", "yuvj"))),
        range_tagged=color_range != 0,
    )
