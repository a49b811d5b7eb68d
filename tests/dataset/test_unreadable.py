"""What cannot be read now is not damaged: it is told, and neither moved nor unlisted."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pathlib
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from builder.build import reader
from builder.build.reader import each_apart
from builder.build.resume import find_finished
from builder.cli import main
from builder.core.errors import DatasetError, UnreadableError
from builder.dataset.folder import read_index
from builder.dataset.layers import LayerWriter
from builder.dataset.opening import open_dataset
from builder.dataset.splits import Splits, write_splits
from builder.dataset.validate import validate
from builder.dataset.window_table import write_window_stats
from builder.sources.base import EpisodeRef
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.testing.samples import Sample, sample_dataset
from builder.transform.convert import convert
from builder.transform.finalize import finalize
from builder.transform.merge import merge
from builder.transform.repair import repair

pytestmark = pytest.mark.core

ERRORS = ["EIO", "EACCES", "ESTALE", "ENOLCK", "EINTR"]


@pytest.fixture(params=[Hdf5Store, ZarrStore])
def store(request, tmp_path):
    found = request.param(tmp_path / "ds")
    sample_dataset(tmp_path / "ds", found, [Sample("a/1"), Sample("b"), Sample("c")])
    return found


@contextmanager
def failing(path: Path, error: str):
    """Let nothing below a path be opened, by Python or by HDF5; commands read in this process."""
    number = getattr(errno, error)

    def refuses(function):
        def call(name, *args, **kwargs):
            if isinstance(name, str | os.PathLike) and Path(name).is_relative_to(path):
                raise OSError(number, os.strerror(number), str(name))
            return function(name, *args, **kwargs)

        return call

    class File(h5py.File):
        def __init__(self, name, *args, **kwargs):
            refuses(super().__init__)(name, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", refuses(io.open))
        patch.setattr("builtins.open", refuses(open))
        patch.setattr(h5py, "File", File)
        patch.setattr(reader, "each_apart", lambda check, ids, **_: map(check, ids))
        if (accessor := getattr(pathlib, "_NormalAccessor", None)) is not None:  # Python 3.10
            patch.setattr(accessor, "open", staticmethod(refuses(io.open)))
        yield


def moved(folder: Path) -> list[Path]:
    return [*folder.glob("damaged*")]


@pytest.mark.parametrize("error", ERRORS)
def test_an_episode_that_cannot_be_read_stays_where_it_is(store, error, capsys):
    folder, before = store.folder, dict(read_index(store.folder))
    with failing(store.path("b"), error):
        problems = [problem for problem in validate(folder) if not problem.note]
        assert [problem.episode for problem in problems] == ["b"]
        assert problems[0].unread
        assert "cannot be read now" in problems[0].message
        assert os.strerror(getattr(errno, error)) in problems[0].message
        assert "damaged" not in str(problems)
        assert main(["validate", str(folder)]) == 1
        done = repair(folder)
        assert (done.kept, dict(done.dropped)) == (("a/1", "b", "c"), {})
        assert [*done.unread] == ["b"]
        assert main(["repair", str(folder), "--even-all"]) == 1
        assert "UNREAD b" in capsys.readouterr().out
        finalize(folder)
        with pytest.raises(UnreadableError, match="cannot be read now") as caught:
            open_dataset(folder)["b"]
        assert "repair" not in str(caught.value)
        assert main(["inspect", str(folder)]) == 1
        assert "cannot be read now" in capsys.readouterr().out
        found = find_finished(store, before, [EpisodeRef("b", "b")], folder)
        assert "repair" not in found.damaged["b"]
    assert dict(read_index(folder)) == before
    assert moved(folder) == []
    assert validate(folder) == []
    assert repair(folder).exit_code == 0


def test_one_that_is_locked_by_a_writer(tmp_path):
    store = Hdf5Store(tmp_path)
    sample_dataset(tmp_path, store, [Sample("a"), Sample("b")])
    with store.path("b").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does for one who writes
        (problem,) = validate(tmp_path)
        assert "a program has it open for writing, close it there first" in problem.message
        assert [*repair(tmp_path).unread] == ["b"]
    assert validate(tmp_path) == []
    assert moved(tmp_path) == []


def test_a_disk_that_fails_below_hdf5(tmp_path):
    """HDF5 wraps what the system said, in exceptions of several types."""
    store = Hdf5Store(tmp_path)
    sample_dataset(tmp_path, store, [Sample("a")])
    reader = store.open("a")
    for kind in (OSError, RuntimeError, KeyError):
        with pytest.raises(UnreadableError, match="Input/output error"), reader._damage("root"):
            raise kind("Can't read (errno = 5, error message = 'Input/output error')")
    with pytest.raises(DatasetError, match="is damaged"), reader._damage("root"):
        raise RuntimeError("bad local heap signature")


def test_damage_beside_it_is_still_damage(store):
    folder = store.folder
    path = store.path("a/1") if isinstance(store, Hdf5Store) else store.path("a/1") / "zarr.json"
    os.truncate(path, 100)
    with failing(store.path("b"), "EIO"):
        done = repair(folder)
    assert [*done.dropped] == ["a/1"]
    assert [*done.unread] == ["b"]
    assert done.kept == ("b", "c")
    assert len(moved(folder)) == 1


def test_a_folder_that_cannot_be_listed_is_not_empty(store, monkeypatch):
    scandir, inner = os.scandir, store.path("a/1").parent

    def refuse(path="."):
        if isinstance(path, str | os.PathLike) and Path(path) == inner:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    before = dict(read_index(store.folder))
    monkeypatch.setattr(os, "scandir", refuse)
    (problem,) = (each for each in validate(store.folder) if not each.note)
    assert problem.unread
    for verb in (repair, finalize):
        with pytest.raises(UnreadableError, match="Permission denied"):
            verb(store.folder)
    monkeypatch.undo()
    assert dict(read_index(store.folder)) == before
    assert validate(store.folder) == []


@pytest.mark.parametrize("name", ["dataset.json", "index/main.jsonl", "failures/main.jsonl"])
def test_files_of_the_dataset_that_cannot_be_read(store, name, capsys):
    folder = store.folder
    if not (folder / name).exists():
        (folder / name).parent.mkdir()
        (folder / name).touch()
    with failing(folder / name, "EIO"):
        assert main(["validate", str(folder)]) == 1
        assert "cannot be read now" in capsys.readouterr().out
        assert main(["repair", str(folder)]) == 1
        said = capsys.readouterr().err
        assert "cannot be read now (Input/output error)" in said
        assert "check the disk" in said
        assert "damaged" not in said
        assert main(["finalize", str(folder)]) == 1
        assert main(["inspect", str(folder)]) == 1
    assert moved(folder) == []
    assert [problem for problem in validate(folder) if not problem.note] == []


def test_parts_of_layers_splits_and_tables_that_cannot_be_read(store):
    folder = store.folder
    with LayerWriter(folder, "emb") as layer:
        for episode in open_dataset(folder):
            layer.write(episode.meta, {None: {"emb": np.zeros(3, "<f4")}}, False)
    write_splits(folder, "own", Splits(splits={"train": ("b",)}))
    write_window_stats(open_dataset(folder))
    for name in ("layers/emb/b.hdf5", "layers/emb/layer.json", "splits/own.json", "stats"):
        with failing(folder / name, "EIO"):
            (problem,) = (each for each in validate(folder) if not each.note)
            assert problem.unread
            assert "cannot be read now" in problem.message
            if name.endswith("hdf5"):
                assert [*repair(folder).unread] == [name]
                with pytest.raises(UnreadableError):
                    open_dataset(folder, layers=["emb"])["b"]
    assert moved(folder) == []
    assert validate(folder) == []


def test_copies_that_cannot_be_read_are_not_put_aside(store, tmp_path):
    folder = store.folder
    other = type(store)(tmp_path / "other")
    sample_dataset(tmp_path / "other", other, [Sample("d")])
    outs = [tmp_path / "merged", tmp_path / "converted"]
    part = {"kind": "hdf5" if type(store) is Hdf5Store else "zarr"}
    makes = [lambda out: merge([folder, other.folder], out), lambda out: convert(folder, out, part)]
    for out, make in zip(outs, makes, strict=True):
        make(out)
        (out / "index" / "main.jsonl").unlink()  # as if it had been killed before it listed them
        with failing(type(store)(out).path("b"), "EIO"):
            assert "cannot be read now" in make(out).failures["b"]
        assert moved(out) == []
        assert make(out).failures == {}
        assert [each for each in validate(out) if not each.note] == []


def crash_over(check, episode_id: str):
    """Check an episode; HDF5 crashes over b, unless somebody has told that it does."""
    with pytest.MonkeyPatch.context() as patch:
        if episode_id == "b":
            patch.setattr(Hdf5Store, "open", lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
        return check(episode_id)


def test_an_episode_that_ends_its_reader_costs_itself_alone(tmp_path):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), map(Sample, "abc"))

    def check_each(check, ids):
        return each_apart(partial(crash_over, check), ids, workers=1)

    (problem,) = validate(tmp_path, check_each=check_each)
    assert problem.episode == "b"
    assert problem.unread
    assert "reading it was killed by SIGSEGV" in problem.message
    done = repair(tmp_path, check_each=check_each)
    assert ([*done.unread], done.dropped, done.kept) == (["b"], {}, ("a", "b", "c"))
    assert moved(tmp_path) == []
