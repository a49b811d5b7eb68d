"""The dataset folder: created once, continued, locked, listed; torn files and repair."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import h5py
import pytest

from builder.cli import main
from builder.core.errors import ConfigError, DatasetError, NewerFormatError, OutputError
from builder.core.records import record_data
from builder.dataset.folder import (
    DatasetWriter,
    check_writable,
    differences,
    index_line,
    load_meta,
    pretty_json,
    read_failures,
    read_index,
)
from builder.dataset.splits import read_splits
from builder.dataset.validate import validate
from builder.stores.atomic import leftovers, stage
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset, sample_meta
from builder.transform.repair import repair
from schemas.base import canonical_json, json_sha256
from schemas.dataset import FailureLine, IndexLine, QuerySpec


def line(episode_id: str, digest: str = "0" * 64) -> IndexLine:
    return IndexLine(id=episode_id, length=7, views=("front",), digest=digest)


def failure(episode_id: str, reason: str = "cut") -> FailureLine:
    return FailureLine(id=episode_id, path=f"{episode_id}.mp4", stage="decode", reason=reason)


def test_create_then_continue(tmp_path):
    folder = tmp_path / "new" / "dataset"
    with DatasetWriter.create(folder, sample_meta()) as catalog:
        assert catalog.meta == sample_meta()
        assert catalog.index() == {}
        assert catalog.failures() == {}
    text = (folder / "dataset.json").read_text()
    assert text == pretty_json(record_data(sample_meta()))
    with DatasetWriter.create(folder, sample_meta(created_with="9.9")) as catalog:
        assert catalog.meta.created_with == "0"
    assert (folder / "dataset.json").read_text() == text
    assert list((folder / "tmp").iterdir()) == []


def test_other_settings_are_refused_with_the_difference(tmp_path):
    DatasetWriter.create(tmp_path, sample_meta()).close()
    other = sample_meta(
        horizon=8, queries=QuerySpec(grid=(5, 3)), config={"source": {"kind": "video", "step": 2}}
    )
    with pytest.raises(ConfigError) as caught:
        DatasetWriter.create(tmp_path, other)
    text = str(caught.value)
    for part in (
        "dataset.json was made with other settings",
        "horizon is 4 there and 8 now",
        "queries.grid is [2, 3] there and [5, 3] now",
        'source.kind is "sample" there and "video" now',
        "source.step is not set there and 2 now",
    ):
        assert part in text
    assert "digest" not in text
    assert "config" not in text  # a config's own words, as it is written
    assert load_meta(tmp_path) == sample_meta()
    # The refusal let go of the lock.
    DatasetWriter.create(tmp_path, sample_meta()).close()


def test_a_setting_that_is_kept_twice_is_told_once():
    metas = [
        sample_meta(img_shape=shape, config={"img_shape": list(shape)})
        for shape in ((24, 40), (32, 40))
    ]
    assert differences(*metas) == ["img_shape is [24, 40] there and [32, 40] now"]


def test_index_and_failures(tmp_path):
    with DatasetWriter.create(tmp_path, sample_meta()) as catalog:
        catalog.add(line("b"))
        catalog.fail(failure("c", "first"))
        catalog.fail(failure("c", "second"))
        catalog.fail(failure("a"))
        catalog.add(line("a"))
        assert list(catalog.index()) == ["a", "b"]
        assert catalog.failures() == {"c": failure("c", "second")}
        catalog.add(line("b", "1" * 64))
        assert catalog.index()["b"].digest == "1" * 64


def test_writers_are_merged_and_locked_apart(tmp_path):
    with (
        DatasetWriter.create(tmp_path, sample_meta(), writer="0-of-2") as first,
        DatasetWriter.create(tmp_path, sample_meta(), writer="1-of-2") as second,
    ):
        first.add(line("b"))
        second.add(line("a"))
        second.fail(failure("b"))
        assert list(first.index()) == list(second.index()) == ["a", "b"]
        assert first.failures() == {}
        with pytest.raises(OutputError, match=rf"process {os.getpid()} on .*: wait"):
            DatasetWriter.create(tmp_path, sample_meta(), writer="0-of-2")
    DatasetWriter.create(tmp_path, sample_meta(), writer="0-of-2").close()


@pytest.mark.parametrize("writer", ["", "../x", "a/b"])
def test_writer_names_stay_in_the_folder(tmp_path, writer):
    with pytest.raises(ValueError, match=r"characters|pattern"):
        DatasetWriter.create(tmp_path, sample_meta(), writer=writer)


def test_a_torn_last_line_is_ignored_and_replaced(tmp_path):
    path = tmp_path / "index" / "main.jsonl"
    with DatasetWriter.create(tmp_path, sample_meta()) as catalog:
        catalog.add(line("a"))
        for torn in (b'{"id":"b","len', b"x" * 10_000):
            with path.open("ab") as file:
                file.write(torn)
            assert list(catalog.index()) == ["a"]
        catalog.add(line("b"))
        assert list(catalog.index()) == ["a", "b"]
    assert b"x" not in path.read_bytes()


def test_a_damaged_line_is_named(tmp_path):
    DatasetWriter.create(tmp_path, sample_meta()).close()
    path = tmp_path / "index" / "main.jsonl"
    path.write_text('{"id":"a"}\n')
    with pytest.raises(DatasetError, match=r"main\.jsonl, line 1 is damaged: length: .*required"):
        read_index(tmp_path)
    path.write_text("{]\n")
    with pytest.raises(DatasetError, match=r"main\.jsonl, line 1 is damaged: expected the JSON"):
        read_index(tmp_path)


def test_reasons_with_odd_bytes_can_be_read_back(tmp_path):
    with DatasetWriter.create(tmp_path, sample_meta()) as catalog:
        catalog.fail(failure("a", "no such file: caf\udce9.mp4"))
    assert read_failures(tmp_path)["a"].reason == r"no such file: caf\udce9.mp4"


# dataset.json


def test_no_dataset(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(DatasetError, match=r"is no letterset dataset: it has no dataset\.json"):
            load_meta(place)
    assert read_index(tmp_path) == {}


def test_a_damaged_dataset_json_is_named(tmp_path):
    path = tmp_path / "dataset.json"
    for text in (
        "",
        "[1]",
        "{",
        pretty_json(record_data(sample_meta())).replace('"horizon": 4', '"horizon": 5'),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"dataset\.json is damaged"):
            load_meta(tmp_path)


def test_a_newer_dataset_says_what_to_do(tmp_path):
    data = {**record_data(sample_meta()), "format_version": 2, "new_field": 1}
    data["digest"] = json_sha256({key: value for key, value in data.items() if key != "digest"})
    (tmp_path / "dataset.json").write_text(json.dumps(data))
    with pytest.raises(
        NewerFormatError, match=r"newer letterset \(format version 2.*pip install -U"
    ):
        load_meta(tmp_path)


def test_unwritable_places_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file.*: Not a directory"):
        check_writable(tmp_path / "file" / "out")
    check_writable(tmp_path / "out")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


# Temporaries


STAGE = """
import os, signal, sys
from pathlib import Path
from builder.stores.atomic import stage
staged = stage(Path(sys.argv[1]), ".h5")
print(staged.path, flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_dead_runs_only(tmp_path):
    folder = tmp_path / "tmp"
    mine = stage(folder, ".h5")
    child = subprocess.Popen(
        [sys.executable, "-c", STAGE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs = child.stdout.readline().strip()
    (folder / "notes.txt").touch()
    os.symlink("notes.txt", folder / "host-1-0123456789ab.h5")
    assert leftovers(folder, remove=True) == []
    child.communicate("x")
    assert [str(path) for path in leftovers(folder)] == [theirs]
    assert [str(path) for path in leftovers(folder, remove=True)] == [theirs]
    assert leftovers(folder) == []
    assert mine.path.exists()
    mine.discard()
    assert sorted(path.name for path in folder.iterdir()) == [
        "host-1-0123456789ab.h5",
        "notes.txt",
    ]


def test_leftovers_of_other_machines_get_a_day(tmp_path):
    path = tmp_path / "elsewhere-7-0123456789ab.h5"
    path.touch()
    assert leftovers(tmp_path, remove=True) == []
    os.utime(path, (0, 0))
    assert leftovers(tmp_path, remove=True) == [path]


def test_creating_clears_leftovers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STAGE, str(tmp_path / "tmp")], input="x", text=True, check=False
    )
    assert done.returncode < 0
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    DatasetWriter.create(tmp_path, sample_meta()).close()
    assert list((tmp_path / "tmp").iterdir()) == []


# Repair


@pytest.fixture
def dataset(tmp_path):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample(name, seed=7) for name in "abc"])
    return tmp_path


