"""Merge the lists of all shards into one sorted index, and check it.

Run it once, after the last shard. Running it again changes nothing.
"""

import argparse

from builder.cli.common import declare, say_result
from builder.core.paths import without_passwords

HELP = "merge and check what many shards wrote"
EXAMPLE = """\
  letterset finalize dataset
"""
NEXT = "letterset validate {dataset}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset", "--json")


def run(args: argparse.Namespace) -> int:
    """Finalize; returns 1 when episodes failed or something is not right, each thing listed."""
    from builder.transform.finalize import finalize

    return say_result(finalize(args.dataset), args.json, without_passwords(args.dataset))
