"""Images as frames: kinds, EXIF orientation, damage, limits; sidecars that are refused."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
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

from builder.canvas.letterbox import Letterboxer, orient_frame
from builder.core.errors import DecodeError, SourceError
from builder.core.paths import safe_names, safe_text
from builder.inputs.image_names import sequences
from builder.inputs.images import decode_image, exif_orientation
from builder.inputs.listing import UNREADABLE, files, in_natural_order, natural_key, walk
from builder.sources.kinds.episode_folders import EpisodeFolders
from builder.sources.kinds.image_folders import ImageFolders
from schemas.config import Limits
from schemas.geometry import Letterbox


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
    for count, limits in ((1, {"max_pixels": 1000}), (5, {"max_frames": 4})):
        write_images(tmp_path / "e", count)
        said = f"limits.{next(iter(limits))}"
        with opened(tmp_path, Limits(**limits)) as episode, pytest.raises(DecodeError, match=said):
            episode.views["main"]


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
    with source.open(next(source.refs())) as episode, pytest.raises(SourceError, match=match):
        episode.arrays["x"]


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


@pytest.mark.parametrize(
    "ordered",
    [
        ["1699.9.png", "1700.png", "1700.05.png", "1700.1.png", "1700.15.png", "1700.2.png"],
        ["t_0.5.jpg", "t_0.75.jpg", "t_1.25.jpg", "t_12.5.jpg"],
        # Counted, not measured: written without stripping zeros.
        ["cam1.1.png", "cam1.2.png", "cam1.9.png", "cam1.10.png"],
        # Seconds and nanoseconds, as ROS writes them without padding.
        ["1700.5000000.png", "1700.60000000.png", "1700.500000000.png"],
        ["scan-1.2.3.png", "scan-1.2.10.png"],
        ["-1.5.png", "-1.25.png", "-0.5.png", "0.25.png", "1.5.png"],
        ["t_-2.png", "t_-1.png", "t_0.png", "t_1.png"],
        ["im-1.png", "im-2.png", "im-10.png"],
        ["clip_-01.png", "clip_-02.png"],
        ["1e-05.png", "0.0001.png", "0.00015.png", "0.1.png"],
        ["9.5e+00.png", "1.0e+01.png", "1.5e+01.png"],
        ["s01e02.png", "s01e03.png", "s02e01.png"],
    ],
)
def test_numbers_in_names_count_as_numbers_decimals_too(ordered):
    assert in_natural_order(sorted(ordered)) == in_natural_order(ordered[::-1]) == ordered


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


def adam7(indices, palette):
    """Return an interlaced palette PNG of ``indices`` (H, W) uint8 into ``palette`` (256, 3)."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    passes = [indices[y::dy, x::dx] for y, x, dy, dx in (*starts, (1, 0, 2, 1))]
    rows = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    head = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], 8, 3, 0, 0, 1)
    parts = ((b"IHDR", head), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*parts, (b"IEND", b""))
    )


def test_interlaced_palette_png_is_read():
    random = np.random.default_rng(0)
    indices = random.integers(0, 256, SHAPE, np.uint8)
    palette = random.integers(0, 256, (256, 3), np.uint8)
    frame = decode_image(adam7(indices, palette), Path("picture.png"), Limits())
    box = Letterbox.fit(SHAPE, SHAPE)
    assert (Letterboxer(box, "none").content(frame) == palette[indices]).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".ppm"])
