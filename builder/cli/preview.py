"""Look before you build: a page that shows how a few episodes would be letterboxed.

It draws the bars, query grid, tracks, and the other ways each video could be turned, for up to
six episodes of different shapes. A wrong orientation is an expensive mistake; catch it here. It
writes one page (or a .png) and no dataset.
"""

import argparse
from pathlib import Path

from builder.cli.common import check_positive, check_suffix, declare, say, whole
from builder.cli.given import declare_given, read_given, retold

HELP = "draw how a source would be built; writes no dataset"
GOES_ON = True
EXAMPLE = """\
  letterset preview videos --img-shape 256 256 --out preview.html
  letterset preview letterset.yaml source.orientation=rot180
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare_given(parser)
    declare(parser, "--img-shape", help="height and width of every frame (default: 256 256)")
    parser.add_argument("--out", default="preview.html", help="page or .png to write")
    parser.add_argument("--count", type=whole, default=6, metavar="N", help="episodes to draw")


def next_step(args: argparse.Namespace) -> str:
    """Say how to build it."""
    return f"letterset build {retold(args)}"


def run(args: argparse.Namespace) -> int:
    """Draw the preview; returns 1 when an episode could not be shown, 3 when none could."""
    from builder.build.backends import open_source, settle_config
    from builder.core.messages import left_out
    from builder.report.preview import preview

    fallbacks = {"img_shape": [256, 256], "store.path": "-"}
    config = read_given(args, {"img_shape": args.img_shape}, fallbacks)
    check_positive(args, "count")
    out = Path(args.out)
    check_suffix(out, [".html", ".htm", ".png"])
    config, why = settle_config(config)
    if why:
        say(why)
    if skipped := left_out(open_source(config).left_out()):
        say(f"note: {skipped}")
    failures = preview(config, out, count=args.count)
    for failure in failures:
        say(failure)
    say(f"wrote {out}; open it and check that every picture is the right way up")
    return 1 if failures else 0
