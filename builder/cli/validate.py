"""Verify that a dataset is whole: schemas, geometry, shapes, ranges and digests.

It lists every problem, not only the first, and notes what is missing: sources that failed, a
build that stopped before its end, episodes in damaged/. --deep also decodes every stored frame,
and compares a sample of frames with the source, if that is still there.
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.common import check_positive, declare, each_counted, percentage, say
from builder.core.errors import ConfigError, DatasetError
from builder.core.messages import count
from builder.dataset.output_folder import META_NAME

if TYPE_CHECKING:
    from builder.dataset.validate import Problem

HELP = "verify that a dataset is whole"
EXAMPLE = """\
  letterset validate dataset
  letterset validate dataset --deep --json
  letterset validate dataset --sample 1%
"""
NEXT = "letterset doctor {dataset}, then training: WindowDataset({dataset!r})"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument("--deep", action="store_true", help="also decode every stored frame")
    parser.add_argument(
        "--sample",
        type=percentage,
        default=100.0,
        metavar="P%",
        help="look at this share of the episodes, spread evenly (default: all)",
    )
    parser.add_argument("--source", metavar="DIR", help="where the videos are now, for --deep")
    declare(parser, "--workers", "--json")


def run(args: argparse.Namespace) -> int:
    """Validate; returns 0 when nothing is wrong, else 1."""
    from builder.build.status import unfinished
    from builder.dataset.opening import open_dataset
    from builder.dataset.validate import validate

    if args.source is not None and not args.deep:
        raise ConfigError("--source is read by --deep alone: give --deep as well")
    path = Path(args.dataset)
    check_positive(args, "sample")
    share = min(1.0, args.sample / 100)
    problems = validate(path, deep=args.deep, share=share, check_each=each_counted(args))
    if args.deep and not any(problem.where == META_NAME for problem in problems):
        problems += _source_differences(path, args.source)
    with suppress(DatasetError):  # damage, which was told
        problems += unfinished(path)
    wrong = [problem for problem in problems if not problem.note]
    if args.json:
        say(json.dumps({"ok": not wrong, "problems": [asdict(item) for item in problems]}))
        return 1 if wrong else 0
    for problem in problems:
        say(str(problem))
    if wrong:
        say(f"{path}: {count(len(wrong), 'problem')} found")
    else:
        valid = "all valid" if share == 1 else "all that were looked at are valid"
        say(f"{path}: {count(len(open_dataset(path)), 'episode')}, {valid}")
    return 1 if wrong else 0


def _source_differences(path: Path, source: str | None) -> list[Problem]:
    """Compare a sample of frames with the source, where videos can be decoded."""
    try:
        from builder.transform.compare_source import compare_source

        return compare_source(path, source)
    except (ModuleNotFoundError, DatasetError):
        return []  # without the build extra; or damage, which was told
