"""Write a dataset anew in another kind of store or other codecs.

What is lossless is compared number by number; the error of the rest is told. Damaged episodes are
listed and the others converted. Running the same command again goes on.
"""

from __future__ import annotations

import argparse

from builder.cli.common import add_json, say_result

HELP = "change a dataset's store or codecs"
EXAMPLE = """\
  letterset convert dataset smaller frames.codec=jpeg tracks.dtype=u16
  letterset convert dataset zarr kind=zarr
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("out", metavar="OUT", help="folder to create")
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="key=value",
        help="kind, frames.codec, frames.quality, tracks.dtype (also with store. before)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Convert; returns 1 when an episode could not be, each listed, and 3 when none could."""
    from builder.build.config_file import read_overrides
    from builder.transform.convert import convert

    part = read_overrides([word.removeprefix("store.") for word in args.overrides])
    done = convert(args.dataset, args.out, part)
    return say_result(done, args.json, done.out)
