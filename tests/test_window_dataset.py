"""Training samples: AMPLIFY's keys and shapes, exact numbers, every sample decodable."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from builder.cli import main
from builder.dataset import open_dataset
from builder.errors import ConfigError, DatasetError
from builder.training import WindowDataset, decode_batch, normalize_traj
from schemas import Letterbox, swap_xy
from media import write_video

IMG_SHAPE = (72, 100)
LENGTHS = {"short.mp4": 5, "tall.mp4": 20, "wide.mp4": 23}
HORIZON = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    (folder / "videos").mkdir()
    shapes = {"short.mp4": (48, 64), "tall.mp4": (90, 50), "wide.mp4": (40, 120)}
    for name, frames in LENGTHS.items():
        write_video(folder / "videos" / name, shape=shapes[name], frames=frames)
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    shape = ["--img-shape", *map(str, IMG_SHAPE)]
    settings = [f"tracker.horizon={HORIZON}", "queries.grid=[3, 5]"]
    assert main(["build", *settings, *argv[1:], *shape]) == 0
    return open_dataset(folder / "out")


def test_keys_shapes_and_dtypes(dataset):
    sample = WindowDataset(dataset)[0]
    assert sample["traj"].shape == (1, HORIZON, 15, 2)
    assert sample["traj"].dtype == torch.float32
    assert sample["vis"].shape == (1, HORIZON, 15)
    assert sample["valid"].shape == (HORIZON,)
    assert sample["in_content"].shape == (1, 15)
    assert sample["images"].shape == (1, *IMG_SHAPE, 3)
    assert sample["images"].dtype == torch.uint8
    assert sample["episode"].startswith("tall-")
    assert sample["t"] == 0


def test_one_sample_per_window_and_the_tail_on_request(dataset):
    whole = sum(max(0, length - HORIZON + 1) for length in LENGTHS.values())
    assert len(WindowDataset(dataset)) == whole
    masked = WindowDataset(dataset, tail="mask")
    assert len(masked) == sum(LENGTHS.values())
    for index in (0, 7, len(masked) - 1, -1):
        sample = masked[index]
        length = dataset[sample["episode"]].meta.length
        expected = sample["t"] + np.arange(HORIZON) < length
        np.testing.assert_array_equal(sample["valid"], expected)
    assert WindowDataset(dataset, horizon=4)[0]["traj"].shape == (1, 4, 15, 2)


def test_traj_is_the_stored_track_normalized(dataset):
    windows = WindowDataset(dataset, tail="mask")
    for index in range(0, len(windows), 5):
        sample = windows[index]
        view = dataset[sample["episode"]].views["main"]
        expected = normalize_traj(swap_xy(view.tracks[sample["t"]]), IMG_SHAPE)
        np.testing.assert_allclose(sample["traj"][0], expected, atol=2e-7)
        np.testing.assert_array_equal(sample["images"][0], view.frames[sample["t"]])
        np.testing.assert_array_equal(sample["vis"][0], view.vis[sample["t"]])


@pytest.mark.parametrize("img_shape", [None, (72, 100), (47, 90), (128, 61)])
def test_every_sample_of_a_mixed_batch_decodes_to_its_own_source_pixels(dataset, img_shape):
    windows = WindowDataset(dataset, tail="mask", img_shape=img_shape)
    batch = next(iter(DataLoader(windows, batch_size=len(windows))))
    assert len({*batch["episode"]}) == 3
    prediction = batch["traj"].double().requires_grad_()
    decoded = decode_batch(prediction, batch["decode"])
    for row, (episode, t) in enumerate(zip(batch["episode"], batch["t"], strict=True)):
        view = dataset[episode].views["main"]
        expected = view.geometry.to_source(view.tracks[int(t)].astype(np.float64))
        np.testing.assert_allclose(decoded[row, 0].detach(), expected, atol=2e-4)
    decoded.sum().backward()
    assert torch.isfinite(prediction.grad).all()


def test_another_img_shape_refits_the_letterbox(dataset):
    windows = WindowDataset(dataset, img_shape=(50, 90), images="float")
    sample = windows[0]
    geometry = dataset[sample["episode"]].views["main"].geometry
    box = Letterbox.fit(geometry.source_shape, (50, 90))
    assert sample["images"].shape == (1, 50, 90, 3)
    assert sample["images"].dtype == torch.float32
    left, top, right, bottom = box.content_box
    assert sample["images"][0, top:bottom, left:right].max() > 0.3
    assert sample["images"][0, :, :left].max() == 0
    assert right < 90


def test_workers_and_pickles(dataset):
    windows = WindowDataset(dataset)
    assert len(pickle.dumps(windows)) < 4000
    plain = [windows[index]["traj"] for index in range(len(windows))]
    loader = DataLoader(windows, batch_size=None, num_workers=2)
    for expected, sample in zip(plain, loader, strict=True):
        assert torch.equal(expected, sample["traj"])


def test_what_cannot_be_given_is_refused(dataset):
    with pytest.raises(ConfigError, match="longer than the stored 8"):
        WindowDataset(dataset, horizon=9)
    with pytest.raises(DatasetError, match="none of 3 episodes has views"):
        WindowDataset(dataset, views=["wrist"])
    with pytest.raises(IndexError):
        WindowDataset(dataset)[10_000]
