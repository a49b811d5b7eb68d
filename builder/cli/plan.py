"""Estimate what a build costs, here and at any other size: hours, bytes, files, bottlenecks.

It builds parts of a few episodes in a temporary folder beside OUT, then removes that; nothing
else is written. build --dry-run prints the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from builder.cli.common import check_positive, check_there, declare, number, say, table, whole
from builder.cli.given import declare_given, read_given, retold
from builder.core.errors import ConfigError
from builder.core.messages import count, duration, size, without_path
from builder.core.paths import is_url
from builder.dataset.output_folder import check_output_folder

if TYPE_CHECKING:
    from builder.build.estimate import Costs, Estimate
    from schemas.config import BuildConfig

HELP = "estimate what a build costs, from a few episodes"
EXAMPLE = """\
  letterset plan videos
  letterset plan letterset.yaml --episodes 40000 --hours 1000000
  letterset plan videos dataset --img-shape 256 320 store.frames.codec=jpeg --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare_given(parser, ", then the dataset folder")
    declare(parser, "--img-shape", help="height and width of every frame (default: 256 256)")
    parser.add_argument("--probe", type=whole, default=5, metavar="N", help="episodes to probe")
    parser.add_argument(
        "--episodes",
        type=whole,
        action="append",
        default=[],
        metavar="N",
        help="also estimate for N episodes",
    )
    parser.add_argument(
        "--hours",
        type=number,
        action="append",
        default=[],
        metavar="H",
        help="also estimate for H hours of video",
    )
    declare(parser, "--json")


def next_step(args: argparse.Namespace) -> str:
    """Say how to build it."""
    return f"letterset build {retold(args)}"


def run(args: argparse.Namespace) -> int:
    """Probe and print."""
    check_positive(args, "probe", "episodes", "hours")
    options = {"store.path": None, "img_shape": args.img_shape}
    config = read_given(args, options, {"img_shape": [256, 256], "store.path": "dataset"})
    return tell(config, args.json, args.probe, args.episodes, args.hours)


def tell(
    config: BuildConfig,
    as_json: bool,
    probe: int = 5,
    episodes: Sequence[int] = (),
    hours: Sequence[float] = (),
) -> int:
    """Probe and print what a build costs, also of other sizes; returns 0."""
    from builder.build.backends import settle_config
    from builder.build.estimate import measure

    check_there(config.source.path)
    if is_url(config.store.path):
        raise ConfigError(
            f"{config.store.path}: what a build costs is told for local folders: give one as OUT; "
            "at a URL it is the same, and the time that uploads take"
        )
    check_output_folder(config.store.path)
    config, why = settle_config(config)
    costs = measure(config, probe)
    found = [costs.estimate()]
    found += [costs.estimate(episodes=number) for number in episodes]
    found += [costs.estimate(hours=each) for each in hours]
    if as_json:
        say(json.dumps({"costs": asdict(costs), "estimates": [asdict(e) for e in found]}))
    else:
        say((f"source     {why}\n" if why else "") + _text(costs, found))
    return 0


def _text(costs: Costs, found: list[Estimate]) -> str:
    seconds = found[0].worker_hours / costs.workers * 3600
    lines = [
        f"probed     {costs.probed} of {count(costs.episodes, 'episode')}, at "
        f"{count(costs.places, 'place')}; {_frames(costs)}",
        f"time       about {duration(seconds)} with {count(costs.workers, 'worker')}",
        f"free       {size(costs.free_bytes)}",
        *(
            f"{'bytes' if codec == costs.codec else '  or':10} about {size(bytes_)} "
            f"with store.frames.codec={codec}"
            for codec, bytes_ in costs.bytes_by_codec.items()
        ),
        "each frame "
        + ", ".join(f"{name} {each * 1e3:.2f} ms" for name, each in costs.frame_seconds.items())
        + f"; {size(costs.frame_bytes)} written, {size(costs.source_frame_bytes)} read",
        *_spread(costs),
        f"episode    {costs.episode_seconds:.3f} s and {size(costs.episode_bytes)} more for each",
    ]
    if costs.device == "cpu" and costs.cpu_share < 0.8:
        lines.append(
            f"busy       the probe got {costs.cpu_share:.0%} of a core: an idle machine needs "
            f"about {costs.cpu_share:.0%} of these times"
        )
    lines += [
        f"unreadable {path}: {without_path(reason, path)}"
        for path, reason in costs.unreadable.items()
    ]
    lines += [f"note       {note}" for note in costs.notes]
    if found[0].bytes > costs.free_bytes:
        lines.append("This does not fit: free some space, or store frames smaller.")
    lines.append("\n" + table([_row(costs, each) for each in found]))
    largest = found[-1]
    for name, workers in sorted(largest.workers_until.items(), key=lambda item: item[1]):
        lines.append(f"limit      {name}: reached with {workers:,.0f} workers")
    return "\n".join(lines)


def _spread(costs: Costs) -> Iterator[str]:
    """Say how much places differ, from which the rest is concluded."""
    if costs.frame_bytes_error is None or costs.frame_seconds_error is None:
        yield "spread     not known: only one place was probed"
        return
    least, most = map(size, costs.frame_bytes_range)
    yield (
        f"spread     {least} to {most} a frame, by place (standard error "
        f"{costs.frame_bytes_error:.0%}; of the time {costs.frame_seconds_error:.0%})"
    )


def _frames(costs: Costs) -> str:
    if not costs.frames_error:
        return count(round(costs.frames), "frame")
    return f"about {costs.frames:.0f} frames (standard error {costs.frames_error:.0%})"


def _hours(hours: float) -> str:
    """Write hours; what is less than one, in minutes and seconds."""
    return duration(hours * 3600) if hours < 1 else f"{hours:,.4g} h"


def _row(costs: Costs, each: Estimate) -> dict[str, str]:
    track = each.stage_hours.get("track", 0.0)
    return {
        "episodes": f"{each.episodes:,}",
        "video": _hours(each.video_hours),
        "frames": f"{each.frames:,}",
        "time of one worker": _hours(each.worker_hours),
        "tracking alone": f"{_hours(track)} ({'CPU' if costs.device == 'cpu' else 'GPU'})",
        "written": size(each.bytes),
        "files": f"{each.files:,}",
        "workers for a week": f"{max(1.0, each.worker_hours / 168):,.0f}",
    }
