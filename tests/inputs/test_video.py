"""Decoding: every frame or an error that names the file; what you see is what is read."""

import os
import re
import shutil
import socket
from pathlib import Path

import av
import numpy as np
import pytest
from media import COUNT, KINDS, MATRICES, SHAPE, blob, centroid, cut, encode, make, moving, remux
from places import SHARED

from builder.canvas.letterbox import Letterboxer
from builder.core.errors import DecodeError, SourceError
from builder.inputs.display import orientation_of
from builder.inputs.fingerprint import fingerprint
from builder.inputs.track_header import TrackHeader, track_header
from builder.inputs.video import VideoStream
from schemas.config import Limits
from schemas.geometry import AxisAffine, Letterbox

VIDEOS = SHARED / "videos"


def refused(path, words, **options):
    """Read a video to its end and expect an error that names it."""
    with pytest.raises(SourceError, match=words) as caught:
        list(VideoStream(path, **options))
    assert re.match(r"\S.*: ", str(caught.value))
    assert Path(path).name in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_its_frames_twice(clips, name):
    stream = VideoStream(clips(name))
    first = [frame.seconds for frame in stream]
    assert len(first) == stream.info.num_frames == COUNT
    assert first == sorted(set(first)) == [frame.seconds for frame in stream]
    assert np.array_equal(stream.times(), first)
    assert first[-1] - first[0] == pytest.approx((COUNT - 1) / stream.info.fps, abs=0.002)
    assert stream.info.coded_shape == stream.info.source_shape == SHAPE
    assert stream.info.fps == pytest.approx(25 if name in ("mpeg2.mpg", "anim.gif") else 24)
    assert stream.info.notes == ()


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_off_file_is_refused_or_has_all_its_frames(clips, name, tmp_path):
    whole = clips(name)
    for share in (np.arange(20) + 0.5) / 20:
        part = cut(whole, tmp_path / name, share)
        try:
            found = sum(1 for _ in VideoStream(part))
        except SourceError:
            continue
        # Nobody can tell a transport or program stream that ends between two packets.
        endless = name in ("h264.ts", "mpeg2.mpg")
        assert endless or (found == COUNT and share > 0.9)


@pytest.mark.parametrize("name", ["h264.mp4", "moov_first.mp4", "fragmented.mp4", "h264.mkv"])
def test_no_cut_at_all_is_silently_short(clips, name, tmp_path):
    """Also not between two packets, where FFmpeg says nothing; fragments are whole files."""
    data = clips(name).read_bytes()
    boundary = {m.start() - 4 for m in re.finditer(b"moof|mfra", data)}
    for size in sorted({*range(0, len(data), 97), *_packet_ends(clips(name))} - boundary):
        (tmp_path / name).write_bytes(data[:size])
        try:
            assert sum(1 for _ in VideoStream(tmp_path / name)) == COUNT, size
        except SourceError:
            continue


def test_a_live_recording_is_whole_only_between_two_frames(tmp_path):
    """A browser writes WebM without sizes or duration: what breaks off inside a frame shows."""
    live = {"container": {"live": "1"}, **KINDS["vp8.webm"]}
    data = make(tmp_path / "whole.webm", **live).read_bytes()
    assert sum(1 for _ in VideoStream(tmp_path / "whole.webm")) == COUNT
    accepted = []
    for size in range(len(data) // 2, len(data), 7):
        (tmp_path / "cut.webm").write_bytes(data[:size])
        try:
            accepted.append(sum(1 for _ in VideoStream(tmp_path / "cut.webm")))
        except SourceError:
            continue
    assert len(accepted) <= COUNT // 2


def _packet_ends(path):
    with av.open(str(path)) as container:
        return {p.pos + p.size for p in container.demux(video=0) if p.pos is not None}


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "mpeg4.avi", "anim.apng", "av1.mp4"])
def test_damaged_packets_are_refused(clips, name, tmp_path):
    data = bytearray(clips(name).read_bytes())
    middle = len(data) // 2
    noise = np.random.default_rng(0).bytes(len(data) // 6)
    data[middle : middle + len(noise)] = noise
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, "damaged|decoded|not a whole video|no frame")


