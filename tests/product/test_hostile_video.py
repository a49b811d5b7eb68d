"""A whole build over hostile files: what is good is built, what is not is refused by name."""

import os
import shutil
from fractions import Fraction

import av
import cv2
import h5py
import numpy as np
import pytest
import source_fixtures as fixtures
from source_fixtures import config_of, with_exif

from builder.build.backends import open_source
from builder.build.pipeline import build
from builder.dataset.opening import open_dataset
from builder.inputs.video import VideoStream

GOOD_NAMES = [
    b"plain.mp4",
    b"plain.mkv",
    b"PLAIN.mp4",
    b"with space.mp4",
    b"new\nline.mp4",
    b"-rf.mp4",
    "\u00fcml\u00e4ut.mp4".encode(),
    "u\u0308ml\u00e4ut.mp4".encode(),
    b"bad\xff\xfeutf8.mp4",
    b"concat:x.mp4",
    b"%03d.mp4",
    b"CON.mp4",
    b"n" * 250 + b".mp4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    good = fixtures.write_video(tmp_path_factory.mktemp("good") / "good.mp4", 5)
    mkv = fixtures.write_video(good.parent / "good.mkv", 5)
    for name in GOOD_NAMES:
        source = mkv if name.endswith(b".mkv") else good
        shutil.copyfile(source, os.fsencode(root) + b"/" + name)
    data = good.read_bytes()
    bad = {
        "empty": b"",
        "text": b"frames, frames\n" * 99,
        "picture": cv2.imencode(".png", fixtures.picture(1))[1].tobytes(),
        "no_moov": data[: data.index(b"moov") - 4],
        "cut": data[: len(data) // 2],
        "ffconcat": b"ffconcat version 1.0\nfile plain.mp4\n",
        "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nplain.mp4\n#EXT-X-ENDLIST\n",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }
    for name, content in bad.items():
        (root / f"bad_{name}.mp4").write_bytes(content)
    os.mkfifo(root / "bad_fifo.mp4")
    (root / "bad_zero.mp4").symlink_to("/dev/zero")
    (root / "bad_dangling.mp4").symlink_to(root / "nowhere")
    (root / "bad_loop.mp4").symlink_to(root / "bad_loop.mp4")
    (root / "folder.mp4").mkdir()
    return root


def test_good_files_are_built_and_bad_ones_fail_by_name(folder, tmp_path):
    before = sorted(os.listdir(os.fsencode(folder)))
    summary = build(config_of(folder, tmp_path / "deep" / "out"))
    assert summary.built == len(GOOD_NAMES)
    failed = {failure.path: failure for failure in summary.failures}
    assert len(failed) == 12
    assert all(path.startswith("bad_") for path in failed)
    assert {failure.stage for failure in failed.values()} <= {"open", "decode"}
    for path, failure in failed.items():
        assert path in failure.reason
    assert summary.exit_code == 1
    dataset = open_dataset(tmp_path / "deep" / "out")
    assert len(dataset) == len(GOOD_NAMES)
    assert {dataset[each].meta.length for each in dataset.ids} == {5}
    # Nothing was written beside the output folder, nothing changed in the source.
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert sorted(os.listdir(os.fsencode(folder))) == before


@pytest.mark.parametrize(("exif", "turn"), [(6, "rot90"), (4, "vflip"), (1, "none"), (0, "none")])
def test_a_turn_that_the_frames_hide_is_looked_up_in_the_file(tmp_path, exif, turn):
    """EXIF in every picture, as cameras write it: with a turn, and without one."""
    jpeg = cv2.imencode(".jpg", fixtures.picture(4)[..., ::-1])[1].tobytes()
    with av.open(str(tmp_path / "exif.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width = fixtures.SHAPE
        stream.pix_fmt = "yuvj420p"
        for index in range(3):
            packet = av.Packet(with_exif(jpeg, exif, "<"))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), True
            packet.pts = packet.dts = index
            container.mux(packet)
    stream = VideoStream(tmp_path / "exif.avi")
    assert stream.info.orientation == turn
    assert fixtures.numbers(stream) == [4, 4, 4]
    by_hand = VideoStream(tmp_path / "exif.avi", orientation="rot90")
    assert by_hand.info.source_shape == fixtures.SHAPE[::-1]


HOSTILE_NAMES = [
    "..",
    "demo_1",
    "Demo_1",
    "CON",
    "e\u0301",
    "\u00e9",
    "-",
    "x" * 3000,
    "a\tb",
    "%2e%2e",
]


def test_ids_made_of_names_in_data_stay_apart_and_inside(tmp_path):
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "in" / "..demo.hdf5", "w") as file:
        for name in HOSTILE_NAMES:
            demo = file.create_group(f"data/{name}")
            demo.create_dataset("obs/agentview_rgb", data=fixtures.pictures(3))
            demo.create_dataset("obs/odd name/..", data=np.zeros(3))
    config = config_of(tmp_path / "in" / "..demo.hdf5", tmp_path / "out", kind="libero")
    refs = list(open_source(config).refs())
    assert len({ref.id.casefold() for ref in refs}) == len(HOSTILE_NAMES)
    assert all(ref.path.isprintable() for ref in refs)
    summary = build(config)
    assert [failure.reason for failure in summary.failures] == []
    assert summary.built == len(HOSTILE_NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
