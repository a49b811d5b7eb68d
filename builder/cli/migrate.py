"""Turn older AMPLIFY- or ATM-layout track files into a dataset of format version 1.

With the videos at hand geometry and frames are complete; without them the tracks keep the size
they record, marked as stretched. Originals are never touched; running the same command again
finishes the job.
"""

import argparse

from builder.cli.common import check_positive, declare, say_result, show_count

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
    parser.add_argument(
        "--tracked",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="tracked size, for files that record none",
    )
    parser.add_argument("--videos", metavar="DIR", help="folder of the videos that were tracked")
    parser.add_argument(
        "--frame-step", type=int, default=1, metavar="N", help="every n-th frame was tracked"
    )
    parser.add_argument(
        "--pixel-origin",
        choices=("corner", "center", "unknown"),
        default="unknown",
        help="center adds the half pixel of CoTracker's indices; unknown is recorded as such",
    )
    parser.add_argument(
        "--fps", type=float, metavar="F", help="frames per second, where there is no video"
    )
    parser.add_argument(
        "--layout", choices=("amplify", "atm"), help="of the files (default: found in them)"
    )
    parser.add_argument(
        "--mode",
        choices=("reinit", "episode"),
        help="windows, or whole-episode tracks (default: found in the files and their folder)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be done")
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Migrate; returns 1 when files failed, 3 when all did."""
    from builder.transform.migrate import migrate

    check_positive(args, "frame_step")
    done = migrate(
        args.legacy,
        args.out,
        img_shape=tuple(args.img_shape) if args.img_shape else None,
        tracked=tuple(args.tracked) if args.tracked else None,
        videos=args.videos,
        frame_step=args.frame_step,
        pixel_origin=args.pixel_origin,
        fps=args.fps,
        layout=args.layout,
        mode=args.mode,
        dry_run=args.dry_run,
        on_progress=show_count,
    )
    return say_result(done, args.json)
