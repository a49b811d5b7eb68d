"""Measure what a build costs beyond its frames, and how it scales.

    python scripts/bench_scale.py --write
    python scripts/bench_scale.py --only index resume

Each part has a section of its own in BENCHMARKS.md and takes less than three minutes; ``verbs``
takes longer, by ``--episodes``.  Clips are generated.  Runs that are compared take turns, so that a
busy machine disturbs them alike; where it was busy, trust the numbers of CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
from bench_common import machine_facts, write_section
from bench_scale_clips import bench_clips
from bench_scale_long import bench_episodes, bench_feeding, bench_length
from bench_scale_verbs import bench_syncs, bench_verbs

from builder.build.backends import open_source, open_tracker
from builder.build.config_file import load_config
from builder.build.episode import Job, build_episode
from builder.build.estimate import measure, refuse_if_full
from builder.build.executors.base import Outcome, ProgressEvent
from builder.build.pipeline import build, dataset_meta
from builder.core.records import stored_form
from builder.dataset.folder import DatasetWriter, read_index
from builder.dataset.splits import hash_splits
from builder.transform.finalize import replace_lines
from schemas.config import BuildConfig
from schemas.dataset import IndexLine

SHAPE = (360, 640)
SECONDS, FPS = 10, 30
Row = tuple[str, str, str]  # what, measured, goal


def make_clip(path: Path, frames: int, shape: tuple[int, int] = SHAPE, fps: int = FPS) -> Path:
    """Encode a textured scene under a moving camera as H.264."""
    rng = np.random.default_rng(0)
    height, width = shape
    rough = rng.uniform(0, 255, (height // 8, width // 8, 3)).astype(np.float32)
    scene = cv2.resize(rough, (width + 64, height + 64), interpolation=cv2.INTER_CUBIC)
    scene = scene.clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            x, y = round(32 + 30 * np.sin(index / 20)), round(32 + 30 * np.cos(index / 25))
            crop: Any = np.ascontiguousarray(scene[y : y + height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(crop, format="rgb24")))
        container.mux(stream.encode())
    return path


def clips(
    folder: Path, count: int, frames: int, shape: tuple[int, int] = SHAPE, fps: int = FPS
) -> Path:
    """Make a folder of ``count`` episodes with the same content."""
    first = make_clip(folder / "clip 00000.mp4", frames, shape, fps)
    for index in range(1, count):
        os.link(first, folder / f"clip {index:05d}.mp4")
    return folder


def config(source: Path, out: Path, *settings: str) -> BuildConfig:
    """Return a config with what matters here."""
    given = {"source.path": str(source), "store.path": str(out), "img_shape": [96, 128]}
    return load_config(None, settings, given)


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Return wall seconds and CPU seconds, those of ended children included."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    function()
    return time.perf_counter() - wall, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    uses = [resource.getrusage(kind) for kind in kinds]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def in_this_process(made: BuildConfig) -> None:
    """Build without any executor, on one thread as a worker does: the least it can cost."""
    cv2.setNumThreads(1)
    for ref in open_source(made).refs():
        build_episode(Job(made, ref), lambda done, total: None)


def bench_workers(folder: Path, rounds: int) -> Iterator[Row]:
    """Compare one worker and two on the same clips."""
    source = clips(folder / "clips", 4, SECONDS * FPS)
    found = _in_turns(source, folder, rounds, ("1", "2"))
    wall, cpu = _medians(found)
    gain = median(a[0] / b[0] for a, b in zip(found["1"], found["2"], strict=True))
    yield "4 clips of 10 s, 360x640 into 96x128, end to end, 1 worker", f"{wall['1']:.1f} s", ""
    yield "2 workers against 1, wall clock", f"{gain:.2f}x", "1.7x on 2 idle cores"
    yield "CPU seconds with 2 workers, by those with 1", f"{cpu['2'] / cpu['1']:.2f}", ""


def bench_overhead(folder: Path, rounds: int) -> Iterator[Row]:
    """Compare one worker with none: build_episode called in a loop."""
    source = clips(folder / "clips", 3, SECONDS * FPS)
    wall, cpu = _medians(_in_turns(source, folder, rounds, ("none", "1")))
    for name, seconds in (("CPU seconds", cpu), ("wall clock", wall)):
        share = seconds["1"] / seconds["none"] - 1
        what = f"executor overhead, 3 clips of 10 s, start of the worker included, {name}"
        yield what, f"{share:+.1%}", "< 10%"


def _in_turns(
    source: Path, folder: Path, rounds: int, names: tuple[str, ...]
) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name, runs in found.items():
            out = folder / f"out {name} {number}"
            if name == "none":
                runs.append(timed(partial(in_this_process, config(source, out))))
            else:
                made = config(source, out, f"executor.workers={name}")
                runs.append(timed(partial(build, made)))
            shutil.rmtree(out)
    return found


def _medians(found: dict[str, list[tuple[float, float]]]) -> list[dict[str, float]]:
    """Return median wall seconds and median CPU seconds by name."""
    return [
        {name: median(run[at] for run in runs) for name, runs in found.items()} for at in (0, 1)
    ]


class _Begun(Exception):
    """The first frame of the first missing episode is done."""


def resume(source: str, out: str) -> None:
    """Go on with a build until its first frame."""
    made = config(Path(source), Path(out), *RESUMED)

    def begun(event: Outcome | ProgressEvent) -> None:
        if isinstance(event, Outcome) or event.frames_done:
            raise _Begun

    refuse_if_full(made)
    with suppress(_Begun):
        build(made, on_event=begun)


RESUMED = ("executor.workers=1", "img_shape=[48, 100]")


def bench_resume(folder: Path, rounds: int) -> Iterator[Row]:
    """Time from the start of Python until the first frame of the first missing episode."""
    count, done = 10_000, 9_500
    source = clips(folder / "many", count, 4, (48, 64))
    made = config(source, folder / "resumed", *RESUMED)
    out = Path(made.store.path)
    with DatasetWriter.create(out, dataset_meta(made, open_tracker(made))):
        refs = sorted(open_source(made).refs(), key=lambda ref: ref.id)[:done]
    replace_lines(out, "index", [_line(ref.id) for ref in refs])
    (out / "episodes").mkdir()
    for ref in refs:  # their content is not looked at, for their videos are older
        (out / "episodes" / f"{ref.id}.hdf5").touch()

    code = "import sys, bench_scale\nif __name__ == '__main__': bench_scale.resume(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(source), str(out)]
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    start = partial(subprocess.run, command, check=True, env=where)
    runs = [timed(start) for _ in range(rounds)]
    for name, at in (("wall clock", 0), ("CPU", 1)):
        seconds = median(run[at] for run in runs)
        goal = "< 5 s" if at == 0 else ""
        yield (
            f"resume of 10,000 episodes, 95% done, from the command to the first frame, {name}",
            f"{seconds:.1f} s",
            goal,
        )


def _line(episode_id: str) -> IndexLine:
    digest = sha256(episode_id.encode()).hexdigest()
    return IndexLine(id=episode_id, length=300, views=("front", "wrist"), digest=digest)


def bench_index(folder: Path, rounds: int) -> Iterator[Row]:
    """List a million episodes by a thousand writers: open, look up, split, merge."""
    names = [f"suite_{k % 97:02d}/task_{k % 1009:04d}/episode-{k:07d}" for k in range(1_000_000)]
    (folder / "index").mkdir()
    for number in range(1000):
        lines = "".join(stored_form(_line(name)) + "\n" for name in names[number::1000])
        (folder / "index" / f"shard-{number}-of-1000.jsonl").write_text(lines)
    index: dict[str, IndexLine] = {}
    opened = timed(lambda: index.update(read_index(folder)))
    looked = timed(lambda: [index[name] for name in names[::10]])
    split = timed(lambda: hash_splits({name: name for name in names}, {"train": 0.9, "val": 0.1}))
    merged = timed(lambda: replace_lines(folder, "index", index.values()))
    again = timed(lambda: read_index(folder))
    size = sum(path.stat().st_size for path in (folder / "index").glob("*.jsonl"))
    yield "10^6 episodes, index on disk", f"{size / 1e6:.0f} MB", ""
    yield "open it, 1,000 writers", f"{opened[1]:.1f} s CPU", ""
    yield "open it, merged", f"{again[1]:.1f} s CPU", ""
    yield "look an episode up", f"{looked[1] / 1e5 * 1e6:.2f} us", ""
    yield "split all by hash", f"{split[1]:.1f} s CPU", ""
    yield "merge 1,000 writers, sorted", f"{merged[1]:.1f} s CPU", ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield "peak memory of all this", f"{peak:.0f} MiB", ""


def bench_model(folder: Path, rounds: int) -> Iterator[Row]:
    """Compare the cost model's answer before a build with the build."""
    source = folder / "varied"
    for number, seconds in enumerate((4, 6, 8, 10, 5, 7)):
        make_clip(source / f"clip {number}.mp4", seconds * FPS)
    made = config(source, folder / "varied out", "executor.workers=1")
    costs = measure(made)
    estimate = costs.estimate()
    summary = build(made)
    (kept,) = (Path(made.store.path) / "runs").glob("*.json")
    facts = json.loads(kept.read_text())
    size = sum(path.stat().st_size for path in (Path(made.store.path) / "episodes").iterdir())
    wall, cpu = sum(facts["stage_seconds"].values()), facts["cpu_seconds"]
    predicted = estimate.worker_hours * 3600
    yield "cost model, frames", f"{estimate.frames / summary.frames - 1:+.1%}", "error"
    yield "cost model, bytes", f"{estimate.bytes / size - 1:+.1%}", "error"
    yield "cost model, seconds of a worker", f"{predicted / wall - 1:+.1%}", "error"
    yield "cost model, CPU seconds", f"{predicted * costs.cpu_share / cpu - 1:+.1%}", "error"


