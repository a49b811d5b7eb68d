"""What is shown of a video is what is read: crops, ranges, the shape of pixels, HDR."""

from fractions import Fraction
from struct import pack

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from media import COUNT, SHAPE, encode, moving

from builder.canvas.letterbox import Letterboxer
from builder.core.errors import DecodeError
from builder.inputs.track_header import Margins, track_header
from builder.inputs.video import VideoStream
from schemas.geometry import Letterbox

LEFT, TOP, RIGHT, BOTTOM = 16, 8, 24, 4
INNER = (slice(TOP, SHAPE[0] - BOTTOM), slice(LEFT, SHAPE[1] - RIGHT))
INNER_SHAPE = (SHAPE[0] - TOP - BOTTOM, SHAPE[1] - LEFT - RIGHT)


def luma(frame):
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width].copy()


def lumas(path):
    return [luma(frame.image) for frame in VideoStream(path)]


def with_box(path, target, box):
    """Put a box behind the others of the sample entry of a file whose moov comes last."""
    data = bytearray(path.read_bytes())
    assert data.index(b"mdat") < data.index(b"moov")
    names = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")
    starts = [data.index(name, data.index(b"moov")) - 4 for name in names]
    sizes = [int.from_bytes(data[at : at + 4], "big") for at in starts]
    for at, size in zip(starts, sizes, strict=True):
        data[at : at + 4] = pack(">I", size + len(box))
    end = starts[-1] + sizes[-1]
    target.write_bytes(data[:end] + box + data[end:])
    return target


def clap(*numbers):
    return pack(">I4s8i", 40, b"clap", *numbers)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_crop_of_the_stream_is_exact_at_the_left_and_top(codec, tmp_path):
    quiet = {"x265-params": "log-level=none:bframes=0"} if codec == "hevc" else {}
    name = {"h264": "libx264", "hevc": "libx265"}[codec]
    shape = (96, 160)  # whole blocks: the encoder crops nothing itself
    whole = encode(tmp_path / "whole.mp4", moving(6, shape), name, options=quiet, b_frames=0)
    crop = f"{codec}_metadata=crop_left={LEFT}:crop_top={TOP}:crop_right={RIGHT}:crop_bottom=4"
    with av.open(str(whole)) as given, av.open(str(tmp_path / "crop.ts"), "w") as output:
        stream = given.streams.video[0]
        annexb = BitStreamFilterContext(f"{codec}_mp4toannexb,{crop}", stream)
        copy = output.add_stream_from_template(stream)
        for packet in given.demux(stream):
            for changed in annexb.filter(packet if packet.size else None):
                changed.stream = copy
                output.mux(changed)
    cropped = VideoStream(tmp_path / "crop.ts")
    assert cropped.info.coded_shape == (shape[0] - TOP - 4, shape[1] - LEFT - RIGHT)
    for inner, outer in zip(lumas(tmp_path / "crop.ts"), lumas(whole), strict=True):
        assert np.array_equal(inner, outer[TOP:-4, LEFT:-RIGHT])


@pytest.mark.parametrize("tag", [None, 1, 2])
def test_a_clean_aperture_is_what_is_read(tag, tmp_path):
    whole = encode(tmp_path / "whole.mp4", moving(COUNT, SHAPE), b_frames=2, color_range=tag)
    # Width, height, and by how much the centre lies off the middle.
    offsets = (LEFT - RIGHT, 2, TOP - BOTTOM, 2)
    box = clap(INNER_SHAPE[1], 1, INNER_SHAPE[0], 1, *offsets)
    path = with_box(whole, tmp_path / "clap.mp4", box)
    stream, before = VideoStream(path), VideoStream(whole)
    assert stream.info.coded_shape == INNER_SHAPE
    assert stream.info.color == before.info.color
    assert stream.info.notes == (
        "its container crops 16 pixels at the left, 8 top, 24 right, 4 bottom, of 104x72: only "
        "the rest was read",
    )
    assert np.array_equal(stream.times(), before.times())
    for inner, outer in zip(stream, before, strict=True):
        assert np.array_equal(luma(inner.image), luma(outer.image)[INNER])
        assert inner.seconds == outer.seconds
        assert inner.image.color_range == outer.image.color_range


