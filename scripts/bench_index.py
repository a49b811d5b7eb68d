"""Measure opening a dataset of 100,000 and of 10^6 episodes, each in its own process, warm.

    python scripts/bench_index.py --write

Only the index is made, not the episodes: nothing else is read on opening.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median

from bench_common import machine_facts, write_section

from builder import open_dataset
from builder.core.records import stored_form
from builder.dataset.folder import pretty_json
from builder.testing.samples import sample_meta
from builder.training import WindowDataset
from schemas.dataset import IndexLine

COUNTS = (100_000, 1_000_000)
MIB = 2**20
TITLE = "Opening large datasets"


def make(folder: Path, count: int, writers: int) -> None:
    """Write the index of a dataset as several shards leave it: in no order."""
    (folder / "index").mkdir(parents=True)
    (folder / "dataset.json").write_text(pretty_json(sample_meta()))
    # 7919 has no factor in common with a power of ten: every episode once.
    names = [f"task_{k % 97:03d}/episode-{k * 7919 % count:08d}" for k in range(count)]
    for number in range(writers):
        with (folder / "index" / f"shard-{number}-of-{writers}.jsonl").open("w") as file:
            for name in names[number::writers]:
                digest = sha256(name.encode()).hexdigest()
                line = IndexLine(id=name, length=300, views=("front", "wrist"), digest=digest)
                file.write(stored_form(line) + "\n")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def measure(folder: Path) -> dict[str, float]:
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    dataset = open_dataset(folder)
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    found["memory"] = peak() - before
    start = time.perf_counter()
    for name in dataset.ids[::100]:
        dataset.index[name]
    found["lookup"] = (time.perf_counter() - start) / len(dataset.ids[::100])
    start = time.perf_counter()
    windows = WindowDataset(dataset)
    found["windows"] = time.perf_counter() - start
    found["pickle"] = len(pickle.dumps(windows)) / MIB
    return found


def rows(folder: Path, rounds: int) -> Iterator[str]:
    yield "| what | " + " | ".join(f"{count:,} episodes" for count in COUNTS) + " | goal |"
    yield "| --- |" + " --- |" * (len(COUNTS) + 1)
    runs: list[list[dict[str, float]]] = []
    for count in COUNTS:
        make(folder / str(count), count, 16)
        command = [sys.executable, __file__, "--child", str(folder / str(count))]
        runs.append(
            [json.loads(subprocess.check_output(command, text=True)) for _ in range(rounds)]
        )
    for what, key, form, goal in (
        ("open_dataset, wall clock", "wall", "{:.2f} s", "< 1 s for 100,000"),
        ("open_dataset, CPU", "cpu", "{:.2f} s", ""),
        ("growth of the process's peak memory by it", "memory", "{:.0f} MiB", "little"),
        ("look an episode up", "lookup", "{:.1e} s", ""),
        ("WindowDataset over it", "windows", "{:.3f} s", ""),
        ("pickled WindowDataset, for a worker", "pickle", "{:.1f} MiB", ""),
    ):
        cells = [form.format(median(run[key] for run in each)) for each in runs]
        yield f"| {what} | {' | '.join(cells)} | {goal} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measure(options.child)))
        return
    with tempfile.TemporaryDirectory() as folder:
        table = "\n".join(rows(Path(folder), options.rounds))
    facts = machine_facts("numpy", "pydantic")
    text = f"{facts} Medians of {options.rounds}, files cached.\n\n{table}"
    sys.stdout.write(text + "\n")
    if options.write:
        write_section("bench_index", TITLE, text)


if __name__ == "__main__":
    main()
