"""Odd and hostile files that the other suites lack: bombs, rights, times, names, playlists."""

import os
import pickle
import shutil
import struct
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import source_fixtures as fixtures
from media import encode, moving, remux
from source_fixtures import config_of

from builder.build.backends import open_source
from builder.build.pipeline import build
from builder.core.errors import SourceError
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.inputs.video import VideoStream
from builder.sources.kinds.image_folders import ImageFolders
from builder.sources.kinds.libero import Libero
from builder.sources.kinds.video_files import VideoFiles
from schemas.config import Limits

LIMITS = Limits(max_pixels=1 << 20)


def gif_bomb() -> bytes:
    """One frame of 65535 x 65535, a few bytes."""
    size = struct.pack("<HH", 65535, 65535)
    frame = b"," + bytes(4) + size + b"\0\x02\x02\x4c\x01\0"
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + frame + b";"


def png_bomb(side: int = 30_000, animated: bool = False) -> bytes:
    """A black square that would take gigabytes; some 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    if animated:
        head += chunk(b"acTL", struct.pack(">II", 1, 0))
        head += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 10, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side), 9))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["bomb.gif", "bomb.apng", "bomb.mp4"])
def test_picture_bombs_are_refused_by_their_header(tmp_path, name):
    data = png_bomb(animated=True) if name == "bomb.apng" else gif_bomb()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        SourceError, match=f"{name}: .*(exceed the limit|not a whole video|it is a picture)"
    ):
        list(VideoStream(tmp_path / name, limits=LIMITS))


def test_an_image_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "im_0.png").write_bytes(png_bomb())
    source = ImageFolders(tmp_path, None, LIMITS)
    said = r"im_0\.png: .*1048576 \(limits\.max_pixels\)"
    with pytest.raises(SourceError, match=said), fixtures.first(source) as episode:
        list(episode.views.values())


@pytest.mark.parametrize(
    ("limit", "match"),
    [(600_000, "960x640 pixels exceed the limit of 600000"), (100_000, "not a whole video")],
)
def test_frames_larger_than_the_container_says_are_refused(tmp_path, limit, match):
    """The header promises 64 x 96, the stream is full of 640 x 960."""
    for height in (64, 640):
        images = moving(4, (height, height * 3 // 2))
        encode(tmp_path / f"{height}.avi", images, "mjpeg", "yuvj420p")
    with av.open(str(tmp_path / "640.avi")) as other:
        packets = list(other.demux(video=0))
    liar = tmp_path / "liar.mkv"
    remux(tmp_path / "64.avi", liar, lambda index, packet: packets[index])
    with pytest.raises(SourceError, match=f"liar.mkv: .*{match}"):
        list(VideoStream(liar, limits=Limits(max_pixels=limit)))


@contextmanager
def unprivileged():
    """Be nobody for a while: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_refused_by_name():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        secret = fixtures.write_video(root / "secret.mp4", 3)
        fixtures.write_images(root / "images" / "a", 2)
        with h5py.File(root / "demo.hdf5", "w") as file:
            file["data/demo_0/obs/agentview_rgb"] = fixtures.pictures(3)
        closed = [secret, root / "images" / "a" / "im_1.png", root / "demo.hdf5"]
        for path in closed:
            path.chmod(0)
        (root / "locked").mkdir(mode=0)
        try:
            with unprivileged():
                source = VideoFiles(root)
                failures = {}
                for ref in source.refs():
                    with pytest.raises(SourceError) as caught, source.open(ref):
                        pass
                    failures[ref.path] = str(caught.value)
                assert sorted(failures) == ["locked/.", "secret.mp4"]
                assert "cannot be opened: Permission denied" in failures["secret.mp4"]
                images = ImageFolders(root / "images")
                said = r"im_1\.png: .*Permission denied"
                with pytest.raises(SourceError, match=said), fixtures.first(images) as episode:
                    list(episode.view_files.values())
                demos = Libero(root / "demo.hdf5")
                with pytest.raises(SourceError, match=r"demo\.hdf5: .*[Pp]ermission denied"):
                    demos.open(next(demos.refs())).__enter__()
        finally:
            (root / "locked").chmod(0o755)


