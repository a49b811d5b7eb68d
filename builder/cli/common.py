"""What the verbs share: printing, and options that mean the same everywhere."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from builder.wording import count


def say(text: str) -> None:
    """Print to standard output; odd characters in file names never stop the command."""
    encoding = sys.stdout.encoding or "utf-8"
    safe = text.encode(encoding, "backslashreplace").decode(encoding)
    sys.stdout.write(safe if safe.endswith("\n") else safe + "\n")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, for machines."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def show_count(done: int, total: int) -> None:
    """Show on a terminal how many are done; the line is wiped out when all are."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done}/{total}" if done < total else "\r\033[K")
        sys.stderr.flush()


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows out in aligned columns under the keys of the first."""
    columns = list(rows[0])
    cells = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def say_gathered(done: Any, as_json: bool) -> int:
    """Tell what a merge or a subset (builder.upkeep.merge.Gathered) brought together; returns 0."""
    if as_json:
        say(json.dumps(vars(done), indent=2))
        return 0
    for line in done.notes:
        say(f"note: {line}")
    say(f"{done.out}: {count(done.episodes, 'episode')} taken, {done.there} already there")
    return 0
