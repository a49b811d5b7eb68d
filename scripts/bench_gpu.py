"""Try everything that needs a GPU, and measure CoTracker on it, within a number of minutes.

    python scripts/bench_gpu.py --minutes 8 --write

Needs no network: models are of the published sizes, with random weights.  Runs the tests that need
CUDA; counts windows per second beside the authors' predictor at equal batches, in fp32 and bf16,
and the memory they take; lets memory run out on purpose; measures the way of a frame to the
device; and tells how busy 1 to 8 decoding workers keep it.  Every part has a process and a time of
its own; what did not run is listed as such.  Without a GPU it runs the same on the CPU, with tiny
networks (``--tiny``), which shows that it works and measures nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_common import machine_facts, write_section
from bench_sources_videos import write

from builder.build.config_file import load_config
from builder.build.pipeline import build
from builder.canvas.query_grid import query_points
from builder.trackers.kinds.cotracker import CoTracker, CoTrackerConfig
from builder.trackers.kinds.cotracker.loading import build_network, random_state_kept
from schemas.dataset import QuerySpec
from schemas.geometry import Letterbox

Row = tuple[str, str, str, str]  # part, what, measured, beside it

ROOT = Path(__file__).parents[1]
HEADER = "| part | what | measured | beside it |\n| --- | --- | --- | --- |"


class Size(NamedTuple):
    """How large things are: those of real use, or tiny ones."""

    side: int = 256
    grid: int = 20
    horizon: int = 16
    batches: tuple[int, ...] = (1, 4, 16)
    iterations: int = 6
    calls: int = 5
    workers: tuple[int, ...] = (1, 2, 4, 8)
    video: tuple[int, int] = (720, 1280)
    frames: int = 200
    resolution: tuple[int, int] | None = None  # the model's own
    models: tuple[str, ...] = ("cotracker2", "cotracker3_online", "cotracker3_offline")


TINY = Size(32, 2, 3, (1, 2), 1, 1, (1,), (36, 64), 4, (32, 48), ("cotracker3_online",))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes; always so on a CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    tiny = args.tiny or not torch.cuda.is_available()
    if args.child:
        for row in PARTS[args.child](TINY if tiny else Size()):
            print(json.dumps(row), flush=True)
        return 0
    rows, failed = [], False
    until = time.monotonic() + 60 * args.minutes
    for number, part in enumerate(args.only):
        share = (until - time.monotonic()) / (len(args.only) - number)
        found, problem = run_part(part, tiny, share)
        rows += [*found, *([(part, "NOT FINISHED", problem, "")] if problem else [])]
        failed = failed or problem is not None
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = f"{device_name()}; {machine_facts('torch', 'numpy')}\n\n{HEADER}\n{lines}"
    print(text)
    if args.write and not tiny:
        write_section("bench_gpu", "On a GPU", text)
    return int(failed)


def run_part(part: str, tiny: bool, seconds: float) -> tuple[list[Row], str | None]:
    """Run a part in a process of its own; returns its rows, and why it did not end well."""
    command = [sys.executable, __file__, "--child", part, *(["--tiny"] if tiny else [])]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        try:
            code = subprocess.run(command, stdout=out, stderr=log, timeout=seconds).returncode
            problem = None if code == 0 else f"it ended with exit code {code}"
        except subprocess.TimeoutExpired:
            problem = f"its {seconds:.0f} s were over"
        out.seek(0)
        log.seek(0)
        rows = [tuple(json.loads(line)) for line in out if line.startswith("[")]
        if problem:
            sys.stderr.write(f"{part}: {problem}\n{log.read()[-2000:]}\n")
    return rows, problem


def device_name() -> str:
    """Name what the models run on."""
    if not torch.cuda.is_available():
        return "On a CPU, at tiny sizes: this shows that it runs, and measures nothing"
    return f"One {torch.cuda.get_device_name()}"


def on_cuda() -> bool:
    """Tell whether there is a GPU to measure."""
    return torch.cuda.is_available()


def cuda_tests(size: Size) -> Iterator[Row]:
    """Run the tests that need CUDA."""
    own = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "cuda", "tests/trackers"]
    done = subprocess.run([sys.executable, *own], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield "tests", "that need CUDA", done.stdout.strip().splitlines()[-1].strip("= "), ""
    if done.returncode not in (0, 5):
        raise SystemExit(done.stdout)


def speed(size: Size) -> Iterator[Row]:
    """Windows per second: ours, and the authors' predictor for each window, at equal batches."""
    for model in size.models:
        network = network_of(model, size)
        for batch in size.batches:
            plainly, _ = per_window(plain(model, network, size, batch), batch, size)
            for precision in ("fp32", "bf16"):
                tracker = tracker_of(model, network, size, batch=batch, precision=precision)
                took, peak = per_window(ours(tracker, size), batch, size)
                what = f"{model}, {precision}, batches of {batch}, peak {peak / 2**30:.1f} GiB"
                beside = f"{plainly / took:.2f} x the authors' predictor in fp32"
                yield "windows", what, f"{1 / took:.3g} windows/s", beside


