"""Put datasets together in a new folder, with their failures and splits.

Episodes are hard links where the file system has them, otherwise copies; nothing is computed
again. Those that cannot be opened are listed, and the others are taken. Running the same command
again continues.
"""

import argparse

from builder.cli.common import declare, each_counted, say_result

HELP = "put datasets together"
EXAMPLE = """\
  letterset merge kitchen office both
"""
NEXT = "letterset validate {out}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="two datasets or more")
    declare(parser, "out", "--workers", "--json")


def run(args: argparse.Namespace) -> int:
    """Merge; returns 1 when an episode could not be opened, each listed."""
    from builder.transform.merge import merge

    done = merge(args.datasets, args.out, each=each_counted(args))
    return say_result(done, args.json, done.out)
