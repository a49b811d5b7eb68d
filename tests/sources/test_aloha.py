"""ALOHA / ACT: raw and padded JPEG pictures, colours, what is refused."""

import h5py
import numpy as np
import pytest
import robot_fixtures as robots
from source_fixtures import (
    SHAPE,
    episodes,
    is_upright,
    jpeg,
    number_of,
    numbers,
    picture,
    pictures,
    rgb,
    selected,
)

from builder.core.errors import SourceError
from builder.sources.kinds.aloha import Aloha, AlohaConfig
from builder.sources.recognize import recognize


@pytest.fixture(scope="module")
def aloha(tmp_path_factory):
    return robots.write_aloha(tmp_path_factory.mktemp("aloha"))


def test_raw_and_padded_pictures_are_read_alike(aloha):
    found = list(episodes(Aloha(aloha)))
    assert [ref.path for ref, _ in found] == [
        f"{task}/episode_{number}.hdf5"
        for task in ("put_cup", "sim_transfer_cube")
        for number in (0, 10)
    ]
    assert found[0][0].task == "put_cup"


def test_frames_numbers_and_arrays(aloha):
    for (ref, episode), length in zip(episodes(Aloha(aloha)), (9, 12) * 2, strict=True):
        assert list(episode.views) == ["cam_high", "cam_left_wrist"]
        for stream in episode.views.values():
            assert (stream.info.num_frames, stream.info.fps) == (length, 50)
            assert numbers(stream) == list(range(length)), ref.path
            assert all(is_upright(rgb(frame)) for frame in stream)
        assert {*episode.arrays} == {"qpos", "qvel", "effort", "action", "base_action"}
        assert episode.arrays["qpos"].shape == (length, 14)
        codec = "mjpeg" if ref.path.startswith("put") else "raw"
        assert episode.views["cam_high"].info.codec == codec


def first_frame(source):
    with source.open(next(source.refs())) as episode:
        stream = episode.views["cam_high"]
        return rgb(next(iter(stream))), stream.info.notes


def test_the_order_of_colours_is_an_assumption_that_is_told(aloha):
    taken, (note,) = first_frame(Aloha(aloha))
    assert "taken as RGB; if red and blue are swapped in the preview, set source.colors=bgr" in note
    swapped, (note,) = first_frame(Aloha(aloha, AlohaConfig(colors="bgr")))
    assert np.array_equal(taken[..., ::-1], swapped)
    assert "taken as BGR" in note


def test_it_is_recognized_by_its_cameras(aloha):
    found = recognize(aloha)
    assert found.kind == "aloha"
    assert found.why == "4 HDF5 files with /observations/images/cam_high: ALOHA / ACT"


def test_bytes_of_one_length_are_read_as_well(tmp_path):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        stack = [jpeg(picture(k)) for k in range(5)]
        file["observations/images/cam_high"] = np.array(stack, f"S{max(map(len, stack))}")
    for _, episode in episodes(Aloha(tmp_path)):
        assert numbers(episode.views["cam_high"]) == list(range(5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[3].__setitem__(slice(40, None), 0), r"picture 3 has 40 bytes, compress"),
        (lambda data: data[3].__setitem__(slice(None), 0), r"picture 3 has 0 bytes"),
        (
            lambda data: data[0].__setitem__(slice(0, 3), 7),
            r"image 0: not an image of a known",
        ),
    ],
)
def test_damaged_pictures_are_named(tmp_path, change, said):
    root = robots.write_aloha(tmp_path)
    with h5py.File(root / "put_cup" / "episode_0.hdf5", "r+") as file:
        data = file["observations/images/cam_high"][:]
        change(data)
        file["observations/images/cam_high"][:] = data
    source = Aloha(root)
    with pytest.raises(SourceError, match=rf"episode_0\.hdf5.*{said}"):
        with source.open(next(source.refs())) as episode:
            list(episode.views["cam_high"])


@pytest.mark.parametrize(
    "data", [pictures(3)[..., 0], pictures(3)[..., :2], np.zeros((3, 2, 2, 2))]
)
def test_what_is_no_picture_is_refused(tmp_path, data):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/images/cam_high"] = data
    source = Aloha(tmp_path)
    with (
        source.open(next(source.refs())) as episode,
        pytest.raises(SourceError, match=r"cam_high: expected pictures"),
    ):
        _ = episode.views["cam_high"]


def padded(length, place, how=lambda lengths: lengths):
    """Return what writes one camera of JPEG files, and their lengths where some writer keeps them.

    ``place`` is a dataset, or with @ an attribute.
    """

    def write(file):
        stack = [np.frombuffer(jpeg(picture(k)), np.uint8) for k in range(length)]
        longest = max(map(len, stack))
        rows = [np.pad(each, (0, longest - len(each))) for each in stack]
        file["observations/images/cam_high"] = np.stack(rows)
        lengths = how(np.array([[len(each) for each in stack]]))
        if place.startswith("@"):
            file.attrs[place[1:]] = lengths
        else:
            file[place] = lengths

    return write


def of_any_length(file):
    data = file.create_dataset("observations/images/cam_high", 5, h5py.vlen_dtype(np.uint8))
    for k in range(5):
        data[k] = np.frombuffer(jpeg(picture(k)), np.uint8)


@pytest.mark.parametrize(
    "write",
    [
        padded(5, "observations/compress_len"),
        padded(5, "observations/images/compress_len"),
        padded(5, "compress_len/cam_high", lambda lengths: lengths[0]),
        padded(5, "compress_len", lambda lengths: lengths[0]),
        padded(5, "compress_len", lambda lengths: lengths.T),
        padded(5, "compress_len", lambda lengths: b"none"),
        padded(5, "@compress_len"),
        of_any_length,
    ],
)
def test_lengths_of_pictures_lie_where_each_writer_puts_them(tmp_path, write):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        write(file)
        file["action"] = np.arange(10.0).reshape(5, 2)
    episode = selected(Aloha(tmp_path))
    assert list(episode.views) == ["cam_high"]
    assert list(map(number_of, episode.views["cam_high"])) == list(range(5))
    assert [*episode.arrays] == ["action"]
    assert not episode.notes


def test_lengths_elsewhere_still_tell_a_damaged_picture(tmp_path):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        padded(5, "compress_len", lambda lengths: lengths.T)(file)
        file["observations/images/cam_high"][2, 40:] = 0
    source = Aloha(tmp_path)
    with source.open(next(source.refs())) as episode, pytest.raises(SourceError, match="picture 2"):
        list(episode.views["cam_high"])


@pytest.mark.parametrize(
    "change", [lambda p: p.transpose(0, 3, 1, 2), lambda p: p / np.float32(255)]
)
def test_pictures_with_channels_first_or_of_floats_are_read(tmp_path, change):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/images/cam_high"] = change(pictures(5))
    frames = selected(Aloha(tmp_path)).views["cam_high"]
    assert list(map(number_of, frames)) == list(range(5))


@pytest.mark.parametrize(
    "depth",
    [
        np.full((5, *SHAPE), 900, np.uint16),
        np.full((5, *SHAPE, 1), 900, np.uint16),
        np.full((5, *SHAPE, 1), 0.9, np.float32),
    ],
)
def test_depth_among_the_cameras_is_left_out_and_told(tmp_path, depth):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/images/color/cam_high"] = pictures(5)
        file["observations/images/cam_high_depth"] = depth
    episode = selected(Aloha(tmp_path))
    assert list(episode.views) == ["color.cam_high"]
    [note] = episode.notes
    assert "view cam_high_depth is left out" in note
    assert "is depth and no picture" in note
