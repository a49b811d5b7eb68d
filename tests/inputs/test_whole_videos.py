"""When a video is whole: what its container declares, and what the decoder reports."""

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import COUNT, KINDS, SHAPE, encode, make, moving, remux

from builder.core.errors import SourceError
from builder.inputs.demux import ErrorLog, _hidden, first_error
from builder.inputs.video import VideoStream
from schemas.config import Limits

PACKET = 188


def read(path):
    """Read a video to its end; its seconds, and its notes."""
    stream = VideoStream(path)
    seconds = [frame.seconds for frame in stream]
    assert len(seconds) == stream.info.num_frames
    assert np.array_equal(stream.times(), seconds)
    return seconds, stream.info.notes


def pictures(path):
    return [frame.image.to_ndarray(format="rgb24") for frame in VideoStream(path)]


def written(path, data):
    path.write_bytes(data)
    return path


def refused(path, words):
    with pytest.raises(SourceError, match=words) as caught:
        read(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("start", "stop"), [(0.5, 1), (0.8, 1), (0.4, 0.5), (0.6, 0.7)])
def test_zeros_in_place_of_the_tail_or_the_middle_are_never_silently_short(
    clips, name, start, stop, tmp_path
):
    """A copy that stopped, into a file of full size."""
    data = bytearray(clips(name).read_bytes())
    first, last = int(len(data) * start), int(len(data) * stop)
    data[first:last] = bytes(last - first)
    path = written(tmp_path / name, data)
    try:
        seconds, _ = read(path)
    except SourceError:
        return
    # Raw and lightly packed pictures decode to other pixels, all of them there.
    assert len(seconds) == COUNT
    assert stop < 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tail", [b"TAG" + b"0" * 125, b"\n", b"written by a tool\n", b"hello"])
def test_bytes_behind_the_end_cost_nothing(clips, name, tail, tmp_path):
    path = written(tmp_path / name, clips(name).read_bytes() + tail)
    seconds, notes = read(path)
    assert (len(seconds), notes) == (COUNT, ())
    assert seconds == read(clips(name))[0]


def test_a_live_recording_with_zeros_behind_it_is_refused(tmp_path):
    whole = make(tmp_path / "whole.webm", container={"live": "1"}, **KINDS["vp8.webm"])
    refused(written(tmp_path / "zeros.webm", whole.read_bytes() + bytes(5000)), "damaged")


def test_an_mdat_that_says_a_few_bytes_too_many_is_whole(clips, tmp_path):
    data = bytearray(clips("moov_first.mp4").read_bytes())
    at = data.index(b"mdat") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (size + 7).to_bytes(4, "big")
    assert len(read(written(tmp_path / "long.mp4", data))[0]) == COUNT
    refused(written(tmp_path / "cut.mp4", data[:-20]), "cut off")


def test_gifs_end_with_a_comment_or_without_their_trailer(clips, tmp_path):
    data = clips("anim.gif").read_bytes()
    assert data.endswith(b";")
    for name, changed in (
        ("comment.gif", data[:-1] + b"!\xfe\x05hello\0;"),
        ("bare.gif", data[:-1]),
        ("zeros.gif", data + bytes(9)),
    ):
        assert read(written(tmp_path / name, changed))[0] == read(clips("anim.gif"))[0]
    refused(written(tmp_path / "cut.gif", data[:-3]), "cut off")


def test_transport_streams_of_other_packets(clips, tmp_path):
    data = clips("h264.ts").read_bytes()
    packets = [data[at : at + PACKET] for at in range(0, len(data), PACKET)]
    whole = read(clips("h264.ts"))
    for name, changed in (
        ("checked.ts", b"".join(packet + bytes(16) for packet in packets)),
        ("timed.m2ts", b"".join(bytes(4) + packet for packet in packets)),
        ("midpacket.ts", packets[0][77:] + data),
        ("junk.ts", b"HTTP/1.1 200 OK\r\n\r\n" * 50 + data),
    ):
        assert read(written(tmp_path / name, changed)) == whole
        refused(written(tmp_path / f"cut_{name}", changed[:-50]), "cut off")


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_capture_that_begins_inside_a_group_of_pictures(codec, tmp_path):
    x265 = {"x265-params": "log-level=none:keyint=8:scenecut=0"}
    options = x265 if codec == "libx265" else {"g": "8", "sc_threshold": "0"}
    whole = encode(tmp_path / "whole.ts", moving(COUNT, SHAPE), codec, options=options)
    data = whole.read_bytes()
    with av.open(str(whole)) as container:
        starts = [p.pos for p in container.demux(video=0) if p.pos is not None]
    part = written(tmp_path / "part.ts", data[starts[4] - 60 :])
    seconds, notes = read(part)
    assert seconds == read(whole)[0][8:]
    # What refers to frames before the cut would come out as gray with remains.
    for got, expected in zip(pictures(part), pictures(whole)[8:], strict=True):
        assert np.array_equal(got, expected)
    assert len(notes) == 1
    assert re.match(r"starts inside a group of pictures: \d+ frames are stored, 16", notes[0])


