"""Measure how often a tracker moves points that stand still, by how much texture they have.

    python scripts/measure_false_motion.py SCENES --write

SCENES are scenes with exact truth (scripts/robot_scenes.py), those of a camera that stands.
Noise is added, pictures are letterboxed to 256 x 256, and each preset of the built-in tracker
follows the windows of the truth.  ``--write`` puts the rates by texture into
builder/report/false_motion_rates.py, which the doctor reads, and a check into BENCHMARKS.md: how
well what the doctor finds without truth agrees with the truth.  Scenes whose seed is odd are for
the check alone.
"""

from __future__ import annotations

import argparse
import pprint
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_common import machine_facts, write_section

from builder.canvas.letterbox import letterbox_frame
from builder.report.false_motion import facts
from builder.report.still_points import EDGES, WindowLook, look, moved_steps
from builder.trackers.kinds.dis import PRESETS, DisConfig, DisTracker
from schemas.geometry import Letterbox

IMG_SHAPE, HORIZON = (256, 256), 16
NOISES = (0.5, 1.5)
STILL_PX = 0.05  # a point that never gets farther from its start stands still
BINS = range(len(EDGES) + 1)
MODULE = '''"""How often the built-in tracker moves points that stand still, by texture.

Written by scripts/measure_false_motion.py; do not edit.  One rate per bin of
``builder.report.still_points.EDGES``, by preset; ``TRACKER`` is what they hold for.
"""

from typing import Any

TRACKER: dict[str, Any] = {tracker}
RATES: dict[str, tuple[float, ...]] = {rates}
'''
TARGET = Path(__file__).parents[1] / "builder" / "report" / "false_motion_rates.py"


class Scene(NamedTuple):
    """A scene with noise: frames (T, h, w, 3) of the content, and its truth in their pixels."""

    name: str
    noise: float
    frames: np.ndarray
    queries_xy: np.ndarray
    starts: np.ndarray
    still: np.ndarray
    """(S, N): stands, in truth, and shows a body that is known."""
    check: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    steps: Counter[tuple[str, bool, int]] = Counter()
    moved: Counter[tuple[str, bool, int]] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for scene in read_scenes(arguments.scenes):
        looks = {
            int(start): look(scene.frames[start : start + HORIZON], scene.queries_xy)
            for start in scene.starts
        }
        for preset in arguments.presets:
            tally(scene, preset, looks, steps, moved, found)
        print(scene.name, scene.noise, flush=True)
    rates = {
        preset: tuple(round(float(rate), 4) for rate in monotone(*both))
        for preset in arguments.presets
        for both in [
            [np.array([each[preset, False, at] for at in BINS]) for each in (moved, steps)]
        ]
    }
    text = table(arguments.presets, rates, moved, steps, found)
    print(text)
    if arguments.write:
        tracker = pprint.pformat(facts(DisTracker(DisConfig()).info))
        TARGET.write_text(MODULE.format(tracker=tracker, rates=pprint.pformat(rates)))
        write_section("measure_false_motion", "Motion of points that stand still", text)


