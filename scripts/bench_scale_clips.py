"""Part of ``bench_scale.py`` about one long video, cut into clips by two workers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from bench_scale_long import apart_settings

from builder.build.backends import open_source
from builder.build.config_file import load_config
from builder.build.pipeline import Summary, build
from builder.build.tally import Tally
from builder.dataset.folder import read_index
from builder.dataset.opening import open_dataset
from builder.sources.clips import clip_of
from schemas.config import BuildConfig

Row = tuple[str, str, str]
SHAPE, FPS, SHORT_SECONDS = (720, 1280), 30, 20
MEASURED_MINUTES, CLIP_SECONDS = 10, 20


def lengthen(source: Path, target: Path, times: int) -> Path:
    """Repeat a video by copying its packets, none of them encoded again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        stream: Any = output.add_stream_from_template(given.streams.video[0])
        packets: list[Any] = [packet for packet in given.demux(video=0) if packet.size]
        step = sum(packet.duration for packet in packets)
        stamps = [(packet.pts, packet.dts) for packet in packets]
        for number in range(times):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                packet.pts, packet.dts = pts + number * step, dts + number * step
                packet.stream = stream
                output.mux(packet)
                packet.time_base = given.streams.video[0].time_base
    return target


def _config(source: Path, out: Path, *more: str) -> BuildConfig:
    given = {"source.path": str(source), "store.path": str(out), "img_shape": [64, 64]}
    return load_config(None, ["tracker.kind=none", "queries.grid=[2, 2]", *more], given)


def bench_clips(make_clip: Callable[..., Path], folder: Path, rounds: int) -> Iterator[Row]:
    """One long video: what reaching its middle costs, what workers gain, what a kill loses."""
    short = make_clip(folder / "short.mp4", SHORT_SECONDS * FPS, SHAPE, FPS)
    yield from _reaching(lengthen(short, folder / "long" / "90 minutes.mp4", 270), folder)
    times = MEASURED_MINUTES * 60 // SHORT_SECONDS
    yield from _sharing(lengthen(short, folder / "part" / "minutes.mp4", times), folder, rounds)


