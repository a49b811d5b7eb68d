"""Show what a dataset, or a source before it is built, holds.

Of a source, episodes, views and frames are shown as a build with the same settings takes them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.common import check_positive, declare, say, table
from builder.core.errors import ConfigError
from builder.core.messages import count, failed, points
from builder.dataset.output_folder import META_NAME

if TYPE_CHECKING:
    from builder.sources.base import Episode, EpisodeRef, Source
    from schemas.dataset import EpisodeMeta

HELP = "show what a dataset or a source holds"
EXAMPLE = """\
  letterset inspect dataset
  letterset inspect videos --json
  letterset inspect demos --views agentview --episodes 0:10 source.frame_step=2
"""
_SELECTION = ("kind", "views", "episodes", "include", "exclude")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("path", metavar="DATASET|SOURCE", help="dataset, or folder or file to read")
    declare(parser, "overrides", help="settings of a source, as in a build")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="episodes to list")
    source = parser.add_argument_group("of a source")
    source.add_argument("--kind", help="default: what it looks like")
    source.add_argument("--views", nargs="+", metavar="VIEW", help="default: all")
    source.add_argument(
        "--episodes", nargs="+", metavar="ID", help="ids, paths, or ranges such as 0:100"
    )
    source.add_argument("--include", nargs="+", metavar="GLOB", help="of episode paths")
    source.add_argument("--exclude", nargs="+", metavar="GLOB", help="of episode paths")
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Inspect; returns 1 when something cannot be read, each thing listed."""
    check_positive(args, "limit")
    path = Path(args.path)
    if (path / META_NAME).exists():
        if args.overrides or any(getattr(args, key) for key in _SELECTION):
            raise ConfigError(f"{path} is a dataset: {', '.join(_SELECTION)} are for sources")
        head, rows, failures = _dataset(path, args.limit)
    else:
        head, rows, failures = _source(args)
    if args.json:
        say(json.dumps({**head, "views": rows, "failures": failures}, indent=2))
        return 1 if failures else 0
    for key, value in head.items():
        say(f"{key:10} {value}")
    if rows:
        say("\n" + table(rows))
    if head["episodes"] > args.limit:
        say(f"\nshown: {args.limit} of {count(head['episodes'], 'episode')}; --limit N shows more")
    for failure in failures:
        say(failed(failure["path"], failure["reason"], failure["stage"]))
    return 1 if failures else 0


Row = dict[str, Any]


def _dataset(path: Path, limit: int) -> tuple[Row, list[Row], list[Row]]:
    from builder.dataset.folder import read_failures
    from builder.dataset.opening import open_dataset

    dataset = open_dataset(path)
    meta = dataset.meta
    head = {
        "dataset": str(path),
        "format": meta.format_version,
        "img_shape": list(meta.img_shape),
        "episodes": len(dataset),
        "horizon": meta.horizon,
        "points": points(meta.queries.grid, meta.queries.region),
        "tracker": f"{meta.tracker.name} {meta.tracker.version}",
    }
    rows = [row for key in islice(dataset.ids, limit) for row in _dataset_rows(dataset[key].meta)]
    failures = [line.model_dump(mode="json") for line in read_failures(path).values()]
    return head, rows, failures


def _dataset_rows(episode: EpisodeMeta) -> Iterator[Row]:
    row: Row = {}
    for view in episode.views:
        motion, pad = view.motion, view.geometry.pad
        row = {
            "episode": episode.id,
            "view": view.name,
            "frames": episode.length,
            "source": _shape(view.geometry.source_shape),
            "SAR": _ratio(view.geometry.sample_aspect_ratio),
            "turned": view.orientation,
            "content": _shape(view.geometry.content_shape),
            "pad": f"top {pad.top} bottom {pad.bottom} left {pad.left} right {pad.right}",
            "px/step": f"{motion.mean_px:.2f}" if motion else "-",
            "visible": f"{motion.visible_share:.0%}" if motion else "-",
        }
        yield row
    for name in episode.missing_views:
        lacking: Row = {"episode": episode.id, "view": name, "frames": "missing"}
        yield dict.fromkeys(row, "-") | lacking


def _source(args: argparse.Namespace) -> tuple[Row, list[Row], list[Row]]:
    from builder.build.backends import open_source
    from builder.build.config_file import load_config
    from builder.core.errors import SourceError
    from builder.sources.starter_config import with_kind

    given = {f"source.{key}": getattr(args, key) for key in _SELECTION}
    defaults = {
        "source.path": args.path,
        "img_shape": [256, 256],
        "store.path": "-",
        **{key: value for key, value in given.items() if value is not None},
    }
    config, _ = with_kind(load_config(None, args.overrides, defaults))
    source = open_source(config)
    refs = list(source.refs())
    rows: list[Row] = []
    failures: list[Row] = []
    for ref in refs[: args.limit]:
        try:
            with source.open(ref) as episode:
                rows.extend(_source_rows(ref.path, episode))
        except SourceError as error:
            failures.append({"path": ref.path, "stage": error.stage, "reason": str(error)})
            rows.extend(_unselected_rows(source, ref))
    return {"source": args.path, "kind": config.source.kind, "episodes": len(refs)}, rows, failures


def _unselected_rows(source: Source, ref: EpisodeRef) -> list[Row]:
    """Show an episode that can be opened, but not as a build would: the reason is in its views."""
    from builder.core.errors import SourceError
    from builder.sources.selection import Selected

    if not isinstance(source, Selected):
        return []
    try:
        with source.source.open(ref) as episode:
            return list(_source_rows(ref.path, episode))
    except SourceError:
        return []


def _source_rows(path: str, episode: Episode) -> Iterator[Row]:
    for name, stream in episode.views.items():
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


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _ratio(ratio: tuple[int, int]) -> str:
    return f"{ratio[0]}:{ratio[1]}"
