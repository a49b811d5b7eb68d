"""Measure ``migrate`` against a copy + SHA-256 + fsync of the same bytes, interleaved.

    python scripts/bench_migrate.py [--episodes 20] [--length 300] [--folder DIR]

Frames are not recomputed.  Prints one JSON object; the ratio is copy time over migrate time,
so 1 means as fast as copying and larger is faster.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from builder.legacy.migrate import migrate

SHAPE, GRID, HORIZON = (480, 853), 20, 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        size = write_dataset(folder / "old", args.episodes, args.length)
        rounds = [measure(folder) for _ in range(args.rounds)]
    ratios = [copy / moved for copy, moved in rounds]
    result = {
        "episodes": args.episodes,
        "megabytes": size / 1e6,
        "copy_sha256_fsync_s": statistics.median(copy for copy, _ in rounds),
        "migrate_s": statistics.median(moved for _, moved in rounds),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def measure(folder: Path) -> tuple[float, float]:
    begun = time.perf_counter()
    for path in sorted((folder / "old").glob("*.hdf5")):
        copy_hash_sync(path, folder / "copy" / path.name)
    middle = time.perf_counter()
    report = migrate(folder / "old", folder / "new", img_shape=(477, 470))
    ended = time.perf_counter()
    if report.failures:
        raise SystemExit(report.text())
    shutil.rmtree(folder / "copy")
    shutil.rmtree(folder / "new")
    return middle - begun, ended - middle


def copy_hash_sync(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())


def write_dataset(folder: Path, episodes: int, length: int) -> int:
    """Write older files with the usual 400 points; returns their size in bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    ticks = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(ticks * SHAPE[1], ticks * SHAPE[0], indexing="ij")
    queries = np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)
    walk = rng.normal(0, 2, (length, HORIZON, GRID * GRID, 2)).astype(np.float32)
    walk[:, 0] = 0
    for index in range(episodes):
        with h5py.File(folder / f"demo_{index}.hdf5", "w") as file:
            group = file.create_group("root/front")
            group["tracks"] = queries + np.cumsum(walk, axis=1)
            group["vis"] = (rng.random(walk.shape[:-1]) > 0.1).astype(np.float32)
            group.attrs["height"], group.attrs["width"] = SHAPE
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
