"""Measure decoding, letterboxing and storing frames against the alternatives.

    python scripts/bench_frames.py --rounds 7 --write

Clips are generated.  Every run is a process of its own, interpreter start and imports excluded,
decoding single-threaded; the ways take turns and ratios within a round are compared, so that a
busy machine disturbs all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import h5py
import numpy as np

from builder.canvas.letterbox import Letterboxer
from builder.inputs.video import VideoStream
from builder.stores.base import ArraySpec
from builder.stores.kinds.hdf5 import Hdf5Store
from schemas.geometry import Letterbox

SIDE = 256
# (H, W) and the bit rate at which phones and cameras write that size, in Mbit/s.
SIZES = {"1080p": ((1080, 1920), 16), "720p": ((720, 1280), 8), "640x480": ((480, 640), 4)}
GOALS = {"1080p": 1.3, "720p": 1.4, "640x480": 1.6}
MARKS = ("<!-- bench_frames -->", "<!-- /bench_frames -->")


def make_clip(path: Path, shape: tuple[int, int], megabits: int, frames: int) -> None:
    """Encode a textured scene under a moving camera, with sensor noise, as H.264."""
    height, width = shape
    rng = np.random.default_rng(0)
    scene = np.full((height + 120, width + 120, 3), 128, np.float32)
    for cell, strength in ((160, 60), (40, 30), (10, 25), (3, 15)):
        # Colours vary slowly, brightness at all scales: as in most pictures.
        channels = 3 if cell >= 40 else 1
        rough = rng.normal(0, strength, (height // cell + 8, width // cell + 8, channels))
        size = (scene.shape[1], scene.shape[0])
        layer = cv2.resize(rough.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        scene += layer.reshape(*scene.shape[:2], channels)
    noise = rng.normal(0, 2.5, (height + 64, width + 64, 1)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"b": f"{megabits}M"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            x, y = int(60 + 55 * np.sin(index / 19)), int(60 + 55 * np.cos(index / 23))
            u, v = rng.integers(0, 64, 2)
            picture = scene[y : y + height, x : x + width] + noise[v : v + height, u : u + width]
            image = np.clip(picture, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def decode_only(clip: Path, out: Path) -> int:
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def raw_dataset(file: h5py.File, frames: int) -> h5py.Dataset:
    """Create a contiguous dataset whose space is allocated at once and not filled."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((frames, SIDE, SIDE, 3))
    return h5py.Dataset(h5py.h5d.create(file.id, b"frames", h5py.h5t.STD_U8LE, space, plan))


def ours(clip: Path, out: Path) -> int:
    stream = VideoStream(clip)
    count = stream.info.num_frames
    boxer = Letterboxer(Letterbox.fit(stream.info.source_shape, (SIDE, SIDE)))
    canvas = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    spec = ArraySpec((count, SIDE, SIDE, 3), "|u1")
    with Hdf5Store(out).begin("clip", {"main": {"frames": spec}}) as writer:
        for index, frame in enumerate(stream):
            boxer.canvas(frame.image, canvas[0])
            writer.write("main", "frames", index, canvas)
        writer.digests()
    return count


def opencv(clip: Path, out: Path) -> int:
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    shape = (capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    box = Letterbox.fit((int(shape[0]), int(shape[1])), (SIDE, SIDE))
    (height, width), pad = box.content_shape, box.pad
    index = -1
    with h5py.File(out / "cv2.h5", "w") as file:
        frames = raw_dataset(file, count)
        for index in range(count):
            read, image = capture.read()
            if not read:
                break
            small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            small = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
            frames[index] = cv2.copyMakeBorder(
                small, pad.top, pad.bottom, pad.left, pad.right, cv2.BORDER_CONSTANT
            )
    return index + 1


WAYS: dict[str, Callable[[Path, Path], int]] = {
    "decode only": decode_only,
    "letterset": ours,
    "cv2 + INTER_AREA, raw h5py": opencv,
}


def run(way: str, clip: Path, out: Path) -> dict[str, float]:
    """Run one way in a process of its own; returns wall and cpu seconds, frames, peak MiB."""
    command = [sys.executable, __file__, "--child", way, str(clip), str(out)]
    environment = {**os.environ, "OPENCV_FFMPEG_THREADS": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def child(way: str, clip: Path, out: Path) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    frames = WAYS[way](clip, out)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "frames": frames, "peak": peak_mib()}))