def out_of_memory(size: Size) -> Iterator[Row]:
    """Ask for batches that no memory holds: they are halved until they fit."""
    if not on_cuda():
        yield "memory", "a batch that does not fit is halved", "needs a GPU", ""
        return
    logging.getLogger().setLevel(logging.ERROR)
    model, batch = "cotracker3_online", 4096
    tracker = tracker_of(model, network_of(model, size), size, batch=batch)
    frames, queries = pictures(size, size.horizon), points(size)
    clip = [tracker.prepare(frame) for frame in frames]
    results = tracker.track([clip] * batch, queries)
    good = len(results) == batch and all(np.isfinite(each[0]).all() for each in results)
    if not good or tracker.batch == batch:
        raise SystemExit(f"expected {batch} windows in smaller batches, got {len(results)}")
    yield "memory", f"batches of {batch} are halved to", str(tracker.batch), "all windows came"


def copies(size: Size) -> Iterator[Row]:
    """How a frame reaches the device: as uint8, and what pinned memory would gain."""
    frames = [torch.from_numpy(frame) for frame in pictures(size, 64)]
    device = torch.device("cuda" if on_cuda() else "cpu")
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "uint8, as it is done": lambda frame: frame.to(device),
        "float32, four times the bytes": lambda frame: frame.float().to(device),
    }
    if on_cuda():
        ways["uint8, pinned and asynchronous"] = lambda frame: frame.pin_memory().to(
            device, non_blocking=True
        )
    for name, way in ways.items():
        took = [timed(partial(list, map(way, frames))) for _ in range(6)][1:]
        yield "copies", name, f"{1e6 * median(took) / len(frames):.0f} us a frame", ""


def feeding(size: Size) -> Iterator[Row]:
    """How busy decoding workers keep one tracker process, at the size of real videos."""
    model = "cotracker3_online"
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "random.pth")
        torch.save(build_network(model).state_dict(), weights)
        batch = size.batches[-1]
        tracker = tracker_of(model, network_of(model, size), size, batch=batch)
        alone, _ = per_window(ours(tracker, size), batch, size)  # one window starts per frame
        for workers in size.workers:
            videos = Path(folder, f"videos {workers}")
            videos.mkdir()
            for number in range(workers):
                write(videos / f"{number}.mp4", "H.264", size.frames, size.video)
            settings = {
                "source.path": str(videos),
                "store.path": str(Path(folder, f"out {workers}")),
                "img_shape": [size.side, size.side],
                "queries.grid": [size.grid, size.grid],
                "tracker.kind": "cotracker",
                "tracker.horizon": size.horizon,
                "tracker.weights": str(weights),
                "tracker.batch": batch,
                "tracker.iterations": size.iterations,
                "executor.workers": workers,
                "executor.trackers": 1,
            }
            marks: list[float] = []
            note = partial(lambda marks, event: marks.append(time.perf_counter()), marks)
            summary = build(load_config(None, [], settings), on_event=note)
            if summary.failures:
                raise SystemExit(f"the build went wrong: {summary.failures[0]}")
            seconds = marks[-1] - marks[0]  # without the start of processes and the model
            frames = workers * size.frames
            beside = f"the tracker alone takes {1e3 * alone:.3g} ms a frame"
            what = f"{workers} workers decode {size.video[0]}p: share of its time that it tracks"
            yield "feeding", what, f"{min(1.0, alone * frames / seconds):.0%}", beside


