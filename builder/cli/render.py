"""Draw a dataset: an MP4 with tracks, a contact sheet, or a Rerun recording.

An existing file is replaced.
"""

import argparse
from pathlib import Path

from builder.cli.common import check_suffix, declare, one_of, say
from builder.core.errors import ConfigError
from builder.core.messages import count

HELP = "draw tracks: a video, a contact sheet, a recording"
EXAMPLE = """\
  letterset render dataset sheet.png --to contact-sheet
  letterset render dataset tracks.mp4 --to video --episode bikes-c8000a48
"""
NEXT = "open {out}"

SUFFIXES = {"video": ".mp4", "contact-sheet": ".png", "rerun": ".rrd"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    declare(parser, "out", help=".mp4, .png or .rrd file to write")
    parser.add_argument("--to", required=True, choices=tuple(SUFFIXES), help="what to draw")
    declare(parser, "--episode", help="id, its beginning, or a path; default: the first")
    declare(parser, "--view", help="for a video; default: the first")


def run(args: argparse.Namespace) -> int:
    """Draw; returns the exit code."""
    from builder.dataset.opening import open_dataset
    from builder.report.render import render_contact_sheet, render_rerun, render_video

    out = Path(args.out)
    check_suffix(out, [SUFFIXES[args.to]])  # a file of another kind would be lost
    if args.to == "contact-sheet" and args.episode is not None:
        raise ConfigError("a contact-sheet chooses its episodes; --episode is for video and rerun")
    if args.to != "video" and args.view is not None:
        raise ConfigError(f"--view is for video; a {args.to} takes none")
    dataset = open_dataset(args.dataset)
    if args.to == "contact-sheet":
        render_contact_sheet(dataset, out)
        say(f"wrote {out}")
        return 0
    wanted = dataset.find(args.episode) if args.episode is not None else None
    episode_id = one_of(dataset.ids, wanted, "episode", dataset.path)
    if args.to == "video":
        view = one_of(list(dataset[episode_id].views), args.view, "view", episode_id)
        frames = render_video(dataset, episode_id, view, out)
    else:
        frames = render_rerun(dataset, episode_id, out)
    say(f"wrote {out}: {count(frames, 'frame')} of {episode_id}")
    return 0
