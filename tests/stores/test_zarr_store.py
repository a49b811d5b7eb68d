"""The Zarr store: the conformance suite, what lies on the disk, and damage of every kind."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from builder.core.errors import DatasetError, MissingExtraError, OutputError
from builder.dataset.folder import store_at
from builder.dataset.opening import open_dataset
from builder.dataset.validate import check_episode, validate
from builder.stores.base import ArraySpec
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import Grid, ZarrStore
from builder.testing import stores as conformance
from builder.testing.samples import Sample, sample_dataset

IDS = ("some/episode", "second")


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, tmp_path):
    pytest.importorskip("numcodecs")
    check(ZarrStore, tmp_path / "store")


def test_each_array_is_one_file_of_its_plain_bytes(tmp_path):
    store, sample = ZarrStore(tmp_path), Sample("a/b")
    sample.build(store)
    root = tmp_path / "episodes.zarr" / "a" / "b"
    for (view, name), array in sample.arrays.items():
        folder = root / "root" / (view or "") / name
        keys = [path for path in folder.iterdir() if path.name != "zarr.json"]
        assert b"".join(path.read_bytes() for path in keys) == array.tobytes()
        assert len(keys) == (array.nbytes > 0)
        assert json.loads((folder / "zarr.json").read_text())["shape"] == list(array.shape)
    assert json.loads((root / "zarr.json").read_text())["attributes"]["metadata"]


def long_sample(**codecs):
    """Long enough for shards; its length is no multiple of a chunk."""
    sample = Sample("long", **codecs)
    sample.arrays[None, "depth"] = np.arange(700 * 499, dtype="<f4").reshape(700, 499)
    return sample


def test_shards_are_rows_in_order_then_the_index(tmp_path):
    store, sample = ZarrStore(tmp_path), long_sample()
    sample.build(store)
    data = (tmp_path / "episodes.zarr/long/root/depth/c.0.0").read_bytes()
    depth = sample.arrays[None, "depth"]
    assert data[: depth.nbytes] == depth.tobytes()
    rows = (256 << 10) // depth[0].nbytes
    count = -(-len(depth) // rows)
    padded = count * rows * depth[0].nbytes
    assert set(data[depth.nbytes : padded]) == {0}
    index = np.frombuffer(data[padded:], "<u8").reshape(-1, 2)
    assert index.tolist() == [[k * rows * 499 * 4, rows * 499 * 4] for k in range(count)]


def test_zarr_itself_reads_it(tmp_path):
    zarr = pytest.importorskip("zarr")
    for codec, track_codec in (("raw", "u16"), ("lz4", "raw")):
        store, sample = ZarrStore(tmp_path / codec), long_sample(codec=codec)
        sample.track_codec = track_codec
        sample.build(store)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = zarr.open_group(store.path("long"), mode="r", zarr_format=3)["root"]
            for (view, name), array in sample.arrays.items():
                stored = root[name] if view is None else root[view][name]
                values = stored[...]
                if (name, track_codec) == ("tracks", "u16"):
                    values = values * stored.attrs["scale"] + stored.attrs["offset"]
                assert values.shape == array.shape
                np.testing.assert_allclose(values, array, atol=sample.tolerance(name))
            assert root["wrist"].attrs["source_width"] == 51


def test_long_arrays_come_back(tmp_path):
    pytest.importorskip("numcodecs")
    for codec in ("raw", "lz4"):
        store, sample = ZarrStore(tmp_path / codec), long_sample(codec=codec)
        sample.build(store)
        with closing(store.open("long")) as reader:
            assert reader.problems() == []
            depth = reader.array(None, "depth")
            np.testing.assert_array_equal(depth, sample.arrays[None, "depth"])
            assert not depth.flags.writeable
            frames = reader.array("front", "frames")
            np.testing.assert_array_equal(frames[2:], sample.frames[2:])


def test_the_number_of_files_does_not_grow(tmp_path):
    for index, length in enumerate((7, 90)):
        Sample(f"e{index}", length=length).build(ZarrStore(tmp_path))
    counts = {
        sum(p.is_file() for p in e.rglob("*")) for e in (tmp_path / "episodes.zarr").iterdir()
    }
    assert len(counts) == 1


# A dataset of it.


@pytest.fixture(params=["raw", "lz4", "jpeg"])
def dataset(request, tmp_path):
    pytest.importorskip({"raw": "numpy", "lz4": "numcodecs", "jpeg": "cv2"}[request.param])
    samples = [Sample(key, codec=request.param, length=3, seed=len(key)) for key in IDS]
    sample_dataset(tmp_path, ZarrStore(tmp_path), samples)
    return tmp_path


def test_a_dataset_knows_its_store(dataset):
    assert isinstance(store_at(dataset), ZarrStore)
    opened = open_dataset(dataset)
    assert opened.ids == tuple(sorted(IDS))
    assert opened["second"].views["front"].frames.shape == (3, 24, 40, 3)
    assert validate(dataset, deep=True) == []
    Sample("third").build(Hdf5Store(dataset))
    with pytest.raises(DatasetError, match="several stores, hdf5, zarr"):
        store_at(dataset)


def files_and_content(dataset):
    """The files of an episode; of a packed one those of its frames, the others are the same."""
    episode = dataset / "episodes.zarr" / "second"
    plain = open_dataset(dataset)["second"].meta.view("front").arrays["frames"].codec == "raw"
    pattern = "*" if plain else "root/front/frames*/*"
    return [(path, path.read_bytes()) for path in episode.rglob(pattern) if path.is_file()]


def test_any_flipped_byte_is_found(dataset):
    rng, store = np.random.default_rng(0), ZarrStore(dataset)
    for path, data in files_and_content(dataset):
        for at in {0, len(data) - 1, int(rng.integers(0, len(data)))}:
            flipped = bytearray(data)
            flipped[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            assert check_episode(store, "second").problems, f"{path} at {at}"
        path.write_bytes(data)
    assert check_episode(store, "second").problems == []


def test_any_cut_missing_or_extra_file_is_found(dataset):
    store = ZarrStore(dataset)
    for path, data in files_and_content(dataset):
        for change in (data[:-1], data + b"\0", None):
            if change is None:
                path.unlink()
            else:
                path.write_bytes(change)
            assert check_episode(store, "second").problems, f"{path}: {change and len(change)}"
        path.write_bytes(data)
    (dataset / "episodes.zarr" / "second" / "root" / "c.0").write_bytes(b"")
    (problem,) = check_episode(store, "second").problems
    assert "not in its metadata" in str(problem)


# What is not to be trusted.


@pytest.fixture
def episode(tmp_path):
    Sample("a").build(ZarrStore(tmp_path))
    return tmp_path / "episodes.zarr" / "a"


def read(episode: Path):
    with closing(ZarrStore(episode.parents[1]).open("a")) as reader:
        return np.asarray(reader.array("front", "vis"))


def replaced_by_link(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere"
    os.rename(path, elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("part", ["root", "root/front", "root/front/vis", "root/front/vis/c.0.0.0"])
def test_links_are_refused(episode, part):
    replaced_by_link(episode / part)
    with pytest.raises(DatasetError, match=r"links to other places|no regular file"):
        read(episode)


def test_a_pipe_does_not_hang(episode):
    path = episode / "root/front/vis/zarr.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DatasetError, match="no regular file"):
        read(episode)


def test_foreign_settings_are_refused(episode):
    path = episode / "root/front/vis/zarr.json"
    path.write_text(path.read_text().replace('"uint8"', '"uint16"'))
    with pytest.raises(DatasetError, match="not what follows from the metadata"):
        read(episode)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"attributes": {"metadata": 3}}', "[" * 100_000])
def test_other_groups_are_refused(episode, text):
    (episode / "zarr.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a.*(damaged|no episode)"):
        read(episode)


def test_a_moved_episode_is_noticed(episode):
    os.rename(episode, episode.with_name("b"))
    with pytest.raises(DatasetError, match="holds episode 'a', expected 'b'"):
        ZarrStore(episode.parents[1]).open("b")


def test_episodes_do_not_nest(episode):
    with pytest.raises(OutputError, match="inside an episode"):
        Sample("a/b").build(ZarrStore(episode.parents[1]))
    Sample("c/d").build(ZarrStore(episode.parents[1]))
    with pytest.raises(OutputError, match="exists already"):
        Sample("c").build(ZarrStore(episode.parents[1]))
    assert not list((episode.parents[1] / "tmp").iterdir())


def test_what_zarr_cannot_hold(tmp_path):
    layout = {"v": {"x": ArraySpec((3,), "longdouble")}}
    with pytest.raises(ValueError, match="no dtype"), ZarrStore(tmp_path).begin("a", layout):
        pass
    assert not list((tmp_path / "tmp").iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    pytest.importorskip("numcodecs")
    Sample("a", codec="lz4").build(ZarrStore(tmp_path))
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    with closing(ZarrStore(tmp_path).open("a")) as reader:
        assert reader.array("front", "tracks").shape == (7, 4, 6, 2)
        with pytest.raises(MissingExtraError, match=r"numcodecs.*letterset\[zarr\]"):
            reader.array("front", "frames")[0]


def test_damaged_episodes_make_room_for_each_other(episode):
    store = ZarrStore(episode.parents[1])
    for _ in range(2):
        moved = store.set_aside("a")
        Sample("a").build(store)
    assert moved.is_dir()
    shutil.rmtree(moved)


def test_grids_of_odd_shapes():
    for shape in ((), (0,), (5, 0), (3, 1), (70_000,), (3, 1_000_000)):
        for packed in (False, True) if shape else (False,):
            grid = Grid(shape, np.dtype("<f4"), packed)
            assert grid.rows * grid.chunks >= (shape[0] if shape else 1)
            data = json.loads(grid.array_json({}))
            chunk = data["chunk_grid"]["configuration"]["chunk_shape"]
            assert len(chunk) == len(shape)
            assert all(side >= 1 for side in chunk)
