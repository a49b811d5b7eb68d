"""Images as frames: kinds, EXIF orientation, damage, limits; sidecars that are refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_fixtures import (
    SHAPE,
    is_upright,
    numbers,
    picture,
    rgb,
    with_exif,
    write_images,
    write_video,
)

from builder.canvas.letterbox import orient_frame
from builder.core.errors import DecodeError, SourceError
from builder.core.paths import safe_names, safe_text
from builder.inputs.images import decode_image, exif_orientation
from builder.inputs.listing import UNREADABLE, files, natural_key, walk
from builder.sources.kinds.episode_folders import EpisodeFolders
from builder.sources.kinds.image_folders import ImageFolders
from schemas.config import Limits


def opened(root, limits=None):
    source = ImageFolders(root, None, limits)
    [ref] = source.refs()
    return source.open(ref)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff", "ppm"])
def test_every_kind_of_image_is_read(tmp_path, suffix):
    write_images(tmp_path / "e", 12, "{}." + suffix)
    with opened(tmp_path) as episode:
        assert numbers(episode.views["main"]) == list(range(12))
        assert all(is_upright(rgb(frame)) for frame in episode.views["main"])


def test_gray_and_16_bit_and_alpha_are_read(tmp_path):
    for name, image in (
        ("gray", picture(3)[..., 0]),
        ("deep", picture(3).astype(np.uint16) * 257),
        ("alpha", np.dstack([picture(3), np.full(SHAPE, 255, np.uint8)])),
    ):
        (tmp_path / name).mkdir()
        assert cv2.imwrite(str(tmp_path / name / "0.png"), image)
    for ref in ImageFolders(tmp_path).refs():
        with ImageFolders(tmp_path).open(ref) as episode:
            [frame] = episode.views["main"]
            assert abs(rgb(frame)[SHAPE[0] // 2, SHAPE[1] // 2] - 15.0).max() <= 1


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_exif_orientation_is_what_opencv_applies(tmp_path, value, order):
    jpeg = cv2.imencode(".jpg", picture(4)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    data = with_exif(jpeg, value, order)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "0.jpg").write_bytes(data)
    with opened(tmp_path) as episode:
        stream = episode.views["main"]
        [frame] = stream
        upright = orient_frame(rgb(frame), stream.info.orientation)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert upright.shape == expected.shape == (*stream.info.source_shape, 3)
        assert abs(upright.astype(int) - expected).mean() < 3


@given(st.binary(max_size=200))
def test_no_bytes_upset_the_exif_reader(tail):
    for head in (b"\x89PNG\r\n\x1a\n", b"RIFF____WEBP", b"II*\0", b"MM\0*"):
        assert exif_orientation(head + tail)
    assert exif_orientation(b"\xff\xd8\xff\xe1\0\0Exif\0\0" + tail)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff", "ppm"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_cut_off_image_is_refused_by_name(tmp_path, suffix, share):
    write_images(tmp_path / "e", 6, "{}." + suffix)
    path = tmp_path / "e" / f"4.{suffix}"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with opened(tmp_path) as episode, pytest.raises(DecodeError, match=rf"4\.{suffix}"):
        list(episode.views["main"])


def test_a_changing_size_is_refused_by_name(tmp_path):
    write_images(tmp_path / "e", 6)
    cv2.imwrite(str(tmp_path / "e" / "im_3.png"), picture(3, (24, 40)))
    with opened(tmp_path) as episode, pytest.raises(DecodeError, match=r"im_3\.png.*\(24, 40\)"):
        list(episode.views["main"])


def test_pictures_beyond_the_pixel_limit_are_refused(tmp_path):
    write_images(tmp_path / "e", 1)
    with pytest.raises(DecodeError, match=r"limits\.max_pixels"):
        opened(tmp_path, Limits(max_pixels=1000)).__enter__()
    write_images(tmp_path / "e", 5)
    with pytest.raises(DecodeError, match=r"limits\.max_frames"):
        opened(tmp_path, Limits(max_frames=4)).__enter__()


@pytest.mark.parametrize("data", [b"", b"text, no image", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_refused(tmp_path, data):
    with pytest.raises(DecodeError, match=r"x\.png"):
        decode_image(data, tmp_path / "x.png", Limits())


def test_names_that_are_patterns_elsewhere_are_plain_names(tmp_path):
    write_images(tmp_path / "e", 1, "%03d.png")
    with opened(tmp_path) as episode:
        assert numbers(episode.views["main"]) == [0]


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "not a whole .npy"),
        (lambda path: np.save(path, np.array(["a"])), "not plain numbers"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "not a whole"),
        (lambda path: path.write_bytes(b""), "not a whole"),
        (lambda path: np.save(path, np.zeros(1000)), r"limits\.max_array_bytes"),
    ],
)
def test_arrays_beside_videos_that_are_refused(tmp_path, write, match):
    write_video(tmp_path / "e" / "cam.mp4", 4)
    write(tmp_path / "e" / "x.npy")
    source = EpisodeFolders(tmp_path, None, Limits(max_array_bytes=500))
    with pytest.raises(SourceError, match=match):
        source.open(next(source.refs())).__enter__()


def test_folders_are_walked_in_natural_order_without_circles(tmp_path):
    for name in ("b10/x.mp4", "b9/x.mp4", ".hidden/x.mp4", "b9/.x.mp4", "a/é.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b9" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    assert list(files(tmp_path, (".mp4",), "video")) == [
        "dangling.mp4", "a/é.mp4", "b9/x.mp4", "b10/x.mp4",
    ]  # fmt: skip


def test_a_folder_that_may_not_be_read_is_reported_not_lost(tmp_path, monkeypatch):
    write_video(tmp_path / "good" / "cam.mp4", 3)
    (tmp_path / "locked").mkdir()
    from builder.inputs import listing

    allowed = listing.os.access
    monkeypatch.setattr(
        listing.os, "access", lambda path, mode: "locked" not in str(path) and allowed(path, mode)
    )
    assert ("locked", [UNREADABLE]) in list(walk(tmp_path))
    for source in (EpisodeFolders(tmp_path),):
        assert [ref.path for ref in source.refs()] == ["good", "locked"]
        with pytest.raises(SourceError, match="locked"):
            source.open(list(source.refs())[1]).__enter__()


@given(st.lists(st.text(min_size=1, max_size=12), max_size=8))
def test_natural_order_is_total_and_names_stay_apart(names):
    assert sorted(sorted(names, key=natural_key)) == sorted(names)
    found = safe_names(names)
    assert list(found) == list(dict.fromkeys(names))
    lowered = [name.lower() for name in found.values()]
    assert len(set(lowered)) == len(lowered)


def test_natural_order_counts():
    names = ["demo_10", "demo_9", "demo_09", "demo", "10", "9", "a1b20", "a1b3"]
    assert sorted(names, key=natural_key) == [
        "9", "10", "a1b3", "a1b20", "demo", "demo_09", "demo_9", "demo_10",
    ]  # fmt: skip


def test_texts_of_others_can_be_stored():
    assert safe_text("  a\0b\ud800 ") == "ab?"
    assert safe_text(" ") is None
    assert safe_text("x" * 20, limit=5) == "xxxxx"


def in_a_png(tiff: bytes) -> bytes:
    ok, png = cv2.imencode(".png", picture(1))
    assert ok
    chunk = b"eXIf" + tiff
    return (
        png.tobytes()[:33]
        + struct.pack(">I", len(tiff))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + png.tobytes()[33:]
    )


def in_a_webp(tiff: bytes) -> bytes:
    ok, webp = cv2.imencode(".webp", picture(1))
    assert ok
    height, width = SHAPE
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes((8, 0, 0, 0)) + size
    exif = b"EXIF" + struct.pack("<I", len(tiff)) + tiff + bytes(len(tiff) % 2)
    parts = b"WEBP" + extended + webp.tobytes()[12:] + exif
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


def in_a_tiff(tiff: bytes) -> bytes:
    height, width = SHAPE
    (turn,) = struct.unpack_from("<H", tiff, 18)
    pixels = picture(1).tobytes()
    entries = [
        *((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 146)),
        *((274, 3, turn), (277, 3, 1), (278, 4, height), (279, 4, height * width)),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    return head.ljust(146, b"\0") + pixels[: height * width]


@pytest.mark.parametrize("wrap", [in_a_png, in_a_webp, in_a_tiff])
@pytest.mark.parametrize(("value", "turn"), [(1, "none"), (3, "rot180"), (6, "rot90")])
def test_orientation_is_applied_whatever_the_kind_of_image(tmp_path, wrap, value, turn):
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, value, 0, 0)
    (tmp_path / "im_0.png").write_bytes(wrap(tiff))
    source = ImageFolders(tmp_path)
    with source.open(next(source.refs())) as episode:
        stream = episode.views["main"]
        assert stream.info.orientation == turn
        assert rgb(next(iter(stream))).shape == (*SHAPE, 3)
