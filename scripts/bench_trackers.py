"""Measure CoTracker as letterset runs it against one call of its predictor per window.

    python scripts/bench_trackers.py --rounds 2 --write      (a quarter of an hour)

Networks of the published size with random weights, on the CPU.  Each model has a process of its
own; within it the ways take turns, window by window, and get the same weights and frames.  Times
are processor seconds of one thread, which is what a worker has, so that a busy machine disturbs
them little.  They are of a window in the middle of a video: what was remembered before is there,
as it is for all but the first frames.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_common import write_section

from builder.canvas.query_grid import query_points
from schemas.dataset import QuerySpec
from schemas.geometry import Letterbox

HORIZON = 16
BOX = Letterbox.fit((720, 1280), (256, 256))
BOXED = QuerySpec(grid=(20, 20), region="canvas")
CONTENT = QuerySpec(grid=(15, 15))
# (equal output, and fewer points at equal density): at least this many times faster.
GOALS: dict[Any, tuple[float, float | None]] = {
    "cotracker2": (1.2, 1.9),
    "cotracker2v1": (1.2, 1.9),
    "cotracker3_online": (1.35, None),
}
WAYS = ("plain", "ours", "content")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", nargs="+", choices=GOALS, default=["cotracker2", "cotracker3_online"]
    )
    parser.add_argument("--rounds", type=int, default=2, help="windows measured per way")
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        model, way, iterations = args.child
        print(json.dumps(measure(model, way, args.rounds, int(iterations))))
        return 0
    results = {}
    for model in args.models:
        results[model] = child(model, "all", args.rounds)
        # One refinement needs as much memory as six.
        results[model]["peaks"] = {way: child(model, way, 1, 1)["peak"] for way in WAYS[:2]}
    text, good = report(results, args.rounds)
    print(text)
    if args.write:
        write_section("bench_trackers", "Trackers", text)
    return 0 if good else 1


def child(model: str, way: str, rounds: int, iterations: int = 6) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--rounds", str(rounds)]
    command += ["--child", model, way, str(iterations)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(model: Any, only: str, rounds: int, iterations: int) -> dict[str, Any]:
    """Time windows of all ways in turn; for one way alone only its peak memory counts."""
    from builder.trackers.kinds.cotracker import CoTracker, CoTrackerConfig
    from builder.trackers.kinds.cotracker.loading import build_network

    torch.set_num_threads(1)
    network = build_network(model)
    config = CoTrackerConfig(model=model, device="cpu", iterations=iterations)
    # The plain way has bars, and points in them, because it knows of nothing else.
    canvas, content = video(rounds + HORIZON - 1)
    everywhere = query_points(BOXED, BOX)
    inside = (~BOX.content_to_img)(query_points(CONTENT, BOX))

    def session(frames: np.ndarray, queries: np.ndarray) -> Any:
        tracker = CoTracker(config, copy.deepcopy(network))
        return tracker.open(frames.shape[1:3], queries, HORIZON, 1)

    ways: dict[str, Callable[[int], Any]] = {}
    if only in ("all", "plain"):
        ways["plain"] = plain(model, copy.deepcopy(network), iterations, canvas, everywhere)
    for way, frames, queries in (("ours", canvas, everywhere), ("content", content, inside)):
        if only in ("all", way):
            ways[way] = ours(session(frames, queries), frames)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    tracks: dict[str, np.ndarray] = {}
    for index in range(rounds):
        for way, window in ways.items():
            begun = time.process_time()
            tracks[way] = window(index)
            seconds[way].append(time.process_time() - begun)
    found: dict[str, Any] = {"seconds": seconds, "peak": peak_bytes()}
    if only == "all":
        # Convolutions round differently for other batches: bits are compared at equal ones.
        one_by_one = copy.deepcopy(network)
        one_by_one.fnet = OneByOne(network.fnet)
        same = plain(model, one_by_one, iterations, canvas, everywhere)(rounds - 1)
        found["equal"] = bool(np.array_equal(same[1:], tracks["ours"][1:]))
        found["apart"] = float(np.abs(tracks["plain"] - tracks["ours"]).max())
        tracker = CoTracker(config, network)
        long = tracker.open(BOX.img_shape, everywhere, 10_000, 10_000)
        found["episode"] = episode(long, canvas, tracker.engine)
    return found


class OneByOne(torch.nn.Module):
    """An encoder that is asked for one frame at a time."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return the features of all frames."""
        return torch.cat([self.encoder(image[None]) for image in video])


