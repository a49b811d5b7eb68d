"""Measure reading training samples, and preparing and decoding on a robot.

    python scripts/bench_reader.py --rounds 3 --write

Datasets are generated.  Every reader is a process of its own, warm, and reads the same random
samples; the ways take turns and ratios within a round are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench_common import load_note, machine_facts, write_section
from bench_reader_data import (
    EPISODES,
    HORIZON,
    LENGTH,
    POINTS,
    SIDE,
    TRACKED_SHAPE,
    prepare,
)
from bench_reader_peers import Read, amplify_sample, amplify_tracks, copies, zarr_sample
from bench_robot import live_frames, robot

SAMPLES = 200
WHOLE, ALONE, SIZED = "AMPLIFY's pattern", "AMPLIFY's, tracks alone", "AMPLIFY's, tracks remapped"
GOALS = {
    "letterset": (20.0, 0.0),
    "letterset, tracks as u16": (25.0, 0.0),
    "letterset on the same files": (14.0, 6.0),
    "letterset on those files": (14.0, 6.0),
}
"""By reader: how many times faster than the peer at least, than memcpy slower at most."""
COPY_WHOLE, COPY_ALONE = "memcpy of the sample", "memcpy of the tracks"


def ours(
    folder: Path, img_shape: tuple[int, int] | None = None, max_open: int = 64, **options: Any
) -> Read:
    """Our reader; with ``img_shape``, of older files."""
    from builder import open_dataset
    from builder.training import WindowDataset

    windows = WindowDataset(open_dataset(folder, img_shape, max_open=max_open), **options)
    per_episode = LENGTH - HORIZON + 1
    return lambda episode, start: windows[episode * per_episode + start]


def readers(root: Path) -> dict[str, tuple[Callable[[], Read], str, str]]:
    """List all ways: how to make it, its peer and its floor."""
    square, peer, alone = (SIDE, SIDE), (WHOLE, COPY_WHOLE), (ALONE, COPY_ALONE)
    return {
        WHOLE: (lambda: amplify_sample(root / "amplify"), *peer),
        "letterset": (lambda: ours(root / "f32"), *peer),
        "letterset, tracks as u16": (lambda: ours(root / "u16"), *peer),
        "letterset, images as float": (lambda: ours(root / "f32", images="float"), *peer),
        "letterset, one episode kept open": (lambda: ours(root / "f32", max_open=1), *peer),
        "letterset, Zarr store": (lambda: ours(root / "zarr"), *peer),
        "zarr-python on that store": (lambda: zarr_sample(root / "zarr"), *peer),
        COPY_WHOLE: (lambda: copies(root, ("traj", "vis", "images")), *peer),
        ALONE: (lambda: amplify_tracks(root / "amplify" / "tracks"), *alone),
        "letterset on the same files": (
            lambda: ours(root / "amplify" / "tracks", square, images="none"),
            *alone,
        ),
        SIZED: (lambda: amplify_tracks(root / "sized"), SIZED, COPY_ALONE),
        "letterset on those files": (
            lambda: ours(root / "sized", square, images="none"),
            SIZED,
            COPY_ALONE,
        ),
        COPY_ALONE: (lambda: copies(root, ("traj", "vis")), *alone),
    }


def child(root: Path, way: str, seed: int) -> None:
    """Read warm; print microseconds per sample."""
    read = readers(root)[way][0]()
    rng = np.random.default_rng(seed)
    picks = [
        (int(e), int(s))
        for e, s in zip(
            rng.integers(0, EPISODES, SAMPLES),
            rng.integers(0, LENGTH - HORIZON, SAMPLES),
            strict=True,
        )
    ]
    for pick in picks:
        read(*pick)
    begun = time.process_time()
    for pick in picks:
        read(*pick)
    print(json.dumps((time.process_time() - begun) / SAMPLES * 1e6))


def same_tracks(root: Path) -> bool:
    """Tell whether our reader gives the bits of AMPLIFY's own formula on its own files."""
    square = (SIDE, SIDE)
    for folder in (root / "amplify" / "tracks", root / "sized"):
        theirs, mine = amplify_tracks(folder), ours(folder, square, images="none")
        for pick in ((episode, start) for episode in range(EPISODES) for start in (0, 7, 150)):
            if not np.array_equal(theirs(*pick)[0], mine(*pick)["traj"]):
                return False
    return True


def measure(root: Path, rounds: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in readers(root)}
    for seed in range(rounds):
        for name in took:
            command = [sys.executable, __file__, "--child", name, "--root", str(root)]
            answer = subprocess.run(
                [*command, "--seed", str(seed)], check=True, capture_output=True, text=True
            )
            took[name].append(json.loads(answer.stdout))
    return took


def judge(name: str, faster: float, slower: float) -> str:
    """Say whether a reader's goals are met."""
    least, most = GOALS.get(name, (0.0, 0.0))
    said = [f"{least:.0f}x: {'met' if faster >= least else 'missed'}"] if least else []
    if most:
        said.append(f"at most {most:.0f}x: {'met' if slower <= most else 'missed'}")
    return ", ".join(said)


def report(took: dict[str, list[float]], live: dict[str, float], same: bool) -> str:
    def ratio(peer: str, ours: str) -> float:
        return median(a / b for a, b in zip(took[peer], took[ours], strict=True))

    lines = [
        "| reader | us per sample | against AMPLIFY's pattern | against memcpy | goal |",
        "|---|--:|--:|--:|---|",
    ]
    for name, (_, peer, floor) in readers(Path()).items():
        faster, slower = ratio(peer, name), ratio(name, floor)
        lines.append(
            f"| {name} | {median(took[name]):.0f} | {faster:.1f}x faster | {slower:.1f}x | "
            f"{judge(name, faster, slower)} |"
        )
    lines += [
        "",
        f"Two views, {HORIZON} x {POINTS} points, {SIDE} x {SIDE} images; {EPISODES} episodes of "
        f"{LENGTH} frames, warm; CPU time, medians of interleaved "
        f"rounds, here {len(took[WHOLE])}. AMPLIFY's pattern "
        "takes the steps of its public LiberoDataset: a file opened for images, actions, tracks "
        "and text of every sample, images as float. With one episode kept open three of four "
        "samples open theirs again, as in datasets of far more episodes than max_open. "
        f"The remapped tracks were tracked at {TRACKED_SHAPE[0]} x {TRACKED_SHAPE[1]}. On "
        "AMPLIFY's files tracks are bit-equal to its formula: "
        f"{'yes' if same else 'NO'}. memcpy copies as many bytes out of memory-mapped "
        f"plain arrays of the whole dataset. {load_note()}",
        "",
        f"Robot, two 720p views, preprocess and decode {HORIZON} x 400 points each, one thread: "
        f"median {live['median_ms']:.1f} ms, p99 {live['p99_ms']:.1f} ms (goal 50), "
        f"{live['hand_ratio']:.2f}x of cv2.resize and a formula by hand. "
        f"Decoding 10^6 points: {live['decode_ratio']:.2f}x of two numpy passes (goal: at most 1).",
        "",
        "Live 720p frames against what a build makes of the same YUV 4:2:0 picture:",
        "",
        *live_frames(),
        "",
        machine_facts("numpy", "h5py", "zarr", "torch", "opencv-python-headless"),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.root, args.child, args.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        text = report(measure(root, args.rounds), robot(), same_tracks(root))
    print(text)
    if args.write:
        write_section("bench_reader", "Reading and the robot", text)


if __name__ == "__main__":
    main()
