"""Layers in training samples: other tracks, text embeddings, arrays of views."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from builder.core.errors import ConfigError, DatasetError
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.layers import LayerWriter
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import HORIZON, IMG_SHAPE, QUERIES, Sample, sample_dataset
from builder.training import RandomAugment, WindowDataset, normalize_traj
from schemas import swap_xy
from schemas.layers import TrackSet

LENGTHS = {"a/1": 7, "b": 9}


def depth(key, view):
    height, width = IMG_SHAPE
    base = np.arange(LENGTHS[key], dtype=np.float32)[:, None, None] + len(view)
    return base * np.ones((1, height, width), np.float32)


def write_layers(path):
    dataset = open_dataset(path)
    given = {key: getattr(dataset.meta, key) for key in ("horizon", "start_every", "mode")}
    tracks = TrackSet(**given, queries=QUERIES, tracker=dataset.meta.tracker, frames="stored")
    with (
        LayerWriter(path, "text_emb") as text,
        LayerWriter(path, "geo") as geo,
        LayerWriter(path, "other", tracks=tracks) as other,
    ):
        for episode in dataset:
            text.write(episode.meta, {None: {"text_emb": np.arange(5, dtype=np.float32)}})
            views = {
                name: {"depth": depth(episode.id, name), "focal": np.array([len(name), 2.0])}
                for name in episode.views
            }
            rewards = np.arange(episode.meta.length, dtype=np.float32)
            geo.write(episode.meta, {None: {"rewards": rewards}, **views})
            moved = {
                name: {
                    "tracks": np.asarray(view.tracks) + np.float32(0.5),
                    "vis": np.asarray(view.vis),
                    "starts": np.asarray(view.starts),
                    "queries": np.asarray(view.queries),
                }
                for name, view in episode.views.items()
            }
            other.write(episode.meta, moved)


@pytest.fixture
def path(tmp_path):
    made = [Sample(key, seed=at, length=n) for at, (key, n) in enumerate(LENGTHS.items())]
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    write_layers(tmp_path)
    return tmp_path


def test_arrays_of_layers_come_along(path):
    dataset = open_dataset(path)
    plain = WindowDataset(dataset, tail="mask")
    windows = WindowDataset(dataset, tail="mask", layers=["text_emb", "geo"])
    windows = pickle.loads(pickle.dumps(windows))
    for index in (0, 5, 6, len(windows) - 1):
        sample, before = windows[index], plain[index]
        assert sample.keys() - before.keys() == {"text_emb", "rewards", "depth", "focal"}
        assert torch.equal(sample["traj"], before["traj"])
        assert sample["text_emb"].tolist() == [0, 1, 2, 3, 4]
        start, length = sample["t"], LENGTHS[sample["episode"]]
        real = np.arange(start, min(start + HORIZON, length))
        padding = [0] * (HORIZON - len(real))
        assert sample["rewards"].tolist() == [*real, *padding]
        assert sample["depth"].shape == (2, HORIZON, *IMG_SHAPE)
        for at, view in enumerate(windows.views):
            expected = [*(real + len(view)), *padding]
            assert sample["depth"][at, :, 3, 17].tolist() == expected
            assert sample["focal"][at].tolist() == [len(view), 2.0]


def test_views_without_the_array_are_zeros(path):
    views = {"front": "front", "back": "gone"}
    options = {"view_map": views, "missing": "mask", "layers": ["geo"], "arrays": ["focal"]}
    sample = WindowDataset(open_dataset(path), **options)[0]
    assert sample["focal"].tolist() == [[5.0, 2.0], [0.0, 0.0]]
    assert "actions" not in sample


def test_tracks_of_a_layer_take_the_place(path):
    dataset = open_dataset(path)
    sample = WindowDataset(dataset, tracks="other", layers=["text_emb"])[2]
    view = dataset[sample["episode"]].views["front"]
    expected = normalize_traj(swap_xy(np.asarray(view.tracks[2]) + np.float32(0.5)), IMG_SHAPE)
    np.testing.assert_allclose(sample["traj"][0], expected, atol=2e-7)
    assert "text_emb" in sample
    # Layers that the dataset was opened with stay.
    opened = open_dataset(path, tracks="other", layers=["text_emb"])
    both = WindowDataset(opened, layers=["geo"])[2]
    assert torch.equal(both["traj"], sample["traj"])
    assert {"text_emb", "depth"} <= both.keys()


def test_what_layers_cannot_give_is_refused(path):
    dataset = open_dataset(path)
    with pytest.raises(DatasetError, match=r"no layer 'gone'; it has \['geo', 'other'"):
        WindowDataset(dataset, layers=["gone"])
    with pytest.raises(ConfigError, match="'geo' has no tracks"):
        WindowDataset(dataset, tracks="geo")
    with pytest.raises(ConfigError, match=r"no array 'dpeth' .*did you mean 'depth'.*there are"):
        WindowDataset(dataset, layers=["geo"], arrays=["dpeth"])
    for moved in ({"img_shape": (30, 50)}, {"augment": RandomAugment(hflip=1.0)}):
        with pytest.raises(ConfigError, match="depth of front holds pictures"):
            WindowDataset(dataset, layers=["geo"], **moved)[0]
    assert "depth" not in WindowDataset(dataset, img_shape=(30, 50), tracks="other")[0]


def test_arrays_that_do_not_stack_are_named(path):
    with LayerWriter(path, "odd") as odd:
        for episode in open_dataset(path):
            odd.write(episode.meta, {"front": {"k": np.ones(2)}, "wrist": {"k": np.ones(3)}})
    dataset = open_dataset(path)
    with pytest.raises(ConfigError, match=r"k has shapes \[\(2,\), \(3,\)\]"):
        WindowDataset(dataset, layers=["odd"])[0]
    assert WindowDataset(dataset, layers=["odd"], views=["wrist"])[0]["k"].shape == (1, 3)


def test_stale_layers_are_named_or_skipped_and_counted(path):
    # The second episode is built again, otherwise.
    changed = Sample("b", seed=77, length=9).build(Hdf5Store(path), replace=True)
    with DatasetWriter.create(path, open_dataset(path).meta) as catalog:
        catalog.add(index_line(changed))
    dataset = open_dataset(path)
    windows = WindowDataset(dataset, layers=["geo"])
    assert windows[0]["episode"] == "a/1"
    with pytest.raises(DatasetError, match="layer 'geo' of 'b' is stale"):
        windows[len(windows) - 1]
    skipping = WindowDataset(dataset, layers=["geo"], damaged="skip")
    assert skipping[len(skipping) - 1]["episode"] == "a/1"
    assert list(skipping.damaged) == ["b"]
