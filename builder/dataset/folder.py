"""The dataset folder: reading and writing ``dataset.json``, the index and the failures.

Index and failures are one file per writer, so that several machines can build into one
folder; a writer holds the lock of its name while it is open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from builder.core.errors import ConfigError, DatasetError
from builder.core.paths import is_url, shown_url
from builder.core.records import parse_record, record_data
from builder.dataset.index import EpisodeIndex, append_line, read_lines
from builder.dataset.locks import HeldLock, take_lock
from builder.dataset.output_folder import META_NAME, check_output_folder
from builder.stores.atomic import (
    leftovers,
    output_errors,
    stage,
    stage_text,
)
from builder.stores.base import STORES, Store, stores_found
from builder.stores.inside import entry
from builder.stores.reading import blame_environment, files_in, is_folder, refuse_special
from schemas.dataset import DatasetMeta, EpisodeMeta, FailureLine, IndexLine, Name

_WRITER: TypeAdapter[str] = TypeAdapter(Name)

_LOST = "restore it from a copy, or build again into a new folder"


def load_meta(folder: Path | str) -> DatasetMeta:
    """Read and verify ``dataset.json``.

    Raises DatasetError when there is none or it is damaged, UnreadableError when it cannot be read
    now, NewerFormatError for a newer format.
    """
    path = Path(folder) / META_NAME
    if is_url(folder):
        raise DatasetError(
            f"{shown_url(folder)}: this takes local folders only: copy the dataset first"
        )
    refuse_special(path)
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"{folder} is no letterset dataset: it has no {META_NAME}; "
            "expected a folder that letterset build wrote. Older AMPLIFY- or ATM-layout files are "
            "for letterset inspect, doctor and migrate, and open_dataset(path, img_shape=(H, W))"
            + (f"; {_LOST}" if (Path(folder) / "index").is_dir() else "")
        ) from None
    except OSError as error:
        blame_environment(error, path)
        raise DatasetError(f"{path} is no file: {error.strerror}; {_LOST}") from None
    try:
        return parse_record(DatasetMeta, text, str(path))
    except DatasetError as error:
        raise DatasetError(f"{error}; {_LOST}") from None


def read_index(folder: Path | str) -> EpisodeIndex:
    """Return the finished episodes by id, sorted; empty when there is no dataset yet."""
    return EpisodeIndex.read(Path(folder) / "index")


def read_failures(folder: Path | str) -> dict[str, FailureLine]:
    """Return what could not be built by id, sorted; what was built since is left out."""
    built = read_index(folder)
    failed = read_lines(Path(folder) / "failures", FailureLine)
    return {key: line for key, line in failed.items() if key not in built}


def store_at(path: Path) -> Store:
    """Return the store that keeps the episodes of the dataset folder ``path``.

    It is known by the folder it keeps them in; without one they will be HDF5 files.  Raises
    DatasetError when there are several, and when episodes are listed that a plug-in may keep
    which cannot be imported.
    """
    there, errors = stores_found(lambda place: is_folder(path / place))
    if len(there) > 1:
        raise DatasetError(
            f"{path} holds episodes of several stores, {', '.join(there)}: move one of "
            f"{', '.join(there.values())} away and run letterset repair"
        )
    lines = files_in(path / "index", ".jsonl")
    if errors and not there and any(each.stat().st_size for each in lines):
        raise DatasetError(
            f"{path} lists episodes, but keeps them in no store that can be used here: "
            f"{'; '.join(errors)}"
        )
    return STORES.load(next(iter(there), "hdf5"))(path)


def index_line(meta: EpisodeMeta) -> IndexLine:
    """Return the line that lists an episode."""
    names = tuple(view.name for view in meta.views)
    skipped = meta.still.skipped if meta.still else ()
    return IndexLine(
        id=meta.id, length=meta.length, views=names, digest=meta.digest, skipped=skipped
    )


def pretty_json(data: Any) -> str:
    """Return the text of ``dataset.json`` or ``layer.json``; equal data give equal bytes."""
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


class DatasetWriter:
    """A dataset folder open for writing under one writer's name; a context manager."""

    def __init__(self, folder: Path, meta: DatasetMeta, writer: str, lock: HeldLock) -> None:
        self.folder, self.meta, self.writer = folder, meta, writer
        self.lock = lock

    @classmethod
    def create(
        cls,
        folder: Path | str,
        meta: DatasetMeta,
        writer: str = "main",
        *,
        patience: float = 0.0,
        on_notice: Callable[[str], None] = lambda sentence: None,
    ) -> DatasetWriter:
        """Create the dataset, or continue one that was made with the same settings.

        Clears temporaries of dead runs.  Raises ConfigError listing the settings that differ or
        naming what else is in the folder, OutputError when the folder cannot be written or the
        writer is at work elsewhere, also after ``patience`` seconds.
        """
        folder = Path(folder)
        _WRITER.validate_python(writer)
        check_output_folder(folder)
        check_writable(folder)
        held = take_lock(folder, writer, patience=patience, on_notice=on_notice)
        try:
            if not (folder / META_NAME).exists():
                _create_meta(folder, meta)
            found = load_meta(folder)
            if differing := differences(found, meta):
                raise ConfigError(
                    f"{folder / META_NAME} was made with other settings: {'; '.join(differing)}. "
                    "Use the same settings to continue it, or another output folder. A build can "
                    "also start anew with --overwrite, which moves this dataset to replaced/"
                )
            leftovers(folder / "tmp", remove=True)
            return cls(folder, found, writer, HeldLock(folder, writer, held))
        except BaseException:
            os.close(held)
            raise

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self.lock.close()

    def add(self, *lines: IndexLine) -> None:
        """List finished episodes, durably.  Raises OutputError."""
        self.lock.check()
        append_line(self.folder / "index" / f"{self.writer}.jsonl", *lines)

    def fail(self, line: FailureLine) -> None:
        """List a source that could not be built, durably.  Raises OutputError."""
        # A reason may quote a file name whose bytes are no text; JSON could not be read back.
        reason = line.reason.encode(errors="backslashreplace").decode()
        line = line.model_copy(update={"reason": reason})
        append_line(self.folder / "failures" / f"{self.writer}.jsonl", line)

    def index(self) -> EpisodeIndex:
        """Return the finished episodes of all writers by id, sorted."""
        return read_index(self.folder)

    def failures(self) -> dict[str, FailureLine]:
        """Return the failures of all writers by id, sorted, without those built since."""
        return read_failures(self.folder)