def test_what_is_no_video_is_refused_by_name(tmp_path, clips):
    (tmp_path / "empty.mp4").write_bytes(b"")
    refused(tmp_path / "empty.mp4", "empty")
    (tmp_path / "text.mp4").write_text("frames, frames, frames\n" * 100)
    refused(tmp_path / "text.mp4", "not a whole video")
    with av.open(str(tmp_path / "image.png"), "w", format="image2") as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8, 6, "rgb24"
        output.mux(stream.encode(av.VideoFrame(8, 6, "rgb24")))
    shutil.move(tmp_path / "image.png", tmp_path / "image.mp4")
    refused(tmp_path / "image.mp4", r"it is a picture \(png\), no video")
    with av.open(str(tmp_path / "sound.mkv"), "w") as output:
        sound = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        output.mux(sound.encode(frame))
    refused(tmp_path / "sound.mkv", "no video stream")
    refused(tmp_path / "missing.mp4", "cannot be opened: No such file")
    refused(tmp_path, "not a regular file")


def test_playlists_open_no_other_file(tmp_path, clips):
    target = shutil.copy(clips("h264.ts"), tmp_path / "other.ts")
    texts = {
        "concat.mp4": f"ffconcat version 1.0\nfile {target}\n",
        "hls.ts": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        refused(tmp_path / name, "not a whole video")


def test_links_pipes_and_sockets_never_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "not a regular file")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    refused(tmp_path / "zero.mp4", "not a regular file")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nothing")
    refused(tmp_path / "dangling.mp4", "cannot be opened")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    refused(tmp_path / "loop.mp4", "cannot be opened")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.mp4"))
        refused(tmp_path / "s.mp4", "not a regular file")