def test_what_is_wrong_with_an_image_is_one_thing(suffix):
    data = cv2.imencode(suffix, picture(3))[1].tobytes()
    with pytest.raises(DecodeError, match="pixels exceed the limit of 100"):
        decode_image(data, Path("picture"), Limits(max_pixels=100))
    with pytest.raises(DecodeError, match="is cut off"):
        decode_image(data[: len(data) // 2], Path("picture"), Limits())
    if suffix == ".png":
        middle = len(data) // 2
        with pytest.raises(DecodeError, match="is damaged"):
            decode_image(data[:middle] + bytes(40) + data[middle + 40 :], Path("p"), Limits())


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.ppm", "a.pgm"])
def test_a_file_of_several_images_is_not_its_first(tmp_path, name):
    first, second = (Image.fromarray(picture(seed)) for seed in (1, 2))
    if name == "a.pgm":
        first, second = first.convert("L"), second.convert("L")
    path = tmp_path / name
    if name.endswith("m"):
        second.save(tmp_path / f"second{path.suffix}")
        first.save(path)
        path.write_bytes(path.read_bytes() + (tmp_path / f"second{path.suffix}").read_bytes())
    else:
        first.save(path, save_all=True, append_images=[second])
    with pytest.raises(DecodeError, match="holds several images, one was expected"):
        decode_image(path.read_bytes(), path, Limits())
    first.save(tmp_path / name)
    decode_image((tmp_path / name).read_bytes(), path, Limits())


def files_of(folder, *patterns, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        write_images(folder, count, pattern)
    return folder


@pytest.mark.parametrize(
    ("patterns", "views"),
    [
        (["frame-00000{}.color.png", "frame-00000{}.mask.png"], ["color", "mask"]),
        (["left00{}.png", "right00{}.png", "top00{}.jpg"], ["left", "right", "top"]),
        (["{}_rgb.png", "{}_seg.png"], ["rgb", "seg"]),
        (["cam1_rgb_{}.png", "cam1_ir_{}.png"], ["ir", "rgb"]),
        (["img_{}.png", "img_{}_mask.png"], ["main", "mask"]),
        (["{}.jpg", "{}.png"], ["jpg", "png"]),
    ],
)
def test_sequences_in_one_folder_are_views(tmp_path, patterns, views):
    files_of(tmp_path / "e", *patterns)
    with opened(tmp_path) as episode:
        assert sorted(episode.views) == views
        for stream in episode.views.values():
            assert numbers(stream) == [0, 1, 2]


def test_names_that_only_numbers_tell_apart_are_refused_or_one(tmp_path):
    files_of(tmp_path / "a", "cam1_{}.png", "cam2_{}.png")
    with pytest.raises(SourceError, match=r"may be of 2 sequences \(cam1_0.png, cam2_0.png"):
        sequences(tmp_path / "a")
    for names in (
        ["1700.00.png", "1700.50.png", "1701.00.png", "1701.50.png"],
        ["12_59_58.png", "12_59_59.png", "13_00_00.png", "13_00_59.png"],
        ["apple.png", "pear.png"],
        ["start_0.png", "start_1.png", "end_2.png"],
        ["left_0.png", "left_1.png", "right_2.png", "right_5.png"],
        ["-1.png", "0.png", "1.png"],
        ["2024-05-06_10-00-00.png", "2024-05-06_10-00-30.png", "2024-05-06_10-01-00.png",
         "2024-05-06_10-01-30.png"],
        ["1a4f.png", "9c0d.png", "e3.png"],
    ):  # fmt: skip
        folder = files_of(tmp_path / names[0])
        for name in names:
            (folder / name).write_bytes(b"")
        assert sequences(folder) == {"": names}


@pytest.mark.parametrize(
    "names",
    [
        "depth_1.02 depth_1.05 rgb_1.01 rgb_1.04",  # each at its own times
        "1.01_rgb 1.02_depth 1.04_rgb 1.05_depth",
        "start_0 start_4 end_7 end_9",
        "im_0 im_1 mask",
    ],
)
def test_images_that_may_be_of_several_sequences_are_not_merged(tmp_path, names):
    for name in names.split():
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"may be of 2 sequences .* numbers do not tell which"):
        sequences(tmp_path)


def test_views_are_told_apart_where_their_numbers_are_decimals(tmp_path):
    times = ("0.05", "0.5", "1.0", "1.5", "2.25")
    for side in ("left", "right"):
        for time in times:
            (tmp_path / f"{side}_{time}.png").write_bytes(b"")
    assert sequences(tmp_path) == {
        side: [f"{side}_{time}.png" for time in times] for side in ("left", "right")
    }


def test_a_view_folder_with_two_sequences_and_other_pixels_are_refused(tmp_path):
    files_of(tmp_path / "e" / "front", "left_{}.png", "right_{}.png")
    [ref] = (source := ImageFolders(tmp_path, ImageFolders.Config(folder="view"))).refs()
    with source.open(ref) as episode, pytest.raises(SourceError, match=r"2 sequences of images"):
        episode.views["front"]
    files_of(tmp_path / "gray" / "e", "{}.png")
    assert cv2.imwrite(str(tmp_path / "gray" / "e" / "2.png"), picture(2)[..., 0])
    with (
        opened(tmp_path / "gray") as episode,
        pytest.raises(DecodeError, match=r"2.png: its pixels are gray, .* rgb24: they may be"),
    ):
        list(episode.views["main"])
