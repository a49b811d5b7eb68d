"""Measure live windows: how long a robot waits for one, and how far a camera's RGB takes them.

    python scripts/bench_live.py --write        (five minutes)

One 720p view of real video as RGB, 400 points, horizon 16, a window every 4 frames, for each
preset of the embedded tracker, on one and on two cores (Linux: by affinity), in processes of
their own.  Latency is from the arrival of a window's last frame to its sample, frames that wait
for the one before them included; it follows from the time that each call takes and the rate.  The
camera's times are off by 2 ms at random.  Then what tracker.skip_still saves on a video that is
half still.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import av
import cv2
from bench_common import load_note, machine_facts, write_section
from fetch_clips import CLIPS, fetch

from builder.build.view import kept_starts, measure_stillness
from builder.inputs.video import VideoStream
from builder.trackers.base import ViewKey
from builder.trackers.kinds.dis import DisConfig, DisTracker
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from builder.trackers.windowed import WindowedTracker
from schemas.config import BuildConfig
from schemas.dataset import QuerySpec

PRESETS = ("fast", "balanced", "best")
CLIP = "bigbuckbunny.mp4"
RATES = (10, 20)
JITTER_SECONDS = 0.002
SPEED = 2.8
LETTERSET = [sys.executable, "-c", "from builder.cli import main; raise SystemExit(main())"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=Path, default=Path("demo/videos"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=10, help="for accuracy")
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        meta, cores = args.child
        print(json.dumps(measure(args.clips, meta, cores, args.rounds)))
        return
    fetch(args.clips)
    lines = [
        "One 1280x720 view as RGB onto 256 x 256, 400 points, horizon 16, a window every 4 "
        "frames: milliseconds from a window's last frame to its sample, p50 / p99 over the windows "
        f"of 262 frames. Every frame takes the least of {args.rounds} rounds, at real-time "
        "priority: other programs ran meanwhile. Accuracy as in the table of trackers, at "
        f"{SPEED} px per frame.",
        "",
        "| preset | cores | at 10 Hz | at 20 Hz | p99 under 50 ms at 20 Hz | d_avg | occlusion "
        "accuracy | average Jaccard |",
        "|---|---|---|---|---|---|---|---|",
    ]
    scores = accuracy(args.clips, args.scenes)
    with tempfile.TemporaryDirectory() as folder:
        for preset in PRESETS:
            meta = built(args.clips / CLIP, Path(folder) / preset, preset)
            for cores in (1, 2):
                lines.append(
                    f"| {preset} | {cores} | {row(args, meta, cores)} | {scores[preset]} |"
                )
                print(lines[-1], flush=True)
        lines += ["", *rgb_lines(args.clips, Path(folder))]
        lines += ["", *still_lines(args.clips / CLIP, Path(folder) / "half.mp4")]
    lines += ["", machine_facts("opencv-python-headless", "numpy", "av") + "  " + load_note()]
    text = "\n".join(lines)
    print(text)
    if args.write:
        write_section("bench_live", "Live windows", text)


def built(clip: Path, folder: Path, preset: str, *settings: str) -> Path:
    """Build a dataset of a clip; returns the file that a robot loads."""
    source = ["--source", str(clip), "--out", str(folder), "--quiet", "--img-shape", "256", "256"]
    own = [f"tracker.preset={preset}", "tracker.start_every=4", "source.fps=20"]
    own += settings or ["source.max_frames=17"]
    subprocess.run([*LETTERSET, "build", *source, *own], check=True, stdout=sys.stderr)
    meta = folder / "inference.json"
    export = ["export", str(folder), str(meta), "--to", "inference"]
    subprocess.run([*LETTERSET, *export], check=True, stdout=sys.stderr)
    return meta


def measure(clips: Path, path: str, cores: str, rounds: int) -> dict[str, Any]:
    """Time every call; returns seconds (rounds, frames), and which frame ended which call's window.

    ``ends`` are pairs (call, frame): the call gave a sample whose last step is that frame.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(cores)]))
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    cv2.setNumThreads(int(cores))

    from builder.inference import LiveWindows

    with av.open(str(clips / CLIP)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    frames += frames[-2:0:-1]
    rng = np.random.default_rng(0)
    times = np.arange(len(frames)) / RATES[-1] + rng.normal(0, JITTER_SECONDS, len(frames))
    live = LiveWindows.load(path)
    took: list[list[float]] = []
    ends: list[tuple[int, int]] = []
    for _ in range(rounds):
        live.reset()
        took.append([])
        ends = []
        for index, (frame, seconds) in enumerate(zip(frames, times.tolist(), strict=True)):
            begun = time.perf_counter()
            samples = live.push({live.reference_view: frame}, seconds)
            took[-1].append(time.perf_counter() - begun)
            ends += [(index, int(np.searchsorted(times, s["seconds"][-1]))) for s in samples]
    return {"took": took, "ends": ends, "counts": str(live.counts)}


def latencies(took: np.ndarray, ends: list[tuple[int, int]], rate: int) -> np.ndarray:
    """Return the milliseconds from a window's last frame to its sample, for a camera's rate."""
    arrived = np.arange(len(took)) / rate
    done = np.empty(len(took))
    before = 0.0
    for index, seconds in enumerate(took):
        before = done[index] = max(before, arrived[index]) + seconds
    return np.array([done[call] - arrived[frame] for call, frame in ends]) * 1e3


def row(args: argparse.Namespace, meta: Path, cores: int) -> str:
    """Measure in a process of its own and format the cells of a table row."""
    command = [sys.executable, __file__, "--clips", str(args.clips), "--rounds", str(args.rounds)]
    command += ["--child", str(meta), str(cores)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(found["counts"], file=sys.stderr)
    took, cells, good = np.array(found["took"]), [], False
    for rate in RATES:
        own = latencies(took.min(axis=0), found["ends"], rate)
        p50, p99 = np.percentile(own, (50, 99))
        cells.append(f"{p50:.0f} / {p99:.0f}")
        good = bool(p99 < 1e3 / rate)
    return " | ".join([*cells, "yes" if good else "no"])


def accuracy(clips: Path, count: int) -> dict[str, str]:
    """Return the cells of each preset's accuracy on scenes whose truth is known."""
    import bench_tracker_accuracy as bench

    cv2.setNumThreads(1)
    cases = bench.make_cases(bench.load_textures(clips), count, SPEED, 0)
    cells = {}
    for preset in PRESETS:
        make = partial(DisTracker, DisConfig.model_validate({"preset": preset}))
        scores, _ = bench.measure(make, cases)
        cells[preset] = " | ".join(f"{score:.3f}" for score in scores)
    return cells


def rgb_lines(clips: Path, folder: Path) -> list[str]:
    """Compare live windows with those of training, of frames as decoded and of a camera's RGB."""
    from builder.transform.parity import parity

    lines = [
        "Live windows against those of training, preset `best`, in pixels of 256 x 256 "
        "(`letterset parity`, with `--rgb` for a camera that gives RGB):",
        "",
        "| clip | frames as decoded | RGB: points both see | all points | largest | visibility "
        "that differs |",
        "|---|---|---|---|---|---|",
    ]
    for name in CLIPS:
        out = folder / name
        built(clips / name, out, "best", "source.max_frames=60")
        same, rgb = parity(out), parity(out, rgb=True)
        equal = "bit-equal" if same.equal == same.windows else f"{same.equal} of {same.windows}"
        lines.append(
            f"| {name} | {equal}, {same.windows} windows | {rgb.seen_px:.3f} px | "
            f"{rgb.mean_px:.3f} px | "
            f"{rgb.max_px:.1f} px | {rgb.visibility_differs:.2%} |"
        )
        print(lines[-1], flush=True)
    return lines


class PerWindow(WindowedTracker):
    """A model that sees one window at a time: optical flow, computed anew for each."""

    info = DisTracker().info

    def track(self, clips: list[list[Any]], queries_xy: np.ndarray) -> list[Any]:
        """Track each clip by itself."""
        results = []
        for clip in clips:
            tracker = DisTracker(DisConfig(preset="fast"))
            session = tracker.open(clip[0].shape[:2], queries_xy, len(clip), len(clip))
            [window] = [each for frame in clip for each in session.push(frame)]
            results.append((window.tracks_xy, window.vis, None))
        return results


def still_lines(clip: Path, path: Path, half: int = 60) -> list[str]:
    """Time a per-window model on a video of which the second half stands still."""
    with av.open(str(clip)) as video, av.open(str(path), "w") as written:
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), half)]
        stream = written.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in (*frames, *frames[-1:] * half):
            written.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        written.mux(stream.encode(None))
    (all_, spent, _), (some, less, looked) = (followed(path, each) for each in (None, 6.0))
    known = {window.start: window for window in all_}
    equal = all(
        np.array_equal(window.tracks_xy, known[window.start].tracks_xy)
        and np.array_equal(window.vis, known[window.start].vis)
        for window in some
    )
    return [
        f"A model that tracks every window by itself, {2 * half} frames of 720p of which the "
        f"second half stands still, CPU seconds of one thread: {spent:.1f} for {len(all_)} "
        f"windows; with `tracker.skip_still=6` {less:.1f} for {len(some)}, of which "
        f"{looked:.1f} are to look through the video first. Those {len(some)} are "
        + ("equal bit for bit." if equal else "NOT EQUAL."),
    ]


def followed(path: Path, threshold: float | None) -> tuple[list[Any], float, float]:
    """Track a video as a build does; returns windows, CPU seconds, and those of looking first."""
    cv2.setNumThreads(1)
    config = BuildConfig.model_validate(
        {"img_shape": (256, 256), "source": {"path": "-"}, "store": {"path": "-"}}
    )
    begun, keeps, video = time.process_time(), None, VideoStream(path)
    if threshold is not None:
        still = measure_stillness(config, threshold, {"main": video}, lambda: None)
        keeps = kept_starts(still, 1)
    looked = time.process_time() - begun
    box = config.fit(video.info.source_shape, video.info.sample_aspect_ratio)
    key, length = ViewKey("a", "a", "main"), video.info.num_frames
    view = ViewTracker(PerWindow(), box, QuerySpec(), config.tracker, length, key, keeps)
    shown = ViewFrames(view, video.info.orientation)
    windows = [window for frame in video for window in view.push(shown.tracked(frame.image))]
    windows += view.finish()
    return windows, time.process_time() - begun, looked


if __name__ == "__main__":
    main()
