"""Show how far a build is, while it runs or afterwards. It only reads."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from builder.cli.common import declare, say, table
from builder.core.errors import shown_as
from builder.core.messages import count, duration
from builder.core.paths import is_url, without_passwords

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
    from builder.dataset.remote import fetch_lists
    from builder.stores.atomic import stage
    from builder.stores.remote_folder import RemoteFolder
    from builder.stores.scratch import scratch_folder

    if is_url(args.dataset):
        remote, place = RemoteFolder(args.dataset), without_passwords(args.dataset)
        with stage(scratch_folder() / "tmp", ".status") as staged:
            with shown_as(staged.folder, place):
                return _show(fetch_lists(remote, staged.folder), place, args.json, far=True)
    return _show(Path(args.dataset), args.dataset, args.json)


def _show(folder: Path, place: str, as_json: bool, far: bool = False) -> int:
    from builder.build.progress import worker_lines
    from builder.build.status import status
    from builder.stores.atomic import leftovers

    found = status(folder, far=far)
    if as_json:
        say(json.dumps([asdict(writer) for writer in found], indent=2))
        return 0
    if found:
        say(table([_row(writer) for writer in found]) + "\n")
    for writer in found:
        for line in worker_lines(writer.running):
            say(f"{writer.writer}: {line.strip()}")
    if left := leftovers(folder / "tmp"):
        files = f"{count(len(left), 'file')} of runs that died"
        say(f"note: tmp/ holds {files}; the next build, or finalize, clears it")
    states = [writer.state for writer in found]
    say(
        f"{place}: {count(sum(writer.done for writer in found), 'episode')} done, "
        f"{sum(writer.failed for writer in found)} failed; "
        f"{states.count('running')} of {count(len(found), 'writer')} at work"
    )
    if "running" not in states:
        again = "the same build again, which builds what is left"
        check = f"letterset validate {quote(place)}"
        say(f"next: {again if any(writer.left for writer in found) else check}")
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