PARTS: dict[str, Callable[[Size], Iterator[Row]]] = {
    "tests": cuda_tests,
    "windows": speed,
    "memory": out_of_memory,
    "copies": copies,
    "feeding": feeding,
}


def network_of(model: str, size: Size) -> Any:
    """Return a network with random weights, of the published size or for tiny pictures."""
    network: Any = build_network(model)
    if size.resolution:
        network.model_resolution = size.resolution
    return network


def tracker_of(model: Any, network: Any, size: Size, **settings: Any) -> CoTracker:
    """Return our tracker around a copy of a network."""
    config = CoTrackerConfig(model=model, iterations=size.iterations, **settings)
    return CoTracker(config, copy.deepcopy(network))


def pictures(size: Size, count: int) -> np.ndarray:
    """Return frames (T, H, W, 3) uint8 of noise."""
    shape = (count, size.side, size.side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def points(size: Size) -> np.ndarray:
    """Return query points (N, 2) on the whole picture."""
    spec = QuerySpec(grid=(size.grid, size.grid), region="canvas")
    return query_points(spec, Letterbox.fit((size.side, size.side), (size.side, size.side)))


def ours(tracker: CoTracker, size: Size) -> Callable[[], int]:
    """Return what pushes frames until a batch of windows comes out, and counts them."""
    frames = pictures(size, 64)
    session = tracker.open(frames.shape[1:3], points(size), size.horizon, 1)
    supply = (frames[index % len(frames)] for index in iter(int, 1))

    def until_a_batch() -> int:
        while not (windows := session.push(next(supply))):
            pass
        return len(windows)

    return until_a_batch


def plain(model: str, network: Any, size: Size, batch: int) -> Callable[[], int]:
    """Return what calls the authors' predictor on a batch of windows, and counts them."""
    from cotracker.predictor import CoTrackerPredictor

    from builder.trackers.kinds.cotracker.engine import ViewOrCopy

    device = torch.device("cuda" if on_cuda() else "cpu")
    with random_state_kept():
        predictor = CoTrackerPredictor(checkpoint=None, v2=model.startswith("cotracker2"))
    predictor.model, predictor.interp_shape = copy.deepcopy(network), network.model_resolution
    predictor.to(device)
    forward = predictor.model.forward
    predictor.model.forward = lambda *a, iters, **k: forward(*a, iters=size.iterations, **k)
    clips = torch.from_numpy(pictures(size, size.horizon)).permute(0, 3, 1, 2)[None]
    clips = clips.expand(batch, -1, -1, -1, -1)
    queries = torch.nn.functional.pad(torch.from_numpy(points(size) - np.float32(0.5)), (1, 0))
    queries = queries[None].expand(batch, -1, -1).to(device)

    def one_batch() -> int:
        with ViewOrCopy(), torch.inference_mode():
            tracks = predictor(clips.to(device).float(), queries=queries)[0]
        return len(tracks.cpu())

    return one_batch


def per_window(run: Callable[[], int], batch: int, size: Size) -> tuple[float, int]:
    """Return seconds per window, the median of some calls after a first, and peak bytes."""
    run()
    if on_cuda():
        torch.cuda.reset_peak_memory_stats()
    took = []
    for _ in range(size.calls):
        begun = time.perf_counter()
        count = run()
        took.append((time.perf_counter() - begun) / count)
    return median(took), torch.cuda.max_memory_allocated() if on_cuda() else 0


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of a call, the device's work included."""
    begun = time.perf_counter()
    run()
    if on_cuda():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
