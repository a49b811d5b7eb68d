"""Turn older AMPLIFY- or ATM-layout track files into a dataset of format version 1.

With the videos, geometry and frames are complete; without them the tracks keep the size that
their files record, marked as stretched. If no size is recorded, give it, or the videos. Originals
are never touched; running the same command again finishes the job.
"""

import argparse
from functools import partial
from shlex import quote

from builder.cli.common import check_positive, declare, number, say_result, tracked_sizes
from builder.cli.waiting import show_count

HELP = "turn older track files into a dataset"
EXAMPLE = """\
  letterset migrate preprocessed_data/libero_10 dataset --img-shape 256 256 --dry-run
  letterset migrate tracks migrated --videos videos --img-shape 256 256 --pixel-origin center
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("legacy", metavar="LEGACY", help="folder of older files")
    declare(parser, "out", help="dataset folder to create or to finish")
    declare(parser, "--img-shape", help="canvas (default: the tracked size, if there is only one)")
    declare(parser, "--tracked", "--videos", "--frame-step")
    parser.add_argument(
        "--assume-img-shape",
        action="store_true",
        help="take img_shape where nobody knows the size; recorded as an assumption",
    )
    parser.add_argument(
        "--pixel-origin",
        choices=("corner", "center", "unknown"),
        default="unknown",
        help="center adds the half pixel of CoTracker's indices; unknown is recorded as such",
    )
    parser.add_argument(
        "--fps", type=number, metavar="F", help="frames per second, where there is no video"
    )
    parser.add_argument(
        "--layout", choices=("amplify", "atm"), help="layout of the files (default: found in them)"
    )
    parser.add_argument(
        "--mode",
        choices=("reinit", "episode"),
        help="windows, or whole-episode tracks (default: found in the files and their folder)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be done")
    declare(parser, "--json")


def next_step(args: argparse.Namespace) -> str:
    """Say how to go on."""
    out = quote(args.out)
    return "the same command without --dry-run" if args.dry_run else f"letterset validate {out}"


def run(args: argparse.Namespace) -> int:
    """Migrate; returns 1 when files failed, 3 when all did."""
    from builder.build.reader import apart, refused_left_out
    from builder.transform.migrate import migrate

    check_positive(args, "frame_step")
    run = partial(
        migrate,
        args.legacy,
        args.out,
        img_shape=args.img_shape,
        tracked=tracked_sizes(args.tracked),
        assume_img_shape=args.assume_img_shape,
        videos=args.videos,
        frame_step=args.frame_step,
        pixel_origin=args.pixel_origin,
        fps=args.fps,
        layout=args.layout,
        mode=args.mode,
    )
    done = apart(partial(run, dry_run=True))
    if not args.dry_run:
        with refused_left_out():  # a file over which the child ended fails, and the others go on
            done = run(on_progress=show_count)
    return say_result(done, args.json)