def test_recordings_joined_end_to_end_are_whole_unless_packets_are_lost(tmp_path):
    parts = []
    for number in range(2):
        part = tmp_path / f"{number}.ts"
        whole = encode(tmp_path / "whole.ts", moving(COUNT, SHAPE), options={"g": "12"})

        def half(index, packet, number=number):
            return packet if index // 12 == number else None

        parts.append(remux(whole, part, half).read_bytes())
    joined = b"".join(parts)
    seconds, _ = read(written(tmp_path / "joined.ts", joined))
    assert len(seconds) == COUNT
    assert seconds == sorted(set(seconds))
    # Lost packets are no new beginning.
    lost = parts[0][: 5 * PACKET] + parts[0][7 * PACKET :] + parts[1]
    refused(written(tmp_path / "lost.ts", lost), "damaged")


def test_field_pictures_make_one_frame_of_two_packets():
    """Fields in packets of their own, as interlaced AVCHD has them."""
    seconds, notes = read(Path(__file__).parent / "field_pictures.ts")
    assert np.diff(seconds) == pytest.approx(0.08)
    assert notes[0] == f"{2 * len(seconds)} packets hold {len(seconds)} frames"


@pytest.mark.parametrize(
    ("bits", "hidden"),
    [
        ("10 00 0 0 1 0", False),  # marker, profile 0, no older frame, a keyframe, shown
        ("10 00 0 1 0 0", True),
        ("10 00 1 00 0", False),  # an older frame is shown
        ("10 11 0 0 1 1", False),  # profile 3 has one bit more
        ("10 11 0 0 1 0", True),
    ],
)
def test_vp9_references_in_packets_of_their_own_are_not_counted(bits, hidden):
    head = bytes([int(bits.replace(" ", ""), 2)])
    assert _hidden("vp9", head + b"\1\2\3") == hidden
    # Packed together with what is shown next, they are.
    assert not _hidden("vp9", head + b"\1\2\xc9")


def test_a_cut_in_an_open_group_of_pictures(tmp_path):
    """Copied from a keyframe on, with the pictures before it that refer to the group before."""
    params = "log-level=none:keyint=12:open-gop=1:bframes=4:scenecut=0"
    whole = encode(
        tmp_path / "whole.mkv", moving(48, SHAPE), "libx265", options={"x265-params": params}
    )
    for suffix in (".mkv", ".mp4", ".ts"):
        seen = []

        def second(index, packet, seen=seen):
            seen.append(packet.is_keyframe)
            return packet if sum(seen) > 1 else None

        part = remux(whole, tmp_path / f"part{suffix}", second)
        seconds, notes = read(part)
        assert 20 < len(seconds) <= 36
        assert suffix == ".mp4" or "starts inside a group of pictures" in notes[0]


def test_a_capture_that_begins_where_a_refresh_row_by_row_begins(tmp_path):
    """Its first packet is called a keyframe, and its first whole picture comes later."""
    options = {"x264-params": "keyint=12:intra-refresh=1:bframes=0"}
    path = encode(tmp_path / "whole.mp4", moving(48, SHAPE), options=options)
    part = remux(path, tmp_path / "part.mp4", lambda index, packet: packet if index >= 12 else None)
    seconds, notes = read(part)
    assert 24 < len(seconds) < 36
    assert notes == (f"36 packets hold {len(seconds)} frames",)
    shown = pictures(part)
    assert np.array_equal(shown, pictures(path)[-len(shown) :])


@pytest.mark.parametrize("name", ["mpeg4.avi", "msmpeg4.avi", "flv1.flv"])
def test_frames_before_the_first_keyframe_are_left_out_with_a_note(clips, name, tmp_path):
    how = {**KINDS[name], "options": {"g": "8"}, "b_frames": None}
    whole = make(tmp_path / f"whole_{name}", **how)
    part = remux(whole, tmp_path / name, lambda index, packet: packet if index >= 3 else None)
    seconds, notes = read(part)
    assert len(seconds) == COUNT - 8
    assert notes == ("starts inside a group of pictures: 21 frames are stored, 16 can be decoded",)
    none = remux(whole, tmp_path / f"none_{name}", lambda k, packet: packet if 0 < k < 8 else None)
    refused(none, "no keyframe")