def test_repair_of_a_good_dataset_changes_nothing_that_matters(dataset):
    before = read_index(dataset)
    done = repair(dataset)
    assert (done.kept, done.dropped, done.cleared) == (("a", "b", "c"), {}, ())
    assert read_index(dataset) == before
    assert validate(dataset) == []


def test_repair_lists_what_verifies_and_moves_away_what_does_not(dataset):
    store = Hdf5Store(dataset)
    data = bytearray(store.path("b").read_bytes())
    data[3000] ^= 1
    store.path("b").write_bytes(data)
    store.path("c").unlink()
    found = Sample("new").build(store)
    (dataset / "index" / "main.jsonl").write_text("nonsense\n")
    with DatasetWriter.create(dataset, sample_meta(), writer="other") as other:
        other.add(line("c"))
        with pytest.raises(OutputError, match="being written"):
            repair(dataset)
    (dataset / "index" / "main.jsonl").unlink()

    done = repair(dataset)
    assert done.kept == ("a", "new")
    assert set(done.dropped) == {"b", "c"}
    assert "bytes changed" in done.dropped["b"]
    assert "no such episode" in done.dropped["c"]
    assert (dataset / "damaged" / "b.hdf5").read_bytes() == data
    assert list(read_index(dataset)) == ["a", "new"]
    assert read_index(dataset)["new"] == index_line(found)
    assert [path.name for path in (dataset / "index").glob("*.jsonl")] == ["main.jsonl"]
    assert validate(dataset) == []


