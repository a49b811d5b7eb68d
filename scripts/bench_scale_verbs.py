"""Parts of ``bench_scale.py`` about very many episodes: verbs over them, syncs of the disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np

from builder.core.records import record_data, stored_form
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.window_table import episode_rows, keep_rows
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import IMG_SHAPE, Sample, sample_meta
from schemas.base import canonical_json, content_sha256

Row = tuple[str, str, str]
TASKS, FRAMES = 97, 3
ORDINARY_MB, TINY_KB = 64, 32
TOGETHER = 64
"""Episodes that are packed into one file, to compare."""


def make_dataset(folder: Path, count: int) -> Path:
    """Make a valid dataset of tiny episodes, as a build leaves it: one is written, others copied.

    A copy has another id, so its metadata are replaced by those of the same length, sealed anew.
    """
    DatasetWriter.create(folder, sample_meta()).close()
    store, name = Hdf5Store(folder), "task_{:02d}/episode-{:06d}"
    meta = Sample(name.format(0, 999_999), length=FRAMES).build(store)
    path, text = store.path(meta.id), stored_form(meta).encode()
    before, after = path.read_bytes().split(text)
    rows = episode_rows(store.open(meta.id), IMG_SHAPE)
    path.unlink()
    keep_rows(folder, "main", meta.digest, rows)
    kept = (folder / "stats" / "main.rows").read_text()
    facts = {key: value for key, value in json.loads(kept).items() if key != "sha256"}
    assert facts["rows"] == {k: base64.b64encode(v.tobytes()).decode() for k, v in rows.items()}
    fields, line = record_data(meta), record_data(index_line(meta))
    (folder / "index").mkdir(exist_ok=True)
    with (
        (folder / "index" / "main.jsonl").open("w") as index,
        (folder / "stats" / "main.rows").open("w") as known,
    ):
        for number in range(count):
            fields["id"] = line["id"] = facts_id = name.format(number % TASKS, number)
            fields["source"]["path"] = f"{facts_id}.mp4"
            digest = content_sha256(fields)
            fields["digest"] = line["digest"] = facts["digest"] = digest
            place = store.path(facts_id)
            if number < TASKS:
                place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(before + canonical_json(fields).encode() + after)
            index.write(canonical_json(line) + "\n")
            whole = json.dumps({**facts, "sha256": _sha256(canonical_json(facts))})
            known.write(f"\n{whole}\n")
    return folder


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_all(folder: Path) -> None:
    """Read every episode's file and hash it: what any verb that reads everything costs at least."""
    for path in sorted((folder / "episodes").rglob("*.hdf5")):
        hashlib.sha256(path.read_bytes()).hexdigest()


