"""Older files with their videos at hand: pictures that agree with the tracks."""

import pickle

import av
import h5py
import numpy as np
import pytest
import torch
from legacy_fixtures import write_amplify, write_atm
from torch.utils.data import DataLoader

from builder.core.errors import DatasetError
from builder.dataset.legacy import videos as legacy_videos
from builder.dataset.opening import open_dataset
from builder.training import WindowDataset

VIDEO, TRACKED, IMG = (96, 160), (480, 800), (118, 142)  # stretched: another aspect on purpose
LENGTH, SIDE = 40, 12


def centre_xy(frame):
    """Where the square's centre is, in video pixels."""
    return np.array([30.0 + 2 * frame, 24.0 + frame])


def write_square(path, length=LENGTH):
    """Write a bright square that moves; one keyframe only, and frames that are reordered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "6", "g": "250"})
        stream.height, stream.width, stream.pix_fmt = *VIDEO, "yuv420p"
        for index in range(length):
            image = np.full((*VIDEO, 3), 16, np.uint8)
            x, y = (centre_xy(index) - SIDE / 2).astype(int)
            image[y : y + SIDE, x : x + SIDE] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``old/sub/clip.hdf5``, whose first point follows the square, and ``films/sub/clip.mp4``."""
    place = tmp_path_factory.mktemp("square")
    write_square(place / "films" / "sub" / "clip.mp4")
    write_tracks(place / "old" / "sub" / "clip.hdf5")
    return place


