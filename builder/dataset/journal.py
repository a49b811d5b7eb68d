"""Files of one JSON record per line, appended durably by one writer, read by anyone."""

from __future__ import annotations

import gc
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from builder.core.errors import DatasetError
from builder.core.records import parse_record, stored_form
from builder.stores.atomic import fsync_folder, make_folders, output_errors, publish_text, write_all
from schemas.dataset import FailureLine, IndexLine

L = TypeVar("L", IndexLine, FailureLine)


def read_lines(folder: Path, model: type[L]) -> dict[str, L]:
    """Merge all writers' files; the latest line of an id wins, a torn last line is ignored."""
    lines: list[L] = []
    with _no_collection():
        for path in sorted(folder.glob("*.jsonl")):
            lines += read_file(path, model)
    return {line.id: line for line in sorted(lines, key=lambda line: line.id)}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector, which would walk millions of records that are all in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_file(path: Path, model: type[L]) -> list[L]:
    """Read one writer's file in the order it was written; a torn last line is ignored."""
    *whole, _torn = path.read_bytes().split(b"\n")
    return parse_lines(whole, model, path)


def parse_lines(lines: list[bytes], model: type[L], path: Path, first: int = 1) -> list[L]:
    """Parse whole lines of a file from line number ``first`` on; raises DatasetError."""
    try:
        # All lines at once: that is faster, and most files are not damaged.
        batch = b"[" + b",".join(lines) + b"]"
        return TypeAdapter(list[model]).validate_json(batch)  # type: ignore[valid-type]
    except ValidationError:
        found = []
        for number, line in enumerate(lines, first):
            try:
                found.append(parse_record(model, line, f"{path}, line {number}"))
            except DatasetError as error:
                raise DatasetError(f"{error}; run letterset repair") from None
        return found


def append_line(path: Path, line: IndexLine | FailureLine) -> None:
    """Append one record, durably; a torn last line of a killed run is replaced."""
    data = stored_form(line).encode() + b"\n"
    with output_errors(path):
        make_folders(path.parent)
        created = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = _whole_lines(descriptor)
            # Writing at a known end also overwrites what a killed run left half written.
            os.ftruncate(descriptor, end)
            write_all(descriptor, data, end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if created:
            fsync_folder(path.parent)


def keep_failures(folder: Path, writer: str, wanted: Container[str]) -> set[str]:
    """Remove a writer's failures whose id is not ``wanted``, durably; returns the ids removed."""
    path = folder / "failures" / f"{writer}.jsonl"
    lines = read_file(path, FailureLine) if path.exists() else []
    kept = [line for line in lines if line.id in wanted]
    if len(kept) < len(lines):
        publish_text(folder, path, "".join(stored_form(line) + "\n" for line in kept), replace=True)
    return {line.id for line in lines} - {line.id for line in kept}


def _whole_lines(descriptor: int) -> int:
    """Return where the last complete line ends."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - 4096)
        newline = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0
