"""The index and the failures of a dataset: JSON lines, appended durably by one writer per file.

Anybody may read them at any time.  The index is kept in columns, at about 150 bytes an episode.
"""

from __future__ import annotations

import gc
import os
import re
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import pairwise
from operator import lt
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.canvas.windows import Runs
from builder.core.errors import DatasetError
from builder.core.records import parse_record, stored_form
from builder.stores.atomic import fsync_folder, output_errors, publish_text, write_all
from builder.stores.inside import open_inside
from builder.stores.reading import files_in, readable
from schemas.dataset import FailureLine, IndexLine, Name

L = TypeVar("L", IndexLine, FailureLine)

LISTS = {"index": ".jsonl", "failures": ".jsonl", "splits": ".json", "runs": ".jsonl"}
"""The folders of a dataset's small files, and the suffix of these."""

_BLOCK_BYTES = 1 << 20
_VIEWS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[Name, ...])

# A line in the form it is written in, with an id that needs no JSON escapes: exactly what IndexLine
# accepts (a test compares both).  Any other line is parsed by IndexLine itself.
_LINE = re.compile(
    r'\{"digest":"([0-9a-f]{64})",'
    r'"id":"(?=[^"]{1,1000}")((?:(?!\.{0,2}/)[ !#-.0-\[\]-~]+/)*(?!\.{0,2}")[ !#-.0-\[\]-~]+)",'
    r'"length":([1-9][0-9]{0,5}|1000000),'
    r'"views":(\[[^\]\n]*\])\}\n'
)


class EpisodeIndex(Mapping[str, IndexLine]):
    """The lines of the index by id; an IndexLine is made when it is asked for.

    ``ids`` (E), sorted; ``lengths`` (E,) int64 frames; ``digests`` (E, 32) uint8;
    ``view_sets`` the distinct tuples of view names; ``view_set`` (E,) int64, the position in them
    of an episode's views; ``skipped`` the windows that were left out, by position, where any were.
    """

    _places: dict[str, int] | None = None

    def __init__(self, columns: Columns) -> None:
        self.view_sets = tuple(columns.view_sets)
        self.ids: tuple[str, ...] = tuple(columns.ids)
        self.lengths, self.view_set, self.digests = columns.arrays()
        self.skipped: dict[int, Runs] = columns.skipped

    @classmethod
    def read(cls, folder: Path) -> EpisodeIndex:
        """Read the files of all writers in ``folder``; a torn last line is ignored.

        Raises DatasetError naming a damaged line, UnreadableError.
        """
        columns = Columns()
        for path in files_in(folder, ".jsonl"):
            columns.read(path)
        found = cls(columns)
        if not all(lt(*pair) for pair in pairwise(found.ids)):
            # Of the lines of one id the latest counts.
            latest = {key: at for at, key in enumerate(found.ids)}
            found.ids = tuple(sorted(latest))
            order = np.fromiter(map(latest.__getitem__, found.ids), np.int64, len(latest))
            found.lengths, found.view_set = found.lengths[order], found.view_set[order]
            found.digests = found.digests[order]
            moved = ((new, found.skipped.get(old)) for new, old in enumerate(order.tolist()))
            found.skipped = {at: runs for at, runs in moved if runs}
        return found

    @classmethod
    def of(cls, lines: Iterable[IndexLine]) -> EpisodeIndex:
        """Make an index of lines of different ids, in the order given."""
        columns = Columns()
        columns.add(lines)
        found = cls(columns)
        found._places = {key: at for at, key in enumerate(found.ids)}
        return found

    @property
    def views(self) -> list[str]:
        """The names of all views, sorted."""
        return sorted({name for names in self.view_sets for name in names})

    def place(self, episode_id: object) -> int:
        """Return the position of an episode in ``ids``; raises KeyError when it is not listed."""
        if self._places is not None:
            return self._places[episode_id]  # type: ignore[index]
        if isinstance(episode_id, str):
            at = bisect_left(self.ids, episode_id)
            if at < len(self.ids) and self.ids[at] == episode_id:
                return at
        raise KeyError(episode_id)

    def __getitem__(self, episode_id: str) -> IndexLine:
        """Return the line of an episode; raises KeyError."""
        at = self.place(episode_id)
        # Checked when it was read.
        return IndexLine.model_construct(
            id=self.ids[at],
            length=int(self.lengths[at]),
            views=self.view_sets[self.view_set[at]],
            digest=self.digests[at].tobytes().hex(),
            skipped=self.skipped.get(at, ()),
        )

    def __contains__(self, episode_id: object) -> bool:
        try:
            self.place(episode_id)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class Columns:
    """Collects the columns of index lines, in the order of the lines."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.view_sets: dict[tuple[str, ...], int] = {}
        self.skipped: dict[int, Runs] = {}
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lengths (E,), view sets (E,) and digests (E, 32)."""
        empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 32), np.uint8)
        lengths, view_set, digests = zip(empty, *self._parts, strict=True)
        return np.concatenate(lengths), np.concatenate(view_set), np.concatenate(digests)

    def read(self, path: Path) -> None:
        """Add one writer's file; a torn last line is ignored.  Raises DatasetError."""
        number = 1
        with readable(path), path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES) + file.readline():
                whole = block[: block.rfind(b"\n") + 1]
                if not self._add_plain(whole):
                    self.add(parse_lines(whole.split(b"\n")[:-1], IndexLine, path, number))
                if len(whole) < len(block):
                    break  # a writer may complete the line now: reading on would begin amid it
                number += whole.count(b"\n")

    def add(self, lines: Iterable[IndexLine]) -> None:
        """Add lines one by one."""
        lines, before = list(lines), len(self.ids)
        self.skipped |= {before + at: line.skipped for at, line in enumerate(lines) if line.skipped}
        self._add(
            [line.digest for line in lines],
            [line.id for line in lines],
            [line.length for line in lines],
            [self.view_sets.setdefault(line.views, len(self.view_sets)) for line in lines],
        )

    def _add_plain(self, block: bytes) -> bool:
        """Add a block of lines by ``_LINE`` alone; False, with none added, if one is different."""
        try:
            fields = _LINE.split(block.decode("ascii"))
            between, digests, ids, lengths, views = (fields[at::5] for at in range(5))
            sets = {text: _VIEWS.validate_json(text) for text in dict.fromkeys(views)}
        except (UnicodeDecodeError, ValidationError):
            return False
        if any(between):
            return False
        codes = {
            text: self.view_sets.setdefault(names, len(self.view_sets))
            for text, names in sets.items()
        }
        self._add(digests, ids, lengths, [codes[text] for text in views])
        return True

    def _add(
        self,
        digests: Iterable[str],
        ids: Iterable[str],
        lengths: Iterable[int | str],
        view_set: list[int],
    ) -> None:
        count = len(view_set)
        packed = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(count, 32)
        frames = np.fromiter(map(int, lengths), np.int64, count)
        self._parts.append((frames, np.array(view_set, np.int64), packed))
        self.ids += ids