def test_repair_moves_nothing_when_no_episode_verifies(dataset, monkeypatch):
    """A reader that cannot read any episode is suspect, not the data."""
    for name in "abc":
        path = Hdf5Store(dataset).path(name)
        path.write_bytes(path.read_bytes().replace(b'"format_version":1', b'"format_version":x'))
    before = sorted(path.name for path in dataset.rglob("*.hdf5"))
    with pytest.raises(DatasetError, match=r"no episode verifies \(3 of 3 .*--even-all") as caught:
        repair(dataset)
    assert platform.python_version() in str(caught.value)
    assert sorted(path.name for path in dataset.rglob("*.hdf5")) == before
    assert set(repair(dataset, even_all=True).dropped) == {"a", "b", "c"}
    assert len(list((dataset / "damaged").glob("*.hdf5"))) == 3


def test_repair_leaves_episodes_of_a_later_release_where_they_are(dataset):
    """Each has one more optional field than is known here; one of them was never listed."""
    store = Hdf5Store(dataset)
    for name in "bc":
        with h5py.File(store.path(name), "r+") as file:
            data = json.loads(file.attrs["metadata"])
            data["views"][0]["lens"] = {"focal_px": 320.0}
            data["digest"] = json_sha256({k: v for k, v in data.items() if k != "digest"})
            file.attrs["metadata"] = canonical_json(data)
    problems = {problem.episode: str(problem) for problem in validate(dataset)}
    assert set(problems) == {"b", "c"}
    assert "newer letterset (with views.0.lens): upgrade" in problems["b"]
    lines = (dataset / "index" / "main.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"id":"c"' not in line]
    (dataset / "index" / "main.jsonl").write_text("\n".join(kept) + "\n")
    done = repair(dataset)
    assert (done.kept, done.dropped, set(done.unread)) == (("a", "b"), {}, {"b", "c"})
    assert list(read_index(dataset)) == ["a", "b"]
    assert main(["repair", str(dataset)]) == 1
    assert not (dataset / "damaged").exists()


def test_repair_reads_past_a_damaged_index(dataset):
    (dataset / "index" / "main.jsonl").write_text("nonsense\n")
    assert repair(dataset).kept == ("a", "b", "c")
    assert validate(dataset) == []


@pytest.mark.parametrize("name", ["dataset.json", "index/main.jsonl", "episodes", "splits/a.json"])
def test_a_fifo_in_a_dataset_is_told_and_nobody_waits(tmp_path, name):
    """Opening a FIFO that nobody writes to waits for ever."""
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a", seed=7)])
    (tmp_path / "splits").mkdir(exist_ok=True)
    path = next(tmp_path.rglob("*.hdf5")) if name == "episodes" else tmp_path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name == "splits/a.json":
        with pytest.raises(DatasetError, match="is no regular file"):
            read_splits(tmp_path, "a")
        return
    said = [problem.message for problem in validate(tmp_path)]
    assert any(f"{path} is no regular file" in message for message in said), said