@pytest.mark.parametrize(
    "numbers",
    [
        (80, 1, 60, 1, 1, 1, 0, 1),  # inside a pixel of the colours
        (81, 1, 60, 1, 0, 1, 0, 1),  # inside a pixel
        (80, 1, 60, 1, 40, 1, 0, 1),  # beyond the picture
        (0, 1, 60, 1, 0, 1, 0, 1),
    ],
)
def test_a_crop_that_cannot_be_cut_is_told(numbers, tmp_path):
    whole = encode(tmp_path / "whole.mp4", moving(2, SHAPE))
    stream = VideoStream(with_box(whole, tmp_path / "clap.mp4", clap(*numbers)))
    assert stream.info.coded_shape == SHAPE
    assert stream.info.notes[0].endswith("it cannot be cut there and was read whole")
    assert len(list(stream)) == 2


@pytest.mark.parametrize("numbers", [(104, 1, 72, 1, 0, 1, 0, 1), (80, 0, 60, 1, 0, 1, 0, 1)])
def test_a_clean_aperture_of_the_whole_picture_or_of_nonsense_is_none(numbers, tmp_path):
    whole = encode(tmp_path / "whole.mp4", moving(2, SHAPE))
    info = VideoStream(with_box(whole, tmp_path / "clap.mp4", clap(*numbers))).info
    assert (info.coded_shape, info.notes) == (SHAPE, ())


def test_pixel_crop_of_matroska_is_what_is_read(tmp_path):
    whole = encode(tmp_path / "whole.mkv", moving(4, SHAPE), "ffv1")
    # In place of two elements of no account, of which one lies behind those of the picture.
    size = bytes([0xB0, 0x81, SHAPE[1], 0xBA, 0x81, SHAPE[0]])
    old = b"\xe0\x8a" + size + bytes.fromhex("54B28104 55EE8100")
    new = b"\xe0\x8e" + size + bytes.fromhex("54CC8110 54BB8108")
    data = whole.read_bytes()
    assert data.count(old) == 1
    data = data.replace(old, new)
    (tmp_path / "crop.mkv").write_bytes(data)
    info = VideoStream(tmp_path / "crop.mkv").info
    assert (info.coded_shape, info.sample_aspect_ratio) == ((SHAPE[0] - 8, SHAPE[1] - 16), (1, 1))
    assert "crops 16 pixels at the left, 8 top, 0 right" in info.notes[0]
    for inner, outer in zip(lumas(tmp_path / "crop.mkv"), lumas(whole), strict=True):
        assert np.array_equal(inner, outer[8:, 16:])


def element(name, *payload):
    data = b"".join(payload)
    return bytes.fromhex(name) + bytes([0x40 | len(data) >> 8, len(data) & 255]) + data


def test_headers_of_matroska_tracks(tmp_path):
    sides = (
        element(name, bytes([size]))
        for name, size in zip(("54CC", "54BB", "54DD", "54AA"), (1, 2, 3, 4), strict=True)
    )
    mapping = element("41E4", element("41E7", b"dvvC"), element("41ED", bytes([1, 0, 5 << 1, 0])))
    tracks = element(
        "1654AE6B",
        element("AE", element("E1")),  # sound
        element("AE", element("E0", element("B0", b"\x68"))),
        element("AE", element("E0", *sides), mapping),
    )
    live = bytes.fromhex("01FFFFFFFFFFFFFF")
    path = tmp_path / "a.mkv"
    path.write_bytes(element("1A45DFA3") + b"\x18\x53\x80\x67" + live + tracks)
    plain, other = (track_header(path, "matroska,webm", 0, k, SHAPE) for k in (0, 1))
    assert plain == (None, False, None, None)
    assert other == (None, False, Margins(*map(Fraction, (1, 2, 3, 4))), 5)
    for size in range(1, path.stat().st_size):
        (tmp_path / "cut.mkv").write_bytes(path.read_bytes()[:size])
        track_header(tmp_path / "cut.mkv", "matroska,webm", 0, 1, SHAPE)


def test_damaged_headers_of_mp4_are_read_without_a_crash(tmp_path):
    whole = encode(tmp_path / "whole.mp4", moving(1, SHAPE))
    data = with_box(whole, tmp_path / "clap.mp4", clap(80, 1, 60, 1, 0, 1, 0, 1)).read_bytes()
    assert track_header(tmp_path / "clap.mp4", "mov,mp4", 1, 0, SHAPE).margins == (12, 6, 12, 6)
    for size in range(data.index(b"moov"), len(data), 7):
        (tmp_path / "cut.mp4").write_bytes(data[:size])
        track_header(tmp_path / "cut.mp4", "mov,mp4", 1, 0, SHAPE)


