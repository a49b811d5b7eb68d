"""Measure how often the built-in tracker moves points that stand still, by their texture.

    MUJOCO_GL=osmesa python scripts/robot_scenes.py SCENES --seeds 302 --frames 28
    MUJOCO_GL=osmesa python scripts/robot_scenes.py OTHERS --seeds 201 --frames 28
    python scripts/measure_false_motion.py SCENES --check OTHERS --write

Of these scenes with exact truth, the views of cameras that stand are used.  Each is recorded with
noise of two strengths, and once packed as H.264, and each preset follows the windows of the truth:
as the tracker is by default, and with ``anchored: false``.  ``--write`` puts the rates by texture
of SCENES into builder/report/false_motion_rates.py, which the doctor reads, and a check on OTHERS
into BENCHMARKS.md: how well what the doctor expects, without truth, agrees with the truth.
"""

from __future__ import annotations

import argparse
import os
import pprint
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_common import machine_facts, write_section
from robot_truth import STILL_PX
from robot_views import RECORDINGS, RobotView, folders

from builder.report.false_motion import facts
from builder.report.false_motion_rates import MEASURED
from builder.report.still_points import EDGES, look, moved_steps
from builder.trackers.kinds.dis import PRESETS, DisConfig, DisTracker

FEW = 200
"""Steps; see ``rates_of``."""

EVERY = 4
"""Frames from one window of the truth to the next."""

WAYS: dict[str, dict[str, Any]] = {"default": {}, "chained": {"anchored": False}}
"""Ways to set the tracker; each has a section of BENCHMARKS.md, and rates of its own."""

SECTIONS = {
    "default": ("measure_false_motion", "Motion of points that stand still"),
    "chained": ("measure_false_motion_chained", "Motion of points that stand still: chains alone"),
}
MODULE = '''"""How often the built-in tracker moves points that stand still, by texture.

Written by scripts/measure_false_motion.py; do not edit.  Of each way to set the tracker: what tells
it (``tracker``), and by preset one rate per bin of ``builder.report.still_points.EDGES``.  The
default comes first.
"""

from typing import Any

MEASURED: tuple[dict[str, Any], ...] = {measured}
'''
TARGET = Path(__file__).parents[1] / "builder" / "report" / "false_motion_rates.py"