def writer_name(stem: str) -> str:
    """Return whose a file of the index is: at a URL, each run of a writer has one of its own."""
    return stem.partition("_")[0]


def read_lines(folder: Path, model: type[L]) -> dict[str, L]:
    """Merge all writers' files; the latest line of an id wins, a torn last line is ignored."""
    lines: list[L] = []
    enabled = gc.isenabled()
    gc.disable()  # it would walk millions of records that are all in use
    try:
        for path in files_in(folder, ".jsonl"):
            lines += read_file(path, model)
    finally:
        if enabled:
            gc.enable()
    return {line.id: line for line in sorted(lines, key=lambda line: line.id)}


def read_file(path: Path, model: type[L]) -> list[L]:
    """Read one writer's file in the order it was written; a torn last line is ignored."""
    with readable(path):
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


def append_line(path: Path, *lines: IndexLine | FailureLine) -> None:
    """Append records to a file of a dataset's folder, such as ``index/main.jsonl``, durably.

    A torn last line of a killed run is replaced.  Raises OutputError.
    """
    data = b"".join(stored_form(line).encode() + b"\n" for line in lines)
    with output_errors(path):
        created = not path.exists()
        descriptor = open_inside(path, path.parent.parent, os.O_RDWR | os.O_CREAT)
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
    """Remove a writer's failures whose id is not ``wanted``, durably; returns the ids removed.

    Also those of its earlier runs, which have files of their own at a URL.
    """
    gone = set[str]()
    for path in files_in(folder / "failures", ".jsonl"):
        if writer_name(path.stem) != writer_name(writer):
            continue
        lines = read_file(path, FailureLine)
        kept = [stored_form(line) + "\n" for line in lines if line.id in wanted]
        if len(kept) < len(lines):
            publish_text(folder, path, "".join(kept), replace=True)
            gone |= {line.id for line in lines if line.id not in wanted}
    return gone


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
