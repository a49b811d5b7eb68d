"""Measure a DataLoader over windows: workers, memory, and what a video store would cost.

    python scripts/bench_loader.py --rounds 3 --write

The dataset is generated.  A training step is simulated by waiting, as for a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from bench_common import load_note, machine_facts, write_section
from bench_reader_data import EPISODES, HORIZON, LENGTH, SIDE, VIEWS, make_amplify, make_ours

BATCH, STEP_SECONDS, PASSES = 64, 0.002, 8
MANY_SAMPLES = 100_000
WORKERS_GOAL = 1.6


def loader_seconds(folder: Path, workers: int) -> float:
    """Time a batch of several passes over a dataset through a DataLoader, its start excluded."""
    import torch.multiprocessing
    from torch.utils.data import ConcatDataset, DataLoader

    from builder import open_dataset
    from builder.training import WindowDataset, WindowSampler

    # The default sends a file descriptor per tensor, each over a connection of its own.
    torch.multiprocessing.set_sharing_strategy("file_system")
    windows: Any = ConcatDataset([WindowDataset(open_dataset(folder))] * PASSES)
    sampler = WindowSampler(len(windows))
    batches = iter(DataLoader(windows, BATCH, sampler=sampler, num_workers=workers))
    for _ in range(4):  # until every worker has started
        next(batches)
    begun, count = time.perf_counter(), 0
    for _ in batches:
        time.sleep(STEP_SECONDS)
        count += 1
    return (time.perf_counter() - begun) / count


def memory_child(folder: Path) -> None:
    """Print a worker's own memory in MB after a first pass, and after many samples more.

    Without the pages of mapped files: those are the system's cache, and are given back.
    """
    from builder import open_dataset
    from builder.training import WindowDataset

    windows = WindowDataset(open_dataset(folder))

    def read(picks: Any) -> float:
        for pick in picks:
            windows[int(pick)]
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) / 1e3

    order = np.random.default_rng(0).integers(0, len(windows), MANY_SAMPLES)
    print(json.dumps([read(range(len(windows))), read(order)]))


def memory(folder: Path) -> tuple[float, float]:
    """Run :func:`memory_child` in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", str(folder)]
    first, after = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return first, after


def make_video(path: Path) -> None:
    """Write frames as H.264 with a keyframe every second frame, as LeRobot does."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (SIDE // 8 + 40, SIDE // 8, 3), np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=20, options={"g": "2", "bf": "0"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for index in range(LENGTH):
            picture = np.ascontiguousarray(texture[index : index + SIDE])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def video_reader(path: Path) -> Callable[[int], np.ndarray]:
    """Read a frame at random: seek to its keyframe and decode on."""
    container = av.open(str(path))
    stream: Any = container.streams.video[0]
    stream.thread_count = 1
    ticks = int(1 / (20 * stream.time_base))

    def read(index: int) -> np.ndarray:
        container.seek(index * ticks, stream=stream)
        for frame in container.decode(stream):
            if int(frame.pts or 0) >= index * ticks:
                return frame.to_ndarray(format="rgb24")
        raise IndexError(index)

    return read


def frame_micros(root: Path) -> dict[str, float]:
    """Measure CPU microseconds of a random frame, of GOP-2 video and of a dataset."""
    from builder import open_dataset

    dataset = open_dataset(root / "f32")
    frames = dataset[dataset.ids[0]].views[VIEWS[0]].frames
    make_video(root / "gop2.mp4")
    picks = np.random.default_rng(0).integers(0, LENGTH, 100).tolist()
    ways: dict[str, Callable[[int], Any]] = {
        "video": video_reader(root / "gop2.mp4"),
        "ours": lambda index: np.array(frames[index]),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, way in ways.items():
            begun = time.process_time()
            for pick in picks:
                way(pick)
            took[name].append((time.process_time() - begun) / len(picks) * 1e6)
    return {name: median(values) for name, values in took.items()}


def report(root: Path, rounds: int) -> str:
    """Measure everything, as a table."""
    folder = root / "f32"
    took = [(loader_seconds(folder, 1), loader_seconds(folder, 2)) for _ in range(rounds)]
    gain = median(one / two for one, two in took)
    first, after = memory(folder)
    frame = frame_micros(root)
    met = "met" if gain >= WORKERS_GOAL else "missed"
    flat = "met" if after <= 1.02 * first else "missed"
    windows = EPISODES * (LENGTH - HORIZON + 1)
    return "\n".join(
        [
            "| what | measured | goal |",
            "|---|--:|---|",
            f"| 2 workers against 1, batches of {BATCH}, {STEP_SECONDS * 1e3:.0f} ms a step "
            f"| {gain:.2f}x | {WORKERS_GOAL}x on idle cores: {met} |",
            f"| a batch with 1 worker | {median(one for one, _ in took) * 1e3:.1f} ms | |",
            f"| memory of a worker after {windows} samples | {first:.1f} MB | |",
            f"| after {MANY_SAMPLES} samples more | {after:.1f} MB | flat: {flat} |",
            f"| a random frame of GOP-2 H.264, LeRobot's way | {frame['video']:.0f} us | |",
            f"| a random frame of ours | {frame['ours']:.0f} us "
            f"({frame['video'] / frame['ours']:.0f}x less) | |",
            "",
            f"Two views, {SIDE} x {SIDE} uint8 images; medians of {rounds} interleaved rounds. "
            "Batches come by torch's file_system sharing strategy. The training step is simulated "
            "by waiting. Memory is a worker's own, without the "
            f"pages of mapped files. {load_note()}",
            "",
            machine_facts("numpy", "h5py", "torch", "av"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        memory_child(args.memory_of)
        return
    from builder.stores.kinds.hdf5 import Hdf5Store

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_amplify(root / "amplify")
        make_ours(root / "f32", root / "amplify", "f32", Hdf5Store)
        text = report(root, args.rounds)
    print(text)
    if args.write:
        write_section("bench_loader", "Loading", text)


if __name__ == "__main__":
    main()