class Counts(NamedTuple):
    """What one tracker does in one recording of one view.

    Steps by bin of texture, and how many of them move, of the points that truly stand still and
    of those that the doctor takes for still; ``points``: truly still, taken for still, and both.
    """

    steps: np.ndarray
    moved: np.ndarray
    found_steps: np.ndarray
    found_moved: np.ndarray
    points: np.ndarray

    def share(self) -> float:
        """Return the share of the steps of truly still points that move."""
        return float(self.moved.sum() / max(1, self.steps.sum()))

    def found_share(self) -> float:
        """Return that of the points that the doctor takes for still."""
        return float(self.found_moved.sum() / max(1, self.found_steps.sum()))

    def expected(self, rates: Sequence[float]) -> float:
        """Return the share that it expects of these, by their texture alone."""
        return float(self.found_steps @ np.array(rates) / max(1, self.found_steps.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--check", type=Path, required=True, help="scenes of other seeds")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    views = [
        RobotView(folder, *recording)
        for folder in folders(arguments.scenes) + folders(arguments.check)
        if RobotView(folder).truth.fixed
        for recording in RECORDINGS.values()
    ]
    counts: list[dict[tuple[str, str], Counts]] = []
    with tempfile.TemporaryDirectory() as cache, ProcessPoolExecutor(arguments.workers) as pool:
        found = pool.map(measure, views, repeat(arguments.ways), repeat(Path(cache)))
        for view, each in zip(views, found, strict=True):
            counts.append(each)
            print(name_of(view), flush=True)
    kept = [dict(each) for each in MEASURED]
    for way in arguments.ways:
        own = [{preset: each[way, preset] for preset in PRESETS} for each in counts]
        fitted, others = (
            [(v, each) for v, each in zip(views, own, strict=True) if v.folder.parent == parent]
            for parent in (arguments.scenes, arguments.check)
        )
        rates = rates_of([each for _, each in fitted])
        text = "\n".join(table(way, rates, [each for _, each in fitted], others))
        print(text)
        tracker = facts(DisTracker(DisConfig.model_validate(WAYS[way])).info)
        kept = [each for each in kept if each["tracker"] != tracker]
        kept.append({"tracker": tracker, "rates": rates})
        if arguments.write:
            write_section(*SECTIONS[way], text)
    if arguments.write:
        default = facts(DisTracker().info)
        kept.sort(key=lambda each: each["tracker"] != default)
        TARGET.write_text(MODULE.format(measured=pprint.pformat(tuple(kept), width=96)))


def name_of(view: RobotView) -> str:
    """Return what a view and its recording are called."""
    packed = "" if view.crf is None else ", H.264"
    return f"{view.folder.name.rsplit('-', 1)[0]}, noise {view.noise:g}{packed}"


def measure(view: RobotView, ways: Sequence[str], cache: Path) -> dict[tuple[str, str], Counts]:
    """Track one recording in all ways, by all presets."""
    cv2.setNumThreads(1)
    frames, truth, queries_xy = view.frames(cache), view.truth, view.queries_xy
    shape, horizon = frames.shape[1:3], truth.tracks_xy.shape[1]
    away = np.linalg.norm(truth.tracks_xy - truth.tracks_xy[:, :1], axis=-1).max(axis=1)
    still = (away < STILL_PX) & truth.known
    looks = [look(frames[start : start + horizon], queries_xy) for start in view.starts]
    found = {}
    for way in ways:
        for preset in PRESETS:
            tracker = DisTracker(DisConfig.model_validate({"preset": preset, **WAYS[way]}))
            session = tracker.open(shape, queries_xy, horizon, EVERY)
            windows = {w.start: w for frame in frames for w in session.push(frame)}
            bins, points = np.zeros((4, len(EDGES) + 1), np.int64), np.zeros(3, np.int64)
            for at, (start, seen) in enumerate(zip(view.starts, looks, strict=True)):
                window = windows[start]
                both = (window.vis[1:] & window.vis[:-1]).astype(bool)
                moves = moved_steps(window.tracks_xy, shape) & both
                for row, chosen in enumerate((still[at], seen.still)):
                    np.add.at(bins[2 * row], seen.bins[chosen], both[:, chosen].sum(axis=0))
                    np.add.at(bins[2 * row + 1], seen.bins[chosen], moves[:, chosen].sum(axis=0))
                points += [each.sum() for each in (still[at], seen.still, still[at] & seen.still)]
            found[way, preset] = Counts(bins[0], bins[1], bins[2], bins[3], points)
    return found


def added(counts: Sequence[Counts]) -> Counts:
    """Add counts up."""
    return Counts(*(np.sum(each, axis=0) for each in zip(*counts, strict=True)))


def rates_of(counts: Sequence[dict[str, Counts]]) -> dict[str, tuple[float, ...]]:
    """Return the rates by preset, of points that the doctor takes for still.

    Where few were seen the rate of all of them counts, as ``FEW`` steps do.
    """
    rates = {}
    for preset in PRESETS:
        total = added([each[preset] for each in counts])
        moved, steps = total.found_moved, total.found_steps
        own = (moved + FEW * moved.sum() / max(1, steps.sum())) / (steps + FEW)
        rates[preset] = tuple(round(float(rate), 4) for rate in own)
    return rates


def table(
    way: str,
    rates: dict[str, tuple[float, ...]],
    fitted: Sequence[dict[str, Counts]],
    others: Sequence[tuple[RobotView, dict[str, Counts]]],
) -> Iterator[str]:
    """Lay out the rates by texture, and the check on other scenes."""
    presets = list(PRESETS)
    known: Any = facts(DisTracker(DisConfig.model_validate(WAYS[way])).info)["own"]
    own = {**known, **WAYS[way]}
    settings = ", ".join(f"{key}={own[key]}" for key in sorted(own))
    bounds = [f"below {EDGES[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(EDGES))]
    bounds.append(f"{EDGES[-1]:g} and more")
    total = {preset: added([each[preset] for each in fitted]) for preset in presets}
    yield (
        "Steps of points that the doctor takes for still, and the tracks move to another pixel, by "
        "how many times the noise a motion by one pixel changes the picture around a point "
        f"(`builder/report/still_points.py`).  Tracker `dis` with {settings}.  Fixed cameras, "
        f"256 x 256; {len(fitted)} recordings, {'; '.join(RECORDINGS)}.  "
        + machine_facts("opencv-python-headless", "numpy")
    )
    yield ""
    yield f"| texture | {' | '.join(presets)} | steps |"
    yield f"|---|{'--:|' * len(presets)}--:|"
    for at, name in enumerate(bounds):
        shares = (total[p].found_moved[at] / max(1, total[p].found_steps[at]) for p in presets)
        cells = " | ".join(f"{share:.1%}" for share in shares)
        yield f"| {name} | {cells} | {total[presets[0]].found_steps[at]:,} |"
    yield ""
    yield f"On {len(others)} recordings of other scenes, against the truth:"
    yield ""
    yield f"| | {' | '.join(presets)} |"
    yield f"|---|{'--:|' * len(presets)}"
    lines: dict[str, list[str]] = {}
    for preset in presets:
        all_of = added([each[preset] for _, each in others])
        still, taken, both = all_of.points
        apart = {
            name_of(view): each[preset].expected(rates[preset]) - each[preset].found_share()
            for view, each in others
        }
        worst = max(apart, key=lambda name: abs(apart[name]))
        from_all = [
            each[preset].expected(rates[preset]) - each[preset].share() for _, each in others
        ]
        for name, cell in {
            "moved, of the steps of those it takes for still": f"{all_of.found_share():.1%}",
            "expected of these": f"{all_of.expected(rates[preset]):.1%}",
            "the same in one recording, how far apart on average": (
                f"{100 * np.mean(np.abs([*apart.values()])):.1f} points"
            ),
            "the same, where farthest apart": f"{100 * apart[worst]:+.1f} points ({worst})",
            "moved, of the steps of all points that truly stand still": f"{all_of.share():.1%}",
            "expected, less that, in one recording, how far apart on average": (
                f"{100 * np.mean(np.abs(from_all)):.1f} points"
            ),
            "of those it takes for still, are": f"{both / max(1, taken):.1%}",
            "of the still points, found": f"{both / max(1, still):.1%}",
        }.items():
            lines.setdefault(name, []).append(cell)
    for name, row in lines.items():
        yield f"| {name} | {' | '.join(row)} |"


if __name__ == "__main__":
    main()
