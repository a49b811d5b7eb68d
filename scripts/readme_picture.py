"""Make the README's picture: one window of Big Buck Bunny (CC BY 3.0, Blender Foundation)."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from fetch_clips import fetch

from builder import open_dataset
from builder.cli import main as letterset
from builder.report.render import render_contact_sheet


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, help="where the demo's clips are or go")
    parser.add_argument("picture", type=Path, help="PNG to write")
    args = parser.parse_args()
    fetch(args.videos)
    with tempfile.TemporaryDirectory() as folder:
        clip = args.videos / "bigbuckbunny.mp4"
        code = letterset(
            ["build", "--source", str(clip), "--out", folder, "--img-shape", "256", "256"]
        )
        if code != 0:
            raise SystemExit(code)
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        render_contact_sheet(open_dataset(folder), args.picture, episodes=1, tile_px=256)


if __name__ == "__main__":
    main()
