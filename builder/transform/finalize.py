"""Putting the files of many writers together once all of them are done."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from builder.build.coverage import lacking, undone
from builder.core.errors import DatasetError, OutputError, UnreadableError
from builder.core.messages import count, without_path
from builder.core.paths import is_url, shown_url
from builder.core.records import stored_form
from builder.core.result import Result
from builder.dataset.far_output import far_output
from builder.dataset.folder import (
    index_line,
    load_meta,
    read_failures,
    read_index,
    store_at,
)
from builder.dataset.index import read_file, writer_name
from builder.dataset.locks import all_locks
from builder.dataset.window_table import update_window_stats
from builder.stores.atomic import output_errors, publish_text
from builder.stores.base import STORES, Store
from builder.stores.far import FarStore, cure
from builder.stores.inside import entry
from schemas.dataset import FailureLine, IndexLine


@dataclass(frozen=True)
class Finalized(Result):
    """What is in a finalized dataset: episodes, failures by path, and what is not right."""

    episodes: int
    frames: int
    writers: tuple[str, ...]
    failures: dict[str, str]
    problems: tuple[str, ...]

    @property
    def wrong(self) -> bool:
        """Whether a source failed or something is not right."""
        return bool(self.failures or self.problems)

    def lines(self) -> list[str]:
        """List what is not right, then the sources that failed; reasons begin with the stage."""
        failed = [f"FAILED {path} {reason}" for path, reason in self.failures.items()]
        return [*(f"PROBLEM {problem}" for problem in self.problems), *failed]

    def summary(self) -> str:
        """Count what is in the dataset."""
        return (
            f"{count(self.episodes, 'episode')}, {count(self.frames, 'frame')} of "
            f"{count(len(self.writers), 'writer')}; {len(self.failures)} failed, "
            f"{count(len(self.problems), 'problem')}"
        )


def finalize(path: Path | str) -> Finalized:
    """Merge the index and the failures of all writers into one sorted file each, and check them.

    Every listed episode must be there, and writers must not contradict each other; episodes
    that a killed run did not get to list are listed.  Writers that stopped with work left, and
    shards that never came, are problems: see ``builder.build.coverage``.  Bytes are not verified:
    ``validate`` does.  Finalizing again changes nothing.  Raises DatasetError when the dataset
    cannot be read and OutputError while a writer is at work; one that builds to a URL may be.
    """
    if not is_url(path):
        load_meta(path)
        return _finalize(Path(path), store_at(Path(path)))
    url = shown_url(path)
    with far_output(url) as far:
        load_meta(far.folder)
        if far.remote.has_folder("episodes.zarr"):
            raise DatasetError(f"{url} keeps its episodes in Zarr: copy it here to finalize it")
        found = _finalize(far.folder, FarStore(url, STORES.load("hdf5")))
        if left := far.push():
            raise OutputError(
                f"{url}/{left[0]} was written by another finalize just now: run this again"
            )
        far.delete_gone()  # only now that what they list is in the files that were put there
    return found


def _finalize(folder: Path, store: Store | FarStore) -> Finalized:
    with all_locks(folder):
        store.leftovers(remove=True)
        files = sorted((folder / "index").glob("*.jsonl"))
        writers = tuple(dict.fromkeys(writer_name(path.stem) for path in files))
        problems = list(_contradictions(folder))
        listed, stored = dict(read_index(folder)), set(store.ids())
        for episode_id in sorted(stored - listed.keys()):
            try:
                with closing(store.open(episode_id)) as reader:
                    listed[episode_id] = index_line(reader.meta)
            except UnreadableError as error:
                problems.append(str(error))
            except DatasetError as error:
                problems.append(f"{error}; {cure(store)}")
        again = "build again" if isinstance(store, FarStore) else "run letterset repair"
        problems += [
            f"{episode_id} is listed, but there is no such episode; {again}"
            for episode_id in sorted(listed.keys() - stored)
            if not store.has(episode_id)  # one behind a link is found by its name alone
        ]
        failures = read_failures(folder)
        replace_lines(folder, "index", [listed[key] for key in sorted(listed)])
        replace_lines(folder, "failures", failures.values())
        if not problems and not isinstance(store, FarStore):
            update_window_stats(folder, problems.append)
        if not_done := undone(folder):
            missing = lacking(folder, len(listed) + len(failures))
            problems += not_done
            problems += [f"{count(missing, 'episode')} of the source not built"] * bool(missing)
    return Finalized(
        episodes=len(listed),
        frames=sum(line.frames for line in listed.values()),
        writers=writers,
        failures={
            line.path: f"({line.stage}): {without_path(line.reason, line.path)}"
            for line in failures.values()
        },
        problems=tuple(problems),
    )


def _contradictions(folder: Path) -> Iterator[str]:
    """Name the episodes that two writers list with different content."""
    seen: dict[str, tuple[str, str]] = {}
    for path in sorted((folder / "index").glob("*.jsonl")):
        latest = {line.id: line.digest for line in read_file(path, IndexLine)}
        for episode_id, digest in latest.items():
            first, writer = seen.setdefault(episode_id, (digest, path.stem))
            if writer_name(writer) == writer_name(path.stem):
                seen[episode_id] = digest, path.stem  # a later run built it again
            elif digest != first:
                yield (
                    f"{episode_id}: {writer} and {path.stem} list it with different content; "
                    "run letterset repair"
                )


def replace_lines(
    folder: Path, kind: str, lines: Iterable[IndexLine] | Iterable[FailureLine]
) -> None:
    """Make ``lines`` all there is in ``index`` or ``failures``; killed halfway loses none."""
    main = folder / kind / "main.jsonl"
    text = "".join(stored_form(line) + "\n" for line in lines)
    if not (text or main.parent.exists()):
        return
    publish_text(folder, main, text, replace=True)
    with output_errors(main):
        for other in main.parent.glob("*.jsonl"):
            if other != main:
                with entry(other, folder) as listed:
                    listed.unlink()
