"""Rebuilding the index from the episodes themselves: what verifies is listed, nothing else."""

import contextlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pydantic

from builder.core.errors import DatasetError, NewerFormatError, UnreadableError
from builder.core.messages import count
from builder.core.records import parse_record
from builder.core.result import Result
from builder.core.working import Each, one_by_one
from builder.dataset.array_checks import check_digests
from builder.dataset.folder import load_meta, read_index, store_at
from builder.dataset.layers import layer_names, layer_store
from builder.dataset.locks import all_locks
from builder.dataset.validate import check_episode
from builder.stores.atomic import move_aside
from builder.stores.base import Store
from builder.stores.reading import files_in, readable
from builder.transform.finalize import replace_lines
from schemas.dataset import FailureLine, IndexLine


@dataclass(frozen=True)
class Repair(Result):
    """What a repair did: episodes listed, those dropped and why, temporaries cleared.

    ``unread`` are those that cannot be read now, or that a newer letterset made, with the reason:
    they stay where they are, and listed if they were.  ``changed`` are the ids of those that are
    kept, and verify, but are not what was listed.
    """

    kept: tuple[str, ...]
    dropped: dict[str, str]
    unread: dict[str, str]
    changed: tuple[str, ...]
    cleared: tuple[Path, ...]

    @property
    def wrong(self) -> bool:
        """Whether something was dropped or could not be read."""
        return bool(self.dropped or self.unread)

    def lines(self) -> list[str]:
        """List everything that was not simply kept."""
        edited = "it verifies, but is not what was listed; edited or replaced?"
        return [
            *(f"DROPPED {name}: {why}" for name, why in self.dropped.items()),
            *(f"UNREAD {name}: {why}" for name, why in self.unread.items()),
            *(f"RELISTED {name}: {edited}" for name in self.changed),
            *(f"CLEARED {path}" for path in self.cleared),
        ]

    def summary(self) -> str:
        """Count the episodes."""
        return (
            f"{count(len(self.kept), 'episode')} listed, {len(self.changed)} of them changed, "
            f"{len(self.dropped)} dropped"
        )

    def as_json(self) -> dict[str, Any]:
        """Return all fields as JSON data."""
        return {**super().as_json(), "cleared": [str(path) for path in self.cleared]}


def repair(path: Path | str, *, even_all: bool = False, check_each: Each = one_by_one) -> Repair:
    """Rebuild the index of a dataset; damaged episodes are moved to ``damaged/``.

    Every byte of every episode is verified before one is moved, one episode after another or as
    ``check_each`` does it.  What was moved away is built again by the next build; what was moved
    there before stays.  Damaged parts of layers are moved away as well.

    What cannot be read now (it is locked, its permissions forbid it, the disk fails) is not
    damaged: it stays where it is, and listed.

    Raises DatasetError when the dataset itself cannot be read, and when no episode verifies, since
    then this reader is more suspect than the data; ``even_all`` moves them nevertheless.  Raises
    OutputError when the dataset is being written or cannot be.
    """
    folder = Path(path)
    meta, store = load_meta(folder), store_at(folder)
    with all_locks(folder):
        cleared = store.leftovers(remove=True)
        kept: list[IndexLine] = []
        dropped: dict[str, str] = {}
        unread: dict[str, str] = {}
        listed: Mapping[str, IndexLine] = {}
        try:
            listed = read_index(folder)
        except UnreadableError:
            raise
        except DatasetError:
            pass  # a damaged index is what repair is for
        failures, bad_lines = _failures(folder)
        # An episode behind a link to another disk is found by its name, not by looking around.
        stored = sorted({*store.ids(), *(key for key in listed if _may_be_there(store, key))})
        checks = check_each(partial(check_episode, store, dataset=meta), stored)
        for episode_id, checked in zip(stored, checks, strict=True):
            if why := [problem.message for problem in checked.problems if problem.unread]:
                unread[episode_id] = why[0]
                kept += [listed[episode_id]] if episode_id in listed else []
            elif checked.problems or checked.line is None:
                dropped[episode_id] = "; ".join(map(str, checked.problems))
            else:
                kept.append(checked.line)
        if dropped and not kept and not unread and not even_all:
            raise DatasetError(_all_suspect(path, dropped))
        for episode_id in dropped:
            with contextlib.suppress(DatasetError):  # a name that no episode can have
                store.set_aside(episode_id)
        for episode_id in sorted({*listed} - {*stored}):
            dropped[episode_id] = "it was listed, but there is no such episode"
        if bad_lines:
            dropped |= bad_lines
            replace_lines(folder, "failures", failures)
        for name in layer_names(folder):
            _repair_layer(folder, name, dropped, unread)
        replace_lines(folder, "index", kept)
    changed = (line.id for line in kept if line.digest != listed.get(line.id, line).digest)
    return Repair(tuple(line.id for line in kept), dropped, unread, tuple(changed), tuple(cleared))


def _all_suspect(path: Path | str, dropped: Mapping[str, str]) -> str:
    first, why = next(iter(dropped.items()))
    python = f"Python {platform.python_version()}, pydantic {pydantic.VERSION}"
    return (
        f"{path}: no episode verifies ({len(dropped)} of {len(dropped)} would be moved away), so "
        f"nothing was moved: more likely this reader ({python}, HDF5 {h5py.version.hdf5_version}) "
        f"is at fault than every episode. The first is {first}: {why}. Try another installation "
        "with letterset validate; if they really are damaged, run letterset repair --even-all"
    )


def _may_be_there(store: Store, episode_id: str) -> bool:
    try:
        return store.has(episode_id)
    except UnreadableError:
        return True


def _failures(folder: Path) -> tuple[list[FailureLine], dict[str, str]]:
    """Read the lines of failures; returns the damaged ones by place, with the reason."""
    kept: list[FailureLine] = []
    dropped: dict[str, str] = {}
    for path in files_in(folder / "failures", ".jsonl"):
        with readable(path):
            *lines, _torn = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            where = f"failures/{path.name}, line {number}"
            try:
                kept.append(parse_record(FailureLine, line, "it"))
            except DatasetError as error:
                dropped[where] = f"{error}; its source is tried again by the next build"
    return kept, dropped


def _repair_layer(folder: Path, name: str, dropped: dict[str, str], unread: dict[str, str]) -> None:
    """Move damaged files of a layer to ``damaged/``; they join ``dropped``, with the reason."""
    store = layer_store(folder, name)
    for episode_id in list(store.ids()):
        path = store.path(episode_id)
        where = path.relative_to(folder).as_posix()
        try:
            with contextlib.closing(store.open(episode_id)) as reader:
                problems = reader.problems() or check_digests(reader)
        except (UnreadableError, NewerFormatError) as error:
            unread[where] = str(error)
            continue
        except DatasetError as error:
            problems = [str(error)]
        if problems:
            # Not under the name of an episode, which it is not.
            move_aside(path, folder, f"{where}.damaged")
            dropped[where] = f"{'; '.join(problems)}; make this part of the layer again"