def _reaching(video: Path, folder: Path) -> Iterator[Row]:
    source = open_source(_config(video, folder / "none", "source.clip.seconds=60"))
    begun = time.process_time()
    refs = list(source.refs())
    listing = time.process_time() - begun
    seconds = []
    for at in (0, len(refs) // 2, len(refs) - 1):
        begun = time.process_time()
        with source.open(refs[at]) as episode:
            frames = sum(1 for _ in episode.views["main"])
        seconds.append((time.process_time() - begun) / frames)
    clips = [clip_of(ref) for ref in refs]
    frames = sum(clip.last - clip.first for clip in clips if clip)
    what = f"720p video of 90 minutes ({video.stat().st_size / 1e6:.0f} MB)"
    yield f"{what}, frames of its {len(refs)} clips of 60 s", f"{frames:,}", ""
    share = listing / (seconds[0] * frames)
    yield "listing them, CPU", f"{listing:.1f} s, {share:.1%} of decoding all", "a few %"
    for name, each in zip(("first", "middle", "last"), seconds, strict=True):
        yield f"decoding the {name} clip, CPU a frame", f"{each * 1e3:.2f} ms", "alike"
    names = [f"{video.name}/clip-{at:04d}" for at in (0, len(refs) // 2, len(refs) - 1)]
    out = folder / "reached"
    peak, worker = apart_settings(
        *(f"source.path={video}", f"store.path={out}", "img_shape=[64, 64]", "tracker.kind=none"),
        *("source.clip.seconds=60", f"source.episodes={names}", "executor.workers=1"),
    )
    yield "peak memory, these three clips, worker", f"{worker:.0f} MiB", "as of short videos"
    yield "peak memory, build", f"{peak:.0f} MiB", ""


def _sharing(video: Path, folder: Path, rounds: int) -> Iterator[Row]:
    cut = f"source.clip.seconds={CLIP_SECONDS}"
    walls: dict[int, list[float]] = {1: [], 2: []}
    cpus: dict[int, list[float]] = {1: [], 2: []}
    possible: list[float] = []
    off: list[float] = []
    for number in range(rounds):
        possible.append(2 * _computing(1) / _computing(2))
        for workers in walls:
            made = _config(
                video, folder / f"out {number} {workers}", cut, f"executor.workers={workers}"
            )
            before = _cpu_of_workers()
            summary, error = _watched(made)
            walls[workers].append(summary.seconds)
            cpus[workers].append(_cpu_of_workers() - before)
            off.append(error)
    whole = _config(video, folder / "whole", "executor.workers=2")
    alone = build(whole).seconds
    gains = [one / two for one, two in zip(walls[1], walls[2], strict=True)]
    what = f"720p video of {MEASURED_MINUTES} minutes, clips of {CLIP_SECONDS} s, tracker none"
    spread = f"{min(gains):.2f} to {max(gains):.2f}"
    yield f"{what}: two workers, against one", f"{median(gains):.2f} times ({spread})", "1.8"
    reached = median(gain / most for gain, most in zip(gains, possible, strict=True))
    most = f"{median(possible):.2f} times"
    yield "two processes that only compute, against one, in the same minutes", most, "2 when idle"
    yield "of what these gain, two workers gain", f"{reached:.0%}", "90%"
    busy = median(cpus[2]) / median(cpus[1])
    yield "CPU seconds of two workers, by those of one", f"{busy:.2f}", "1"
    ratio = alone / median(walls[2])
    yield "against two workers and the video uncut", f"{ratio:.2f} times", "1.8"
    yield "time left told at a quarter, error", f"{median(off):+.0%}", "within 20%"
    first, second = (open_dataset(folder / f"out 0 {workers}") for workers in (1, 2))
    same = [first.index[key] == second.index[key] for key in first.ids]
    yield "clips with equal digests, one worker and two", f"{sum(same)} of {len(same)}", "all"
    yield from _as_whole(open_dataset(folder / "whole"), second)
    yield from _killed(video, folder, cut, len(same), {k: first.index[k].digest for k in first.ids})


def _computing(processes: int) -> float:
    """Wall seconds in which each of so many processes gets two CPU seconds."""
    code = "import time\nwhile time.process_time() < 2: pass"
    begun = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    for each in running:
        each.wait()
    return time.perf_counter() - begun


def _cpu_of_workers() -> float:
    """CPU seconds of the workers that have ended."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def _watched(made: BuildConfig) -> tuple[Summary, float]:
    """Build; also return the relative error of the time left that was told at a quarter."""
    begun, tally, told = 0.0, Tally(0), 0.0

    def weigh(weights: Any) -> None:
        nonlocal begun, tally
        begun, tally = time.monotonic(), Tally(len(weights), weights)

    def look(event: Any) -> None:
        nonlocal told
        tally.count(event)
        if not told and tally.share >= 0.25:
            told = (time.monotonic() - begun) / tally.share

    summary = build(made, on_weights=weigh, on_event=look)
    return summary, told / (time.monotonic() - begun) - 1


def _as_whole(whole: Any, clips: Any) -> Iterator[Row]:
    [(_, all_of_it)] = [(key, whole[key].views["main"]) for key in whole.ids]
    frames = equal = 0
    for key in clips.ids:
        view, first = clips[key].views["main"], clips[key].meta.source.clip.first
        for at, frame in enumerate(view.frames):
            equal += np.array_equal(frame, all_of_it.frames[first + at])
            frames += 1
    yield "frames equal to those of the video built whole", f"{equal:,} of {frames:,}", "all"


def _killed(
    video: Path, folder: Path, cut: str, count: int, digests: dict[str, str]
) -> Iterator[Row]:
    """Kill a build when half of its clips are listed, and go on."""
    out = folder / "killed"
    made = _config(video, out, cut, "executor.workers=2")
    command = [sys.executable, "-m", "builder.cli", "build", "--quiet", f"source.path={video}"]
    command += [f"store.path={out}", "img_shape=[64, 64]", "tracker.kind=none"]
    command += ["queries.grid=[2, 2]", cut, "executor.workers=2"]
    with subprocess.Popen(command, start_new_session=True) as running:
        while running.poll() is None and _listed(out) < count // 2:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    kept = _listed(out)
    again = build(made)
    twice = again.built - (count - kept)
    what = f"killed (SIGKILL) with {kept} of {count} clips listed: of those, built again"
    yield what, f"{twice}", "0"
    index = read_index(out)
    same = sum(index[key].digest == digest for key, digest in digests.items())
    yield "then equal to an undisturbed build", f"{same} of {count}", "all"


def _listed(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (out / "index").glob("*.jsonl"))
