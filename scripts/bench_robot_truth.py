"""Measure the embedded trackers on rendered robot scenes with exact truth, through build and store.

    MUJOCO_GL=osmesa python scripts/robot_scenes.py SCENES --seeds 201 --frames 28
    python scripts/bench_robot_truth.py SCENES --write

Scenes should be of seeds that nothing was tuned on.  Cost is of one thread, per frame of
256 x 256, with a window from every frame.  ``--write`` puts the tables into BENCHMARKS.md and how
well ``conf`` tells the truth into docs/images/conf.svg.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_common import load_note, machine_facts, write_section
from conf_picture import write_picture
from robot_truth import (
    BINS,
    CAMERAS,
    NEAR_PX,
    Bin,
    Steps,
    by_group,
    calibration_error,
    error_by_speed,
    error_by_step,
    joined,
    reliability,
    scores,
)
from robot_views import RECORDINGS, RobotView, folders

from builder import open_dataset
from builder.build.pipeline import build
from builder.trackers.base import TRACKERS
from schemas.config import BuildConfig, TrackerPart

KINDS: dict[str, dict[str, Any]] = {
    "dis (best)": {"kind": "dis", "conf": True},
    "dis, preset balanced": {"kind": "dis", "preset": "balanced", "conf": True},
    "dis, anchored: false": {"kind": "dis", "anchored": False},
    "dis, preset fast": {"kind": "dis", "preset": "fast", "conf": True},
    "lk": {"kind": "lk"},
}
GRID = 20
"""Rows and columns of query points in the truth."""

DEFAULT = "dis (best)"
SHOWN = ("d_avg", "AJ", "OA", "false_motion", "false_still", "ghosts", "error")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--trackers", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--recordings", nargs="+", choices=RECORDINGS, default=list(RECORDINGS))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the builds")
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    found = folders(arguments.scenes)
    lines = [
        f"{len(found)} views of rendered robot scenes, {{}} steps of points, of seeds that nothing "
        "was tuned on; 400 points, windows of 16 steps on 256 x 256, as built and "
        "stored.  Errors in pixels.  " + machine_facts("opencv-python-headless", "numpy"),
        "",
        f"| tracker | recording | points | {' | '.join(n.replace('_', ' ') for n in SHOWN)} |",
        f"|---|---|---|{'--:|' * len(SHOWN)}",
    ]
    details: list[str] = []
    steps = 0.0
    told: dict[str, list[dict[str, Steps]]] = {}
    for recording in arguments.recordings:
        with tempfile.TemporaryDirectory() as folder:
            views = recorded(found, Path(folder) / "videos", *RECORDINGS[recording])
            for name in arguments.trackers:
                videos, out = Path(folder) / "videos", Path(folder) / name
                groups = measure(views, videos, out, KINDS[name], arguments.workers)
                told.setdefault(name, []).append(groups)
                steps = max(steps, sum(float(each.visible.size) for each in groups.values()))
                for group in ("still", "moving", "gripper", "scene"):
                    if group in groups:
                        found_scores = scores(groups[group])
                        row = " | ".join(f"{found_scores[key]:.3f}" for key in SHOWN).replace(
                            "nan", ""
                        )
                        lines.append(f"| {name} | {recording} | {group} | {row} |")
                        print(lines[-1], flush=True)
                if name == DEFAULT and recording == "noise 1.5":
                    details = detailed(groups)
    lines[0] = lines[0].format(f"{steps:,.0f}")
    bins = {name: reliability(joined(parts)) for name, parts in told.items()}
    bins = {name: each for name, each in bins.items() if each}
    lines += ["", *details, "", *confidence(bins), "", *costs(arguments.trackers), "", load_note()]
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        write_section("bench_robot_truth", "Accuracy of the embedded trackers", text)
        if DEFAULT in bins:
            write_picture(bins[DEFAULT])


def recorded(
    found: list[Path], videos: Path, noise: float, crf: int | None
) -> dict[str, RobotView]:
    """Write the videos of all views; returns the views by name."""
    videos.mkdir()
    views = {path.name: RobotView(path, noise, crf) for path in found}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: views[name].write(videos / f"{name}.mkv"), views))
    return views


def measure(
    views: dict[str, RobotView], videos: Path, out: Path, tracker: dict[str, Any], workers: int
) -> dict[str, Steps]:
    """Build a dataset of all views and compare what it holds with the truth."""
    config = BuildConfig.model_validate(
        {
            "source": {"kind": "video", "path": str(videos)},
            "img_shape": [256, 256],
            "tracker": {**tracker, "start_every": 4},
            "queries": {"grid": [GRID, GRID]},
            "store": {"path": str(out), "frames": {"codec": "none"}},
            "executor": {"workers": workers},
        }
    )
    summary = build(config)
    if summary.failures:
        raise SystemExit(f"the build failed: {summary.failures}")
    dataset = open_dataset(out)
    return joined([compare(views, dataset[each]) for each in dataset.ids])


def compare(views: dict[str, RobotView], episode: Any) -> dict[str, Steps]:
    """Compare one stored episode with its truth, in content pixels."""
    view = views[Path(episode.meta.source.path).stem]
    (stored,) = episode.views.values()
    starts = [list(stored.starts).index(start) for start in view.starts]
    to_content = ~view.box.content_to_img
    # The stored points are in an order of their own.
    queries = np.asarray(to_content(np.asarray(stored.tracks[0, 0], np.float64)))
    away = np.linalg.norm(queries[:, None] - view.queries_xy, axis=-1)
    order = away.argmin(axis=0)
    if away.min(axis=0).max() > 0.01:
        raise SystemExit(f"{view.folder}: the truth is of other query points")
    tracks = np.asarray(stored.tracks)[starts][:, :, order].astype(np.float64)
    vis = np.asarray(stored.vis)[starts][:, :, order]
    conf = None if stored.conf is None else np.asarray(stored.conf)[starts][:, :, order]
    return by_group(view.truth, np.asarray(to_content(tracks)), vis, conf)


def detailed(groups: dict[str, Steps]) -> list[str]:
    """Tell the error of the default by step and by speed."""
    steps = (1, 2, 4, 8, 15)
    lines = [
        "Mean error of the default, at noise 1.5, by step of the window and by true speed:",
        "",
        f"| points | {' | '.join(f'step {step}' for step in steps)} |",
        f"|---|{'--:|' * len(steps)}",
    ]
    for name, each in groups.items():
        by_step = error_by_step(each)
        lines.append(f"| {name} | {' | '.join(f'{by_step[s - 1]:.2f}' for s in steps)} |")
    lines += ["", "| pixels per step | mean error |", "|---|--:|"]
    speeds = error_by_speed(joined_all(groups))
    return lines + [f"| {speed} | {error:.2f} |" for speed, error in speeds.items()]


def confidence(bins: dict[str, dict[str, list[Bin]]]) -> list[str]:
    """Tell how well ``conf`` foretells the truth: the default's by its value, all in one number."""
    lines = []
    if DEFAULT in bins:
        cameras = bins[DEFAULT]
        lines += [
            "`conf` of the default (`tracker.conf=true`), in all recordings above: the share of "
            f"points that are visible and within {NEAR_PX:g} px of the truth.",
            "",
            "| conf |" + "".join(f" {c} camera: points | right |" for c in cameras),
            f"|---|{'--:|--:|' * len(cameras)}",
        ]
        for at in range(BINS):
            cells = ""
            for each in (own[at] for own in cameras.values()):
                cells += f" {each.points:,} | {each.right:.3f} |" if each.points else " 0 | |"
            lines.append(f"| {at / BINS:g} to {(at + 1) / BINS:g} |{cells}")
        lines.append("")
    lines += [
        "Expected calibration error of `conf`, the mean distance of the two over all points:",
        "",
        f"| tracker | {' | '.join(f'{camera} camera' for camera in CAMERAS)} |",
        f"|---|{'--:|' * len(CAMERAS)}",
    ]
    for name, told in bins.items():
        cells = " | ".join(
            f"{calibration_error(told[c]):.3f}" if c in told else "" for c in CAMERAS
        )
        lines.append(f"| {name} | {cells} |")
    return lines if bins else []


def joined_all(groups: dict[str, Steps]) -> Steps:
    """Put all groups into one."""
    return joined([{"all": each} for each in groups.values()])["all"]


def costs(trackers: list[str]) -> list[str]:
    """Measure milliseconds per frame of 256 x 256, of one thread."""
    from tests.fixtures.synthetic import random_scene, random_texture

    rng = np.random.default_rng(0)
    textures = [random_texture(rng, (400, 400)) for _ in range(3)]
    frames = random_scene(rng, textures, (256, 256), 48, 1.5).frames()
    side = (np.arange(20) + 0.5) * 12.8
    queries = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    lines = ["| tracker | CPU ms per frame | ms per frame, wall |", "|---|--:|--:|"]
    for name in trackers:
        make, own = TRACKERS.configure(TrackerPart.model_validate(KINDS[name]))
        session = make(own).open((256, 256), queries, 16, 1)
        for frame in frames[:16]:
            session.push(frame)
        wall, cpu = time.perf_counter(), time.process_time()
        for frame in frames[16:]:
            session.push(frame)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        lines.append(f"| {name} | {1000 * cpu / 32:.0f} | {1000 * wall / 32:.0f} |")
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    main()
