"""A handle that is kept open on an episode that is replaced says so, and never mixes the two."""

from __future__ import annotations

import numpy as np
import pytest

from builder.core.errors import DatasetError
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.testing.samples import Sample, sample_dataset, sample_meta

pytestmark = pytest.mark.core


@pytest.fixture(params=[Hdf5Store, ZarrStore])
def store(request, tmp_path):
    found = request.param(tmp_path)
    sample_dataset(tmp_path, found, [Sample("a"), Sample("b")])
    return found


def replace(store, **changes):
    with DatasetWriter.create(store.folder, sample_meta()) as catalog:
        catalog.add(index_line(Sample("b", **changes).build(store, replace=True)))


@pytest.mark.parametrize("changes", [{"seed": 3}, {"length": 9}], ids=["numbers", "length"])
def test_an_episode_in_hand(store, changes):
    episode = open_dataset(store.folder)["b"]
    tracks = episode.views["front"].tracks
    replace(store, **changes)
    # What is in hand stays what it was.
    np.testing.assert_array_equal(tracks, Sample("b").arrays["front", "tracks"])
    with pytest.raises(DatasetError, match="was replaced since it was opened: open the dataset"):
        episode.views["front"].array("vis")
    episode.reader.close()
    with pytest.raises(DatasetError, match="was replaced since it was opened: open the dataset"):
        episode.views["wrist"].array("tracks")
    again = open_dataset(store.folder)["b"]
    np.testing.assert_array_equal(
        again.views["front"].tracks, Sample("b", **changes).arrays["front", "tracks"]
    )


def test_a_dataset_in_hand(store):
    dataset, older = open_dataset(store.folder), open_dataset(store.folder)
    assert older["b"].meta.length == 7
    replace(store, length=9)
    with pytest.raises(DatasetError, match="was replaced since the dataset was opened; open it"):
        dataset["b"]
    assert dataset["a"].views["front"].tracks.shape[0] == 7
    with pytest.raises(DatasetError, match="was replaced since it was opened"):
        older["b"].views["front"].array("tracks")


def test_the_same_episode_written_again_is_the_same(store):
    episode = open_dataset(store.folder)["b"]
    replace(store)
    vis = episode.views["front"].array("vis")
    np.testing.assert_array_equal(vis, Sample("b").arrays["front", "vis"])


def test_rows_that_are_unpacked_one_by_one(tmp_path):
    pytest.importorskip("hdf5plugin")
    pytest.importorskip("numcodecs")
    for store in (Hdf5Store(tmp_path / "h"), ZarrStore(tmp_path / "z")):
        sample_dataset(store.folder, store, [Sample("a"), Sample("b", codec="lz4")])
        episode = open_dataset(store.folder)["b"]
        frames = episode.views["front"].frames
        np.testing.assert_array_equal(frames[2], Sample("b").frames[2])
        replace(store, seed=3, codec="lz4")
        episode.reader.close()
        with pytest.raises(DatasetError, match="was replaced since it was opened"):
            frames[2]
