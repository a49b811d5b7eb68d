"""The table of windows, filters at read time, and statistics of arrays."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

pytest.importorskip("torch")

from builder.cli import main
from builder.core.errors import ConfigError, DatasetError
from builder.dataset.array_stats import QUANTILES, array_stats, quantiles
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.dataset.window_table import (
    COLUMNS,
    KnownRows,
    episode_rows,
    keep_rows,
    read_columns,
    write_window_stats,
)
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import HORIZON, IMG_SHAPE, Sample, sample_dataset
from builder.training import WindowDataset

VIEWS = ("front", "wrist")


def sample(key, seed, length):
    """An episode whose windows differ: every third one stands still, one leaves the canvas."""
    made = Sample(key, seed=seed, length=length)
    tracks = made.arrays["front", "tracks"]
    tracks[::3] = tracks[::3, :1]
    tracks[1, 2:] += np.float32(100)
    made.arrays["front", "vis"][3] = 0
    made.arrays["front", "frames"][4:] += 50
    return made


@pytest.fixture
def dataset(tmp_path):
    made = [sample("a/1", 1, 7), sample("b", 2, 9)]
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    return open_dataset(tmp_path)


def pixel(data, window, h, point):
    """Where AMPLIFY's loss sees a point: on a whole pixel of the canvas, (x, y)."""
    x, y = (float(v) for v in data.tracks[window, h, point])
    return [round(min(max(v, 0), size - 1)) for v, size in ((x, IMG_SHAPE[1]), (y, IMG_SHAPE[0]))]


def brute_force(dataset, key, view, window):
    """The columns of one window, point by point."""
    episode = dataset[key]
    data, start = episode.views[view], window
    own = min(HORIZON, episode.meta.length - start)
    steps, seen, outside, pixels, sure = [], [], [], [], []
    for point in range(data.tracks.shape[2]):
        for h in range(own):
            x, y = (float(v) for v in data.tracks[window, h, point])
            outside += [not 0 <= x <= IMG_SHAPE[1], not 0 <= y <= IMG_SHAPE[0]]
            seen.append(bool(data.vis[window, h, point]))
            sure += [float(data.conf[window, h, point])] * seen[-1]
            if h and seen[-1] and seen[-2]:
                px, py = (float(v) for v in data.tracks[window, h - 1, point])
                steps.append((x - px, y - py))
            if h:
                pixels.append(np.subtract(*(pixel(data, window, at, point) for at in (h, h - 1))))
    lengths = [np.hypot(*step) for step in steps]
    nothing = float("nan")
    frames = np.asarray(data.frames, np.float64)[:, ::4, ::4]
    changes = [np.abs(frames[t] - frames[t - 1]).mean() for t in range(start + 1, start + own)]
    return {
        "motion": np.mean(lengths) if lengths else nothing,
        "motion_max": max(lengths) if lengths else nothing,
        "vis": np.mean(seen),
        "zero": np.mean([not np.any(step) for step in pixels]) if pixels else nothing,
        "saturated": np.mean([np.abs(step).max() > 7 for step in pixels]) if pixels else nothing,
        "clipped": np.mean(outside),
        "conf": np.mean(sure) if sure else nothing,
        "cut": max(changes, default=0.0),
    }


def test_every_row_is_what_it_says(dataset):
    write_window_stats(dataset)
    for view in VIEWS:
        table = read_columns(dataset, COLUMNS, [view])
        assert len(table.start) == 7 + 9
        for row, (number, start) in enumerate(zip(table.episode, table.start, strict=True)):
            expected = brute_force(dataset, dataset.ids[number], view, start)
            for name, value in expected.items():
                got = table.columns[name][row]
                assert got == pytest.approx(value, rel=1e-4, nan_ok=True), (view, row, name)


def test_views_of_a_window_count_together(dataset):
    write_window_stats(dataset)
    parts = [read_columns(dataset, COLUMNS, [view]) for view in VIEWS]
    both = read_columns(dataset, COLUMNS, VIEWS).by_window()
    assert len(both.start) == 16
    for name in COLUMNS:
        values = np.stack([part.columns[name] for part in parts])
        known = ~np.isnan(values)
        expected = np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
        if name in ("motion_max", "cut"):
            expected = np.where(known, values, -1).max(0)
        expected[~known.any(0)] = np.nan
        np.testing.assert_allclose(both.columns[name], expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tail", ["exclude", "mask"])
def test_filters_keep_the_same_samples(dataset, stride, tail):
    write_window_stats(dataset)
    options = {"views": ("front",), "stride": stride, "tail": tail, "images": "none"}
    everything = WindowDataset(dataset, **options)
    filtered = WindowDataset(dataset, where="motion > 0.2 and vis > 0.1", **options)
    expected = []
    for index in range(len(everything)):
        found = everything[index]
        row = brute_force(dataset, found["episode"], "front", found["t"])
        if row["motion"] > 0.2 and row["vis"] > 0.1:
            expected.append((found["episode"], found["t"]))
    got = [(filtered[i]["episode"], filtered[i]["t"]) for i in range(len(filtered))]
    assert got == expected
    assert 0 < len(filtered) < len(everything)
    assert filtered[-1]["t"] == got[-1][1]
    with pytest.raises(IndexError):
        filtered[len(filtered)]


def test_filters_that_cannot_be(dataset):
    with pytest.raises(DatasetError, match="run letterset stats first"):
        WindowDataset(dataset, where="vis > 0")
    path = write_window_stats(dataset)
    with pytest.raises(ConfigError, match="did you mean 'motion'"):
        WindowDataset(dataset, where="motoin > 1")
    with pytest.raises(DatasetError, match="no window matches"):
        WindowDataset(dataset, where="vis > 2")
    with DatasetWriter.create(dataset.path, dataset.meta) as catalog:
        catalog.add(index_line(Sample("c").build(dataset.store)))
    with pytest.raises(DatasetError, match="out of date"):
        WindowDataset(open_dataset(dataset.path), where="vis > 0")
    path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="is damaged"):
        WindowDataset(dataset, where="vis > 0")


