"""How a video is to be displayed: display matrix, crop, sample aspect ratio, colours."""

import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av.filter
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorPrimaries, ColorTrc

from builder.inputs.track_header import Margins, gray_bits
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


def orientation_of(
    frame: Any, stored: Callable[[], Orientation | bytes | None] = lambda: None
) -> Orientation:
    """Read the whole display matrix of a frame, mirrors included.

    ``stored()`` looks it up in the file where the frame hides it: an orientation, or the matrix
    (9 numbers of 4 bytes, native order).  Raises ValueError for a matrix that is neither a quarter
    turn nor a mirror, and for one that stays hidden.
    """
    try:
        found: Orientation | bytes | None = bytes(frame.side_data[SideDataType.DISPLAYMATRIX])
    except KeyError:
        return "none"
    except ValueError:
        # PyAV builds all side data at once and stops at kinds it does not know.
        found = stored()
    if found is None:
        raise ValueError(
            "it carries side data of a kind that hides its orientation (EXIF or stereo, for "
            "example); re-encode it upright, or set the source's orientation by hand"
        )
    if isinstance(found, str):
        return found
    a, b, _, c, d = struct.unpack("=5i", found[:20])
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
    ratio: Fraction | None, orientation: Orientation = "none"
) -> tuple[tuple[int, int], str | None]:
    """Return the upright sample aspect ratio as (numerator, denominator), and a note or None.

    Absent and unknown (0) mean square pixels; so does an absurd ratio, with a note.
    """
    if ratio is None or ratio == 0:
        return (1, 1), None
    if not Fraction(1, _ABSURD_RATIO) <= ratio <= _ABSURD_RATIO:
        note = f"sample aspect ratio {ratio.numerator}:{ratio.denominator} is absurd, read as 1:1"
        return (1, 1), note
    # PyAV 19 has fractions of its own.
    small = Fraction(ratio).limit_denominator(10_000)
    pair = (small.numerator, small.denominator)
    return oriented_shape(orientation, pair), None


def depth_reason(frame: Any) -> str | None:
    """Say why a frame, or what a decoder gives, is no camera's picture; None when it may be one.

    A single channel of more than 8 bits is depth, or another measurement; which of its values
    would be black and which white, nothing says.
    """
    channels = [each for each in frame.format.components if not each.is_alpha]
    if len(channels) > 1 or channels[0].bits <= 8:
        return None
    return _no_picture(frame.format.name, channels[0].bits)


def stream_depth_reason(stream: Any) -> str | None:
    """Say why a video stream is no camera's, by its head; None when it may be one."""
    context = stream.codec_context
    if context.codec.canonical_name == "h264" and (bits := gray_bits(context.extradata)) > 8:
        return _no_picture("its H.264", bits)
    return depth_reason(context) if context.format else None


def _no_picture(what: str, bits: int) -> str:
    return (
        f"{what} is a single channel of {bits} bits, which is depth and no picture; if it is a "
        f"picture, convert it to 8 bits"
    )


class Cropper:
    """Cuts the frames of one stream to what its container shows of them.

    ``shape`` (H, W) is what it says of the stored frames, and ``margins`` what is not shown.
    Frames of another shape, and those that would have to be cut inside a pixel (of the colours,
    where these are coarser), stay whole.
    """

    def __init__(self, shape: tuple[int, int], margins: Margins) -> None:
        self._shape, self._margins = shape, margins
        self._graph: Any = None

    def __call__(self, frame: Any) -> Any:
        """Return the frame cut; its times and colours stay."""
        if not self._fits(frame):
            return frame
        if self._graph is None:
            self._graph = self._make_graph(frame)
        self._graph.push(frame)
        return self._graph.pull()

    def note(self, frame: Any) -> str:
        """Say what was done; ``frame`` is the first of the stream, cut if it could be."""
        (height, width), (left, top, right, bottom) = self._shape, self._margins
        done = (frame.height, frame.width) == (height - top - bottom, width - left - right)
        sides = (f"{float(each):g}" for each in (left, top, right, bottom))
        said = "its container crops {} pixels at the left, {} top, {} right, {} bottom, of {}x{}"
        how = "only the rest was read" if done else "it cannot be cut there and was read whole"
        return f"{said.format(*sides, width, height)}: {how}"

    def _fits(self, frame: Any) -> bool:
        left, top, right, bottom = self._margins
        kind = frame.format
        steps = (4 // kind.chroma_width(4), 4 // kind.chroma_height(4), 1, 1)
        return (
            (frame.height, frame.width) == self._shape
            and not any(side % step for side, step in zip(self._margins, steps, strict=True))
            and min(self._margins) >= 0
            and left + right < self._shape[1]
            and top + bottom < self._shape[0]
        )

    def _make_graph(self, frame: Any) -> Any:
        left, top, right, bottom = map(int, self._margins)
        graph = av.filter.Graph()
        start = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        size = f"{frame.width - left - right}:{frame.height - top - bottom}:{left}:{top}:exact=1"
        graph.link_nodes(start, graph.add("crop", size), graph.add("buffersink")).configure()
        return graph


_HDR = {"smpte2084": "PQ", "arib_std_b67": "HLG"}


def hdr_note(color: ColorInfo) -> str | None:
    """Say that a view was filmed in high dynamic range; None where it is not known to be."""
    kinds = [_HDR[color.transfer]] if color.transfer in _HDR else []
    if color.dolby_vision is not None:
        kinds.append(f"Dolby Vision {color.dolby_vision}")
    if not kinds:
        return None
    note = f"HDR ({', '.join(kinds)}): kept as stored, without tone mapping"
    if color.dolby_vision == 5:
        note += "; read as YCbCr, which it is not, so its colours are wrong: convert it first"
    return note


def color_info(frame: Any, dolby_vision: int | None = None) -> ColorInfo:
    """Tell how a frame's YUV is read as RGB; the same rules as the scaler's.

    Untagged YUV is read as BT.601, limited range, whatever its size; gray and "yuvj" formats
    as full range.  ``dolby_vision`` is the profile that the container tells.
    Raises ValueError for a matrix that cannot be converted.
    """
    name = frame.format.name
    more: dict[str, Any] = {
        "transfer": _tag(ColorTrc, frame.color_trc),
        "primaries": _tag(ColorPrimaries, frame.color_primaries),
        "dolby_vision": dolby_vision,
    }
    if frame.format.is_rgb:
        return ColorInfo(
            matrix="rgb", matrix_tagged=True, full_range=True, range_tagged=True, **more
        )
    space, color_range = int(frame.colorspace), int(frame.color_range)
    if space != _UNSPECIFIED and space not in _MATRICES:
        raise ValueError(f"its colour matrix (number {space}) is not supported; re-encode it")
    return ColorInfo(
        matrix=_MATRICES.get(space, "smpte170m"),
        matrix_tagged=space != _UNSPECIFIED,
        full_range=color_range == _FULL
        or (color_range == 0 and name.startswith(("gray", "ya", "yuvj"))),
        range_tagged=color_range != 0,
        **more,
    )


def _tag(kind: Any, value: int) -> str | None:
    """Name a number of H.273; None where it is unspecified or reserved."""
    if value == _UNSPECIFIED or value not in {int(each) for each in kind}:
        return None
    return str(kind(value).name.lower())
