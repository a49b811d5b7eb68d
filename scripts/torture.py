"""Kill builds at random times and at every system call of a commit; nothing bad may be left.

    python scripts/torture.py [--kills 200] [--step 1] [--folder FOLDER]

First a build of small videos is killed (SIGKILL to its whole process group) after a random
time, checked with validate, resumed and killed again until it is whole; its digests must be
those of an undisturbed build.  Then tests/store_faults.py kills, tears, and fails every
``step``-th system call of both stores.  What needs root (a full or read-only disk) is in
tests/test_store_hdf5.py.  Exit code 1 when anything bad was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.catalog import read_index
from builder.validate import validate

ROOT = Path(__file__).parents[1]
MODES = ("KILL", "TORN", "EIO", "ENOSPC", "EMFILE")
STORES = ("hdf5", "zarr")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        bad = kill_builds(folder, args.kills, random.Random(args.seed))
        for store in STORES:
            for mode in MODES:
                bad += inject(folder / f"{store}-{mode}", mode, args.step, store)
    for line in bad:
        sys.stdout.write(f"BAD  {line}\n")
    sys.stdout.write(f"{len(bad)} bad states\n")
    return 1 if bad else 0


def kill_builds(folder: Path, kills: int, rng: random.Random) -> list[str]:
    """Kill builds until so many kills have hit; returns everything that went wrong."""
    videos = folder / "videos"
    videos.mkdir()
    for index in range(6):
        write_video(videos / f"clip {index}.mp4", 20 + 5 * index)
    begun = time.monotonic()
    run(videos, folder / "reference")
    seconds = time.monotonic() - begun
    expected, bad, hit, rounds = digests(folder / "reference"), [], 0, 0
    while hit < kills:
        out = folder / "out"
        while True:
            process = start(videos, out)
            try:
                code: Any = process.wait(rng.uniform(0.1, 1.1) * seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                hit, code = hit + 1, None
            bad += [f"after {hit} kills: {text}" for text in wrong(out, code, expected)]
            if code is not None or hit >= kills:
                break
        run(videos, out)
        if digests(out) != expected:
            bad.append(f"round {rounds}: the finished dataset differs from an undisturbed one")
        shutil.rmtree(out)
        rounds += 1
    sys.stdout.write(f"{hit} kills in {rounds} rounds, {len(bad)} bad states\n")
    return bad


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


def start(videos: Path, out: Path) -> subprocess.Popen[bytes]:
    shape = ["--img-shape", "48", "64"]
    argv = ["build", "queries.grid=[3, 4]", "tracker.horizon=4", "executor.workers=2"]
    argv += ["--source", str(videos), "--out", str(out), *shape, "--quiet"]
    command = [sys.executable, "-m", "builder.cli", *argv]
    return subprocess.Popen(command, start_new_session=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def run(videos: Path, out: Path) -> None:
    if start(videos, out).wait():
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


def inject(folder: Path, mode: str, step: int, store: str) -> list[str]:
    script = ROOT / "tests" / "store_faults.py"
    command = [sys.executable, str(script), str(folder), mode, "1", str(step), store]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [f"{store} {mode}: {done.stderr.strip()}"]
    result = json.loads(done.stdout)
    sys.stdout.write(f"{store} {mode}: {result['faults']} faults, {len(result['bad'])} bad\n")
    return [f"{store} {each}" for each in result["bad"]]


if __name__ == "__main__":
    sys.exit(main())
