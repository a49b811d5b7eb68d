"""Tell what a build will cost here and at any other size: hours, bytes, files, bottlenecks.

A few episodes are probed: their beginnings are built into a temporary folder beside OUT, which
is removed. Nothing else is written.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from builder.build.config_file import load_config
from builder.cli.common import check_positive, config_and_overrides, declare, say, table
from builder.core.messages import count, size
from builder.dataset.output_folder import check_output_folder

if TYPE_CHECKING:
    from builder.build.estimate import Costs, Estimate

HELP = "what a build will cost, from a probe of a few episodes"
EXAMPLE = """\
  letterset plan videos cfg/quickstart.yaml
  letterset plan videos cfg/quickstart.yaml --episodes 40000 --hours 1000000
  letterset plan videos img_shape=[256,256] store.path=dataset --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "source")
    parser.add_argument("config", metavar="CONFIG.yaml", help="build config, or key=value")
    declare(parser, "overrides")
    parser.add_argument("--probe", type=int, default=5, metavar="N", help="episodes to probe")
    parser.add_argument(
        "--episodes", type=int, action="append", default=[], metavar="N", help="also for so many"
    )
    parser.add_argument(
        "--hours", type=float, action="append", default=[], metavar="H", help="of video, also"
    )
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Probe and print."""
    check_positive(args, "probe", "episodes", "hours")
    config = load_config(*config_and_overrides(args), {"source.path": args.source})
    check_output_folder(config.store.path)
    from builder.build.backends import settle_config
    from builder.build.estimate import measure

    config, _ = settle_config(config)
    costs = measure(config, args.probe)
    found = [costs.estimate()]
    found += [costs.estimate(episodes=number) for number in args.episodes]
    found += [costs.estimate(hours=hours) for hours in args.hours]
    if args.json:
        say(json.dumps({"costs": asdict(costs), "estimates": [asdict(e) for e in found]}))
    else:
        say(_text(costs, found))
    return 0


def _text(costs: Costs, found: list[Estimate]) -> str:
    lines = [
        f"probed     {costs.probed} of {count(costs.episodes, 'episode')}; {_frames(costs)}",
        "a frame    "
        + ", ".join(f"{name} {each * 1e3:.2f} ms" for name, each in costs.frame_seconds.items())
        + f"; {size(costs.frame_bytes)} written, {size(costs.source_frame_bytes)} read",
        f"an episode {costs.episode_seconds:.3f} s and {size(costs.episode_bytes)} besides",
    ]
    if costs.device == "cpu" and costs.cpu_share < 0.8:
        lines.append(
            f"busy       the probe had a core for {costs.cpu_share:.0%} of the time: on an idle "
            "machine it may take so much less"
        )
    lines.append("\n" + table([_row(costs, each) for each in found]))
    largest = found[-1]
    for name, workers in sorted(largest.workers_until.items(), key=lambda item: item[1]):
        lines.append(f"limit      {name}: reached with {workers:,.0f} workers")
    return "\n".join(lines)


def _frames(costs: Costs) -> str:
    if not costs.frames_error:
        return count(round(costs.frames), "frame")
    return f"about {costs.frames:.0f} frames (standard error {costs.frames_error:.0%})"


def _row(costs: Costs, each: Estimate) -> dict[str, str]:
    track = each.stage_hours.get("track", 0.0)
    return {
        "episodes": f"{each.episodes:,}",
        "video": f"{each.video_hours:,.4g} h",
        "frames": f"{each.frames:,}",
        "worker hours": f"{each.worker_hours:,.4g}",
        "of which tracking": f"{track:,.4g} ({'CPU' if costs.device == 'cpu' else 'GPU'})",
        "written": size(each.bytes),
        "files": f"{each.files:,}",
        "workers for a week": f"{max(1.0, each.worker_hours / 168):,.0f}",
    }