BENCHES: dict[str, Callable[[Path, int], Iterator[Row]]] = {
    "workers": bench_workers,
    "overhead": bench_overhead,
    "resume": bench_resume,
    "index": bench_index,
    "length": partial(bench_length, clips),
    "episodes": partial(bench_episodes, clips),
    "feeding": partial(bench_feeding, clips),
    "clips": partial(bench_clips, make_clip),
    "model": bench_model,
    "syncs": bench_syncs,
    "verbs": partial(bench_verbs, 100_000),  # --episodes changes it
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--episodes", type=int, default=100_000, help="of verbs")
    parser.add_argument("--child", choices=BENCHES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    BENCHES["verbs"] = partial(bench_verbs, options.episodes)
    if options.child:
        with tempfile.TemporaryDirectory() as folder:
            rows = list(BENCHES[options.child](Path(folder), options.rounds))
        sys.stdout.write("\n" + json.dumps(rows) + "\n")
        return
    for name in options.only:
        # Each in a process of its own: peaks of memory do not mix.
        command = [sys.executable, __file__, "--child", name, "--rounds", str(options.rounds)]
        command += ["--episodes", str(options.episodes)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        lines = ["| what | measured | goal |", "| --- | --- | --- |"]
        lines += ["| " + " | ".join(row) + " |" for row in json.loads(done.stdout.splitlines()[-1])]
        note = f"Rounds: {options.rounds}; load average {os.getloadavg()[0]:.1f}. "
        lines += ["", note + machine_facts("letterset", "av", "h5py", "numpy")]
        sys.stdout.write("\n".join(lines) + "\n\n")
        sys.stdout.flush()
        if options.write:
            write_section(f"bench_scale_{name}", f"Scale: {name}", "\n".join(lines))


if __name__ == "__main__":
    main()
