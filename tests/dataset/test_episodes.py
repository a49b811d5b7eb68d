"""Reading a dataset: ids, episodes, views, arrays; bounded files; what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from builder.core.errors import DatasetError
from builder.dataset.folder import DatasetWriter
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.testing.samples import Sample, sample_dataset, sample_meta
from builder.transform.repair import repair

IDS = [f"task_{index % 3}/demo_{index}" for index in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    samples = [Sample(name, seed=seed) for seed, name in enumerate(IDS)]
    sample_dataset(folder, Hdf5Store(folder), samples)
    return folder


def test_a_dataset_lists_its_episodes(folder):
    dataset = open_dataset(folder)
    assert dataset.ids == tuple(sorted(IDS))
    assert len(dataset) == 9
    assert [episode.id for episode in dataset] == sorted(IDS)
    assert IDS[4] in dataset
    assert "other" not in dataset
    assert dataset.meta == sample_meta()


def test_everything_about_an_episode(folder):
    dataset, sample = open_dataset(str(folder)), Sample(IDS[4], seed=4)
    episode = dataset[IDS[4]]
    assert episode.meta.text == "pick up the bowl"
    assert list(episode.views) == ["front", "wrist"]
    for name, view in episode.views.items():
        assert view.name == view.meta.name == name
        assert view.geometry == sample.boxes[name]
        for array in ("frames", "tracks", "vis", "conf", "starts", "queries", "timestamps"):
            np.testing.assert_array_equal(getattr(view, array), sample.arrays[name, array])
            np.testing.assert_array_equal(view.array(array), sample.arrays[name, array])
    assert sorted(episode.arrays) == ["actions", "done", "nothing", "success"]
    assert len(episode.arrays) == 4
    np.testing.assert_array_equal(episode.arrays["actions"], sample.arrays[None, "actions"])
    with pytest.raises(KeyError, match="actions"):
        episode.arrays["proprioception"]


def test_what_is_optional_is_none(tmp_path):
    sample = Sample("a")
    for view in ("front", "wrist"):
        for name in ("frames", "conf"):
            del sample.arrays[view, name]
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [sample])
    view = open_dataset(tmp_path)["a"].views["front"]
    assert view.frames is None
    assert view.conf is None
    assert view.tracks.shape == (7, 4, 6, 2)


def test_an_empty_dataset_is_a_dataset(tmp_path):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [])
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 0
    with pytest.raises(KeyError, match="it has 0"):
        dataset["a"]


def test_open_files_are_bounded(folder):
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files can be counted on Linux only")
    dataset = open_dataset(folder, max_open=2)
    before = open_files()
    kept = dataset[IDS[0]].views["front"].frames
    for name in IDS * 2:
        np.asarray(dataset[name].views["front"].frames)
    # A handle and a memory map for each of two, and the map of the array still held.
    assert open_files() - before <= 5
    np.testing.assert_array_equal(kept, Sample(IDS[0], seed=0).frames)
    assert dataset[IDS[8]] is dataset[IDS[8]]


@pytest.mark.parametrize("store", [Hdf5Store, ZarrStore])
def test_an_episode_that_was_closed_is_not_read_and_checked_again(tmp_path, store):
    samples = [Sample(name, seed=seed) for seed, name in enumerate("ab")]
    sample_dataset(tmp_path, store(tmp_path), samples)
    dataset = open_dataset(tmp_path, max_open=1)
    before, meta = np.array(dataset["a"].views["wrist"].tracks), dataset["a"].meta
    assert dataset["b"].meta is not meta
    assert dataset["a"].meta is meta
    np.testing.assert_array_equal(dataset["a"].views["wrist"].tracks, before)
    # Unless its file was replaced meanwhile.
    assert dataset["b"].id == "b"
    Sample("a", seed=5).build(store(tmp_path), replace=True)
    with pytest.raises(DatasetError, match="'a' is not the one that is listed"):
        dataset["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_small_zarr_arrays_keep_no_file_open(tmp_path):
    sample_dataset(tmp_path, ZarrStore(tmp_path), [Sample("a")])
    before = len(os.listdir("/proc/self/fd"))
    episode = open_dataset(tmp_path)["a"]
    held = [view.array(name) for view in episode.views.values() for name in view.meta.arrays]
    assert len(held) == 14
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("store", [Hdf5Store, ZarrStore])
def test_a_process_that_may_open_no_more_files_is_not_called_a_damaged_episode(tmp_path, store):
    resource = pytest.importorskip("resource")
    sample_dataset(tmp_path, store(tmp_path), [Sample("a")])
    dataset = open_dataset(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(tmp_path / "last", "w") as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        try:
            with pytest.raises(OSError, match="too many open files: raise ulimit -n"):
                dataset["a"]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert dataset["a"].id == "a"


def test_datasets_travel(folder):
    dataset = open_dataset(folder)
    assert dataset[IDS[0]].views["front"].frames[0].any()
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again.ids == dataset.ids
    np.testing.assert_array_equal(
        again[IDS[1]].views["wrist"].tracks, Sample(IDS[1], seed=1).arrays["wrist", "tracks"]
    )


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"no letterset dataset"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="max_open must be at least 1"):
        open_dataset(folder, max_open=0)
    with pytest.raises(KeyError, match=r"no episode 'other' in .*it has 9, the first is task_0/"):
        open_dataset(folder)["other"]


def test_missing_and_exchanged_episodes_are_named(tmp_path):
    store = Hdf5Store(tmp_path)
    sample_dataset(tmp_path, store, [Sample("a"), Sample("b")])
    dataset = open_dataset(tmp_path)
    Sample("a", seed=1).build(store, replace=True)
    with pytest.raises(DatasetError, match=r"'a' is not the one that is listed.*letterset repair"):
        dataset["a"]
    store.path("b").unlink()
    with pytest.raises(DatasetError, match=r"there is no episode 'b': .*b\.hdf5 is missing"):
        dataset["b"]


def test_reading_needs_the_core_alone(folder):
    """No video, image, model or compression package, and no pipeline, is imported."""
    script = """
import sys
from builder.dataset.folder import DatasetWriter
from builder.dataset.opening import open_dataset
episode = next(iter(open_dataset(sys.argv[1])))
assert episode.views["front"].tracks[0].shape == (4, 6, 2)
heavy = {"av", "cv2", "torch", "pebble", "rich", "hdf5plugin", "zarr", "builder.build.pipeline"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_lost_index_is_no_empty_dataset(tmp_path):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a"), Sample("b/c")])
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(DatasetError, match=r"lists no episodes, but episodes/ holds 2: run letter"):
        open_dataset(tmp_path)
    repair(tmp_path)
    assert open_dataset(tmp_path).ids == ("a", "b/c")


def test_a_dataset_whose_first_episode_is_not_yet_listed(tmp_path):
    """A build at work stores an episode before it lists it; a killed one left it so."""
    with DatasetWriter.create(tmp_path, sample_meta()):
        Sample("a").build(Hdf5Store(tmp_path))
        assert open_dataset(tmp_path).ids == ()
    with pytest.raises(DatasetError, match="episodes/ holds 1: run letterset repair"):
        open_dataset(tmp_path)
