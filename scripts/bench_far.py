"""Measure training from an object store that takes 30 ms to answer, with peers where installed.

    python scripts/bench_far.py --write

A local server speaks S3. Four ranks, each with a DataLoader of one worker, read one epoch of the
same windows; the server counts. MosaicML streaming and webdataset are measured where they can be
imported, from shards of about an episode.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any
from urllib.request import urlopen

import bench_reader_data as data
import numpy as np
from bench_common import load_note, machine_facts, write_section

EPISODES, LENGTH, POINTS, SIDE, BATCH, RANKS, BLOCK = 16, 200, 100, 64, 32, 4, 4
DELAY_SECONDS = 0.03
BYTES_GOAL = 1.15
OURS = {
    "letterset, shuffled over all, by ranges": "ranges",
    "letterset, in blocks, whole episodes": "blocks",
    "letterset, shuffled over all, whole episodes": "whole",
    "the same, one cache for all ranks": "whole-shared",
}
PEERS = {"MosaicML streaming, one cache": "streaming", "webdataset, no cache": "webdataset"}
SHARED = ("whole-shared", "streaming")
"""Ranks as if on one machine; MosaicML's share memory, and cannot be told apart on one."""


def loader(windows: Any, **options: Any) -> Iterable[Any]:
    """Return a DataLoader of one worker."""
    from torch.utils.data import DataLoader

    return DataLoader(windows, BATCH, num_workers=1, **options)


def ours(way: str, port: int, cache: Path, rank: int) -> Iterable[Any]:
    """Our batches."""
    from letterset import BlockSampler, WindowDataset, WindowSampler, open_dataset

    options = {
        "key": "x",
        "secret": "x",
        "endpoint_url": f"http://127.0.0.1:{port}",
        "client_kwargs": {"region_name": "eu-west-1"},
    }
    url, whole = "s3://bucket/ours", way != "ranges"
    dataset = open_dataset(url, cache=cache, storage_options=options, whole_episodes=whole)
    windows = WindowDataset(dataset)
    ranks: dict[str, Any] = {"rank": rank, "world_size": RANKS}
    if way == "blocks":
        return loader(windows, sampler=BlockSampler(windows, episodes=BLOCK, **ranks))
    return loader(windows, sampler=WindowSampler(len(windows), **ranks))


def mosaic(way: str, port: int, cache: Path, rank: int) -> Iterable[Any]:
    """Batches of MosaicML streaming, with its defaults."""
    from streaming import StreamingDataset

    remote = "s3://bucket/streaming"
    samples = StreamingDataset(remote=remote, local=str(cache), shuffle=True, batch_size=BATCH)
    return loader(samples)


def tars(way: str, port: int, cache: Path, rank: int) -> Iterable[Any]:
    """Batches of webdataset: shards dealt to ranks, a shuffle buffer of 1000."""
    import webdataset

    count = len(list((cache.parent / "served/bucket/webdataset").iterdir()))
    urls = [f"http://127.0.0.1:{port}/bucket/webdataset/{at:03}.tar" for at in range(count)]
    split = webdataset.split_by_node
    samples = webdataset.WebDataset(urls, nodesplitter=split, shardshuffle=100, empty_check=False)
    samples = samples.shuffle(1000).to_tuple("episode", "tracks", "vis", "images", "actions")
    return loader(samples.map(lambda row: {"episode": row[0].decode(), "rest": row[1:]}))


def child(way: str, port: int, cache: Path, rank: int) -> None:
    """Read one epoch; print when the first batch came, and what came."""
    make = {"streaming": mosaic, "webdataset": tars}.get(way, ours)
    import torch  # noqa: F401 (every way needs it)

    begun = time.perf_counter()
    first, count, seen = 0.0, 0, []
    for batch in make(way, port, cache, rank):
        first = first or time.perf_counter() - begun
        count += len(batch["episode"])
        seen.append(len({*batch["episode"]}))
    took = time.perf_counter() - begun
    print(json.dumps([first, took, count, mean(seen)]))


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each window's sample holds, as stored."""
    from letterset import open_dataset

    for episode in open_dataset(folder):
        views = [episode.views[name] for name in data.VIEWS]
        for t in range(LENGTH - data.HORIZON + 1):
            yield {
                "episode": episode.id,
                "tracks": np.stack([view.tracks[t] for view in views]).tobytes(),
                "vis": np.stack([view.vis[t] for view in views]).tobytes(),
                "images": np.stack([view.frames[t] for view in views]).tobytes(),
                "actions": episode.arrays["actions"][t : t + data.HORIZON].tobytes(),
            }


