"""Write a dataset to another kind of store, or with other codecs.

Lossless arrays are compared number by number; for others the largest error is printed. Damaged
episodes are listed, and the others are converted. Running the same command again continues.
"""

import argparse

from builder.cli.common import declare, say_result

HELP = "change a dataset's store or codecs"
EXAMPLE = """\
  letterset convert dataset smaller frames.codec=jpeg tracks.dtype=u16
  letterset convert dataset zarr kind=zarr
"""
NEXT = "letterset validate {out}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset", "out")
    what = "kind, frames.codec, frames.quality, tracks.dtype (also with store. before)"
    declare(parser, "overrides", nargs="+", help=what)
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Convert; returns 1 when an episode could not be, each listed, and 3 when none could."""
    from builder.build.config_file import read_overrides
    from builder.transform.convert import convert

    part = read_overrides([word.removeprefix("store.") for word in args.overrides])
    done = convert(args.dataset, args.out, part)
    return say_result(done, args.json, done.out)
