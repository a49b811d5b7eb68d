"""Rebuild a dataset's index from the episodes that verify; move damaged ones to damaged/.

What was moved away is built again by the next build; what lies in damaged/ already stays there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from builder.cli.common import add_json, say
from builder.core.messages import count

HELP = "rebuild the index from episodes that verify"
EXAMPLE = """\
  letterset repair dataset
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument(
        "--even-all",
        action="store_true",
        help="move damaged episodes away even when no episode verifies",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Repair; returns 1 when something was dropped or could not be read, each thing listed."""
    from builder.transform.repair import repair

    done = repair(Path(args.dataset), even_all=args.even_all)
    if args.json:
        say(json.dumps(asdict(done), default=str))
    else:
        for name, why in done.dropped.items():
            say(f"DROPPED {name}: {why}")
        for name, why in done.unread.items():
            say(f"UNREAD {name}: {why}")
        for name in done.changed:
            say(f"RELISTED {name}: it verifies, but is not what was listed; edited or replaced?")
        for path in done.cleared:
            say(f"CLEARED {path}")
        kept = count(len(done.kept), "episode")
        say(
            f"{args.dataset}: {kept} listed, {len(done.changed)} of them changed, "
            f"{len(done.dropped)} dropped"
        )
    return 1 if done.dropped or done.unread else 0
