"""Track a dataset once more, into a layer beside it: open_dataset(path, tracks=NAME).

Frames are those that are stored, or, with --source, decoded again from the videos. Running the
same command again goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from builder.cli.common import add_json, say
from builder.core.messages import count, failed

HELP = "add another track set to a dataset"
EXAMPLE = """\
  letterset track dataset --name lk8 tracker.kind=lk tracker.horizon=8
  letterset track dataset --name fine tracker.input=source --source videos
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of tracker, queries and executor"
    )
    parser.add_argument("--name", required=True, help="of the layer")
    parser.add_argument("--source", metavar="DIR", help="decode again from these videos")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Track; returns 1 when an episode could not be, each listed."""
    from builder.build.config_file import read_parts
    from builder.build.progress import Progress
    from builder.transform.retrack import track

    parts = read_parts(Path(args.dataset), args.overrides)
    with Progress(quiet=args.quiet or args.json, task="track") as progress:
        done = track(
            args.dataset,
            args.name,
            parts.tracker,
            queries=parts.queries,
            executor=parts.executor,
            source=args.source,
            on_start=progress.start,
            on_event=progress.event,
        )
    if args.json:
        say(json.dumps(asdict(done), indent=2))
        return 1 if done.failures else 0
    for episode_id, reason in done.failures.items():
        say(failed(episode_id, reason))
    say(
        f"{args.dataset}: layer {done.layer}: {count(done.tracked, 'episode')} tracked, "
        f"{done.there} already there, {len(done.failures)} failed"
    )
    return 1 if done.failures else 0