def peak_mib() -> float:
    """Peak resident memory; getrusage would count what the parent process had before exec."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def area(plane: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    """Average a piecewise constant plane between ``edges`` (sample units), exactly."""
    edges = np.clip(edges, 0, plane.shape[axis])
    zero = np.zeros_like(plane.take([0], axis))
    total = np.concatenate([zero, plane.cumsum(axis)], axis)
    column = (-1, 1) if axis == 0 else (1, -1)
    whole = np.minimum(edges.astype(int), plane.shape[axis] - 1)
    part = (edges - whole).reshape(column)
    at = total.take(whole, axis) * (1 - part) + total.take(whole + 1, axis) * part
    return np.diff(at, axis=axis) / np.diff(edges).reshape(column)


def reference(frame: Any, shape: tuple[int, int]) -> np.ndarray:
    """Reduce a 4:2:0 BT.601 limited-range frame in float64: left-sited chroma, area weights."""
    height, width = frame.height, frame.width
    data = frame.to_ndarray(format="yuv420p").astype(np.float64)
    luma, rest = data[:height], data[height:].reshape(2, height // 2, width // 2)
    y_edges = np.arange(shape[0] + 1) * (height / shape[0])
    x_edges = np.arange(shape[1] + 1) * (width / shape[1])
    y = (area(area(luma, y_edges, 0), x_edges, 1) - 16) / 219
    # Chroma sample j lies on luma column 2j (its centre at 2j + 0.5) and between two rows.
    chroma = [area(area(part, y_edges / 2, 0), (x_edges + 0.5) / 2, 1) for part in rest]
    blue, red = ((part - 128) / 112 for part in chroma)
    r, b = y + (1 - 0.299) * red, y + (1 - 0.114) * blue
    g = (y - 0.299 * r - 0.114 * b) / 0.587
    return np.clip(255 * np.stack([r, g, b], -1), 0, 255)


def fidelity(clip: Path) -> tuple[float, float]:
    """PSNR in dB against the float reference, of ours and of full-size RGB + INTER_AREA."""
    stream = VideoStream(clip)
    box = Letterbox.fit(stream.info.source_shape, (SIDE, SIDE))
    boxer, errors = Letterboxer(box), []
    for index, frame in enumerate(stream):
        if index % 15 == 0:
            truth = reference(frame.image, box.content_shape)
            rgb = frame.image.to_ndarray(format="rgb24")
            plain = cv2.resize(rgb, box.content_shape[::-1], interpolation=cv2.INTER_AREA)
            both = (boxer.content(frame.image), plain)
            errors.append([np.mean((image - truth) ** 2) for image in both])
    ours, other = 10 * np.log10(255**2 / np.mean(errors, 0))
    return float(ours), float(other)


def report(folder: Path, rounds: int, frames: int) -> str:
    """Measure everything; returns Markdown."""
    lines = [
        "| to 256x256 | way | CPU ratio | wall-clock ratio | goal | PSNR | CPU ms per frame |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (shape, megabits) in SIZES.items():
        clip = folder / f"{name}.mp4"
        make_clip(clip, shape, megabits, frames)
        times = [{way: run(way, clip, folder) for way in WAYS} for _ in range(rounds)]
        psnr = dict(zip(list(WAYS)[1:], fidelity(clip), strict=True))
        for way in WAYS:
            cpu, wall = (
                median(each[way][key] / each["decode only"][key] for each in times)
                for key in ("cpu", "wall")
            )
            cost = 1000 * median(each[way]["cpu"] / each[way]["frames"] for each in times)
            cells = [
                f"{name}, {megabits} Mbit/s",
                way,
                f"{cpu:.2f}",
                f"{wall:.2f}",
                str(GOALS[name]) if way == "letterset" else "",
                f"{psnr[way]:.1f} dB" if way in psnr else "",
                f"{cost:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    peaks = []
    for times_longer in (1, 10):
        clip = folder / f"memory{times_longer}.mp4"
        make_clip(clip, *SIZES["640x480"], 60 * times_longer)
        peaks.append(run("letterset", clip, folder)["peak"])
    packages = ("av", "opencv-python-headless", "h5py", "numpy")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return "\n".join(
        [
            *lines,
            "",
            f"Medians of {rounds} interleaved rounds over {frames} frames (H.264, 30 fps); "
            "every run in its own process, decoding single-threaded, start and imports excluded. "
            "letterset counts the frames first, writes through its store and takes the SHA-256. "
            "PSNR against a float64 reduction with exact area weights and left-sited chroma.",
            "",
            f"Peak memory of a 640x480 build of frames: {peaks[0]:.0f} MiB for 60 frames, "
            f"{peaks[1]:.0f} MiB for 600.",
            "",
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
            f"{versions}.",
        ]
    )


def write_section(path: Path, text: str) -> None:
    """Put text between the marks of a Markdown file, which is made if it is not there."""
    old = path.read_text() if path.exists() else "# Benchmarks\n"
    if MARKS[0] not in old:
        old += f"\n## Frames\n\n{MARKS[0]}\n{MARKS[1]}\n"
    before, _, rest = old.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "CLIP", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, clip, out = options.child
        child(way, Path(clip), Path(out))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = report(Path(folder), options.rounds, options.frames)
    print(text)
    if options.write:
        write_section(Path(__file__).parents[1] / "BENCHMARKS.md", text)


if __name__ == "__main__":
    main()
