"""Resuming a build: which episodes are finished, and whether their sources have changed since."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Literal
from urllib.parse import unquote_to_bytes

from builder.core import messages as wording
from builder.core.errors import ConfigError, DatasetError
from builder.dataset.folder import (
    META_NAME,
    DatasetWriter,
    all_locks,
    differences,
    index_line,
    load_meta,
    store_at,
)
from builder.inputs.fingerprint import fingerprint
from builder.inputs.listing import locate
from builder.sources.base import EpisodeRef, Source
from builder.stores.atomic import fsync_folder, make_folders, output_errors
from builder.stores.base import Store
from schemas.dataset import DatasetMeta, EpisodeMeta, Fingerprint, IndexLine

Changed = Literal["refuse", "overwrite", "append"]
"""What becomes of finished episodes whose source or settings changed since."""

# What belongs to the episodes, and goes where they go: not the locks, which are held meanwhile.
_MOVED = ("index/*.jsonl", "failures/*.jsonl", "episodes", "episodes.zarr", "layers", "stats")


@dataclass
class Finished:
    """Which of the episodes that a build wants are finished, and in what state they are."""

    done: dict[str, IndexLine] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    """By id: what changed about the source since, in words."""
    relisted: list[IndexLine] = field(default_factory=list)
    """Episodes that were replaced by a run that was killed before it could list them."""
    damaged: dict[str, str] = field(default_factory=dict)


def find_finished(
    store: Store,
    index: Mapping[str, IndexLine],
    refs: Iterable[EpisodeRef],
    root: Path,
    files_of: Callable[[EpisodeRef], list[Path] | None] = lambda ref: None,
) -> Finished:
    """Compare each listed episode of ``refs`` with the files it was built from.

    ``root`` is the source's path.  Sizes are compared; only a file that was touched, or put where
    it is, after the episode was written is read, its first and last MiB.  An episode is not even
    opened when ``files_of`` tells its files and all of them are older.  A listed episode that is
    not there is left out, so that it is built again.
    """
    found = Finished()
    for ref in refs:
        line = index.get(ref.id)
        if line is None or not store.has(ref.id):
            continue
        found.done[ref.id] = line
        if _all_older(files_of(ref), store.path(ref.id)):
            continue
        try:
            with closing(store.open(ref.id)) as reader:
                meta, written = reader.meta, reader.path.stat().st_mtime_ns
        except DatasetError as error:
            found.damaged[ref.id] = str(error)
            continue
        if meta.digest != line.digest:
            found.relisted.append(index_line(meta))
        if change := source_change(meta, root, written):
            found.changed[ref.id] = change
    return found


def source_change(meta: EpisodeMeta, root: Path, written: int = 0) -> str | None:
    """Say how the files below ``root`` differ from those an episode was built from, if they do.

    Content is compared where a file was touched after ``written``, in nanoseconds.
    """
    for name, mark in meta.source.files.items():
        if what := _change(locate(root, os.fsdecode(unquote_to_bytes(name))), mark, written):
            return f"{name} {what}"
    return None


def _all_older(files: list[Path] | None, episode: Path) -> bool:
    """Tell whether files are known and none of them was touched since the episode was written."""
    if not files:
        return False
    try:
        written = episode.stat().st_mtime_ns
        return all(_touched(status) < written for status in map(os.stat, files))
    except OSError:
        return False


def _touched(status: os.stat_result) -> int:
    """Return when a file was last written or, which keeps the time of its content, moved here."""
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _change(path: Path, mark: Fingerprint, written: int) -> str | None:
    """Say how a file differs from its fingerprint; None when it does not."""
    try:
        status = path.stat()
        if status.st_size != mark.size:
            return f"had {mark.size} bytes and now has {status.st_size}"
        # Reading every file would cost more than a whole resume should.
        if _touched(status) >= written and fingerprint(path) != mark:
            return "now has other content"
    except OSError as error:
        return f"can no longer be read ({error.strerror})"
    return None


def settle(
    catalog: DatasetWriter,
    store: Store,
    refs: Iterable[EpisodeRef],
    source: Source,
    root: Path,
    changed: Changed,
    on_notice: Callable[[str], None],
) -> tuple[dict[str, IndexLine], set[str]]:
    """Return the episodes that are done, and the ids among them that are to be built again.

    Where there are such, :func:`replacing` is there from now on.
    Raises ConfigError listing the sources that changed, unless ``changed`` says what to do, and
    when the dataset keeps its episodes in another kind of store.
    """
    there = store_at(catalog.folder).place
    if there != store.place and (catalog.folder / there).is_dir():
        raise ConfigError(
            f"{catalog.folder} keeps its episodes in {there}, and they are to be written to "
            f"{store.place}: use the same store.kind, or letterset convert afterwards"
        )
    # After a run that replaced episodes and was killed, the index may be behind the episodes.
    behind = replacing(catalog.folder).exists()
    files = (lambda ref: None) if behind else source.files
    found = find_finished(store, catalog.index(), refs, root, files)
    for line in found.relisted:
        catalog.add(line)
    for why in found.damaged.values():
        on_notice(f"{why}; run letterset repair")
    if not found.changed or changed == "append":
        return found.done, set()
    episodes = wording.count(len(found.changed), "episode")
    if changed == "refuse":
        more = "; ..." if len(found.changed) > 5 else ""
        raise ConfigError(
            f"{episodes} there, built from files that changed since: "
            f"{'; '.join(islice(found.changed.values(), 5))}{more}. Build them again with "
            "--overwrite, or keep them as they are and build only what is new with --append"
        )
    writers = {path.stem for path in (catalog.folder / "index").glob("*.jsonl")}
    if {catalog.writer, *writers} != {"main"}:
        raise ConfigError(
            f"{episodes} must be built again, but several "
            "shards list what is there: run letterset finalize, then --overwrite without --shard"
        )
    with output_errors(replacing(catalog.folder)):
        replacing(catalog.folder).touch()
    return found.done, {*found.changed}


def replacing(folder: Path) -> Path:
    """Return the file that is there while a run replaces episodes."""
    return folder / "index" / "main.replacing"


def replace_dataset(folder: Path, wanted: DatasetMeta) -> Path | None:
    """Move a dataset of other settings to ``replaced/<n>/``, where it can still be opened.

    Returns where it is now; None when there was none or its settings are the same.  Called again
    after an interruption, it continues.  Raises OutputError while it is being written.
    """
    if not (folder / META_NAME).exists() or not differences(load_meta(folder), wanted):
        return None
    places = (folder / "replaced" / str(number) for number in count(1))
    target = next(place for place in places if not (place / META_NAME).exists())
    with all_locks(folder), output_errors(target):
        # dataset.json last: until then the move is not finished.
        for path in [*chain.from_iterable(map(folder.glob, _MOVED)), folder / META_NAME]:
            final = target / path.relative_to(folder)
            make_folders(final.parent)
            os.rename(path, final)
            fsync_folder(final.parent)
        fsync_folder(folder)
    return target
