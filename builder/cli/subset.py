"""Make a dataset of some episodes of another, with their failures and splits.

Episodes are hard links where the file system has them, otherwise copies; nothing is computed
again. Those that cannot be opened are listed, and the others are taken. Running the same command
again continues.
"""

import argparse

from builder.cli.common import declare, each_counted, say_result

HELP = "take some episodes of a dataset"
EXAMPLE = """\
  letterset subset dataset kitchen --id 'kitchen*'
  letterset subset dataset long --where "length > 100 and task == 'open the drawer'"
"""
NEXT = "letterset validate {out}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset", "out")
    parser.add_argument(
        "--id", action="append", default=[], metavar="GLOB", help="ids to take; may be repeated"
    )
    parser.add_argument(
        "--where", metavar="EXPR", help="filter over id, length, views, task, group, text, source"
    )
    declare(parser, "--workers", "--json")


def run(args: argparse.Namespace) -> int:
    """Take the subset; returns 1 when an episode could not be opened, each listed."""
    from builder.core.errors import ConfigError
    from builder.transform.merge import subset

    if not args.id and args.where is None:
        raise ConfigError("say which episodes: --id GLOB, or --where EXPR")
    done = subset(args.dataset, args.out, args.id, args.where, each=each_counted(args))
    return say_result(done, args.json, done.out)
