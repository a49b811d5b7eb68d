"""From real video to a dataset that validates, and a picture of it."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from fetch_clips import CLIPS, fetch

from builder.cli import main as letterset


def run(*argv: str | Path) -> None:
    """Run one ``letterset`` command as a user would; ends the demo when it fails."""
    words = [str(word) for word in argv]
    print(f"\n$ letterset {shlex.join(words)}", flush=True)
    code = letterset(words)
    if code != 0:
        raise SystemExit(code)


def main() -> None:
    """Parse the command line and run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    folder: Path = parser.parse_args().folder
    videos, dataset, picture = folder / "videos", folder / "dataset", folder / "tracks.png"
    begun = time.monotonic()
    print(f"Fetching {len(CLIPS)} clips into {videos}", flush=True)
    fetch(videos)
    run("build", "--source", videos, "--out", dataset, "--img-shape", "256", "256")
    run("validate", dataset)
    run("inspect", dataset)
    from builder.dataset.opening import open_dataset
    from builder.report.render import render_contact_sheet

    render_contact_sheet(open_dataset(dataset), picture)
    print(f"""
Done in {time.monotonic() - begun:.0f} s.
  videos    {videos}
  dataset   {dataset}
  picture   {picture}   tracks over letterboxed frames

Next, your own: {shlex.quote(str(Path(sys.executable).parent / "letterset"))} preview VIDEOS""")


if __name__ == "__main__":
    main()
