"""Links in a dataset lead nothing that is written out of it; the dataset itself may be a link."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from builder.build.run_log import RunLog
from builder.core.errors import LettersetError, OutputError
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.index import keep_failures
from builder.dataset.layers import LayerWriter
from builder.dataset.opening import open_dataset
from builder.dataset.splits import Splits, write_splits
from builder.dataset.validate import validate
from builder.dataset.window_table import episode_rows, keep_rows, write_window_stats
from builder.stores.atomic import leftovers, stage
from builder.stores.inside import entry
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset, sample_meta
from builder.transform.finalize import finalize
from builder.transform.repair import repair
from schemas.dataset import FailureLine

pytestmark = pytest.mark.core

FAILURE = FailureLine(id="c", path="c.mp4", stage="open", reason="none")

# What a dataset's writers make, as links: folders, and files (here with a dot in their names).
PLACES = [
    "tmp",
    "index",
    "index/main.lock",
    "index/main.jsonl",
    "failures",
    "failures/main.jsonl",
    "stats",
    "stats/main.rows",
    "runs",
    "splits",
    "episodes",
    "episodes/a",
    "layers",
    "layers/emb",
    "layers/emb/index",
    "layers/emb/index/main.lock",
    "damaged",
]


def add_an_episode(dataset: Path) -> None:
    with DatasetWriter.create(dataset, sample_meta()) as catalog:
        catalog.fail(FAILURE)
        catalog.add(index_line(Sample("a/2", seed=2).build(Hdf5Store(dataset))))


def keep_its_rows(dataset: Path) -> None:
    opened = open_dataset(dataset)
    rows = episode_rows(opened["b"].reader, opened.meta.img_shape)
    keep_rows(dataset, "main", opened.index["b"].digest, rows)


def add_a_layer(dataset: Path) -> None:
    with LayerWriter(dataset, "emb") as layer:
        layer.write(open_dataset(dataset)["b"].meta, {None: {"emb": np.zeros(3, "<f4")}}, False)


def log_a_run(dataset: Path) -> None:
    with RunLog(dataset, "main") as log:
        log.start(todo=1)
        log.summarize({})


WRITERS = [
    add_an_episode,
    keep_its_rows,
    lambda dataset: write_window_stats(open_dataset(dataset)),
    lambda dataset: write_splits(dataset, "own", Splits(splits={"train": ("b",)})),
    add_a_layer,
    log_a_run,
    lambda dataset: keep_failures(dataset, "main", ()),
    finalize,
    lambda dataset: leftovers(dataset / "tmp", remove=True),
    repair,
]


@pytest.fixture
def dataset(tmp_path):
    sample_dataset(tmp_path / "out", Hdf5Store(tmp_path / "out"), [Sample("a/1"), Sample("b")])
    with DatasetWriter.create(tmp_path / "out", sample_meta()) as catalog:
        catalog.fail(FAILURE)
    keep_its_rows(tmp_path / "out")
    return tmp_path / "out"


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def lead_outside(dataset: Path, place: str) -> Path:
    """Put a link in the place, to a folder or file elsewhere that holds what is there."""
    outside, path = dataset.parent / "outside", dataset / place
    outside.mkdir()
    target = outside / path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        shutil.move(path, target)
    elif "." in path.name:
        target.write_text("somebody's")
    else:
        target.mkdir()
    if target.is_dir():
        with stage(dataset.parent / "other" / "tmp", ".h5") as staged:
            name = staged.path.name  # what a cleaner would delete
        (target / name).write_text("somebody's")
    path.symlink_to(target)
    return outside


@pytest.mark.parametrize("place", PLACES)
def test_nothing_outside_is_changed_through_a_link(dataset, place):
    outside = lead_outside(dataset, place)
    refused = []
    for write in WRITERS:
        if write is repair:
            os.truncate(Hdf5Store(dataset).path("a/1"), 100)  # so that it has what to move
        before = content(outside)
        try:
            write(dataset)
        except LettersetError as error:
            refused.append(error)
        assert content(outside) == before
    assert [type(error) for error in refused if "is a link: inside a dataset" in str(error)]
    assert all(isinstance(error, OutputError) for error in refused if "is a link" in str(error))


def test_a_dangling_link_is_refused_as_well(dataset):
    (dataset / "index" / "main.lock").unlink()
    (dataset / "index" / "main.lock").symlink_to(dataset.parent / "nothing")
    with pytest.raises(OutputError, match=r"main\.lock is a link: inside a dataset"):
        add_an_episode(dataset)
    assert not (dataset.parent / "nothing").exists()


def test_a_pipe_in_place_of_a_lock_never_blocks(dataset):
    (dataset / "index" / "other.lock").unlink(missing_ok=True)
    os.mkfifo(dataset / "index" / "other.lock")
    add_an_episode(dataset)
    assert len(open_dataset(dataset)) == 3
    with pytest.raises(OutputError, match=r"other\.lock"):
        finalize(dataset)


def test_a_dataset_that_is_a_link_is_written_as_ever(dataset):
    place = dataset.parent / "link"
    place.symlink_to(dataset)
    for write in WRITERS:
        write(place)
    assert [problem for problem in validate(place) if not problem.note] == []
    assert len(open_dataset(dataset)) == 3


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(dataset, monkeypatch):
    """What is checked and what is used are the same: an open handle, not a name."""
    outside = dataset.parent / "outside"
    outside.mkdir()
    with entry(dataset / "stats" / "main.rows", dataset) as place:
        (dataset / "stats").rename(dataset / "old")
        (dataset / "stats").symlink_to(outside)
        os.close(place.with_name("new.rows").open(os.O_WRONLY | os.O_CREAT))
    assert not any(outside.iterdir())
    assert (dataset / "old" / "new.rows").exists()
