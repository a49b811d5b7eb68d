"""Track a dataset once more, into a layer: open_dataset(path, tracks=NAME) reads it.

It tracks the stored frames or, with --source, decodes the videos again. Running the same command
again continues.
"""

import argparse
from pathlib import Path

from builder.cli.common import declare, say_result
from builder.cli.waiting import stop_waiting

HELP = "add another track set to a dataset"
EXAMPLE = """\
  letterset track dataset --name lk8 tracker.kind=lk tracker.horizon=8
  letterset track dataset --name fine tracker.input=source --source videos
"""
NEXT = "open_dataset({dataset!r}, tracks={name!r})"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    declare(parser, "overrides", help="settings of tracker, queries and executor")
    parser.add_argument("--name", required=True, help="name of the layer")
    parser.add_argument("--source", metavar="DIR", help="decode again from these videos")
    declare(parser, "--quiet", "--json")


def run(args: argparse.Namespace) -> int:
    """Track; returns 1 when an episode could not be, each listed."""
    from builder.build.config_file import read_parts
    from builder.build.progress import ProgressDisplay
    from builder.transform.track_layer import track

    parts = read_parts(Path(args.dataset), args.overrides)
    stop_waiting()
    with ProgressDisplay(quiet=args.quiet or args.json, task="track") as progress:
        done = track(
            args.dataset,
            args.name,
            parts.tracker,
            queries=parts.queries,
            executor=parts.executor,
            source=args.source,
            on_start=progress.start,
            on_event=progress.event,
            on_notice=progress.note,
        )
    return say_result(done, args.json, args.dataset)
