"""Look at a folder, say what it holds, and write a commented config for it."""

import argparse
from pathlib import Path
from shlex import quote

from builder.cli.common import say
from builder.core.messages import count

HELP = "write a commented config for a folder"
EXAMPLE = """\
  letterset init videos --out build.yaml
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("source", metavar="FOLDER", help="folder or file to read")
    parser.add_argument("--kind", help="source kind (default: what it looks like)")
    parser.add_argument("--out", default="letterset.yaml", help="config to write; must not exist")


def run(args: argparse.Namespace) -> int:
    """Write the config; returns 1 when no episode could be opened."""
    from builder.sources.starter_config import guess, write_config

    found, out = guess(Path(args.source), args.kind), Path(args.out)
    write_config(found, out)
    episodes = count(found.episodes, "episode")
    say(f"{args.source}: {found.kind}, because {found.why}; {episodes}")
    for name, view in found.views.items():
        height, width = view.source_shape
        turned = "upright" if view.orientation == "none" else f"turned by {view.orientation}"
        frames = count(view.num_frames, "frame")
        say(f"  view {name}: {height} x {width} (H x W), {frames}, {turned}")
    for problem in found.problems:
        say(f"  cannot be opened: {problem}")
    say(f"wrote {out}; next: letterset preview {quote(args.source)}")
    say(f"then: letterset build {quote(str(out))} --dry-run")
    return 0 if found.views else 1