def test_any_flipped_byte_of_a_column_is_found(dataset):
    path = write_window_stats(dataset)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        places = {name: (file[name].id.get_offset(), file[name].nbytes) for name in file}
    assert [*COLUMNS, "episode", "start", "view"] == sorted(places, key=[*COLUMNS, *places].index)
    for name, (begin, size) in places.items():
        for at in (begin, begin + size // 2, begin + size - 1):
            flipped = bytearray(whole)
            flipped[at] ^= 0x10
            path.write_bytes(flipped)
            (text,) = map(str, validate(dataset.path))
            assert text.startswith("stats/windows.hdf5: it is damaged"), name
            with pytest.raises(DatasetError, match="run letterset stats again"):
                read_columns(dataset, COLUMNS, VIEWS)


@pytest.mark.parametrize("columns", [None, "motion,zero"])
def test_a_table_of_an_older_letterset_is_out_of_date(dataset, columns):
    with h5py.File(write_window_stats(dataset), "r+") as file:
        del file.attrs["columns"]
        if columns:
            file.attrs["columns"] = columns
    (problem,) = validate(dataset.path)
    assert problem.note
    assert "out of date" in str(problem)


def test_damaged_rows_are_computed_again(dataset):
    first = write_window_stats(dataset).read_bytes()
    episode = dataset["b"]
    rows = dict(episode_rows(episode.reader, IMG_SHAPE))
    keep_rows(dataset.path, "main", episode.meta.digest, rows)
    assert episode.meta.digest in KnownRows(dataset.path)
    path = dataset.path / "stats" / "main.rows"
    text = path.read_text()
    packed = json.loads(text)["rows"]["front"]
    path.write_text(text.replace(packed, "QAAA" + packed[4:]))
    assert episode.meta.digest not in KnownRows(dataset.path)
    assert write_window_stats(dataset, KnownRows(dataset.path)).read_bytes() == first


def test_equal_datasets_give_equal_tables(dataset):
    path = write_window_stats(dataset)
    first = path.read_bytes()
    assert write_window_stats(dataset).read_bytes() == first
    assert not list((dataset.path / "tmp").iterdir())


def test_the_command(dataset, capsys):
    assert main(["stats", str(dataset.path), "--where", "vis > 0.4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["windows"] == 16
    assert 0 < found["matching"] < 16
    assert found["arrays"]["actions"]["count"] == 16
    assert main(["stats", str(dataset.path)]) == 0
    shown = capsys.readouterr().out
    assert "actions: 16 rows\n " in shown
    assert "nothing: 16 rows\n\n" in shown  # it has no columns


def test_statistics_of_arrays(dataset):
    rows = np.concatenate([np.asarray(each.arrays["actions"], np.float64) for each in dataset])
    stats = array_stats(dataset, "actions")
    assert stats.count == len(rows)
    np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.std, rows.std(0), rtol=1e-12)
    assert stats.min == tuple(rows.min(0))
    assert stats.max == tuple(rows.max(0))
    found = quantiles(dataset, "actions", stats)
    exact = np.quantile(rows, QUANTILES, axis=0, method="inverted_cdf")
    assert (np.abs(np.array(found.values) - exact) <= np.array(found.error) + 1e-12).all()
    assert array_stats(dataset, "no such array") is None


def test_a_dimension_that_never_changes(tmp_path):
    made = Sample("a")
    made.arrays[None, "actions"][:, 1] = 3
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [made])
    dataset = open_dataset(tmp_path)
    stats = array_stats(dataset, "actions")
    assert stats.std[1] == 0
    found = quantiles(dataset, "actions", stats)
    assert [row[1] for row in found.values] == [3.0] * len(QUANTILES)
    assert found.error[1] == 0


def test_episodes_must_agree_in_dimensions(tmp_path):
    made = [Sample("a"), Sample("b")]
    made[1].arrays[None, "actions"] = made[1].arrays[None, "actions"][:, :2]
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    with pytest.raises(ConfigError, match="2 dimensions in some episodes and 3 in others"):
        array_stats(open_dataset(tmp_path), "actions")


def test_rows_that_were_not_recorded_do_not_count(tmp_path, capsys):
    made = [Sample("a"), Sample("b", length=5)]
    made[0].arrays[None, "actions"][-1] = np.nan
    made[1].arrays[None, "actions"][:] = np.inf
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    rows = made[0].arrays[None, "actions"][:-1].astype(np.float64)
    stats = array_stats(open_dataset(tmp_path), "actions")
    assert stats.count == len(rows)
    np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-12)
    assert main(["stats", str(tmp_path)]) == 0
    assert f"actions: {len(rows)} rows" in capsys.readouterr().out


@pytest.mark.parametrize("line", [b"[" * 100_000, b"7", b'{"sha256": []}', b"\xff", b'{"a": {}}'])
def test_a_line_of_rows_that_is_none_is_computed_again(dataset, line):
    expected = write_window_stats(dataset).read_bytes()
    (dataset.path / "stats" / "main.rows").write_bytes(line + b"\n")
    assert write_window_stats(dataset, KnownRows(dataset.path)).read_bytes() == expected
