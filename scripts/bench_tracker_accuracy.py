"""Measure the embedded trackers on synthetic ground truth with TAP-Vid's metrics.

    python scripts/bench_tracker_accuracy.py --images DIR --write

Scenes are pictures (from DIR: pictures or videos; by default three clips from PyPI) moved by
known smooth warps, with two occluders on paths of their own and noise: 24 frames of 256 x 256,
400 points, windows of 16 steps.  Cost is CPU time of one thread.  Everything has texture here and
nothing stands still, which flatters: ``bench_robot_truth.py`` measures on robot scenes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_common import machine_facts, write_section
from fetch_clips import fetch

from builder.canvas.query_grid import query_points
from builder.trackers.base import Tracker
from builder.trackers.kinds.dis import DisConfig, DisTracker
from builder.trackers.kinds.lk import LkTracker
from builder.training.tapvid_metrics import tapvid_scores
from schemas.dataset import QuerySpec
from schemas.geometry import Stretch
from tests.fixtures.synthetic import Scene, random_scene

SIDE, LENGTH, HORIZON, START_EVERY = 256, 24, 16, 4
SPEEDS = (2.8, 1.07)
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TRACKERS: dict[str, Callable[[], Tracker]] = {
    "dis (best)": lambda: DisTracker(),
    "dis, preset balanced": lambda: DisTracker(DisConfig(preset="balanced")),
    "dis, preset fast": lambda: DisTracker(DisConfig(preset="fast")),
    "lk": lambda: LkTracker(),
}


class Case(NamedTuple):
    """A scene drawn, with its queries and, by start frame, true tracks and visibility."""

    shape: tuple[int, int]
    frames: np.ndarray
    queries: np.ndarray
    truth: dict[int, tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of pictures or videos")
    parser.add_argument("--scenes", type=int, default=12, help="per speed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    folder = arguments.images or Path("demo/videos")
    if arguments.images is None:
        fetch(folder)
    textures = load_textures(folder)
    lines = [
        f"{arguments.scenes} scenes per speed from {len(textures)} pictures, {SIDE} x {SIDE}, "
        f"400 points, windows of {HORIZON} steps; ms are CPU time per frame of one thread.  "
        + machine_facts("opencv-python-headless", "numpy"),
        "",
        "| tracker | px per frame | d_avg | occlusion accuracy | average Jaccard | ms per frame |",
        "|---|---|---|---|---|---|",
    ]
    cases = {}
    for speed in SPEEDS:
        cases[speed] = make_cases(textures, arguments.scenes, speed, arguments.seed)
        for name, make in TRACKERS.items():
            lines.append(f"| {name} | {speed} | {row(make, cases[speed])} |")
            print(lines[-1], flush=True)
    lines += ["", shared_flow_ratio(cases[SPEEDS[0]][0])]
    lines += ["", *input_sizes(textures, arguments.scenes // 2, arguments.seed)]
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        write_section("bench_tracker_accuracy", "Trackers on warped pictures", text)


def load_textures(folder: Path, per_video: int = 4, short_side: int = 400) -> list[np.ndarray]:
    """Read pictures, and some frames of every video, scaled to one short side."""
    pictures = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            pictures += [] if picture is None else [picture]
        elif path.suffix.lower() in (".mp4", ".avi", ".mkv", ".webm", ".mov"):
            with av.open(str(path)) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            pictures += [frames[i] for i in np.linspace(0, len(frames) - 1, per_video).astype(int)]
    if len(pictures) < 3:
        raise SystemExit(f"{folder} holds {len(pictures)} pictures; at least 3 are needed")
    return [scaled_to(picture, short_side / min(picture.shape[:2])) for picture in pictures]


def scaled_to(picture: np.ndarray, ratio: float) -> np.ndarray:
    """Scale a picture (H, W, 3) by ``ratio``."""
    size = (round(picture.shape[1] * ratio), round(picture.shape[0] * ratio))
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how))


def make_cases(textures: list[np.ndarray], count: int, speed: float, seed: int) -> list[Case]:
    """Draw ``count`` scenes of one mean speed."""
    rng = np.random.default_rng(seed)
    return [
        make_case(random_scene(rng, choose(rng, textures), (SIDE, SIDE), LENGTH, speed))
        for _ in range(count)
    ]


def choose(rng: np.random.Generator, textures: list[np.ndarray]) -> list[np.ndarray]:
    """Pick three different pictures: a background and two for occluders."""
    return [textures[i] for i in rng.permutation(len(textures))[:3]]


def make_case(scene: Scene) -> Case:
    """Draw one scene and work out its truth."""
    queries = query_points(QuerySpec(), Stretch(source_shape=scene.shape, img_shape=scene.shape))
    starts = range(0, LENGTH - HORIZON + 1, START_EVERY)
    truth = {start: scene.truth(start, queries, HORIZON) for start in starts}
    return Case(scene.shape, scene.frames(), queries, truth)


def track(make: Callable[[], Tracker], case: Case) -> tuple[dict[int, tuple], float]:
    """Track a case, with a window from every frame; returns windows and CPU seconds."""
    begin = time.process_time()
    session = make().open(case.shape, case.queries, HORIZON, 1)
    windows = [window for frame in case.frames for window in session.push(frame)]
    windows += session.finish()
    seconds = time.process_time() - begin
    return {window.start: (window.tracks_xy, window.vis) for window in windows}, seconds


def measure(make: Callable[[], Tracker], cases: list[Case]) -> tuple[np.ndarray, float]:
    """Return the three scores, averaged over scenes, and milliseconds per frame."""
    scores, seconds = [], 0.0
    for case in cases:
        windows, spent = track(make, case)
        seconds += spent
        true_xy, visible = (np.stack(parts) for parts in zip(*case.truth.values(), strict=True))
        found = [windows[start] for start in case.truth]
        tracks, vis = (np.stack(parts) for parts in zip(*found, strict=True))
        counted = np.ones(visible.shape, bool)
        counted[:, 0] = False
        scores.append(tapvid_scores(true_xy, visible, tracks, vis, case.shape, counted))
    return np.mean(scores, axis=0), 1000 * seconds / (len(cases) * LENGTH)


def row(make: Callable[[], Tracker], cases: list[Case]) -> str:
    """Measure and format the cells of a table row."""
    (d_avg, occlusion, jaccard), milliseconds = measure(make, cases)
    return f"{d_avg:.3f} | {occlusion:.3f} | {jaccard:.3f} | {milliseconds:.0f}"


def shared_flow_ratio(case: Case) -> str:
    """Compare flow shared by all windows with flow computed again for every window."""
    there_and_back = np.concatenate([case.frames, case.frames[::-1]] * 2)
    _, shared = track(lambda: DisTracker(), case._replace(frames=there_and_back))
    starts = range(0, LENGTH, 4)
    begin = time.process_time()
    for start in starts:
        session = DisTracker().open(case.shape, case.queries, HORIZON, LENGTH)
        for frame in there_and_back[start : start + HORIZON]:
            session.push(frame)
    ratio = (time.process_time() - begin) / len(starts) * len(there_and_back) / shared
    return (
        f"Flow computed once per frame pair and shared by all windows is {ratio:.1f}x cheaper "
        f"than flow per window, with equal output (a window from each of {len(there_and_back)} "
        "frames)."
    )


def input_sizes(textures: list[np.ndarray], count: int, seed: int) -> list[str]:
    """Track the same scenes, drawn at 512 x 512, at several sizes (``tracker.input``)."""
    large = 2 * SIDE
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(max(count, 1)):
        pictures = [scaled_to(picture, 2.0) for picture in choose(rng, textures)]
        cases.append(make_case(random_scene(rng, pictures, (large, large), LENGTH, 2 * SPEEDS[0])))
    lines = [
        f"The same scenes ({2 * SPEEDS[0]} px per frame at {large} x {large}), tracked at "
        "several sizes (scores do not depend on size):",
        "",
        "| tracked at | d_avg | occlusion accuracy | average Jaccard | ms per frame |",
        "|---|---|---|---|---|",
    ]
    for side in (SIDE // 2, SIDE, 3 * SIDE // 2, large):
        lines.append(
            f"| {side} x {side} | {row(lambda: DisTracker(), [resized(c, side) for c in cases])} |"
        )
        print(lines[-1], flush=True)
    return lines


def resized(case: Case, side: int) -> Case:
    """Scale frames, queries and truth to ``side`` x ``side``."""
    ratio = side / case.shape[0]
    frames = np.stack([scaled_to(frame, ratio) for frame in case.frames])
    truth = {start: (xy * ratio, visible) for start, (xy, visible) in case.truth.items()}
    return Case((side, side), frames, case.queries * np.float32(ratio), truth)


if __name__ == "__main__":
    main()
