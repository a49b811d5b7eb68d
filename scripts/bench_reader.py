"""Measure reading training samples, and preparing and decoding on a robot.

    python scripts/bench_reader.py --rounds 5 --write

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

import h5py
import numpy as np
from bench_common import machine_facts, write_section
from bench_reader_data import EPISODES, HORIZON, LENGTH, POINTS, SIDE, VIEWS, prepare

SAMPLES = 400


# ---------------------------------------------------------------------------------------------
# Readers: each is a function of (episode, start) that returns a sample.


def amplify_reader(folder: Path) -> Callable[[int, int], Any]:
    """Open three files per sample, then normalize, as the public LiberoDataset does."""
    import torch

    def read(episode: int, start: int) -> Any:
        with h5py.File(folder / f"demo_{episode}.hdf5") as demo:
            obs = demo["data/demo_0/obs"]
            images = np.stack([obs[f"{view}_rgb"][start] for view in VIEWS])
            actions = demo["data/demo_0/actions"][start : start + HORIZON]
        with h5py.File(folder / f"tracks_{episode}.hdf5") as file:
            tracks = np.stack([file[f"root/{view}/tracks"][start] for view in VIEWS])
            vis = np.stack([file[f"root/{view}/vis"][start] for view in VIEWS])
        with h5py.File(folder / f"text_{episode}.hdf5") as text:
            embedding = text["text_emb"][:]
        traj = tracks[..., ::-1]
        half = np.array([SIDE, SIDE], np.float32) / 2
        traj = np.clip((traj - half) / half, -1, 1)
        images = images[:, ::-1].astype(np.float32) / 255
        return [
            torch.from_numpy(np.ascontiguousarray(a))
            for a in (traj, vis, images, actions, embedding)
        ]

    return read


def our_reader(folder: Path, **options: Any) -> Callable[[int, int], Any]:
    from builder import open_dataset
    from builder.training import WindowDataset

    windows = WindowDataset(open_dataset(folder), **options)
    per_episode = LENGTH - HORIZON + 1
    return lambda episode, start: windows[episode * per_episode + start]


def legacy_reader(folder: Path) -> Callable[[int, int], Any]:
    """Our reader on files of AMPLIFY's own layout (tracks alone: they hold no images)."""
    from builder import open_dataset
    from builder.training import WindowDataset

    windows = WindowDataset(open_dataset(folder / "legacy", (SIDE, SIDE)), images="none")
    per_episode = LENGTH - HORIZON + 1
    return lambda episode, start: windows[episode * per_episode + start]


def copy_reader(images: int) -> Callable[[int, int], Any]:
    """Copy as many bytes as a sample has: the floor."""
    # Not zeros: untouched pages would all be the same one.
    tracks = np.ones((LENGTH, len(VIEWS), HORIZON, POINTS, 2), np.float32)
    vis = np.ones(tracks.shape[:-1], np.float32)
    frames = np.ones((LENGTH, len(VIEWS), SIDE, SIDE, 3), np.uint8)
    if images:
        return lambda episode, start: (
            tracks[start].copy(),
            vis[start].copy(),
            frames[start].copy(),
        )
    return lambda episode, start: (tracks[start].copy(), vis[start].copy())


def tracks_only_reader(folder: Path) -> Callable[[int, int], Any]:
    """AMPLIFY's pattern for tracks alone: one file opened per sample."""
    import torch

    def read(episode: int, start: int) -> Any:
        with h5py.File(folder / f"tracks_{episode}.hdf5") as file:
            tracks = np.stack([file[f"root/{view}/tracks"][start] for view in VIEWS])
            vis = np.stack([file[f"root/{view}/vis"][start] for view in VIEWS])
        half = np.array([SIDE, SIDE], np.float32) / 2
        traj = np.clip((tracks[..., ::-1] - half) / half, -1, 1)
        return torch.from_numpy(np.ascontiguousarray(traj)), torch.from_numpy(vis)

    return read


def readers(root: Path) -> dict[str, Callable[[], Callable[[int, int], Any]]]:
    return {
        "AMPLIFY's pattern": lambda: amplify_reader(root / "amplify"),
        "letterset, f32": lambda: our_reader(root / "f32"),
        "letterset, u16 tracks": lambda: our_reader(root / "u16"),
        "letterset, float images": lambda: our_reader(root / "f32", images="float"),
        "memcpy of the sample": lambda: copy_reader(1),
        "AMPLIFY's pattern, tracks alone": lambda: tracks_only_reader(root / "amplify"),
        "letterset on AMPLIFY's files": lambda: legacy_reader(root / "amplify"),
        "memcpy of tracks alone": lambda: copy_reader(0),
    }


def child(root: Path, way: str, seed: int) -> None:
    """Read warm; print microseconds per sample."""
    read = readers(root)[way]()
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