def write_tracks(path, step=1, **options):
    length = -(-LENGTH // step)
    write_amplify(path, {"front": TRACKED}, length=length, **options)
    with h5py.File(path, "r+") as file:
        tracks = file["root/front/tracks"]
        for start in range(length):
            for ahead in range(tracks.shape[1]):
                frame = min(start + ahead, length - 1) * step
                tracks[start, ahead, 0] = centre_xy(frame) * TRACKED[1] / VIDEO[1]


def opened(folder, **options):
    return open_dataset(folder / "old", img_shape=IMG, videos=folder / "films", **options)


def square_xy(image):
    """Centre of the bright pixels, in continuous coordinates."""
    light = np.clip(image[..., 0].astype(np.float64) - 60, 0, None)
    rows, columns = np.indices(light.shape) + 0.5
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()


def point_px(sample):
    """The tracked point at step 0, (x, y) pixels of the canvas."""
    row, column = (sample["traj"][0, 0, 0].double().numpy() + 1) / 2 * IMG
    return np.array([column, row])


def test_the_tracked_point_sits_on_the_square(folder):
    windows = WindowDataset(opened(folder))
    assert len(windows) == LENGTH - 15
    for index in (0, 20, 3, 24, 4, 4):
        sample = windows[index]
        assert sample["images"].shape == (1, *IMG, 3)
        np.testing.assert_allclose(
            square_xy(sample["images"][0].numpy()), point_px(sample), atol=0.1
        )
    resized = WindowDataset(opened(folder), img_shape=(90, 64))[7]
    on_canvas = (resized["traj"][0, 0, 0].double().numpy() + 1) / 2 * (90, 64)
    np.testing.assert_allclose(square_xy(resized["images"][0].numpy()), on_canvas[::-1], atol=0.1)


def test_every_way_to_touch_frames_gives_the_same(folder):
    view = next(iter(opened(folder))).views["front"]
    forward = np.stack([view.frames[index] for index in range(LENGTH)])
    assert forward.shape == view.frames.shape == (LENGTH, *IMG, 3)
    order = np.random.default_rng(0).permutation(LENGTH)
    np.testing.assert_array_equal(np.stack([view.frames[i] for i in order]), forward[order])
    np.testing.assert_array_equal(
        view.frames[5:30:7, 10:20, ..., 1], forward[5:30:7, 10:20, ..., 1]
    )
    np.testing.assert_array_equal(view.frames[[3, -1]], forward[[3, -1]])
    np.testing.assert_array_equal(view.frames[-1, ..., 0], forward[-1, ..., 0])
    assert view.frames[4:4].shape == (0, *IMG, 3)
    with pytest.raises(IndexError):
        view.frames[LENGTH]


def test_frames_of_an_avi_with_reordered_frames_are_those_of_the_tracks(tmp_path):
    """Its frames have the numbers of chunks in decoding order in the place of times."""
    write_square(tmp_path / "films" / "clip.avi")
    write_tracks(tmp_path / "old" / "clip.hdf5")
    windows = WindowDataset(opened(tmp_path))
    for index in (20, 3, 24, 4):
        sample = windows[index]
        np.testing.assert_allclose(
            square_xy(sample["images"][0].numpy()), point_px(sample), atol=0.1
        )


def test_workers_and_pickles_read_for_themselves(folder):
    windows = WindowDataset(opened(folder))
    plain = [windows[index]["images"] for index in range(6)]
    assert torch.equal(pickle.loads(pickle.dumps(windows))[5]["images"], plain[5])
    loader = DataLoader(windows, batch_size=None, num_workers=2, sampler=range(6))
    for expected, sample in zip(plain, loader, strict=True):
        assert torch.equal(expected, sample["images"])


def test_few_decoders_are_open_however_many_videos(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(legacy_videos, "MAX_DECODERS", 2)
    monkeypatch.setattr(legacy_videos.StretchedVideo, "_reading", type(legacy_videos.deque())())
    for name in "abcd":
        write_tracks(tmp_path / "old" / f"{name}.hdf5")
        (tmp_path / "films").mkdir(exist_ok=True)
        (tmp_path / "films" / f"{name}.mp4").symlink_to(folder / "films" / "sub" / "clip.mp4")
    dataset = opened(tmp_path)
    frames = [episode.views["front"].frames for episode in dataset]
    first = [each[3] for each in frames]
    assert len(legacy_videos.StretchedVideo._reading) == 2
    for each, before in zip(frames, first, strict=True):
        np.testing.assert_array_equal(each[3], before)


def test_every_second_frame(folder, tmp_path):
    write_tracks(tmp_path / "old" / "clip.hdf5", step=2)
    dataset = open_dataset(tmp_path / "old", img_shape=IMG, videos=folder / "films", frame_step=2)
    windows = WindowDataset(dataset)
    for index in (4, 0):
        sample = windows[index]
        np.testing.assert_allclose(
            square_xy(sample["images"][0].numpy()), point_px(sample), atol=0.1
        )


def test_what_is_not_the_files_video_is_refused_by_name(folder, tmp_path):
    write_tracks(tmp_path / "old" / "sub" / "clip.hdf5", attrs=False)
    with pytest.raises(DatasetError, match=r"tracked at 118 x 142 .*the aspects differ"):
        next(iter(open_dataset(tmp_path / "old", img_shape=IMG, videos=folder / "films")))
    same_aspect = open_dataset(tmp_path / "old", img_shape=TRACKED, videos=folder / "films")
    assert next(iter(same_aspect)).views["front"].frames.shape == (LENGTH, *TRACKED, 3)
    with pytest.raises(DatasetError, match=r"20 frames at frame_step 2, .* have 40"):
        next(iter(opened(folder, frame_step=2)))
    write_tracks(tmp_path / "old" / "lonely.hdf5")
    with pytest.raises(DatasetError, match=r"lonely.hdf5, view front: expected one video"):
        open_dataset(tmp_path / "old", img_shape=TRACKED, videos=folder / "films")
    rest = open_dataset(
        tmp_path / "old", img_shape=TRACKED, videos=folder / "films", on_error="skip"
    )
    assert (len(rest), list(rest.problems)) == (1, ["lonely.hdf5"])


def test_damage_is_an_error_of_the_dataset_that_names_the_video(folder, tmp_path):
    write_tracks(tmp_path / "old" / "clip.hdf5")
    film = tmp_path / "films" / "clip.mp4"
    film.parent.mkdir()
    film.write_bytes((folder / "films" / "sub" / "clip.mp4").read_bytes())
    view = next(iter(opened(tmp_path))).views["front"]
    good = view.frames[3]
    film.write_bytes(b"no video any more")
    with pytest.raises(DatasetError, match=r"clip\.mp4"):
        view.frames[1]
    film.write_bytes((folder / "films" / "sub" / "clip.mp4").read_bytes())
    np.testing.assert_array_equal(view.frames[3], good)


def test_atm_files_keep_their_own(folder, tmp_path):
    write_atm(tmp_path / "old" / "a.hdf5", shape=IMG)
    view = next(iter(open_dataset(tmp_path / "old", img_shape=IMG, videos=folder / "films"))).views
    with h5py.File(tmp_path / "old" / "a.hdf5") as file:
        stored = file["root/agentview/video"][0, 2].transpose(1, 2, 0)
    np.testing.assert_array_equal(view["agentview"].frames[2], stored)