def _create_meta(folder: Path, meta: DatasetMeta) -> None:
    """Write ``dataset.json`` whole, unless another writer did by now."""
    path = folder / META_NAME
    with output_errors(path), stage_text(folder / "tmp", pretty_json(record_data(meta))) as staged:
        with entry(staged.path, folder) as text, entry(path, folder) as final:
            try:
                # Unlike a rename a link never replaces; filesystems without links rename.
                os.link(staged.path, path)
            except FileExistsError:
                pass
            except OSError:
                text.rename(final)
            final.sync()


def differences(found: DatasetMeta, wanted: DatasetMeta) -> list[str]:
    """Describe each setting in which a dataset differs from the wanted one."""
    # A build adds to what was merged: only a merge says of what.
    ignored = {"digest", "created_with", *(() if wanted.parts else ("parts",))}
    old, new = (_flat(record_data(meta)) for meta in (found, wanted))
    different = {key for key in old.keys() | new.keys() if old.get(key, ...) != new.get(key, ...)}
    return [
        f"{key.removeprefix('config.')} is {_show(old, key)} there and {_show(new, key)} now"
        for key in sorted(different - ignored)
        if f"config.{key}" not in different  # once is enough
    ]


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys."""
    if not isinstance(data, dict) or not data:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat


def _show(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "not set"


def check_writable(folder: Path) -> None:
    """Create the folder and write a file in it; raises OutputError saying what to do."""
    with output_errors(folder), stage(folder / "tmp", ".probe") as probe:
        os.write(probe.descriptor, b"letterset")
        os.fsync(probe.descriptor)