def prepare(root: Path) -> tuple[int, int]:
    """Write our dataset and the peers' shards; returns windows, and bytes of all their samples."""
    from builder.stores.kinds.hdf5 import Hdf5Store

    data.EPISODES, data.LENGTH, data.POINTS, data.SIDE = EPISODES, LENGTH, POINTS, SIDE
    bucket = root / "served" / "bucket"
    data.make_amplify(root / "amplify")
    data.make_ours(bucket / "ours", root / "amplify", "f32", Hdf5Store)
    shutil.rmtree(root / "amplify")
    sizes = [sum(map(len, row.values())) for row in rows(bucket / "ours")]
    shard = sum(sizes) // EPISODES
    if find_spec("streaming"):
        from streaming import MDSWriter

        columns = {name: "bytes" for name in ("tracks", "vis", "images", "actions")}
        out = str(bucket / "streaming")
        with MDSWriter(out=out, columns={"episode": "str", **columns}, size_limit=shard) as mds:
            for row in rows(bucket / "ours"):
                mds.write(row)
    if find_spec("webdataset"):
        from webdataset import ShardWriter

        (bucket / "webdataset").mkdir()
        pattern = str(bucket / "webdataset" / "%03d.tar")
        with ShardWriter(pattern, maxsize=shard, verbose=0) as tar:
            for at, row in enumerate(rows(bucket / "ours")):
                tar.write({"__key__": f"{at:06}", **row, "episode": row["episode"].encode()})
    return len(sizes), sum(sizes)


@contextmanager
def served(root: Path) -> Iterator[int]:
    """Serve a folder from a process of its own; yields the port."""
    script = Path(__file__).with_name("bench_far_server.py")
    command = [sys.executable, str(script), str(root / "served"), str(DELAY_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def ask(port: int, what: str) -> Any:
    """Ask the server for its counts, or to begin anew."""
    with urlopen(f"http://127.0.0.1:{port}/{what}") as answer:
        return json.loads(answer.read() or b"null")


def measure(root: Path, way: str, port: int) -> dict[str, float]:
    """Let all ranks read an epoch at the same time."""
    ask(port, "clear")
    running = []
    for rank in range(RANKS):
        shared = way in SHARED
        cache = root / ("cache" if shared else f"cache-{rank}")
        command = [sys.executable, __file__, "--child", way, str(port), str(cache), str(rank)]
        env = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(RANKS),
            "LOCAL_RANK": str(rank) if shared else "0",
            "LOCAL_WORLD_SIZE": str(RANKS) if shared else "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port + 1),
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    answers = [each.communicate()[0] for each in running]
    if any(each.returncode for each in running):
        raise RuntimeError(f"{way} failed")
    found = [json.loads(answer.splitlines()[-1]) for answer in answers]
    for cache in root.glob("cache*"):
        shutil.rmtree(cache)
    return {
        **ask(port, "counts"),
        "first": median(each[0] for each in found),
        "rate": sum((each[2] - BATCH) / (each[1] - each[0]) for each in found),
        "epoch": max(each[1] for each in found),
        "samples": sum(each[2] for each in found),
        "episodes": mean(each[3] for each in found),
    }


def report(root: Path) -> str:
    """Measure all ways, as a table."""
    count, size = prepare(root)
    ways = {**OURS, **{name: way for name, way in PEERS.items() if find_spec(way)}}
    lines = [
        "| reader | bytes fetched / bytes of the samples | requests | first batch | epoch | "
        f"samples/s after the first batch | episodes in a batch of {BATCH} |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    with served(root) as port:
        for name, way in ways.items():
            got = measure(root, way, port)
            ratio = got["bytes"] / (size * got["samples"] / count)
            goal = f" (goal {BYTES_GOAL}: {'met' if ratio <= BYTES_GOAL else 'missed'})"
            lines.append(
                f"| {name} | {ratio:.2f}{goal if way in ('ranges', 'blocks') else ''} "
                f"| {got['requests']} | {got['first']:.1f} s "
                f"| {got['epoch']:.1f} s | {got['rate']:.0f} "
                f"| {got['episodes']:.1f} |"
            )
            print(lines[-1], file=sys.stderr)
    missing = [name for name, way in PEERS.items() if way not in ways.values()]
    lines += [
        "",
        f"{count} windows of {EPISODES} episodes of {LENGTH} frames: two views of {SIDE} x {SIDE} "
        f"uint8 and {data.HORIZON} x {POINTS} points, {size / count / 1e3:.0f} KB a sample as "
        f"stored. {RANKS} ranks at once, each with a cache of its own unless said, one epoch from "
        "nothing; "
        f"every request takes {DELAY_SECONDS * 1e3:.0f} ms and bandwidth is that of the machine, "
        "which serves too. The first batch, and the epoch of the slowest rank, count from the "
        "start of opening. A sample of MosaicML's and webdataset's is the same bytes, not yet "
        f"normalized; their shards hold as much as an episode. Blocks are of {BLOCK} episodes."
        + (f" Not installed, so not measured: {', '.join(missing)}." if missing else ""),
        "",
        f"By ranges a sample takes a request for each of three arrays of {len(data.VIEWS)} views, "
        "and on few cores it is the requests themselves that take the time, not the waiting.",
        load_note(),
        "",
        machine_facts("torch", "fsspec", "s3fs", "mosaicml-streaming", "webdataset"),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="update BENCHMARKS.md")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        way, port, cache, rank = args.child
        child(way, int(port), Path(cache), int(rank))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = report(Path(folder))
    print(text)
    if args.write:
        write_section("bench_far", "Training from far away", text)


if __name__ == "__main__":
    main()
