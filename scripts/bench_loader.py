"""Measure a DataLoader over windows: workers, memory, and what a video store would cost.

    python scripts/bench_loader.py --rounds 3 --write

The dataset is generated.  A training step is simulated by waiting, as for a GPU.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from bench_common import machine_facts, write_section
from bench_reader_data import EPISODES, HORIZON, LENGTH, SIDE, VIEWS, make_amplify, make_ours

BATCH, STEP_SECONDS = 64, 0.002
MANY_SAMPLES = 100_000


def loader_seconds(folder: Path, workers: int, images: str = "float") -> float:
    """Time an epoch's part through a DataLoader, its start excluded."""
    from torch.utils.data import DataLoader

    from builder import open_dataset
    from builder.training import WindowDataset, WindowSampler

    windows = WindowDataset(open_dataset(folder), images=images)
    sampler = WindowSampler(len(windows))
    batches = iter(DataLoader(windows, BATCH, sampler=sampler, num_workers=workers))
    next(batches)
    begun, count = time.perf_counter(), 0
    for _ in batches:
        time.sleep(STEP_SECONDS)
        count += 1
    return (time.perf_counter() - begun) / count


def memory_growth(folder: Path) -> tuple[float, float]:
    """Return peak memory in MB after a first pass, and after many samples more."""
    from builder import open_dataset
    from builder.training import WindowDataset

    windows = WindowDataset(open_dataset(folder), images="none")
    order = np.random.default_rng(0).integers(0, len(windows), MANY_SAMPLES)

    def read(picks: Any) -> float:
        for pick in picks:
            windows[int(pick)]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    return read(range(len(windows))), read(order)


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


def frame_ratio(root: Path) -> float:
    """How much longer a random frame takes from GOP-2 video than from a dataset."""
    from builder import open_dataset

    dataset = open_dataset(root / "f32")
    frames = dataset[dataset.ids[0]].views[VIEWS[0]].frames
    make_video(root / "gop2.mp4")
    decode = video_reader(root / "gop2.mp4")
    took: dict[str, list[float]] = {"video": [], "ours": []}
    picks = np.random.default_rng(0).integers(0, LENGTH, 100).tolist()
    ways: dict[str, Callable[[int], Any]] = {
        "video": decode,
        "ours": lambda index: np.array(frames[index]),
    }
    for _ in range(5):
        for name, way in ways.items():
            begun = time.process_time()
            for pick in picks:
                way(pick)
            took[name].append(time.process_time() - begun)
    return median(a / b for a, b in zip(took["video"], took["ours"], strict=True))


def report(root: Path, rounds: int) -> str:
    gains = [
        loader_seconds(root / "f32", 1) / loader_seconds(root / "f32", 2) for _ in range(rounds)
    ]
    first, after = memory_growth(root / "f32")
    return "\n".join(
        [
            "| what | measured |",
            "|---|--:|",
            f"| 2 workers against 1, batches of {BATCH}, {STEP_SECONDS * 1e3:.0f} ms a step "
            f"| {median(gains):.2f}x |",
            f"| peak memory after {EPISODES * (LENGTH - HORIZON + 1)} samples | {first:.0f} MB |",
            f"| peak memory after {MANY_SAMPLES} samples more | {after:.0f} MB |",
            f"| a random frame from GOP-2 H.264 against ours | {frame_ratio(root):.0f}x longer |",
            "",
            f"Two views, {SIDE} x {SIDE} float images; medians of {rounds} interleaved rounds.",
            "",
            machine_facts("numpy", "h5py", "torch", "av"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    args = parser.parse_args()
    from builder.stores.hdf5 import Hdf5Store

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
