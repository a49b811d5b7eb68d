"""What letterset stats tells, and what of it is kept: exact, never of other episodes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from builder.build.reader import each_apart
from builder.cli import main
from builder.core.errors import DatasetError
from builder.dataset import summary
from builder.dataset.array_stats import array_stats, every_array_stats, quantiles
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.opening import open_dataset
from builder.dataset.summary import summarize
from builder.dataset.window_table import COLUMNS, read_columns
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset

pytestmark = pytest.mark.core


@pytest.fixture
def dataset(tmp_path):
    made = [Sample(f"a/{seed}", seed=seed, length=3 + seed) for seed in range(5)]
    made[1].arrays["front", "vis"][:] = 0  # nothing to count in it
    del made[0].arrays[None, "actions"]  # met on the way, not in the first episode
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    return open_dataset(tmp_path)


@pytest.fixture
def opened(monkeypatch):
    """Count the episodes that are opened in this process."""
    ids = []
    function = Hdf5Store.open

    def count(store, episode_id):
        ids.append(episode_id)
        return function(store, episode_id)

    monkeypatch.setattr(Hdf5Store, "open", count)
    return ids


def numbers(found):
    return {key: value for key, value in found.items() if key != "table"}


def test_columns_are_exact(dataset, monkeypatch):
    """In pieces that end amid episodes, for each view and all, over windows within their clip."""
    monkeypatch.setattr("builder.dataset.window_table._ROWS_AT_ONCE", 7)
    found = summarize(dataset)
    views = dataset.index.views
    for title, names in (("all", views), *((name, [name]) for name in views)):
        told = found["columns"] if title == "all" else found["views"][title]
        table = read_columns(dataset, COLUMNS, names).by_window()
        within = table.start + dataset.meta.horizon <= dataset.index.lengths[table.episode]
        assert within.sum() == found["within_clip"]
        assert len(within) == found["windows"]
        for name in COLUMNS:
            values = np.float32(table.columns[name][within])
            known = values[~np.isnan(values)].astype(np.float64)
            expected = [known.mean(), *np.percentile(known, [10, 50, 90])]
            got = [told[name][key] for key in ("mean", "p10", "p50", "p90")]
            np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=name)


def test_percentiles_of_any_numbers():
    rng = np.random.default_rng(0)
    special = np.float32([0, -0.0, 1, -1, np.nan, 3e7, -2e7, 1e-40, -1e-40])
    values = np.concatenate([rng.normal(0, 1e3, 501).astype(np.float32), special])
    column = summary._Column()
    for take in (column.add, column.refine):
        for piece in np.array_split(values, 7):
            take(piece)
    told, known = column.told(), values[~np.isnan(values)].astype(np.float64)
    assert [told[key] for key in ("p10", "p50", "p90")] == np.percentile(
        known, [10, 50, 90]
    ).tolist()
    assert told["mean"] == pytest.approx(known.mean())
    assert set(summary._Column().told().values()) == {None}


def test_arrays_are_what_one_by_one_gives(dataset):
    found = every_array_stats(dataset)
    assert [*found] == ["actions", "done", "nothing"]
    for name, (stats, more) in found.items():
        assert stats == array_stats(dataset, name)
        assert more == quantiles(dataset, name, stats)


def test_several_processes_give_the_same(dataset):
    def each(function, items):
        return each_apart(function, items, workers=2)

    apart = summarize(dataset, "vis > 0.4", each=each)
    shutil.rmtree(dataset.path / "stats")
    assert summarize(dataset, "vis > 0.4") == apart


def test_an_unchanged_dataset_is_not_read_again(dataset, opened):
    first = summarize(dataset)
    assert {*opened} == {*dataset.ids}
    opened.clear()
    assert summarize(dataset) == first
    assert opened == []
    assert summarize(dataset, again=True) == first
    assert {*opened} == {*dataset.ids}


def test_a_change_is_never_answered_from_what_was_kept(dataset, opened):
    first = numbers(summarize(dataset))
    with DatasetWriter.create(dataset.path, dataset.meta) as catalog:
        catalog.add(index_line(Sample("b", length=9).build(dataset.store)))
    opened.clear()
    grown = open_dataset(dataset.path)
    second = numbers(summarize(grown))
    assert second["windows"] == first["windows"] + 9
    assert second["arrays"]["actions"]["count"] == first["arrays"]["actions"]["count"] + 9
    # Of the others the rows were kept: both passes over the arrays opened them, no third one.
    assert opened.count("b") - opened.count("a/2") == 1
    shutil.rmtree(dataset.path / "stats")
    assert numbers(summarize(grown)) == second


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"{}", b'{"key": 1}', b"\xff"])
def test_what_was_kept_and_is_damaged_is_computed_again(dataset, text):
    first = summarize(dataset)
    path = dataset.path / "stats" / "summary.json"
    whole = path.read_bytes()
    path.write_bytes(text or whole.replace(b'"windows": ', b'"windows": 1'))
    assert summarize(dataset) == first
    assert path.read_bytes() == whole
    table = dataset.path / "stats" / "windows.hdf5"
    damaged = bytearray(table.read_bytes())
    damaged[-40] ^= 1
    table.write_bytes(damaged)
    assert summarize(dataset) == first


def test_an_episode_that_cannot_be_read_is_named(dataset):
    dataset.store.path("a/3").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"a/3.*letterset repair"):
        summarize(dataset)


def test_the_command_takes_workers(dataset, capsys):
    assert main(["stats", str(dataset.path), "--json", "--workers", "1"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["stats", str(dataset.path), "--json", "--again"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main(["stats", str(dataset.path), "--workers", "0"]) == 2
