"""Show how far a build is, while it runs or after; only reads."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.common import declare, say, table
from builder.core.messages import count, duration

if TYPE_CHECKING:
    from builder.build.status import WriterStatus

HELP = "show how far a build is, or how it ended"
EXAMPLE = """\
  letterset status dataset
  letterset status dataset --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset", "--json")


def run(args: argparse.Namespace) -> int:
    """Show the status of every writer."""
    from builder.build.progress import worker_lines
    from builder.build.status import status
    from builder.stores.atomic import leftovers

    found = status(Path(args.dataset))
    if args.json:
        say(json.dumps([asdict(writer) for writer in found], indent=2))
        return 0
    if found:
        say(table([_row(writer) for writer in found]) + "\n")
    for writer in found:
        for line in worker_lines(writer.running):
            say(f"{writer.writer}: {line.strip()}")
    if left := leftovers(Path(args.dataset) / "tmp"):
        files = f"{count(len(left), 'file')} of runs that died"
        say(f"note: tmp/ holds {files}; the next build, or finalize, clears it")
    states = [writer.state for writer in found]
    say(
        f"{args.dataset}: {count(sum(writer.done for writer in found), 'episode')} done, "
        f"{sum(writer.failed for writer in found)} failed; "
        f"{states.count('running')} of {count(len(found), 'writer')} at work"
    )
    return 0


def _row(writer: WriterStatus) -> dict[str, str]:
    rate, left = writer.frames_per_second, writer.seconds_left
    return {
        "writer": writer.writer,
        "state": writer.state,
        "done": str(writer.done),
        "failed": str(writer.failed),
        "to do": str(writer.left),
        "frames/s": "-" if rate is None else f"{rate:.0f}",
        "time left": "-" if left is None else duration(left),
        "": writer.why[:100],
    }