@pytest.mark.parametrize(
    ("pix_fmt", "tag", "full"),
    [("gray", 1, False), ("gray", 2, True), ("gray", None, True), ("yuv420p", 1, False)],
)
@pytest.mark.parametrize("content", [SHAPE, (36, 52)])
def test_pixels_are_what_the_recorded_range_says(pix_fmt, tag, full, content, tmp_path):
    stored = np.full(SHAPE, 126, np.uint8)
    stored[:, :40], stored[:, 64:] = 16, 235
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = *SHAPE, pix_fmt
        if tag:
            stream.codec_context.color_range = tag
        frame = av.VideoFrame(SHAPE[1], SHAPE[0], pix_fmt)
        for plane, values in zip(frame.planes, (stored, 128, 128), strict=False):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            rows[:, : plane.width] = values
        frame.pts, frame.color_range = 0, tag or 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    video = VideoStream(path)
    assert (video.info.color.full_range, video.info.color.range_tagged) == (full, tag is not None)
    image = Letterboxer(Letterbox.fit(SHAPE, content)).content(next(iter(video)).image)
    seen = [image[10, share * content[1] // SHAPE[1]].tolist() for share in (20, 52, 80)]
    expected = (16, 126, 235) if full else (0, 128, 255)
    assert seen == [[value] * 3 for value in expected]


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_pixels_that_change_their_shape_midway_are_refused(codec, tmp_path):
    shape = (96, 160)  # MPEG-2 knows 4:3 and 16:9 of the whole picture

    def made(name, second):
        path = tmp_path / name
        with av.open(str(path), "w") as output:
            stream = output.add_stream(codec, rate=25)
            others = av.CodecContext.create(codec, "w")
            for context, aspect in ((stream.codec_context, (4, 5)), (others, second)):
                context.height, context.width, context.pix_fmt = *shape, "yuv420p"
                context.time_base, context.framerate = Fraction(1, 25), 25
                context.max_b_frames = 0
                context.sample_aspect_ratio = Fraction(*aspect)
            for index in range(COUNT):
                encoder = stream.codec_context if index < 13 else others
                frame = av.VideoFrame(shape[1], shape[0], "yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                packets = encoder.encode(frame) + (encoder.encode() if index in (12, 23) else [])
                for packet in packets:
                    packet.stream = stream
                    output.mux(packet)
        return path

    video = VideoStream(made("change.ts", (16, 15)))
    assert video.info.sample_aspect_ratio == (4, 5)
    said = r"change.ts: its pixels \(width:height\) change from 4:5 to 16:15 at frame 13; split"
    for _ in range(2):
        with pytest.raises(DecodeError, match=said):
            list(video)
    assert len(list(VideoStream(made("same.ts", (4, 5))))) == COUNT


@pytest.mark.parametrize(
    ("transfer", "name", "kind"),
    [("smpte2084", "smpte2084", "PQ"), ("arib-std-b67", "arib_std_b67", "HLG")],
)
def test_hdr_is_recorded_and_told(transfer, name, kind, tmp_path):
    tags = f"transfer={transfer}:colorprim=bt2020:colormatrix=bt2020nc"
    path = encode(tmp_path / "a.mp4", moving(2, SHAPE), options={"x264-params": tags})
    info = VideoStream(path).info
    assert (info.color.transfer, info.color.primaries) == (name, "bt2020")
    assert info.color.matrix == "bt2020nc"
    assert info.notes == (f"HDR ({kind}): kept as stored, without tone mapping",)


def test_what_is_not_tagged_is_not_recorded(tmp_path):
    color = VideoStream(encode(tmp_path / "a.mp4", moving(2, SHAPE))).info.color
    assert {"transfer", "primaries", "dolby_vision"}.isdisjoint(color.model_dump())


@pytest.mark.parametrize(("profile", "wrong"), [(5, True), (8, False)])
def test_dolby_vision_is_recorded_and_told(profile, wrong, tmp_path):
    record = bytes([1, 0, profile << 1, 0x0D]) + bytes(20)
    box = pack(">I4s", 8 + len(record), b"dvcC") + record
    path = with_box(encode(tmp_path / "a.mp4", moving(2, SHAPE)), tmp_path / "dv.mp4", box)
    info = VideoStream(path).info
    assert info.color.dolby_vision == profile
    assert info.notes[0].startswith(f"HDR (Dolby Vision {profile}): kept as stored")
    assert ("its colours are wrong" in info.notes[0]) == wrong
