"""The table of windows that a build leaves: equal to what letterset stats computes by itself."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
from source_fixtures import write_video

import builder.dataset.window_table
from builder.cli import main
from builder.dataset import window_table
from builder.dataset.folder import read_index
from builder.dataset.opening import open_dataset
from builder.dataset.window_table import COLUMNS, read_columns, window_rows, write_window_stats
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset

OPTIONS = ["queries.grid=[2, 3]", "tracker.horizon=4", "executor.workers=1", "--quiet"]


def build(source, out, *more):
    where = ["--source", str(source), "--out", str(out), "--img-shape", "24", "40"]
    return main(["build", *OPTIONS, *more, *where])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for index, name in enumerate("abc"):
        write_video(folder / f"{name}.mp4", count=5 + index, shape=(30, 50))
    return folder


@pytest.fixture
def unread(monkeypatch):
    """Ids whose rows this process computed; nothing is, when the workers' rows are there."""
    computed = []
    function = builder.dataset.window_table.episode_rows

    def count(reader, img_shape):
        computed.append(reader.meta.id)
        return function(reader, img_shape)

    monkeypatch.setattr(builder.dataset.window_table, "episode_rows", count)
    return computed


def table(out):
    return (out / "stats" / "windows.hdf5").read_bytes()


def check(out):
    """The table is there, and what letterset stats makes of the episodes alone."""
    left = table(out)
    shutil.rmtree(out / "stats")
    assert write_window_stats(open_dataset(out)).read_bytes() == left


@pytest.mark.parametrize(
    "settings",
    [
        ["store.frames.codec=jpeg", "store.tracks.dtype=u16"],
        ["store.kind=zarr", "store.frames.codec=lz4"],
        ["tracker.mode=episode", "store.frames.codec=none"],
        ["tracker.kind=none"],
    ],
)
def test_a_build_leaves_the_table(videos, tmp_path, settings, unread):
    out = tmp_path / "out"
    assert build(videos, out, *settings) == 0
    assert unread == []
    dataset = open_dataset(out)
    windows = sum(len(each.starts) for episode in dataset for each in episode.views.values())
    (view,) = dataset.index.view_sets[0]
    assert len(read_columns(dataset, COLUMNS, [view]).start) == windows
    check(out)


def test_going_on_reads_only_what_is_not_known(videos, tmp_path, unread):
    source, out = tmp_path / "videos", tmp_path / "out"
    source.mkdir()
    shutil.copy(videos / "a.mp4", source)
    assert build(source, out) == 0
    first = table(out)
    shutil.copy(videos / "b.mp4", source)
    shutil.copy(videos / "c.mp4", source)
    assert build(source, out) == 0
    assert unread == []
    assert table(out) != first
    # A killed run may leave half a line, and anything may be deleted.
    rows = out / "stats" / "main.rows"
    rows.write_bytes(rows.read_bytes()[:-30] + b"\n{}\n[1]\n\xff")
    (out / "stats" / "windows.hdf5").unlink()
    assert build(source, out) == 0
    assert len(unread) == 1
    check(out)


def test_an_episode_that_is_replaced_has_new_rows(videos, tmp_path):
    source, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos, source)
    assert build(source, out) == 0
    write_video(source / "a.mp4", count=9, shape=(30, 50))
    assert build(source, out, "--overwrite") == 0
    assert 9 in read_index(out).lengths
    check(out)


def test_shards_leave_it_to_finalize(videos, tmp_path, unread):
    out = tmp_path / "out"
    for shard in ("0/2", "1/2"):
        assert build(videos, out, "--shard", shard) == 0
    assert not (out / "stats" / "windows.hdf5").exists()
    assert main(["finalize", str(out)]) == 0
    assert unread == []
    before = table(out), os.stat(out / "stats" / "windows.hdf5").st_mtime_ns
    assert main(["finalize", str(out)]) == 0
    assert before == (table(out), os.stat(out / "stats" / "windows.hdf5").st_mtime_ns)
    check(out)


def test_rows_go_with_their_episodes(videos, tmp_path, unread):
    out, part, both = tmp_path / "out", tmp_path / "part", tmp_path / "both"
    assert build(videos, out) == 0
    for name in "ab":
        assert main(["subset", str(out), str(part), "--id", f"{name}*"]) == 0
        assert len(read_columns(open_dataset(part), ["vis"], ["main"]).start) == 5 + "ab".index(
            name
        )
        shutil.move(part, tmp_path / name)
    for _ in range(2):
        assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), str(both)]) == 0
        assert len(read_columns(open_dataset(both), ["vis"], ["main"]).start) == 11
    # Where some are not known, none are computed: that takes long, and letterset stats does it.
    shutil.rmtree(tmp_path / "a" / "stats")
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), str(part)]) == 0
    assert not (part / "stats" / "windows.hdf5").exists()
    assert unread == []
    check(both)


def test_an_episode_that_cannot_be_read_does_not_fail_the_build(videos, tmp_path):
    out = tmp_path / "out"
    assert build(videos, out) == 0
    shutil.rmtree(out / "stats")
    path = sorted((out / "episodes").iterdir())[0]
    os.truncate(path, 3000)
    assert build(videos, out, "--append") == 0
    assert not (out / "stats" / "windows.hdf5").exists()


def test_a_full_disk_at_the_table_ends_with_4(videos, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(builder.dataset.window_table, "_fill", full)
        assert build(videos, out) == 4
    assert "free some space" in capsys.readouterr().err
    assert len(read_index(out)) == 3
    assert not list((out / "tmp").iterdir())
    assert build(videos, out) == 0
    check(out)


@pytest.mark.parametrize("points", [1, 7, 40, 10**6])
def test_blocks_do_not_show(tmp_path, monkeypatch, points):
    """Windows and steps are taken in blocks to bound memory; whatever those are."""
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a", seed=3, length=9)])
    view = open_dataset(tmp_path)["a"].views["front"]
    whole = window_rows(view, 9, (24, 40))
    monkeypatch.setattr(window_table, "_BLOCK_POINTS", points)
    monkeypatch.setattr(window_table, "_FRAMES", 2)
    again = window_rows(view, 9, (24, 40))
    for name in COLUMNS:
        np.testing.assert_allclose(again[name], whole[name], rtol=1e-6, err_msg=name)