@pytest.mark.parametrize(
    "name",
    [
        b"concat:x.mp4",
        b"http:x.mp4",
        b"%03d.mp4",
        b"-i.mp4",
        b"two words\n.mp4",
        "Пример é.mp4".encode(),
        b"\xff\xfe.mp4",
        b"a" * 250 + b".mp4",
    ],
)
def test_any_file_name_is_just_a_name(clips, tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    shutil.copy(clips("h264.mp4"), path)
    assert sum(1 for _ in VideoStream(path)) == COUNT


def test_a_relative_name_that_looks_like_a_protocol(clips, tmp_path, monkeypatch):
    shutil.copy(clips("h264.mp4"), tmp_path / "pipe:0.mp4")
    monkeypatch.chdir(tmp_path)
    assert VideoStream("pipe:0.mp4").info.num_frames == COUNT


def test_limits_stop_picture_bombs_and_endless_files(clips):
    refused(clips("h264.mp4"), r"104x72 pixels exceed", limits=Limits(max_pixels=104 * 72 - 1))
    refused(clips("h264.mp4"), "more than 23 frames", limits=Limits(max_frames=COUNT - 1))
    exact = Limits(max_pixels=104 * 72, max_frames=COUNT)
    assert VideoStream(clips("h264.mp4"), limits=exact).info.num_frames == COUNT


def test_a_size_that_changes_in_the_middle_is_refused(tmp_path):
    small, large = (
        encode(tmp_path / f"{side}.avi", moving(8, (side, 96)), "mjpeg", "yuvj420p")
        for side in (64, 80)
    )
    with av.open(str(large)) as other:
        packets = list(other.demux(video=0))

    def switch(index, packet):
        return packet if index < 5 else packets[index]

    refused(
        remux(small, tmp_path / "both.mkv", switch),
        r"frame 5 has \(H, W\) = \(80, 96\), the frames before it \(64, 96\)",
    )


def test_edit_lists_are_followed(clips, tmp_path):
    """A clip cut out of a longer one with B-frames: some stored frames are not shown."""
    options = {"x264-params": "open-gop=1:keyint=8:bframes=2:scenecut=0"}
    whole = encode(tmp_path / "whole.ts", moving(COUNT, SHAPE), options=options)
    started = []

    def from_second_key(index, packet):
        started.append(packet.is_keyframe)
        return packet if sum(started) > 1 else None

    for suffix, noted in ((".mp4", False), (".mkv", True), (".ts", True)):
        started.clear()
        part = VideoStream(remux(whole, tmp_path / f"part{suffix}", from_second_key))
        assert sum(1 for _ in part) == part.info.num_frames < COUNT - 7
        assert bool(part.info.notes) == noted
        assert part.times()[0] == next(iter(part)).seconds


@pytest.mark.skipif(not VIDEOS.exists(), reason="the shared clips are not here")
@pytest.mark.parametrize(("name", "count"), [("teddy", 141), ("cat", 87), ("apple", 50)])
def test_ordinary_phone_files_are_accepted(name, count):
    stream = VideoStream(VIDEOS / f"{name}.mp4")
    assert sum(1 for _ in stream) == stream.info.num_frames == count
    assert np.array_equal(stream.times(), [frame.seconds for frame in stream])


def test_vp8_frames_for_reference_only_are_not_counted(clips, tmp_path):
    def hide(index, packet):
        if index not in (5, 17):
            return packet
        data = bytearray(bytes(packet))
        data[0] &= ~0x10
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        return hidden

    stream = VideoStream(remux(clips("vp8.webm"), tmp_path / "hidden.webm", hide))
    assert sum(1 for _ in stream) == stream.info.num_frames == COUNT - 2
    assert np.array_equal(stream.times(), [frame.seconds for frame in stream])


def test_variable_frame_rate_keeps_its_times(clips, tmp_path):
    def late(index, packet):
        packet.pts += 100 * max(0, index - 10)
        packet.dts = packet.pts
        return packet

    stream = VideoStream(remux(clips("mjpeg.avi"), tmp_path / "vfr.mkv", late))
    steps = np.diff([frame.seconds for frame in stream])
    assert steps[:9] == pytest.approx(1 / 24, abs=0.002)
    assert (steps[12:] > 2 / 24).all()


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_clips(tmp_path, count):
    stream = VideoStream(encode(tmp_path / "short.mp4", moving(count, (34, 50))))
    assert sum(1 for _ in stream) == count


@pytest.mark.parametrize("shape", [(2, 2), (35, 51), (16, 2000), (1000, 18)])
def test_odd_tiny_and_very_wide_sizes(tmp_path, shape):
    path = encode(tmp_path / "odd.mkv", moving(2, shape), "ffv1", "yuv420p")
    assert VideoStream(path).info.coded_shape == shape


@pytest.mark.parametrize("name", MATRICES)
def test_the_whole_display_matrix_is_read(tmp_path, name):
    if not hasattr(av.video.stream.VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write display matrices")
    shape, centre = (60, 110), (30.0, 40.0)
    image = blob(shape, centre, 5)
    path = encode(tmp_path / "turned.mp4", [image] * 2, matrix=MATRICES[name], aspect=(4, 3))
    stream = VideoStream(path)
    info = stream.info
    assert info.orientation == name
    quarter = info.source_shape != shape
    assert info.sample_aspect_ratio == ((3, 4) if quarter else (4, 3))
    box = Letterbox.fit(info.source_shape, (60, 80), info.sample_aspect_ratio)
    seen = Letterboxer(box, info.orientation).content(next(iter(stream)).image)
    upright = AxisAffine.orient(name, shape)(centre)
    expected = np.array(box.to_img(upright)) - box.pad_xy
    assert centroid(seen) == pytest.approx(expected, abs=0.06)
    assert VideoStream(path, orientation="none").info.orientation == "none"


def test_a_crooked_display_matrix_is_refused_unless_set_by_hand(tmp_path):
    if not hasattr(av.video.stream.VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write display matrices")
    matrix = (56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30)
    path = encode(tmp_path / "crooked.mp4", moving(2, (40, 60)), matrix=matrix)
    refused(path, "not a multiple of 90 degrees")
    assert VideoStream(path, orientation="none").info.num_frames == 2


@pytest.mark.parametrize("name", MATRICES)
def test_the_matrix_of_a_track_is_found_in_the_file(tmp_path, name):
    """As where a frame hides it behind side data that PyAV does not know (stereo)."""
    if not hasattr(av.video.stream.VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write display matrices")
    path = encode(tmp_path / "turned.mp4", moving(2, (40, 60)), matrix=MATRICES[name])

    class Hiding:
        @property
        def side_data(self):
            raise ValueError("29 is not a valid Type")

    matrix, several, *_ = track_header(path, "mov,mp4", 1, 0, (40, 60))
    assert not several
    assert track_header(path, "mov,mp4", 2, 0, (40, 60)) == TrackHeader()
    assert orientation_of(Hiding(), lambda: matrix) == name
    with pytest.raises(ValueError, match="hides its orientation"):
        orientation_of(Hiding())


def test_sample_aspect_ratios(tmp_path):
    def read(aspect):
        path = encode(tmp_path / "a.mp4", moving(1, (40, 60)), aspect=aspect)
        return VideoStream(path).info

    assert read((256, 234)).sample_aspect_ratio == (128, 117)
    assert read(None).sample_aspect_ratio == (1, 1)
    absurd = read((20, 1))
    assert absurd.sample_aspect_ratio == (1, 1)
    assert "20:1 is absurd" in absurd.notes[0]


def test_colours_are_described(tmp_path):
    def read(**tags):
        return VideoStream(encode(tmp_path / "c.mp4", moving(1, SHAPE), **tags)).info.color

    plain = read()
    assert (plain.matrix, plain.matrix_tagged, plain.full_range) == ("smpte170m", False, False)
    tagged = read(colorspace=1, color_range=2)
    assert (tagged.matrix, tagged.matrix_tagged) == ("bt709", True)
    assert (tagged.full_range, tagged.range_tagged) == (True, True)
    gray = VideoStream(encode(tmp_path / "g.mkv", moving(1, SHAPE), "ffv1", "gray")).info.color
    assert gray.full_range
    assert not gray.range_tagged


def test_of_several_streams_one_is_read_and_named(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as output:
        streams = []
        for height in (48, 96):
            stream = output.add_stream("ffv1", rate=24)
            stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
            streams.append(stream)
        for index in range(3):
            for stream in streams:
                frame = av.VideoFrame(64, stream.height, "yuv420p")
                frame.pts = index
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode())
    stream = VideoStream(path)
    assert stream.info.coded_shape == (96, 64)
    assert stream.info.notes == ("the file has 2 video streams; number 1 was read",)
    assert sum(1 for _ in stream) == 3


def test_reading_again_while_reading(clips):
    stream = VideoStream(clips("h264.mp4"))
    outer = iter(stream)
    next(outer)
    assert sum(1 for _ in stream) == COUNT
    assert sum(1 for _ in outer) == COUNT - 1


def test_errors_are_decode_errors_with_advice(clips, tmp_path):
    path = cut(clips("h264.mp4"), tmp_path / "cut.mp4", 0.5)
    with pytest.raises(DecodeError, match="get the file again, or re-encode it"):
        VideoStream(path)


def test_fingerprints_see_both_ends(tmp_path):
    path = tmp_path / "x"
    prints = []
    for data in (
        b"",
        b"a",
        b"a" * (3 << 20),
        b"b" + b"a" * ((3 << 20) - 1),
        b"a" * ((3 << 20) - 1) + b"b",
    ):
        path.write_bytes(data)
        prints.append(fingerprint(path))
        assert prints[-1].size == len(data)
    assert len({each.sha256 for each in prints}) == len(prints)


def test_making_a_video_leaves_this_process_its_usual_priority(clips):
    clips("av1.mp4")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
