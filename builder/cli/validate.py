"""Prove that a dataset is whole: schemas, geometry, shapes, ranges and digests.

Every problem is listed, not only the first. --deep also decodes every stored frame.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from builder.cli.common import add_json, say

HELP = "prove that a dataset is whole"
EXAMPLE = """\
  letterset validate dataset
  letterset validate dataset --deep --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("--deep", action="store_true", help="also decode every stored frame")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Validate; returns 0 when nothing is wrong, else 1."""
    from builder.dataset import open_dataset
    from builder.validate import validate

    path = Path(args.dataset)
    problems = validate(path, deep=args.deep)
    wrong = [problem for problem in problems if not problem.note]
    if args.json:
        say(json.dumps({"ok": not wrong, "problems": [asdict(item) for item in problems]}))
        return 1 if wrong else 0
    for problem in problems:
        say(str(problem))
    if wrong:
        say(f"{path}: {len(wrong)} problems found")
    else:
        say(f"{path}: {len(open_dataset(path))} episodes, all valid")
    return 1 if wrong else 0
