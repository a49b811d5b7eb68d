"""Look before you build: a page that shows how a few episodes would be letterboxed.

Bars, query grid, tracks and the other ways up each video could be are drawn for up to six
episodes of different shapes. Wrong orientation is the expensive mistake; catch it here.
Writes one page (or a .png) and no dataset.
"""

import argparse
from pathlib import Path

from builder.cli.common import check_positive, check_suffix, declare, say

HELP = "draw how a source would be built, writing no dataset"
EXAMPLE = """\
  letterset preview videos --img-shape 256 256 --out preview.html
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "source", "overrides")
    shape_help = "height and width of every frame (default: 256 256)"
    declare(parser, "--img-shape", default=(256, 256), help=shape_help)
    parser.add_argument("--out", default="preview.html", help="page or .png to write")
    parser.add_argument("--count", type=int, default=6, metavar="N", help="episodes to draw")


def run(args: argparse.Namespace) -> int:
    """Draw the preview; returns 1 when an episode could not be shown."""
    from builder.build.backends import settle_config
    from builder.build.config_file import load_config
    from builder.report.preview import preview

    check_positive(args, "count")
    out = Path(args.out)
    check_suffix(out, [".html", ".htm", ".png"])
    defaults = {"source.path": args.source, "img_shape": list(args.img_shape), "store.path": "-"}
    config, why = settle_config(load_config(None, args.overrides, defaults))
    if why:
        say(why)
    failures = preview(config, out, count=args.count)
    for failure in failures:
        say(failure)
    say(f"wrote {out}; open it and check that every picture is the right way up")
    return 1 if failures else 0