def plain(
    model: str, network: Any, iterations: int, frames: np.ndarray, queries: np.ndarray
) -> Callable[[int], np.ndarray]:
    """Return the usual way: the authors' predictor, one call per start frame."""
    from cotracker.predictor import CoTrackerPredictor

    from builder.trackers.kinds.cotracker.loading import random_state_kept

    with random_state_kept():
        predictor = CoTrackerPredictor(checkpoint=None, v2=model.startswith("cotracker2"))
    predictor.model, predictor.interp_shape = network, network.model_resolution
    forward = network.forward
    network.forward = lambda *args, iters, **kwargs: forward(*args, iters=iterations, **kwargs)
    points = torch.nn.functional.pad(torch.from_numpy(queries - np.float32(0.5)), (1, 0))[None]

    def window(start: int) -> np.ndarray:
        clip = torch.from_numpy(frames[start : start + HORIZON]).permute(0, 3, 1, 2)[None].float()
        tracks = predictor(clip, queries=points)[0][0].numpy()
        return np.asarray(tracks + np.float32(0.5))

    return window


def ours(session: Any, frames: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return our way: the next frame is pushed and finishes a window."""
    for frame in frames[: HORIZON - 1]:
        session.push(frame)

    def window(start: int) -> np.ndarray:
        [finished] = session.push(frames[start + HORIZON - 1])
        tracks: np.ndarray = finished.tracks_xy
        return tracks

    return window


def episode(session: Any, frames: np.ndarray, engine: Any) -> float:
    """Seconds per frame of whole-episode streaming, once it runs."""
    step, iterations = engine.network.window_len // 2, engine.iterations
    supply = [frames[index % len(frames)] for index in range(3 * step)]
    engine.iterations = 1  # the first stretch is not measured
    for frame in supply[: 2 * step]:
        session.push(frame)
    engine.iterations = iterations
    begun = time.process_time()
    for frame in supply[2 * step :]:
        session.push(frame)
    return (time.process_time() - begun) / step


def video(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frames (T, 256, 256, 3) with bars, and their content alone; a moving texture."""
    height, width = BOX.content_shape
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 4 + 4, (width + length) // 4 + 4, 3), np.uint8)
    scene = coarse.repeat(4, axis=0).repeat(4, axis=1)
    content = np.stack([scene[:height, t : t + width] for t in range(length)])
    canvas = np.zeros((length, *BOX.img_shape, 3), np.uint8)
    left, top, right, bottom = BOX.content_box
    canvas[:, top:bottom, left:right] = content
    return canvas, content


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(results: dict[str, Any], rounds: int) -> tuple[str, bool]:
    """Return the table as Markdown, and whether all goals are met."""
    lines = [
        f"CoTracker, windows of {HORIZON} frames at every frame, random weights, fp32: median of "
        f"{rounds} windows per way, taking turns; processor seconds of one thread, "
        f"{platform.machine()}, torch {torch.__version__}, numpy {version('numpy')}.",
        "",
        "| model | way | CPU s per window | faster than plain | goal | output | peak GB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    good = True
    for model, found in results.items():
        seconds, goals = found["seconds"], dict(zip(WAYS, (None, *GOALS[model]), strict=True))
        names = {
            "plain": "the authors' predictor per window, 400 points, bars",
            "ours": "as letterset does, 400 points, bars",
            "content": "as letterset does, 225 points on the content",
        }
        same = "bit-equal at equal encoder batches" if found["equal"] else "DIFFERS"
        outputs = {"ours": f"{same} ({found['apart']:.0e} px otherwise)", "content": "other points"}
        good = good and found["equal"]
        for way in WAYS:
            peak = f"{found['peaks'][way] / 1e9:.1f}" if way in found["peaks"] else ""
            ratio = median(p / s for p, s in zip(seconds["plain"], seconds[way], strict=True))
            goal = goals[way]
            verdict = ""
            if goal is not None:
                verdict = f"{goal}: {'met' if ratio >= goal else 'MISSED'}"
                good = good and ratio >= goal
            lines.append(
                f"| {model} | {names[way]} | {median(seconds[way]):.1f} | {ratio:.2f} | "
                f"{verdict} | {outputs.get(way, '')} | {peak} |"
            )
        ratio = median(seconds["ours"]) / found["episode"]
        lines.append(
            f"| {model} | whole episode, streamed, 400 points | {found['episode']:.2f} per frame | "
            f"{median(seconds['plain']) / found['episode']:.1f} ({ratio:.1f} x our windows) | | "
            "one long track | |"
        )
    lines += ["", "All goals are met." if good else "Not all goals are met: see MISSED, DIFFERS."]
    return "\n".join(lines), good


if __name__ == "__main__":
    sys.exit(main())