# ---------------------------------------------------------------------------------------------
# Robot: two 720p views into a model and 400 predicted points each back to pixels.


def robot(rounds: int = 200) -> dict[str, float]:
    import cv2

    from builder.inference import Preprocessor
    from schemas import Letterbox, QuerySpec
    from schemas.inference import Decoder, InferenceMeta, InferenceView

    cv2.setNumThreads(1)
    shape, img_shape = (720, 1280), (256, 256)
    box = Letterbox.fit(shape, img_shape)
    meta = InferenceMeta.seal(
        img_shape=img_shape,
        horizon=HORIZON,
        queries=QuerySpec(),
        views=[
            InferenceView(name=name, geometry=box, coded_shape=shape, queries_rc=())
            for name in VIEWS
        ],
    )
    preprocess, decoder = Preprocessor(meta), Decoder(meta)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (*shape, 3), np.uint8) for name in VIEWS}
    points = rng.uniform(-1, 1, (HORIZON, 400, 2)).astype(np.float32)

    def ours() -> None:
        preprocess(images)
        for name in VIEWS:
            decoder.decode(points, name)

    def by_hand() -> None:
        canvas = np.zeros((2, *img_shape, 3), np.uint8)
        for index, image in enumerate(images.values()):
            canvas[index, 56:200] = cv2.resize(image, (256, 144), interpolation=cv2.INTER_AREA)
            x, y = points[..., 1], points[..., 0]
            np.stack([(x + 1) * 128 * 5, ((y + 1) * 128 - 56) * 5], axis=-1)

    took: dict[str, list[float]] = {"ours": [], "hand": []}
    for _ in range(rounds):
        for name, function in (("ours", ours), ("hand", by_hand)):
            begun = time.perf_counter()
            function()
            took[name].append((time.perf_counter() - begun) * 1e3)
    many = rng.uniform(-1, 1, (1_000_000, 2))
    passes: dict[str, list[float]] = {"decode": [], "numpy": []}
    ways: dict[str, Callable[[], Any]] = {
        "decode": lambda: decoder.decode(many, "front"),
        "numpy": lambda: many * np.array([5.0, 5.0]) + np.array([1.0, 2.0]),
    }
    for _ in range(15):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            passes[name].append(time.perf_counter() - begun)
    return {
        "median_ms": median(took["ours"]),
        "p99_ms": float(np.percentile(took["ours"], 99)),
        "hand_ratio": median(a / b for a, b in zip(took["ours"], took["hand"], strict=True)),
        "decode_ratio": median(
            a / b for a, b in zip(passes["decode"], passes["numpy"], strict=True)
        ),
    }


# ---------------------------------------------------------------------------------------------


def same_tracks(root: Path) -> bool:
    """Tell whether our reader gives the bits of AMPLIFY's own formula on its own files."""
    theirs, ours = tracks_only_reader(root / "amplify"), legacy_reader(root / "amplify")
    picks = [(episode, start) for episode in range(EPISODES) for start in (0, 7, 150)]
    return all(np.array_equal(theirs(*pick)[0], ours(*pick)["traj"].clip(-1, 1)) for pick in picks)


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


def report(took: dict[str, list[float]], live: dict[str, float], same: bool) -> str:
    def ratio(peer: str, ours: str) -> float:
        return median(a / b for a, b in zip(took[peer], took[ours], strict=True))

    lines = [
        "| reader | us per sample | against AMPLIFY's pattern | against memcpy |",
        "|---|--:|--:|--:|",
    ]
    for name, values in took.items():
        alone = "alone" in name or "AMPLIFY's files" in name
        peer = "AMPLIFY's pattern, tracks alone" if alone else "AMPLIFY's pattern"
        floor = "memcpy of tracks alone" if alone else "memcpy of the sample"
        lines.append(
            f"| {name} | {median(values):.0f} | {ratio(peer, name):.1f}x faster | "
            f"{ratio(name, floor):.1f}x |"
        )
    lines += [
        "",
        f"Two views, {HORIZON} x {POINTS} points, {SIDE} x {SIDE} images; CPU time, medians over "
        f"interleaved rounds. Tracks bit-equal to AMPLIFY's formula on its own files: {same}.",
        "",
        f"Robot, two 720p views, preprocess and decode {HORIZON} x 400 points each, one thread: "
        f"median {live['median_ms']:.1f} ms, p99 {live['p99_ms']:.1f} ms, "
        f"{live['hand_ratio']:.2f}x of cv2.resize and a formula by hand. "
        f"Decoding 10^6 points: {live['decode_ratio']:.2f}x of two numpy passes.",
        "",
        machine_facts("numpy", "h5py", "torch", "opencv-python-headless"),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
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