def _read_arrays(folder: Path) -> None:
    """Read and hash every array of every episode by h5py, and trust all of it."""

    def hash_array(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            hashlib.sha256(np.asarray(item[()]).tobytes()).hexdigest()

    for path in sorted((folder / "episodes").rglob("*.hdf5")):
        with h5py.File(path, "r") as file:
            file.visititems(hash_array)


def bench_verbs(count: int, folder: Path, rounds: int) -> Iterator[Row]:
    """Run the verbs that go over a whole dataset, once each: seconds, CPU and peak memory."""
    dataset = make_dataset(folder / "many", count)
    size = sum(path.stat().st_size for path in (dataset / "episodes").rglob("*.hdf5"))
    yield f"{count:,} episodes of {FRAMES} frames, 2 views", f"{size / count / 1e3:.0f} KB each", ""
    for what, read in (
        ("read and hash all files in a loop", _read_all),
        ("read and hash all arrays by h5py in a loop", _read_arrays),
    ):
        begun, cpu = time.perf_counter(), time.process_time()
        read(dataset)
        limit = time.process_time() - cpu
        yield what, f"{time.perf_counter() - begun:.1f} s, CPU {limit:.1f} s", ""
    (dataset / "stats" / "main.rows").rename(folder / "main.rows")
    stats = [str(dataset)]
    yield _verb("stats, nothing known", limit, "stats", *stats)
    for left in ("windows.hdf5", "summary.json", "stats.rows"):
        (dataset / "stats" / left).unlink()
    (folder / "main.rows").rename(dataset / "stats" / "main.rows")
    yield _verb("stats, rows known from the build", limit, "stats", *stats)
    yield _verb("stats, unchanged", limit, "stats", *stats)
    shares = ["--shares", "train=0.9", "val=0.1"]
    yield _verb("split, by episode", limit, "split", str(dataset), *shares)
    parts = {
        ids: str(folder / f"part {at}") for at, ids in enumerate(("task_[0-4]*", "task_[5-9]*"))
    }
    for ids, part in parts.items():
        yield _verb(f"subset, of `{ids}`", limit, "subset", str(dataset), part, "--id", ids)
    both = str(folder / "both")
    yield _verb("merge, of these two", limit, "merge", *parts.values(), both)
    for each in (*parts.values(), both):
        shutil.rmtree(each)
    page = ["--out", str(folder / "report.html")]
    yield _verb("report, of at most 5,000", limit, "report", str(dataset), *page)
    yield _verb("validate --sample 1%", limit, "validate", str(dataset), "--sample", "1%")
    yield _verb("validate", limit, "validate", str(dataset))


def _verb(what: str, limit: float, *words: str) -> Row:
    """Run the command; returns its row.  Raises CalledProcessError when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    run = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", run, sys.executable, "-m", "letterset", *words]
    peak = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    told = f"{wall:.1f} s, CPU {cpu:.1f} s, {peak / 1024:.0f} MiB"
    return what, told, f"{cpu / max(limit, 1e-9):.1f}x the CPU of h5py alone"


def bench_syncs(folder: Path, rounds: int) -> Iterator[Row]:
    """Write episodes as files of their own, each synced, and many into one file, synced once."""
    for name, size, count in (
        (f"tiny, {TINY_KB} KB", TINY_KB << 10, 4 * TOGETHER),
        (f"ordinary, {ORDINARY_MB} MB (10 s at 256 x 256)", ORDINARY_MB << 20, 8),
    ):
        data = os.urandom(size)
        found: dict[str, list[float]] = {"apart": [], "packed": []}
        for number in range(rounds):
            for how, runs in found.items():
                place = folder / f"{how} {number}"
                place.mkdir()
                begun = time.perf_counter()
                (_write_apart if how == "apart" else _write_packed)(place, data, count)
                runs.append((time.perf_counter() - begun) / count * 1e3)
                shutil.rmtree(place)
        apart, packed = median(found["apart"]), median(found["packed"])
        yield f"{name}: a file and its syncs for each episode", f"{apart:.1f} ms an episode", ""
        which = f"{name}: up to {TOGETHER} in one file, synced once"
        yield which, f"{packed:.1f} ms an episode", f"saves {apart - packed:.1f} ms"


def _write_apart(place: Path, data: bytes, count: int) -> None:
    """Do what a build does: write, sync, rename, sync the folder, list, sync the index."""
    descriptor = os.open(place, os.O_RDONLY)
    with (place / "index").open("wb", buffering=0) as index:
        for number in range(count):
            staged = place / "staged"
            _write(staged, data, 1)
            staged.rename(place / str(number))
            os.fsync(descriptor)
            index.write(b"x" * 200)
            os.fsync(index.fileno())
    os.close(descriptor)


def _write_packed(place: Path, data: bytes, count: int) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    with (place / "index").open("wb", buffering=0) as index:
        for at in range(0, count, TOGETHER):
            packed = min(TOGETHER, count - at)
            staged = place / "staged"
            _write(staged, data, packed)
            staged.rename(place / str(at))
            os.fsync(descriptor)
            index.write(b"x" * 200 * packed)
            os.fsync(index.fileno())
    os.close(descriptor)


def _write(path: Path, data: bytes, times: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(data)
        os.fsync(file.fileno())
