"""Rebuild a dataset's index from the episodes that verify; move damaged ones to damaged/.

The next build makes them again. What is already in damaged/ stays there.
"""

import argparse

from builder.cli.common import declare, each_counted, say_result

HELP = "rebuild the index from episodes that verify"
EXAMPLE = """\
  letterset repair dataset
"""
NEXT = "the same build again, then letterset validate {dataset}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument(
        "--even-all",
        action="store_true",
        help="move damaged episodes away even when no episode verifies",
    )
    declare(parser, "--workers", "--json")


def run(args: argparse.Namespace) -> int:
    """Repair; returns 1 when something was dropped or could not be read, each thing listed."""
    from builder.transform.repair import repair

    done = repair(args.dataset, even_all=args.even_all, check_each=each_counted(args))
    return say_result(done, args.json, args.dataset)
