"""Kill builds at random times and at every system call of a commit; nothing bad may be left.

    python scripts/torture.py [--kills 200] [--step 1] [--strace] [--stores hdf5 zarr]

First a build of small videos is killed (SIGKILL to its whole process group) after a random
time, checked with validate, resumed and killed again until it is whole; its digests must be
those of an undisturbed build.  Then tests/fixtures/store_faults.py kills, tears, and fails every
``step``-th system call of a write and of a replacement.  With ``--strace`` the kernel's own record
of a build must show, for every commit, fsync of all that is in it before the rename, and fsync
of the folder right after.  All of it for each store.  What needs root (a full or read-only
disk) is in tests/stores/test_small_disk.py.  Exit code 1 when anything bad was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.dataset.folder import read_index
from builder.dataset.validate import validate

ROOT = Path(__file__).parents[1]
MODES = ("KILL", "TORN", "EIO", "ENOSPC", "EMFILE")
STORES = ("hdf5", "zarr")
JOBS = {"hdf5": ("write", "replace"), "zarr": ("write", "replace", "replace-in-steps")}
CALL = re.compile(r"(fsync|rename|renameat2?)\((.*)\) += 0$")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; default: temporary")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--strace", action="store_true")
    args = parser.parse_args()
    bad = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        videos = Path(name, "videos")
        videos.mkdir()
        for index in range(6):
            write_video(videos / f"clip {index}.mp4", 20 + 5 * index)
        for store in args.stores:
            folder = Path(name, store)
            folder.mkdir()
            bad += trace_commits(videos, folder, store) if args.strace else []
            bad += kill_builds(videos, folder, store, args.kills, random.Random(args.seed))
            for job in JOBS[store]:
                for mode in MODES:
                    bad += inject(folder / f"{job}-{mode}", mode, args.step, store, job)
    for line in bad:
        say(f"BAD  {line}")
    say(f"{len(bad)} bad states in all")
    return 1 if bad else 0


def kill_builds(
    videos: Path, folder: Path, store: str, kills: int, rng: random.Random
) -> list[str]:
    """Kill builds until so many kills have hit; returns everything that went wrong."""
    begun = time.monotonic()
    run(videos, folder / "reference", store)
    seconds = time.monotonic() - begun
    expected, bad, hit, rounds = digests(folder / "reference"), [], 0, 0
    while hit < kills:
        out = folder / "out"
        while True:
            process = start(videos, out, store)
            try:
                code: Any = process.wait(rng.uniform(0.1, 1.1) * seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                hit, code = hit + 1, None
            bad += [f"after {hit} kills: {text}" for text in wrong(out, code, expected)]
            if code is not None or hit >= kills:
                break
        run(videos, out, store)
        if digests(out) != expected:
            bad.append(f"round {rounds}: the finished dataset differs from an undisturbed one")
        shutil.rmtree(out)
        rounds += 1
    say(f"{store}: {hit} kills in {rounds} rounds, {len(bad)} bad states")
    return [f"{store} {each}" for each in bad]


def wrong(out: Path, code: int | None, expected: dict[str, str]) -> list[str]:
    """List what a kill must never leave behind."""
    if code not in (None, 0):
        return [f"the build ended with {code}"]
    if not (out / "dataset.json").exists():
        return []
    # An episode that was committed but not listed yet is listed by the next run.
    unlisted = "is not listed in the index"
    bad = [str(each) for each in validate(out) if not each.note and unlisted not in each.message]
    if not digests(out).items() <= expected.items():
        bad.append("an episode is listed with other content")
    if code == 0 and digests(out) != expected:
        bad.append("it claims success, but episodes are missing")
    return bad


def start(videos: Path, out: Path, store: str, *prefix: str) -> subprocess.Popen[bytes]:
    shape = ["--img-shape", "48", "64"]
    argv = ["build", "queries.grid=[3, 4]", "tracker.horizon=4", "executor.workers=2"]
    argv += [f"store.kind={store}", "--source", str(videos), "--out", str(out), *shape, "--quiet"]
    command = [*prefix, sys.executable, "-m", "builder.cli", *argv]
    return subprocess.Popen(command, start_new_session=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def run(videos: Path, out: Path, store: str, *prefix: str) -> None:
    if start(videos, out, store, *prefix).wait():
        raise SystemExit("an undisturbed build failed")


def digests(out: Path) -> dict[str, str]:
    return {key: line.digest for key, line in read_index(out).items()}


def write_video(path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    texture = rng.integers(0, 255, (90, 120 + count, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 120, 90, "yuv420p"
        for index in range(count):
            image = np.ascontiguousarray(texture[:, index : index + 120])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def trace_commits(videos: Path, folder: Path, store: str) -> list[str]:
    """Let the kernel tell in which order a build's commits reach the disk."""
    if shutil.which("strace") is None:
        say(f"{store}: system calls not traced, as there is no strace here")
        return []
    out, log = folder / "traced", folder / "strace"
    # One file per process: a commit is made by one process, so its order is that of the lines.
    calls = "trace=fsync,rename,renameat,renameat2"
    run(videos, out, store, "strace", "-ff", "-y", "-s", "4096", "-e", calls, "-o", str(log))
    bad, commits = [], 0
    for path in folder.glob("strace.*"):
        events = [found.groups() for line in open(path) if (found := CALL.search(line))]
        synced = set()
        for (name, given), (after, then) in pairwise([*events, ("nothing", "")]):
            if name == "fsync":
                synced.add(re.sub(r"^\d+<(.*)>$", r"\1", given))
                continue
            source, final = map(Path, re.findall(r'"(.*?)"', given))
            if f"{out}/episodes" not in str(final):
                continue
            commits += 1
            parts = [final, *final.rglob("*")]
            late = [p for p in parts if str(source / p.relative_to(final)) not in synced]
            bad += [f"{each} was renamed before it was on the disk" for each in late]
            if after != "fsync" or f"<{final.parent}>" not in then:
                bad.append(f"after the rename of {final} came {after} {then}")
    if commits != len(digests(out)):
        bad.append(f"{commits} commits were seen of {len(digests(out))}")
    say(f"{store}: strace shows the order of {commits} commits, {len(bad)} bad")
    return [f"{store} strace: {each}" for each in bad]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def inject(folder: Path, mode: str, step: int, store: str, job: str) -> list[str]:
    script = ROOT / "tests" / "fixtures" / "store_faults.py"
    command = [sys.executable, str(script), str(folder), mode, "1", str(step), store, job]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [f"{store} {job} {mode}: {done.stderr.strip()}"]
    result = json.loads(done.stdout)
    say(f"{store} {job} {mode}: {result['faults']} faults, {len(result['bad'])} bad")
    return [f"{store} {job} {each}" for each in result["bad"]]


if __name__ == "__main__":
    sys.exit(main())
