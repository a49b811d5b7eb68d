"""Show what a dataset, or a folder of videos, holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from builder.cli.common import add_json, say, table

HELP = "show what a dataset or a source holds"
EXAMPLE = """\
  letterset inspect dataset
  letterset inspect videos --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("path", metavar="DATASET|SOURCE", help="dataset folder, or videos")
    parser.add_argument("--kind", help="source kind (default: what it looks like)")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="episodes to list")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Inspect; returns 1 when something cannot be read, each thing listed."""
    path = Path(args.path)
    if (path / "dataset.json").exists():
        head, rows, failures = _dataset(path, args.limit)
    else:
        head, rows, failures = _source(path, args.kind, args.limit)
    if args.json:
        say(json.dumps({**head, "views": rows, "failures": failures}, indent=2))
        return 1 if failures else 0
    for key, value in head.items():
        say(f"{key:10} {value}")
    if rows:
        say("\n" + table(rows))
    for failure in failures:
        say(f"FAILED     {failure['path']} ({failure['stage']}): {failure['reason']}")
    return 1 if failures else 0


Row = dict[str, Any]


def _dataset(path: Path, limit: int) -> tuple[Row, list[Row], list[Row]]:
    from builder.catalog import read_failures
    from builder.dataset import open_dataset

    dataset = open_dataset(path)
    meta = dataset.meta
    head = {
        "dataset": str(path),
        "format": meta.format_version,
        "img_shape": list(meta.img_shape),
        "episodes": len(dataset),
        "horizon": meta.horizon,
        "points": f"{meta.queries.grid[0]} x {meta.queries.grid[1]} over the {meta.queries.region}",
        "tracker": f"{meta.tracker.name} {meta.tracker.version}",
    }
    rows: list[Row] = []
    for episode_id in islice(dataset.ids, limit):
        episode = dataset[episode_id].meta
        for view in episode.views:
            motion = view.motion
            rows.append(
                {
                    "episode": episode.id,
                    "view": view.name,
                    "frames": episode.length,
                    "source": _shape(view.geometry.source_shape),
                    "SAR": _ratio(getattr(view.geometry, "sample_aspect_ratio", (1, 1))),
                    "turned": view.orientation,
                    "content": _shape(getattr(view.geometry, "content_shape", None)),
                    "pad": _pad(getattr(view.geometry, "pad", None)),
                    "px/step": f"{motion.mean_px:.2f}" if motion else "-",
                    "visible": f"{motion.visible_share:.0%}" if motion else "-",
                }
            )
        for name in episode.missing_views:
            lacking: Row = {"episode": episode.id, "view": name, "frames": "missing"}
            rows.append(dict.fromkeys(rows[-1], "-") | lacking)
    failures = [line.model_dump(mode="json") for line in read_failures(path).values()]
    return head, rows, failures


def _source(path: Path, kind: str | None, limit: int) -> tuple[Row, list[Row], list[Row]]:
    from builder.errors import SourceError
    from builder.registry import configure
    from builder.sources.recognize import recognize
    from schemas.config import Limits, SourcePart

    settings: dict[str, Any] = {}
    if kind is None:
        looks = recognize(path)
        kind, settings = looks.kind, looks.settings
    found, own = configure("sources", SourcePart(kind=kind, path=str(path), **settings))
    source = found(path, own, Limits())
    refs = list(source.refs())
    rows: list[Row] = []
    failures: list[Row] = []
    for ref in refs[:limit]:
        try:
            with source.open(ref) as episode:
                rows.extend(_source_rows(ref.path, episode.views))
        except SourceError as error:
            failures.append({"path": ref.path, "stage": error.stage, "reason": str(error)})
    return {"source": str(path), "kind": kind, "episodes": len(refs)}, rows, failures


def _source_rows(path: str, views: Any) -> Iterator[Row]:
    for name, stream in views.items():
        info = stream.info
        yield {
            "episode": path,
            "view": name,
            "frames": info.num_frames,
            "source": _shape(info.source_shape),
            "SAR": _ratio(info.sample_aspect_ratio),
            "turned": info.orientation,
            "fps": f"{info.fps:.3g}" if info.fps else "-",
            "codec": info.codec or "-",
        }


def _shape(shape: tuple[int, int] | None) -> str:
    return "-" if shape is None else f"{shape[0]} x {shape[1]}"


def _pad(pad: Any) -> str:
    return (
        "-"
        if pad is None
        else f"top {pad.top} bottom {pad.bottom} left {pad.left} right {pad.right}"
    )


def _ratio(ratio: tuple[int, int]) -> str:
    return f"{ratio[0]}:{ratio[1]}"
