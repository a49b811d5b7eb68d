"""Rows of the table of windows on their way there: computed by the worker that built an episode.

``stats/<writer>.rows`` has a JSON line per episode.  It is derived like the table: safe to
delete, and not synced, since what is missing or torn is computed again from the episodes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from builder.dataset.episodes import EpisodeData
from builder.dataset.window_table.columns import ROW, window_rows
from builder.stores.atomic import make_folders, output_errors
from builder.stores.base import EpisodeReader
from schemas.base import json_sha256

Rows = Mapping[str, np.ndarray]
"""By view, (S,) of ``ROW``."""

_COLUMNS = ",".join(ROW.names or ())


def episode_rows(reader: EpisodeReader) -> Rows:
    """Compute the rows of an episode; raises DatasetError when it cannot be read."""
    episode = EpisodeData(reader)
    return {name: window_rows(view, episode.meta.length) for name, view in episode.views.items()}


def keep_rows(folder: Path, writer: str, digest: str, rows: Rows) -> None:
    """Append the rows of the episode of this digest.  Raises OutputError."""
    packed = {view: base64.b64encode(own.tobytes()).decode() for view, own in rows.items()}
    facts = {"digest": digest, "columns": _COLUMNS, "rows": packed}
    line = json.dumps({**facts, "sha256": json_sha256(facts)})
    path = folder / "stats" / f"{writer}.rows"
    with output_errors(path):
        make_folders(path.parent)
        with path.open("ab") as file:
            # The line before may be one that a killed run left half written.
            file.write(f"\n{line}\n".encode())


class KnownRows:
    """What workers have computed of a dataset; a few bytes of memory per episode."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted((folder / "stats").glob("*.rows")):
            self._places |= {digest: (path, at) for digest, at in _scan(path)}

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def get(self, digest: str) -> Rows | None:
        """Return the rows of the episode of this digest, None when they are not known."""
        if digest not in self._places:
            return None
        path, at = self._places[digest]
        with path.open("rb") as file:
            file.seek(at)
            packed = json.loads(file.readline())["rows"]
        return {view: np.frombuffer(base64.b64decode(own), ROW) for view, own in packed.items()}


def _scan(path: Path) -> Iterator[tuple[str, int]]:
    """Yield digest and place of each line that is as it was written."""
    at = 0
    with path.open("rb") as file:
        for line in file:
            # Torn, damaged or of another version: computed again.
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                found = json.loads(line)
                if found.pop("sha256") == json_sha256(found) and found["columns"] == _COLUMNS:
                    yield found["digest"], at
            at += len(line)