def earlier(source: Path, target: Path, seconds: float) -> Path:
    """Copy a video whose frames, B-frames among them, come so much earlier."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                output.mux(packet)
    return target


@pytest.mark.parametrize(("suffix", "count"), [("ts", 12), ("mov", 10), ("mp4", 10)])
def test_times_before_zero_are_kept_or_cut_by_the_edit_list(tmp_path, suffix, count):
    whole = encode(tmp_path / "whole.mp4", moving(12, (36, 52)), b_frames=2)
    video = VideoStream(earlier(whole, tmp_path / f"early.{suffix}", 2 / 24))
    seconds = [frame.seconds for frame in video]
    assert len(seconds) == video.info.num_frames == count
    assert seconds[0] == pytest.approx((10 - count) / 24, abs=0.001)
    assert np.diff(seconds) == pytest.approx(1 / 24, abs=0.002)
    assert np.array_equal(video.times(), seconds)


def test_times_that_go_back_are_refused(tmp_path):
    """Matroska cannot hold times before zero; FFmpeg writes such files all the same."""
    whole = encode(tmp_path / "whole.mp4", moving(12, (36, 52)), b_frames=2)
    early = earlier(whole, tmp_path / "early.mkv", 2 / 24)
    with pytest.raises(SourceError, match=r"early\.mkv: frame 2 is at 0\.000 s, the one before it"):
        list(VideoStream(early))


# FFmpeg writes an APNG of one frame as a plain PNG, which is a picture.
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "ts", "gif"])
def test_clips_of_one_and_two_frames_are_built(tmp_path, suffix):
    codecs = {"gif": ("gif", "rgb8"), "webm": ("libvpx", "yuv420p")}
    codec, pix_fmt = codecs.get(suffix, ("libx264", "yuv420p"))
    (tmp_path / "in").mkdir()
    for count in (1, 2):
        encode(tmp_path / "in" / f"{count}.{suffix}", moving(count, (72, 104)), codec, pix_fmt)
    config = config_of(tmp_path / "in", tmp_path / "out", kind="video")
    summary = build(config)
    assert [failure.reason for failure in summary.failures] == []
    lengths = [episode.meta.length for episode in open_dataset(tmp_path / "out")]
    assert sorted(lengths) == [1, 2]
    assert validate(tmp_path / "out", deep=True) == []


PLAYLISTS = {
    "dash.mp4": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'>"
    "<Period><AdaptationSet><Representation><BaseURL>{}</BaseURL></Representation>"
    "</AdaptationSet></Period></MPD>",
    "hls.mkv": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "concat.webm": "ffconcat version 1.0\nfile '{}'\n",
    "plain_concat.avi": "file '{}'\n",
    "sdp.mov": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "m3u.ts": "{}\n",
    "rtsp.mp4": "RTSPtextrtsp://127.0.0.1/{}\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_under_any_name_are_refused(tmp_path, name):
    real = fixtures.write_video(tmp_path / "real.mp4", 3)
    (tmp_path / name).write_text(PLAYLISTS[name].format(real))
    with pytest.raises(SourceError, match=f"{name}: not a whole video of a known kind"):
        list(VideoStream(tmp_path / name))


NAMES = [
    b"concat:x.mp4",
    b"%03d.png",
    b"-rf",
    b"two words\nline",
    b"\xff\xfe",
    "\u00fc \u65e5\u672c".encode(),
    b"n" * 254,
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_of_images_is_just_a_name(tmp_path, name):
    images = fixtures.write_images(tmp_path / "a" / "b", 3)
    images.rename(tmp_path / "a" / os.fsdecode(name))
    config = config_of(tmp_path / "a", tmp_path / "out", kind="images")
    assert build(config).built == 1
    assert validate(tmp_path / "out") == []


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_an_hdf5_file_is_just_a_name(tmp_path, name):
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["data/demo_0/obs/agentview_rgb"] = fixtures.pictures(3)
    path = tmp_path / "in" / os.fsdecode(name[:249] + b".hdf5")
    shutil.move(tmp_path / "x.hdf5", path)
    config = config_of(tmp_path / "in", tmp_path / "out", kind="libero")
    summary = build(config)
    assert [failure.reason for failure in summary.failures] == []
    assert summary.built == 1


def test_views_whose_names_collide_stay_apart(tmp_path):
    names = ["front", "Front", "FRONT", "caf\u00e9", "cafe\u0301", "..", "-", "con", "a b", "a_b"]
    for name in names:
        fixtures.write_video(tmp_path / "in" / "take" / "x.mp4", 4).rename(
            tmp_path / "in" / "take" / f"{name}.mp4"
        )
    build(config_of(tmp_path / "in", tmp_path / "out", kind="episodes"))
    (episode,) = open_dataset(tmp_path / "out")
    # "..mp4" is a hidden file.
    assert len({view.lower() for view in episode.views}) == len(names) - 1
    assert validate(tmp_path / "out") == []


KEYS = [
    "../../x",
    "/abs",
    "",
    "nul",
    "NUL",
    "a\0b",
    "x" * 3000,
    "Clip",
    "clip",
    "e\u0301",
    "\u00e9",
]


def test_ids_made_of_any_key_stay_apart_and_inside(tmp_path):
    (tmp_path / "in").mkdir()
    sample = {
        "video": fixtures.pictures(3),
        "points": np.zeros((2, 3, 2), np.float32),
        "occluded": np.zeros((2, 3), bool),
    }
    (tmp_path / "in" / "x.pkl").write_bytes(pickle.dumps(dict.fromkeys(KEYS, sample)))
    config = config_of(tmp_path / "in", tmp_path / "deep" / "out", kind="tapvid")
    refs = list(open_source(config).refs())
    assert len({ref.id.casefold() for ref in refs}) == len(KEYS)
    summary = build(config)
    assert [failure.reason for failure in summary.failures] == []
    assert summary.built == len(KEYS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "in"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_hostile_pictures_in_hdf5_cost_their_episode_alone(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(36 * 48 * 3 * 5))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = fixtures.pictures(5)
    layout = h5py.VirtualLayout((5, 36, 48, 3), "u1")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (5, 36, 48, 3))
    secret, shape = str(tmp_path / "secret.bin"), (5, 36, 48, 3)
    with h5py.File(root / "evil.hdf5", "w") as file:
        demos = {name: file.create_group(f"data/{name}/obs") for name in (
            "good", "external_link", "external_storage", "virtual", "loop", "object", "huge",
            "hole", "inflates", "large_chunk",
        )}  # fmt: skip
        demos["good"]["a_rgb"] = fixtures.pictures(5)
        demos["external_link"]["a_rgb"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
        demos["external_storage"].create_dataset(
            "a_rgb", shape, "u1", external=[(secret, 0, h5py.h5f.UNLIMITED)]
        )
        demos["virtual"].create_virtual_dataset("a_rgb", layout)
        demos["loop"]["a_rgb"] = h5py.SoftLink("a_rgb")
        demos["object"].create_dataset("a_rgb", (5,), h5py.vlen_dtype(np.uint8))
        demos["huge"].create_dataset("a_rgb", (10**9, 10**4, 10**4, 3), "u1", chunks=(1, 64, 64, 3))
        demos["hole"].create_dataset("a_rgb", (10**6, 36, 48, 3), "u1", chunks=(1, 36, 48, 3))
        bomb = demos["inflates"].create_dataset(
            "a_rgb", shape, "u1", chunks=shape, compression="gzip"
        )
        bomb.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(64 << 20), 9))
        demos["large_chunk"].create_dataset(
            "a_rgb", data=np.zeros((5, 720, 1280, 3), np.uint8), chunks=(5, 720, 1280, 3),
            compression="gzip",
        )  # fmt: skip
    config = config_of(root, tmp_path / "out", kind="libero")
    config = config.model_copy(update={"limits": Limits(max_chunk_bytes=1 << 20)})
    summary = build(config)
    assert summary.built == 1
    reasons = {line.path.rpartition("/")[2]: line.reason for line in summary.failures}
    expected = {
        "external_link": "external link",
        "external_storage": "external files",
        "virtual": "virtual dataset",
        "loop": "in circles",
        "object": "only plain numbers",
        "huge": "is declared",
        "hole": "chunks exist",
        "inflates": "would inflate",
        "large_chunk": "max_chunk_bytes",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name], name
        assert "evil.hdf5" in reasons[name]