@pytest.mark.parametrize(
    ("codec", "suffix"), [("cinepak", ".mov"), ("cinepak", ".avi"), ("qtrle", ".mov")]
)
def test_what_a_container_calls_a_keyframe_may_be_none(codec, suffix, tmp_path):
    """These decoders draw the changes upon black, and say nothing."""
    pix_fmt = "rgb24"
    scenes = moving(12, (96, 160))
    for scene in scenes:
        scene[:16] = 128  # unlike noise, does not change
    whole = tmp_path / f"whole{suffix}"
    encode(whole, scenes, codec, pix_fmt, options={"g": "6"})

    def lie(index, packet):
        packet.is_keyframe = True
        return packet if index >= 2 else None

    lying = remux(whole, tmp_path / f"lying{suffix}", lie)
    seconds, notes = read(lying)
    assert len(seconds) == 6
    assert notes == ("starts inside a group of pictures: 10 frames are stored, 6 can be decoded",)
    for got, expected in zip(pictures(lying), pictures(whole)[6:], strict=True):
        assert np.array_equal(got, expected)
    none = tmp_path / f"none{suffix}"
    refused(remux(whole, none, lambda k, packet: lie(k, packet) if k < 6 else None), "no keyframe")


def test_a_gap_behind_the_first_chunk_of_an_avi_delays_its_start(clips, tmp_path):
    """Its decoder holds a picture back until the second chunk, which begins later."""
    whole = make(tmp_path / "whole.avi", codec="mpeg4", b_frames=2)

    def late(index, packet):
        packet.dts += 10 * (index > 0)
        packet.pts = packet.dts
        return packet

    seconds, _ = read(remux(whole, tmp_path / "late.avi", late))
    assert seconds == pytest.approx((np.arange(COUNT) + 10) / 24)
    assert read(whole)[0] == pytest.approx(np.arange(COUNT) / 24)


def test_an_avi_at_a_rate_above_that_of_its_frames(clips, tmp_path):
    """As when a recording with times in milliseconds is copied; the last frame lasts as others."""
    path = tmp_path / "fine.avi"
    with av.open(str(clips("mjpeg.avi"))) as given, av.open(str(path), "w") as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        copy.time_base = Fraction(1, 240)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.stream, packet.duration = copy, 1
                output.mux(packet)
    with av.open(str(path)) as made:
        assert made.streams.video[0].frames == 10 * COUNT
    assert read(path)[0] == pytest.approx(np.arange(COUNT) / 24)


