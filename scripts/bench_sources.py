"""Measure sources: LIBERO-like HDF5, shared LeRobot videos, listing, videos by codec.

    python scripts/bench_sources.py --rounds 5

Data are generated.  Ways take turns, and ratios within a round are compared, so that a busy
machine disturbs all of them alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import av
import h5py
import numpy as np
from bench_common import load_note, machine_facts, write_section
from bench_sources_videos import CODECS, TIMED, decode_plainly, outcomes, read_whole, write

from builder.inputs.video_span import VideoSpan
from builder.sources.kinds.episode_folders import EpisodeFolders
from builder.sources.kinds.libero import Libero

FRAMES, SIDE = 300, 128
SPANS, SPAN_FRAMES, FPS = 24, 60, 30
LABELS = {
    "libero_speed_by_frame_wise_h5py": "LIBERO: speed by that of h5py frame by frame (goal 0.9)",
    "libero_speed_by_whole_array_h5py": "LIBERO: speed by that of h5py whole arrays, unchecked",
    "lerobot_spans_time_by_one_pass": "LeRobot v3: time of all episodes by seeking, by one pass",
    "lerobot_last_by_first_episodes": "LeRobot v3: time of the last episodes, by the first",
    "listing_seconds": "Listing 10,000 episode folders, CPU seconds",
    "listing_peak_mb_of_1000": "Peak memory of listing 1,000, MB",
    "listing_peak_mb": "Peak memory of listing 10,000, MB",
}


def write_libero(path: Path) -> None:
    """Two cameras of 128 x 128 for 300 frames, contiguous, as LIBERO stores them."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for demo in range(4):
            for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                frames = rng.integers(0, 255, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
                file[f"data/demo_{demo}/obs/{camera}"] = frames


def read_raw(path: Path) -> int:
    """Read all frames one by one with h5py alone."""
    count = 0
    with h5py.File(path) as file:
        for demo in file["data"].values():
            for camera in demo["obs"].values():
                for index in range(len(camera)):
                    count += camera[index].shape[0] > 0
    return count


def read_raw_blocks(path: Path) -> int:
    """Read all frames with h5py alone, a camera at a time: the fastest there is."""
    count = 0
    with h5py.File(path) as file:
        for demo in file["data"].values():
            for camera in demo["obs"].values():
                count += sum(frame.shape[0] > 0 for frame in camera[()])
    return count


def read_source(path: Path) -> int:
    """Read all frames through the source, checks and fingerprints included."""
    count, source = 0, Libero(path)
    for ref in source.refs():
        with source.open(ref) as episode:
            for stream in episode.views.values():
                count += sum(1 for _ in stream)
    return count


def write_shared_video(path: Path) -> None:
    """Write 24 episodes of 60 frames, 640 x 480, in one H.264 file."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        stream.codec_context.gop_size = 30
        for index in range(SPANS * SPAN_FRAMES):
            shift = index % 60
            image = np.ascontiguousarray(scene[shift : shift + 480, shift : shift + 640])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def decode_all(path: Path) -> int:
    """Decode the file once from start to end: no reader of all episodes can do with less."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def decode_spans(path: Path) -> int:
    """Decode every episode on its own, by seeking."""
    return sum(1 for number in range(SPANS) for _ in _span(path, number))


def _span(path: Path, number: int) -> VideoSpan:
    return VideoSpan(path, number * SPAN_FRAMES / FPS, np.arange(SPAN_FRAMES) / FPS)


def late_to_early(path: Path) -> float:
    """Time of the last episodes of the file by that of the first; 1 is linear."""

    def seconds(numbers: range) -> float:
        return timed(lambda: sum(1 for number in numbers for _ in _span(path, number)))

    return seconds(range(SPANS - 6, SPANS)) / seconds(range(6))


def listing(folder: Path, count: int) -> dict[str, float]:
    """List ``count`` episode folders; seconds, and peak memory beyond the refs themselves."""
    for number in range(count):
        inner = folder / f"g{number // 1000}" / f"episode_{number}"
        inner.mkdir(parents=True)
        (inner / "front.mp4").touch()
    source = EpisodeFolders(folder)
    seconds = timed(lambda: _count(source.refs()))
    peaks = []
    for part in (folder / "g0", folder):
        tracemalloc.start()
        _count(EpisodeFolders(part).refs())
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    return {"seconds": seconds, "peak_mb_of_1000": peaks[0], "peak_mb": peaks[1]}


def _count(items: Iterator[Any]) -> int:
    return sum(1 for _ in items)


def video_speeds(folder: Path, rounds: int) -> dict[str, float]:
    """Time of reading a video of each codec with all checks, by that of PyAV's plain loop.

    The fastest round of each counts: on a busy machine others wait for memory, too.
    """
    found = {}
    for codec in TIMED:
        suffix = CODECS[codec][3].split()[0]
        path = write(folder / f"fast.{suffix}", codec, 150, (480, 640))
        times = [
            [timed(partial(way, path)) for way in (decode_plainly, read_whole)]
            for _ in range(rounds)
        ]
        plain, whole = map(min, zip(*times, strict=True))
        found[codec] = whole / plain
    return found


def timed(function: Callable[[], Any]) -> float:
    """CPU seconds: all data are in memory, and a busy machine must not count."""
    begun = time.process_time()
    function()
    return time.process_time() - begun


def ratios(ways: list[Callable[[Path], int]], path: Path, rounds: int) -> list[float]:
    """Median time of each later way by that of the first, over rounds; all see as many frames."""
    counts = {way(path) for way in ways}
    if len(counts) != 1:
        raise RuntimeError(f"the ways read different numbers of frames: {counts}")
    times = [[timed(partial(way, path)) for way in ways] for _ in range(rounds)]
    return [median(row[k] / row[0] for row in times) for k in range(1, len(ways))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="into BENCHMARKS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_libero(folder / "x_demo.hdf5")
        blocks, source = ratios(
            [read_raw, read_raw_blocks, read_source], folder / "x_demo.hdf5", args.rounds
        )
        write_shared_video(folder / "shared.mp4")
        (spans,) = ratios([decode_all, decode_spans], folder / "shared.mp4", args.rounds)
        found = {
            "libero_speed_by_frame_wise_h5py": 1 / source,
            "libero_speed_by_whole_array_h5py": blocks / source,
            "lerobot_spans_time_by_one_pass": spans,
            "lerobot_last_by_first_episodes": median(
                late_to_early(folder / "shared.mp4") for _ in range(args.rounds)
            ),
            **{f"listing_{k}": v for k, v in listing(folder / "many", args.episodes).items()},
        }
        speeds, damage = video_speeds(folder, args.rounds), list(outcomes(folder))
    if args.json:
        videos = {"video_time_by_plain_loop": speeds, "video_damage": damage}
        sys.stdout.write(json.dumps({**found, **videos}, indent=2) + "\n")
        return 0
    rows = [f"| {LABELS[key]} | {value:.2f} |" for key, value in found.items()]
    facts = machine_facts("av", "h5py", "numpy")
    rows += [
        f"| {codec}: decoding with all checks, by PyAV's plain loop (goal 1.1) | {ratio:.2f} |"
        for codec, ratio in speeds.items()
    ]
    heads = [
        "30 frames of 96 x 160", "cut off: refused", "short", "zeros for the tail: refused",
        "short", "512 zeros: refused", "a changed byte: refused", "the two: short",
        "all: other pixels", "good variants: refused",
    ]  # fmt: skip
    lines = [heads, ["---"] * len(heads), *damage]
    damaged = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    head = [facts, "", "| what | measured |", "| --- | --- |"]
    note = (
        f"Decoding: 150 frames of 640 x 480, the fastest of {args.rounds} rounds, CPU seconds. "
        f"{load_note()} Cut files that are not refused hold all frames."
    )
    table = "\n".join([*head, *rows, "", note, "", *damaged])
    sys.stdout.write(table + "\n")
    if args.write:
        write_section("bench_sources", "Sources", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