def monotone(moved: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the rate of every bin, which does not grow with texture.

    Neighbours of which the one with more texture has the larger rate are pooled; points beside
    moving things have texture, and move with them.
    """
    groups: list[list[float]] = []
    for more, of in zip(moved, steps, strict=True):
        groups.append([float(more), float(of), 1])
        while len(groups) > 1 and (not groups[-2][1] or _rate(groups[-1]) > _rate(groups[-2])):
            last = groups.pop()
            groups[-1] = [a + b for a, b in zip(groups[-1], last, strict=True)]
    return np.concatenate([np.full(int(size), more / max(1, of)) for more, of, size in groups])


def _rate(group: list[float]) -> float:
    return group[0] / group[1] if group[1] else 1.0


def table(
    presets: list[str],
    rates: dict[str, tuple[float, ...]],
    moved: Counter[tuple[str, bool, int]],
    steps: Counter[tuple[str, bool, int]],
    found: Counter[tuple[str, str]],
) -> str:
    """Lay out the rates by texture, and the check on the scenes that were not used for them."""
    own: Any = facts(DisTracker(DisConfig()).info)["own"]
    settings = ", ".join(f"{key}={own[key]}" for key in sorted(own))
    bounds = [f"below {EDGES[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(EDGES))]
    bounds.append(f"{EDGES[-1]:g} and more")
    lines = [
        "Steps of points that stand still, in truth, that the tracks move to another pixel, by how "
        "many times the noise a motion by one pixel changes the picture around a point "
        "(`builder/report/still_points.py`). "
        f"Tracker `dis` with {settings}. Fixed cameras, {IMG_SHAPE[0]} x {IMG_SHAPE[1]}, noise of "
        f"{', '.join(f'{noise:g}' for noise in NOISES)} grey levels in the source. "
        + machine_facts("opencv-python-headless", "numpy"),
        "",
        f"| texture | {' | '.join(presets)} | steps |",
        f"|---|{'---|' * len(presets)}---|",
    ]
    for at, name in enumerate(bounds):
        shares = (moved[p, False, at] / max(1, steps[p, False, at]) for p in presets)
        cells = " | ".join(f"{share:.1%}" for share in shares)
        lines.append(f"| {name} | {cells} | {steps[presets[0], False, at]} |")
    lines += [
        "",
        "On other scenes of the same kinds, what the doctor finds without truth:",
        "",
        "| | " + " | ".join(presets) + " |",
        f"|---|{'---|' * len(presets)}",
    ]
    rows = {
        "moved, of the steps of truly still points": lambda p: (
            found[p, "true moved"] / max(1, found[p, "true steps"])
        ),
        "moved, of those that it takes for still": lambda p: (
            found[p, "found moved"] / max(1, found[p, "found steps"])
        ),
        "expected by it": lambda p: (
            sum(found[p, f"found steps {at}"] * rates[p][at] for at in BINS)
            / max(1, found[p, "found steps"])
        ),
        "of those it takes for still, are": lambda p: found[p, "right"] / max(1, found[p, "found"]),
        "of the still points, found": lambda p: found[p, "right"] / max(1, found[p, "still"]),
    }
    for name, value in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{value(p):.1%}' for p in presets)} |")
    return "\n".join(lines)


def read_scenes(folder: Path) -> Iterator[Scene]:
    """Read the scenes of cameras that stand, once per noise level."""
    for path in sorted(folder.glob("*/truth.npz")):
        truth = np.load(path)
        if not truth["fixed"]:
            continue
        with av.open(str(path.parent / "clean.mkv")) as container:
            clean = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        box = Letterbox.fit(clean[0].shape[:2], IMG_SHAPE)
        left, top, right, bottom = box.content_box
        away = np.linalg.norm(truth["tracks_xy"] - truth["tracks_xy"][:, :1], axis=-1).max(axis=1)
        still = (away * max(box.scale_xy) < STILL_PX) & truth["known"]
        queries_xy = box.to_img(truth["queries_xy"]) - (left, top)
        seed = int(path.parent.name.split("-")[1])
        for noise in NOISES:
            rng = np.random.default_rng([seed, round(10 * noise)])
            noisy = (frame + rng.normal(0, noise, frame.shape) for frame in clean)
            frames = np.stack(
                [
                    letterbox_frame(np.clip(np.rint(each), 0, 255).astype(np.uint8), box)
                    for each in noisy
                ]
            )[:, top:bottom, left:right]
            yield Scene(
                path.parent.name,
                noise,
                np.ascontiguousarray(frames),
                queries_xy.astype(np.float32),
                truth["starts"],
                still,
                bool(seed % 2),
            )


def tally(
    scene: Scene,
    preset: str,
    looks: dict[int, WindowLook],
    steps: Counter[tuple[str, bool, int]],
    moved: Counter[tuple[str, bool, int]],
    found: Counter[tuple[str, str]],
) -> None:
    """Track a scene and count the steps of its still points, and those that move."""
    shape = scene.frames.shape[1:3]
    tracker = DisTracker(DisConfig.model_validate({"preset": preset}))
    session = tracker.open(shape, scene.queries_xy, HORIZON, 1)
    windows = [window for frame in scene.frames for window in session.push(frame)]
    for number, start in enumerate(scene.starts):
        window, seen = windows[start], looks[int(start)]
        both = (window.vis[1:] & window.vis[:-1]).astype(bool)
        moves = moved_steps(window.tracks_xy, shape) & both
        for at in BINS:
            chosen = scene.still[number] & (seen.bins == at)
            steps[preset, scene.check, at] += int(both[:, chosen].sum())
            moved[preset, scene.check, at] += int(moves[:, chosen].sum())
        if scene.check:
            for name, chosen in (("true", scene.still[number]), ("found", seen.still)):
                found[preset, f"{name} steps"] += int(both[:, chosen].sum())
                found[preset, f"{name} moved"] += int(moves[:, chosen].sum())
            for at in BINS:
                chosen = seen.still & (seen.bins == at)
                found[preset, f"found steps {at}"] += int(both[:, chosen].sum())
            found[preset, "still"] += int(scene.still[number].sum())
            found[preset, "found"] += int(seen.still.sum())
            found[preset, "right"] += int((seen.still & scene.still[number]).sum())


if __name__ == "__main__":
    main()
