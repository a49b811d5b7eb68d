"""Resuming a build: which episodes are finished, and whether their sources have changed since."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Literal
from urllib.parse import unquote_to_bytes

from builder.core import messages as wording
from builder.core.errors import ConfigError, DatasetError, SourceError, UnreadableError
from builder.core.paths import is_url, printable_path, shown_url
from builder.dataset.folder import (
    META_NAME,
    DatasetWriter,
    differences,
    index_line,
    load_meta,
    read_index,
    store_at,
)
from builder.dataset.index import writer_name
from builder.dataset.locks import all_locks
from builder.inputs.fingerprint import known_fingerprint
from builder.inputs.listing import locate
from builder.sources.base import EpisodeRef
from builder.sources.far import far_files, far_fingerprints
from builder.stores.atomic import output_errors
from builder.stores.base import Store
from builder.stores.far import FarStore, cure
from builder.stores.inside import entry
from builder.stores.remote_folder import RemoteFolder
from schemas.dataset import DatasetMeta, EpisodeMeta, Fingerprint, IndexLine

Changed = Literal["refuse", "overwrite", "append"]
"""What becomes of finished episodes whose source or settings changed since."""

_READ_AT_ONCE = 32  # episodes at a URL

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
    """Episodes that are damaged, or cannot be read now: they are left as they are."""


def find_finished(
    store: Store, index: Mapping[str, IndexLine], refs: Iterable[EpisodeRef], root: Path | str
) -> Finished:
    """Compare each listed episode of ``refs`` with the files it was built from.

    ``root`` is the source's path or URL.  Sizes are compared, and the first and the last MiB: never
    times, which clocks that differ, or a tool that sets them, make worthless.  A listed episode
    that is not there is left out, so that it is built again.
    """
    found, far = Finished(), dict[str, Mapping[str, Fingerprint]]()
    if isinstance(store, FarStore):
        for _ in store.ids():  # one listing, in place of a request for each
            break
    found.done = {ref.id: index[ref.id] for ref in refs if ref.id in index and store.has(ref.id)}
    for (episode_id, line), meta in zip(
        found.done.items(), _metas(store, [*found.done]), strict=True
    ):
        if isinstance(meta, str):
            found.damaged[episode_id] = meta
            continue
        if meta.digest != line.digest:
            found.relisted.append(index_line(meta))
        if isinstance(root, str) and is_url(root):
            far[episode_id] = meta.source.files
        elif change := source_change(meta, Path(root)):
            found.changed[episode_id] = change
    found.changed |= far_changes(str(root), far) if far else {}
    return found


def _metas(store: Store, ids: Sequence[str]) -> Iterator[EpisodeMeta | str]:
    """Read the metadata of episodes, in order; where that cannot be, say why."""

    def read(episode_id: str) -> EpisodeMeta | str:
        try:
            with closing(store.open(episode_id)) as reader:
                return reader.meta
        except UnreadableError as error:
            return str(error)
        except DatasetError as error:
            return f"{error}; {cure(store)}"

    if not isinstance(store, FarStore):
        yield from map(read, ids)
        return
    store.remote.connect()  # once, not in each thread
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        for at in range(0, len(ids), _READ_AT_ONCE):
            yield from pool.map(read, ids[at : at + _READ_AT_ONCE])


def source_change(meta: EpisodeMeta, root: Path) -> str | None:
    """Say how the files below ``root`` differ from those an episode was built from, if they do.

    Raises SourceError for a URL.
    """
    if is_url(root):
        raise SourceError(
            f"{shown_url(root)}: an episode is compared with a local source only; copy it to a "
            "local disk and give --source"
        )
    for name, mark in meta.source.files.items():
        if what := _change(locate(root, os.fsdecode(unquote_to_bytes(name))), mark):
            return f"{name} {what}"
    return None


def _change(path: Path, mark: Fingerprint) -> str | None:
    """Say how a file differs from its fingerprint; None when it does not."""
    try:
        found = known_fingerprint(path)
    except OSError as error:
        return f"can no longer be read ({error.strerror})"
    return _difference(found, mark)


def _difference(found: Fingerprint, mark: Fingerprint) -> str | None:
    if found.size != mark.size:
        return f"had {mark.size} bytes and now has {found.size}"
    return None if found == mark else "now has other content"


def far_changes(url: str, episodes: Mapping[str, Mapping[str, Fingerprint]]) -> dict[str, str]:
    """Say by id how the files of episodes, by name, differ from those at a URL, where they do.

    Raises SourceError when it cannot be read.
    """
    remote = RemoteFolder(url)
    there = {printable_path(file.relative): file for file in far_files(remote)}
    marks = {name: mark for files in episodes.values() for name, mark in files.items()}
    same_size = [
        there[name]
        for name, mark in marks.items()
        if name in there and there[name].size == mark.size
    ]
    changes: dict[str, str] = {}
    for name, mark in marks.items():
        if name not in there:
            changes[name] = f"{name} is no longer there"
        elif what := _difference(Fingerprint(size=there[name].size, sha256=mark.sha256), mark):
            changes[name] = f"{name} {what}"
    for file, found in far_fingerprints(remote, same_size):
        name = printable_path(file.relative)
        if what := _difference(found, marks[name]):
            changes[name] = f"{name} {what}"
    first = {
        key: next((name for name in files if name in changes), "")
        for key, files in episodes.items()
    }
    return {key: changes[name] for key, name in first.items() if name}


def settle(
    catalog: DatasetWriter,
    store: Store,
    refs: Iterable[EpisodeRef],
    root: str,
    changed: Changed,
    on_notice: Callable[[str], None],
) -> tuple[dict[str, IndexLine], set[str]]:
    """Return the episodes that are done, and the ids among them that are to be built again.

    Raises ConfigError listing the sources that changed, unless ``changed`` says what to do, and
    when the dataset keeps its episodes in another kind of store.
    """
    there = store_at(catalog.folder).place
    if isinstance(store, FarStore) and store.remote.has_folder("episodes.zarr"):
        raise ConfigError(
            f"{catalog.folder} keeps its episodes in Zarr, of which no object store takes one in "
            "one step: build into another URL"
        )
    if there != store.place and (catalog.folder / there).is_dir():
        raise ConfigError(
            f"{catalog.folder} keeps its episodes in {there}, and they are to be written to "
            f"{store.place}: use the same store.kind, or letterset convert afterwards"
        )
    found = find_finished(store, catalog.index(), refs, root)
    for line in found.relisted:
        catalog.add(line)
    for why in found.damaged.values():
        on_notice(why)
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
    writers = {writer_name(path.stem) for path in (catalog.folder / "index").glob("*.jsonl")}
    if {writer_name(catalog.writer), *writers} != {"main"}:
        raise ConfigError(
            f"{episodes} must be built again, but several "
            "shards list what is there: run letterset finalize, then --overwrite without --shard"
        )
    return found.done, {*found.changed}


def is_empty(folder: Path) -> bool:
    """Tell whether a dataset has no episode yet, so that its settings may still change."""
    if not (folder / META_NAME).exists() or read_index(folder):
        return False
    return next(iter(store_at(folder).ids()), None) is None


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
            with entry(path, folder) as there, entry(final, folder, make=True) as aside:
                there.rename(aside)
                aside.sync()
                there.sync()
    return target
