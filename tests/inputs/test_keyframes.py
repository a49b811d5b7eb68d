"""Frames in the middle of a video: those that a whole reading gives, decoded from near by."""

from contextlib import suppress

import av
import numpy as np
import pytest
from media import cut, encode, moving

from builder.core.errors import DecodeError
from builder.inputs.video import VideoStream
from builder.inputs.video_span import VideoSpan

X265 = {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=4:scenecut=0"}
X264 = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
GOP10 = {"g": "10", "bf": "2"}
SOUGHT = {
    "open.mp4": ("libx265", X265),
    "open.ts": ("libx265", X265),
    "open.mkv": ("libx264", X264),
    "open.flv": ("libx264", X264),
    "b_frames.mp4": ("mpeg4", GOP10),
    "no_b_frames.avi": ("mpeg4", {"g": "10"}),
    "fields.ts": ("mpeg2video", GOP10),
    "intra.mov": ("mjpeg", {}),
    "hidden.webm": ("libvpx-vp9", {"g": "10"}),
}
FROM_START = {
    "b_frames.avi": ("mpeg4", GOP10),
    "refreshed.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    "pictures.gif": ("gif", {}),
}
FORMATS = {"gif": "rgb8", "mjpeg": "yuvj420p"}
COUNT, LENGTH = 40, 3


def pictures(frames):
    return [(frame.seconds, frame.image.to_ndarray(format="rgb24")) for frame in frames]


def made(tmp_path, name, codec, options, count=COUNT):
    images, pix_fmt = moving(count, (48, 80)), FORMATS.get(codec, "yuv420p")
    return encode(tmp_path / name, images, codec, pix_fmt, rate=25, options=options)


@pytest.mark.parametrize("name", [*SOUGHT, *FROM_START])
def test_frames_are_the_same_from_wherever_they_are_read(name, tmp_path, monkeypatch):
    path = made(tmp_path, name, *{**SOUGHT, **FROM_START}[name])
    whole = VideoStream(path)
    expected = pictures(whole)
    decoded, decode = [], VideoStream._decode

    def counted(self, *args):
        for frame in decode(self, *args):
            decoded[-1] += 1
            yield frame

    monkeypatch.setattr(VideoStream, "_decode", counted)
    for first in range(COUNT):
        decoded.append(0)
        last = min(first + LENGTH, COUNT)
        found = pictures(VideoStream(path).take(np.arange(first, last)))
        assert len(found) == last - first
        for (at, image), (wanted_at, wanted) in zip(found, expected[first:last], strict=True):
            assert at == wanted_at
            assert np.array_equal(image, wanted)
    # The first frame is decoded besides, and what lies between keyframe and part.
    assert (max(decoded) > 12 + LENGTH + 6) == (name in FROM_START)
    assert bool(whole.decoded_whole) == (name in {"b_frames.avi", "pictures.gif"})


def test_all_packets_are_read_once_for_all_parts(tmp_path, monkeypatch):
    path = made(tmp_path, "a.mp4", *SOUGHT["open.mp4"])
    list(VideoStream(path))
    monkeypatch.setattr("builder.inputs.video.survey", None)
    assert len(list(VideoStream(path).take(np.arange(20, 30)))) == 10
    path.write_bytes(path.read_bytes())
    with pytest.raises(TypeError):  # it is another file now, and is looked at again
        VideoStream(path)


def test_a_file_that_is_cut_off_is_refused_for_every_part(tmp_path):
    path = made(tmp_path, "a.mp4", *SOUGHT["open.mp4"])
    list(VideoStream(path).take(np.arange(3)))
    cut(path, path, 0.7)
    with pytest.raises(DecodeError):
        VideoStream(path)


def test_damage_is_found_in_the_part_that_has_it(tmp_path):
    options = {"x264-params": "keyint=10:scenecut=0"}
    path = made(tmp_path, "a.mp4", "libx264", options)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux() if packet.size]
    place, size = packets[20]  # a keyframe
    data = bytearray(path.read_bytes())
    data[place + size // 2 : place + size] = b"\xff" * (size - size // 2)
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        list(VideoStream(path))
    good = []
    for first in range(0, COUNT, 10):
        with suppress(DecodeError):
            assert len(list(VideoStream(path).take(np.arange(first, first + 10)))) == 10
            good.append(first)
    assert good in ([0, 10, 30], [0, 30])  # a decoder reads ahead


def test_the_last_part_is_read_to_the_end(tmp_path):
    path = made(tmp_path, "a.mp4", *SOUGHT["open.mp4"])
    stream = VideoStream(path)
    stream._count += 1  # as if a packet more had been there
    with pytest.raises(DecodeError, match="40 frames were decoded, 41 are stored"):
        list(stream.take(np.arange(30, 41)))


def test_a_part_of_a_span_is_sought_like_a_span(tmp_path):
    path = made(tmp_path, "a.mp4", *SOUGHT["open.mp4"])
    times = VideoStream(path).times()
    span = VideoSpan(path, float(times[4]), times[4:36] - times[4])
    expected = pictures(span)[20:25]
    found = pictures(span.take(np.arange(20, 25)))
    for (at, image), (wanted_at, wanted) in zip(found, expected, strict=True):
        assert at == pytest.approx(wanted_at)
        assert np.array_equal(image, wanted)