def test_a_fragment_that_breaks_off_in_its_head_is_missing(tmp_path):
    how = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
    data = make(tmp_path / "whole.mp4", container=how).read_bytes()
    at = data.index(b"moof", len(data) // 2)
    for more in (12, 40, 90):
        refused(written(tmp_path / "cut.mp4", data[: at + more]), "cut off|not a whole video")
    # Between two fragments nothing tells that there were more.
    assert len(read(written(tmp_path / "part.mp4", data[: at - 4]))[0]) < COUNT


@pytest.mark.parametrize(
    ("name", "form", "codec", "words"),
    [
        ("a.y4m", "yuv4mpegpipe", "rawvideo", r"container \(yuv4mpegpipe\) .* -c copy out.mkv"),
        ("a.ivf", "ivf", "libvpx", r"its container \(ivf\) is not read; remux it"),
        ("a.h264", "h264", "libx264", r"container \(h264\) .* -c copy out.mp4"),
        ("a.mp4", "image2pipe", "png", r"it is a picture \(png\), no video"),
    ],
)
def test_a_container_that_is_not_read_is_named(name, form, codec, words, tmp_path):
    path = tmp_path / name
    with av.open(str(path), "w", format=form) as output:
        stream = output.add_stream(codec, rate=24)
        stream.height, stream.width = SHAPE
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        for index in range(3):
            frame = av.VideoFrame(SHAPE[1], SHAPE[0], stream.pix_fmt)
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    refused(path, words)


def test_an_mp4_that_was_never_finished_is_said_to_lack_its_index(clips, tmp_path):
    data = clips("h264.mp4").read_bytes()
    refused(written(tmp_path / "a.mp4", data[: data.index(b"moov") - 4]), "moov atom not found")


def test_times_that_go_back_where_recordings_were_joined(clips, tmp_path):
    data = clips("h264.ts").read_bytes()
    # Newer FFmpeg calls the packets around it damaged.
    said = f"frame {COUNT} is at .* joined here; remux|damaged or cut off in frame"
    refused(written(tmp_path / "joined.ts", 2 * data), said)


def test_dropped_frames_of_an_avi_leave_a_gap_in_its_times(clips, tmp_path):
    """An empty chunk stands for each; a player shows the frame before it longer."""
    kept = [*range(6), *range(15, COUNT)]
    dropped = remux(
        clips("mjpeg.avi"), tmp_path / "gap.avi", lambda k, packet: packet if k in kept else None
    )
    seconds, notes = read(dropped)
    assert seconds == pytest.approx(np.array(kept) / 24)
    assert notes == ()


def test_a_still_beside_a_moving_picture_is_not_read(tmp_path):
    path = tmp_path / "motion.mp4"
    with av.open(str(path), "w") as output:
        still, video = (output.add_stream("libx264", rate=24) for _ in range(2))
        for stream, (height, width) in ((still, (144, 208)), (video, SHAPE)):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(12):
            for stream in (still, video) if index == 0 else (video,):
                frame = av.VideoFrame(stream.width, stream.height, "yuv420p")
                frame.pts = index
                output.mux(stream.encode(frame))
        output.mux(still.encode())
        output.mux(video.encode())
    stream = VideoStream(path)
    assert (stream.info.coded_shape, sum(1 for _ in stream)) == (SHAPE, 12)
    assert stream.info.notes == ("the file has 2 video streams; number 1 was read",)


@pytest.mark.parametrize(
    ("tracks", "read"),
    [
        # (frames per second, seconds, default)
        ([(12, 2, True), (60, 2, False)], 0),  # a preview in slow motion is no reason
        ([(2, 2, True), (30, 2, False)], 1),
        ([(30, 0.2, True), (30, 2, False)], 1),
        ([(30, 0.2, True), (30, 2, True), (60, 2, False)], 1),
        ([(60, 2, True), (2, 5, True)], 0),  # one has more frames, one lasts longer
        ([(60, 0.5, False), (4, 6, False)], 1),
    ],
)
def test_of_several_tracks_a_default_one_that_moves_is_read(tracks, read, tmp_path):
    path = tmp_path / "tracks.mkv"
    moments = sorted(
        (index / rate, number, index)
        for number, (rate, seconds, _) in enumerate(tracks)
        for index in range(max(1, int(rate * seconds)))
    )
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("mjpeg", rate=rate) for rate, _, _ in tracks]
        for stream, (_, _, default) in zip(streams, tracks, strict=True):
            stream.height, stream.width, stream.pix_fmt = *SHAPE, "yuvj420p"
            stream.disposition = av.stream.Disposition.default if default else 0
        for _, number, index in moments:
            frame = av.VideoFrame(SHAPE[1], SHAPE[0], "yuvj420p")
            frame.pts = index
            output.mux(streams[number].encode(frame))
    [note] = VideoStream(path).info.notes
    assert note == f"the file has {len(tracks)} video streams; number {read} was read"


def test_an_encrypted_video_is_called_encrypted(tmp_path):
    key = {"encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    scheme = {"encryption_scheme": "cenc-aes-ctr", **key}
    refused(make(tmp_path / "secret.mp4", container=scheme), "it is encrypted")
    for flags in ("frag_keyframe", "frag_keyframe+empty_moov"):
        parts = make(tmp_path / "parts.mp4", container={**scheme, "movflags": flags})
        refused(parts, "it is encrypted")


def test_a_scrambled_transport_stream_is_called_encrypted(clips, tmp_path):
    data = np.frombuffer(clips("h264.ts").read_bytes(), np.uint8).reshape(-1, PACKET).copy()
    ours = (data[:, 1] & 0x1F == 1) & (data[:, 2] == 0)
    data[ours, 3] |= 0x80
    # Behind the field of adaptation, where there is one.
    for row in np.flatnonzero(ours):
        begin = 5 + data[row, 4] if data[row, 3] & 0x20 else 4
        data[row, begin:] ^= 0x5A
    refused(written(tmp_path / "scrambled.ts", data.tobytes()), "it is encrypted")


def test_the_decoder_is_listened_to_without_a_trace(clips, tmp_path):
    """FFmpeg has one log for a whole process: its level is set back, and nothing is missed."""
    data = bytearray(clips("ffv1.mkv").read_bytes())
    data[len(data) // 2] ^= 255
    path = written(tmp_path / "flipped.mkv", data)
    for level in (None, av.logging.VERBOSE):
        av.logging.set_level(level)
        # The same message twice is heard twice.
        for _ in range(2):
            refused(path, "damaged")
        assert av.logging.get_level() == level
    av.logging.set_level(None)
    with ErrorLog() as outer:
        with ErrorLog():
            pass
        av.logging.log(av.logging.ERROR, "someone", "a fault")
        av.logging.log(av.logging.WARNING, "someone", "a remark")
    assert first_error(outer) == "someone: a fault"
    assert first_error(outer, "another") is None


def test_a_limit_of_frames_counts_those_that_cannot_be_shown(clips):
    with pytest.raises(SourceError, match="more than 5 frames"):
        VideoStream(clips("h264.mkv"), limits=Limits(max_frames=5))
