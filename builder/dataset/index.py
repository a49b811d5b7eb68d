"""The index of a dataset in columns: its finished episodes, at about 150 bytes each."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from operator import lt
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.dataset.journal import parse_lines
from schemas.dataset import IndexLine, Name

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
    of an episode's views.
    """

    _places: dict[str, int] | None = None

    def __init__(self, columns: Columns) -> None:
        self.view_sets = tuple(columns.view_sets)
        self.ids: tuple[str, ...] = tuple(columns.ids)
        self.lengths, self.view_set, self.digests = columns.arrays()

    @classmethod
    def read(cls, folder: Path) -> EpisodeIndex:
        """Read the files of all writers in ``folder``; a torn last line is ignored.

        Raises DatasetError naming a damaged line.
        """
        columns = Columns()
        for path in sorted(folder.glob("*.jsonl")):
            columns.read(path)
        found = cls(columns)
        if not all(lt(*pair) for pair in pairwise(found.ids)):
            found._sort()
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

    def _sort(self) -> None:
        # Of the lines of one id the latest counts.
        latest = {key: at for at, key in enumerate(self.ids)}
        self.ids = tuple(sorted(latest))
        order = np.fromiter(map(latest.__getitem__, self.ids), np.int64, len(latest))
        self.lengths, self.view_set = self.lengths[order], self.view_set[order]
        self.digests = self.digests[order]

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
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class Columns:
    """Collects the columns of index lines, in the order of the lines."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.view_sets: dict[tuple[str, ...], int] = {}
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lengths (E,), view sets (E,) and digests (E, 32)."""
        empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 32), np.uint8)
        lengths, view_set, digests = zip(empty, *self._parts, strict=True)
        return np.concatenate(lengths), np.concatenate(view_set), np.concatenate(digests)

    def read(self, path: Path) -> None:
        """Add one writer's file; a torn last line is ignored.  Raises DatasetError."""
        number = 1
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES) + file.readline():
                whole = block[: block.rfind(b"\n") + 1]
                if not self._add_plain(whole):
                    self.add(parse_lines(whole.split(b"\n")[:-1], IndexLine, path, number))
                if len(whole) < len(block):
                    break  # a writer may complete the line now: reading on would begin amid it
                number += whole.count(b"\n")

    def add(self, lines: Iterable[IndexLine]) -> None:
        """Add lines one by one."""
        lines = list(lines)
        self._add(
            [line.digest for line in lines],
            [line.id for line in lines],
            [line.length for line in lines],
            [self.view_sets.setdefault(line.views, len(self.view_sets)) for line in lines],
        )

    def _add_plain(self, block: bytes) -> bool:
        """Add a block of lines by ``_LINE`` alone; False, with none added, if one is different."""
        try:
            between, digests, ids, lengths, views = _fields(block.decode("ascii"))
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


def _fields(text: str) -> tuple[list[str], ...]:
    """Split matching lines into digests, ids, lengths and views, after the text between matches."""
    found = _LINE.split(text)
    return found[::5], found[1::5], found[2::5], found[3::5], found[4::5]
