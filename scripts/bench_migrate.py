"""Measure ``letterset migrate`` against a copy + SHA-256 + fsync of the same bytes, interleaved.

    python scripts/bench_migrate.py --rounds 7 --write

Frames are not recomputed.  Speeds are over that of the copy: 1 is as fast as copying, larger is
faster.  ``--write`` puts the numbers into BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from bench_common import machine_facts, write_section

from builder.transform.migrate import migrate

VIEWS = {"agentview": (480, 853), "eye_in_hand": (480, 640)}
GRID, HORIZON, IMG_SHAPE = 20, 16, (477, 470)


def write_dataset(folder: Path, episodes: int, length: int) -> int:
    """Write older files with the usual 400 points; returns their size in bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    walk = rng.normal(0, 2, (length, HORIZON, GRID * GRID, 2)).astype(np.float32)
    walk[:, 0] = 0
    walk = np.cumsum(walk, axis=1)
    vis = (rng.random(walk.shape[:-1]) > 0.1).astype(np.float32)
    ticks = (np.arange(GRID) + 0.5) / GRID
    for index in range(episodes):
        with h5py.File(folder / f"demo_{index}.hdf5", "w") as file:
            for name, (height, width) in VIEWS.items():
                x, y = np.meshgrid(ticks * width, ticks * height, indexing="ij")
                queries = np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)
                group = file.create_group(f"root/{name}")
                group["tracks"], group["vis"] = queries + walk, vis
                group.attrs["height"], group.attrs["width"] = height, width
    return sum(path.stat().st_size for path in folder.iterdir())


def copy_hash_sync(source: Path, target: Path) -> None:
    """Copy a file, taking its SHA-256 on the way, and make it durable."""
    target.parent.mkdir(exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())


def copy_all(folder: Path) -> None:
    """Do to every older file what :func:`copy_hash_sync` does."""
    for path in sorted((folder / "old").glob("*.hdf5")):
        copy_hash_sync(path, folder / "new" / path.name)


def migrate_all(folder: Path) -> None:
    """Migrate the older files; raises SystemExit when one failed."""
    report = migrate(folder / "old", folder / "new", img_shape=IMG_SHAPE)
    if report.failures:
        raise SystemExit(report.text())


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of both ways, of all rounds but a first one that warms up."""
    ways = {"copy": copy_all, "migrate": migrate_all}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            begun = time.perf_counter()
            run(folder)
            seconds[name].append(time.perf_counter() - begun)
            shutil.rmtree(folder / "new")
    return {name: taken[1:] for name, taken in seconds.items()}


def main() -> None:
    """Measure and print, or write to BENCHMARKS.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        megabytes = write_dataset(Path(temporary) / "old", args.episodes, args.length) / 1e6
        seconds = measure(Path(temporary), args.rounds)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratios = [copy / moved for copy, moved in zip(*seconds.values(), strict=True)]
    text = f"""\
{machine_facts("h5py", "numpy")}

| what | measured |
| --- | --- |
| copy + SHA-256 + fsync, MB/s | {megabytes / middle["copy"]:.0f} |
| `letterset migrate`, without frames, MB/s | {megabytes / middle["migrate"]:.0f} |
| its speed by that of the copy (goal 0.8) | {statistics.median(ratios):.2f} |
| the slowest and the fastest round | {min(ratios):.2f}, {max(ratios):.2f} |

Medians of {args.rounds} interleaved rounds over {args.episodes} older files of two views, \
{args.length} frames and 400 points, {megabytes:.0f} MB in all."""
    sys.stdout.write(text + "\n")
    if args.write:
        write_section("bench_migrate", "Migrating older track files", text)


if __name__ == "__main__":
    main()
