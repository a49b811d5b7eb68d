"""Parts of ``bench_scale.py`` about memory that does not grow, and a device that does not wait."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from builder.build import episode
from builder.build.backends import open_source
from builder.build.config_file import load_config
from builder.build.episode import Job, build_episode
from builder.build.executors.base import Outcome
from builder.build.executors.kinds.processes import Processes, ProcessesConfig
from builder.build.pipeline import build
from builder.build.tracker_process import tracker_hosts
from builder.trackers.base import Window
from builder.trackers.kinds.none import NoSession, NoTracker
from schemas.config import BuildConfig

Row = tuple[str, str, str]
MakeClips = Callable[..., Path]

APART = """
import json, sys
from bench_scale_long import build_and_watch
if __name__ == "__main__":
    print(json.dumps(build_and_watch(sys.argv[2:], json.loads(sys.argv[1]))))
"""


def build_and_watch(settings: list[str], marks: list[int]) -> dict[str, Any]:
    """Build, and look at this process and its workers when so many episodes are done.

    Returns (MiB, open files) of the build's process by mark, and the peaks in MiB of it and of
    its largest worker.
    """
    seen: dict[int, tuple[float, int]] = {}
    done = 0

    def look(event: object) -> None:
        nonlocal done
        done += isinstance(event, Outcome)
        if done in marks and done not in seen:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = len(os.listdir("/proc/self/fd"))
            seen[done] = (pages * resource.getpagesize() / 2**20, files)

    summary = build(load_config(None, settings, {}), on_event=look)
    # What reads sources in a process of its own stays; workers do not.
    if summary.failures or len(active_children()) > 1:
        raise RuntimeError(f"the build went wrong: {summary.failures[:3]}")
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peaks = [resource.getrusage(kind).ru_maxrss / 1024 for kind in kinds]
    return {"marks": seen, "peaks": peaks, "seconds": summary.seconds}


def _apart(marks: list[int], *settings: str) -> dict[str, Any]:
    """Run :func:`build_and_watch` in a process of its own: peaks do not mix."""
    command = [sys.executable, "-c", APART, json.dumps(marks), *settings]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def apart_settings(*settings: str) -> tuple[float, float]:
    """Build in a process of its own; returns the peaks in MiB of it and of its worker."""
    parent, worker = _apart([], *settings)["peaks"]
    return float(parent), float(worker)


def bench_length(clips: MakeClips, folder: Path, rounds: int) -> Iterator[Row]:
    """Peaks of a build for a video of two hours and one of ten seconds."""
    fps, shape = 4, (64, 96)
    for name, seconds in (("10 s", 10), ("2 hours", 7200)):
        source = clips(folder / name, 1, seconds * fps, shape, fps)
        out = folder / f"out {name}"
        found = _apart(
            [],
            *(f"source.path={source}", f"store.path={out}", "img_shape=[32, 48]"),
            *("queries.grid=[2, 2]", "tracker.kind=none"),
            "executor.workers=1",
        )
        parent, worker = found["peaks"]
        what = (
            f"peak memory, one video of {name} ({fps} frames/s of 64x96, raw frames, tracker none)"
        )
        yield f"{what}, worker", f"{worker:.0f} MiB", "alike"
        yield f"{what}, build", f"{parent:.0f} MiB", "alike"
        shutil.rmtree(out)


def bench_episodes(clips: MakeClips, folder: Path, rounds: int) -> Iterator[Row]:
    """Memory and open files while 10,000 short episodes are built."""
    source = clips(folder / "short", 10_000, 4, (48, 64))
    marks = [2000, 10_000]
    found = _apart(
        marks,
        *(f"source.path={source}", f"store.path={folder / 'out'}", "img_shape=[48, 80]"),
        *("queries.grid=[2, 2]", "tracker.kind=none", "executor.workers=2"),
    )
    for mark in marks:
        mib, files = found["marks"][str(mark)]
        yield f"memory of the build after {mark:,} episodes", f"{mib:.0f} MiB", "flat"
        yield f"its open files after {mark:,} episodes", f"{files}", "flat"
    yield "largest peak of a worker (200 episodes each)", f"{found['peaks'][1]:.0f} MiB", ""
    rate = 10_000 / found["seconds"]
    yield "episodes of 4 frames a second, 2 workers, tracker none", f"{rate:.0f}", ""


DEVICE_SECONDS = 0.01  # for a frame


class Device(NoTracker):
    """Stands for a tracker on a GPU: nobody computes while it takes its time."""

    def open(self, *args: Any) -> DeviceSession:
        """Start a session; see ``Tracker.open``."""
        return DeviceSession(*args)


class DeviceSession(NoSession):
    """Takes its time over each frame."""

    def push(self, frame_rgb: Any) -> list[Window]:
        """Wait as for a GPU."""
        time.sleep(DEVICE_SECONDS)
        return []


def bench_feeding(clips: MakeClips, folder: Path, rounds: int) -> Iterator[Row]:
    """How busy workers keep a device that takes 10 ms a frame."""
    source = clips(folder / "fed", 4, 200)
    for workers, who in ((0, "by a worker of its own, not fed"), (1, "by 1"), (2, "by 2")):
        shares = []
        for number in range(rounds):
            out = folder / f"out {workers} {number}"
            given = {"source.path": str(source), "store.path": str(out), "img_shape": [256, 256]}
            made = load_config(None, ["tracker.kind=none"], given)
            shares.append(_busy(made, workers))
            shutil.rmtree(out)
        share = sorted(shares)[len(shares) // 2]
        what = "a stand-in device of 10 ms a frame is busy, 360x640 to 256x256"
        yield f"{what}, {who}", f"{share:.0%}", ""


def _busy(made: BuildConfig, workers: int) -> float:
    """Return the share of wall time, from the first sign of life, that the device works."""
    refs = list(open_source(made).refs())
    with ExitStack() as stack:
        addresses: list[Any] = [None]
        function: Any = build_episode
        if workers:
            hosts = tracker_hosts(Device(), Device, ProcessesConfig(trackers=1), 99)
            addresses = stack.enter_context(hosts)
        else:
            function = build_with_a_device
        jobs = [Job(made, ref, tracker=addresses[0]) for ref in refs]
        frames, begun = 0, 0.0
        for event in Processes(ProcessesConfig(), workers or 1, 99).run(function, jobs):
            begun = begun or time.perf_counter()
            if isinstance(event, Outcome):
                if event.error is not None:
                    raise event.error
                frames += event.result.frames
    return frames * DEVICE_SECONDS / (time.perf_counter() - begun)


def build_with_a_device(job: Job, report: Any) -> Any:
    """Build an episode in a worker that holds the device itself."""
    episode._tracker = lambda job, config_json: Device()
    return build_episode(job, report)
