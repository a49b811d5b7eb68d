"""Prove that live windows equal those of training: play a source as a camera, and compare.

The videos of one episode go frame by frame through the path that a robot uses, and every window
that comes out is compared with the one in the dataset. With trackers that run on a CPU they are
equal bit for bit; --rgb measures what a camera that gives RGB costs.
"""

import argparse

from builder.cli.common import declare, number, say_result
from builder.cli.waiting import show_count

HELP = "prove that live windows equal those of training"
EXAMPLE = """\
  letterset parity dataset
  letterset parity dataset --episode a-1f3c --source videos --rgb
"""
NEXT = "letterset export {dataset} inference.json --to inference"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    declare(parser, "--episode", help="id, its beginning, or a path; default: the first")
    parser.add_argument("--source", metavar="DIR", help="where the videos are (default: recorded)")
    parser.add_argument("--tracks", metavar="LAYER", help="compare with the tracks of a layer")
    rgb_help = "make frames RGB first, as a camera does, and only print the difference"
    parser.add_argument("--rgb", action="store_true", help=rgb_help)
    parser.add_argument("--weights", metavar="FILE", help="weights of a learned tracker")
    parser.add_argument(
        "--call", metavar="module:function", help="the function of tracker.kind=callable"
    )
    parser.add_argument(
        "--tolerance", type=number, default=0.0, metavar="PX", help="how far points may differ"
    )
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Compare; returns 1 when windows differ or are missing."""
    from builder.dataset.opening import open_dataset
    from builder.transform.parity import parity

    given = {"weights": args.weights, "call": args.call}
    if args.episode is not None:
        args.episode = open_dataset(args.dataset).find(args.episode)
    result = parity(
        args.dataset,
        args.episode,
        args.source,
        tracks=args.tracks,
        rgb=args.rgb,
        tracker={key: value for key, value in given.items() if value},
        tolerance_px=args.tolerance,
        on_windows=show_count,
    )
    return say_result(result, args.json)
