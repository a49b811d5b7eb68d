"""Put the files of all shards together into one sorted index, and check it.

Run it once, after the last shard. Running it again changes nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from builder.cli.common import add_json, say
from builder.core.messages import count

HELP = "merge and check what many shards wrote"
EXAMPLE = """\
  letterset finalize dataset
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("dataset", metavar="OUT", help="dataset folder")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Finalize; returns 1 when episodes failed or something is not right, each thing listed."""
    from builder.transform.finalize import finalize

    done = finalize(Path(args.dataset))
    if args.json:
        say(json.dumps(asdict(done), indent=2))
    else:
        for problem in done.problems:
            say(f"PROBLEM {problem}")
        for path, reason in done.failures.items():
            say(f"FAILED {path} {reason}")
        say(
            f"{args.dataset}: {count(done.episodes, 'episode')}, {count(done.frames, 'frame')} of "
            f"{count(len(done.writers), 'writer')}; {len(done.failures)} failed, "
            f"{count(len(done.problems), 'problem')}"
        )
    return 1 if done.problems or done.failures else 0
