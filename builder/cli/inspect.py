"""Show what is in a dataset, or in a source before it is built.

The episodes, views and frames of a source are those that a build with the same settings takes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from shlex import quote
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from builder.cli.common import check_positive, declare, say, table, whole
from builder.cli.given import declare_given, read_given
from builder.core.errors import (
    ConfigError,
    DatasetError,
    LettersetError,
    NewerFormatError,
    SourceError,
)
from builder.core.messages import ASSUMED, count, failed, left_out, noted, points, way_up
from builder.core.paths import is_url, printable_path, without_hash
from builder.core.spacing import spread
from builder.dataset.output_folder import META_NAME

if TYPE_CHECKING:
    from builder.canvas.frame_rates import FrameRates
    from builder.dataset.episodes import Dataset
    from builder.inputs.streams import FrameStream
    from builder.sources.base import Episode, EpisodeRef, Source
    from schemas.dataset import EpisodeMeta

HELP = "show what is in a dataset or a source"
GOES_ON = True
EXAMPLE = """\
  letterset inspect dataset
  letterset inspect videos --json
  letterset inspect preprocessed_data/libero_10
  letterset inspect demos --views agentview --episodes 0:10 source.frame_step=2
"""
_SELECTION = ("kind", "views", "episodes", "include", "exclude")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare_given(parser, ", or a dataset")
    parser.add_argument("--limit", type=whole, default=20, metavar="N", help="episodes to list")
    source = parser.add_argument_group("of a source")
    source.add_argument("--kind", help="source kind (default: what it looks like)")
    source.add_argument("--views", nargs="+", metavar="VIEW", help="views to list (default: all)")
    source.add_argument(
        "--episodes", nargs="+", metavar="ID", help="ids, paths, or ranges such as 0:100"
    )
    source.add_argument("--include", nargs="+", metavar="GLOB", help="paths of episodes to take")
    source.add_argument("--exclude", nargs="+", metavar="GLOB", help="paths to leave out")
    declare(parser, "--json")


def next_step(args: argparse.Namespace) -> str:
    """Say what shows more."""
    is_dataset = (Path(args.given[0]) / META_NAME).exists()
    words = " ".join(map(quote, args.given))
    if args.older:
        return f"letterset doctor {words} --img-shape H W"
    return f"letterset report {words}" if is_dataset else f"letterset preview {words}"


def run(args: argparse.Namespace) -> int:
    """Inspect; returns 1 when something cannot be read, each thing listed."""
    from builder.build.reader import apart

    check_positive(args, "limit")
    args.older = False
    path = Path(args.given[0] if args.given else ".")
    if (path / META_NAME).exists():
        if args.given[1:] or any(getattr(args, key) for key in _SELECTION):
            raise ConfigError(f"{path} is a dataset: {', '.join(_SELECTION)} are for sources")
        head, rows, notes, failures = apart(_dataset, path, args.limit)
    else:
        try:
            head, rows, notes, failures = _source(args)
        except SourceError:
            if (
                is_url(path)
                or args.kind
                or args.given[1:]
                or (older := apart(_older, path, args.limit)) is None
            ):
                raise
            head, rows, notes, failures = older
            args.older = True
    if args.json:
        told = {"views": rows, "notes": notes, "failures": failures}
        say(json.dumps({**head, **told}, indent=2))
        return 1 if failures else 0
    for key, value in head.items():
        say(f"{key:10} {value}")
    own = [f"{row['episode']}, {row['view']}: {row.pop('note')}" for row in rows if "note" in row]
    if rows:
        say("\n" + table(list(map(_shown, rows))) + "\n")
    for line in (*_ways_up(rows), *(f"note: {note}" for note in own), *noted(notes)):
        say(line)
    if any("(assumed)" in str(row.get("source")) for row in rows):
        say(f"\nassumed: {ASSUMED}")
    if head["episodes"] > args.limit:
        say(f"\nshown: {args.limit} of {count(head['episodes'], 'episode')}; --limit N shows more")
    for failure in failures:
        say(failed(failure["path"], failure["reason"], failure["stage"]))
    return 1 if failures else 0


Row = dict[str, Any]

_ANY_SHAPE = (256, 256)  # older files are shown in the pixels of their own


def _shown(row: Row) -> Row:
    """Return what of a row stands in the table: no long texts."""
    short = {key: value for key, value in row.items() if key != "why"}
    return {**short, "text": shorten(row["text"], 40)} if "text" in row else short


def _ways_up(rows: list[Row]) -> Iterator[str]:
    """Say how views are turned upright, and why, once for all episodes alike."""
    views: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.get("turned", "-") != "-":
            views.setdefault(way_up(row["turned"], row["why"]), {})[row["view"]] = None
    for said, names in views.items():
        yield f"{', '.join(names)}: {said}"


def _dataset(path: Path, limit: int) -> tuple[Row, list[Row], dict[str, int], list[Row]]:
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
    if still := dataset.still_windows:
        head["still"] = f"{count(still, 'window')} not tracked"
    rows: list[Row] = []
    notes: Counter[str] = Counter()
    failures = [line.model_dump(mode="json") for line in read_failures(path).values()]
    for key in islice(dataset.ids, limit):
        try:
            episode = dataset[key].meta
        except (DatasetError, NewerFormatError) as error:
            failures.append({"path": key, "stage": "open", "reason": str(error)})
        else:
            rows += _dataset_rows(episode)
            notes.update(episode.notes)
    if mixed := _rates(dataset).mixed(meta.horizon):
        head["rates"] = mixed
    shown = {row["episode"] for row in rows}
    if len({without_hash(key) for key in shown}) == len(shown):
        for row in rows:
            del row["path"]  # which tells them apart where ids look alike
    return head, rows, notes, failures


def _rates(dataset: Dataset) -> FrameRates:
    """Look at the frame rates of episodes spread evenly; what cannot be read is listed above."""
    from builder.canvas.frame_rates import RATES_FROM, FrameRates

    rates = FrameRates()
    for at in spread(len(dataset), RATES_FROM):
        with suppress(DatasetError, NewerFormatError):
            for view in dataset[dataset.ids[at]].meta.views:
                rates.add(view.fps)
    return rates


def _dataset_rows(episode: EpisodeMeta) -> Iterator[Row]:
    row: Row = {}
    for view in episode.views:
        motion, pad = view.motion, view.geometry.pad
        row = {
            "episode": episode.id,
            "path": episode.source.path,
            "view": view.name,
            "frames": episode.length,
            "source": _shape(view.geometry.source_shape)
            + (" (assumed)" if view.source_shape_assumed else ""),
            "SAR": _ratio(view.geometry.sample_aspect_ratio),
            "turned": view.orientation,
            "why": view.orientation_from,
            "content": _shape(view.geometry.content_shape),
            "pad": f"top {pad.top} bottom {pad.bottom} left {pad.left} right {pad.right}",
            "px/step": f"{motion.mean_px:.2f}" if motion else "-",
            "visible": f"{motion.visible_share:.0%}" if motion else "-",
            "text": "; ".join(episode.all_texts) or "-",
        }
        yield row
    for name in episode.missing_views:
        lacking: Row = {"episode": episode.id, "view": name, "frames": "missing"}
        lacking["path"] = episode.source.path
        yield dict.fromkeys(row, "-") | lacking


def _older(path: Path, limit: int) -> tuple[Row, list[Row], dict[str, int], list[Row]] | None:
    """Show a folder of older track files; None for anything else."""
    from builder.dataset.legacy.dataset import LegacyEpisode, scan
    from builder.dataset.legacy.sizes import seen_size
    from builder.sources.recognize import holds_older

    try:
        refs, problems = scan(path, None, None, "skip")
    except LettersetError:
        return None
    if not refs and not holds_older(path):
        return None  # files that cannot be read may be anything
    rows: list[Row] = []
    failures = [{"path": key, "stage": "open", "reason": why} for key, why in problems.items()]
    for ref in islice(refs.values(), limit):
        try:
            views = LegacyEpisode.of(ref, _ANY_SHAPE).views
        except DatasetError as error:
            failures.append({"path": str(ref.relative), "stage": "open", "reason": str(error)})
            continue
        for name, view in views.items():
            size = view.tracked_size()
            told = [] if size.shape or ref.layout == "atm" else [size.basis, seen_size(view)]
            note = "; ".join(filter(None, [*told, *view.meta.notes]))
            row = {
                "episode": printable_path(ref.relative),
                "view": name,
                "frames": ref.length,
                "horizon": ref.horizon,
                "points": ref.points,
                "tracked": _shape(size.shape) if size.shape else "unknown",
            }
            rows.append({**row, "note": note} if note else row)
    head = {"older": f"track files, for letterset doctor and migrate: {path}"}
    return {**head, "episodes": len(refs)}, rows, {}, failures


def _source(args: argparse.Namespace) -> tuple[Row, list[Row], dict[str, int], list[Row]]:
    from builder.build.backends import open_source
    from builder.build.reader import apart, listed
    from builder.sources.headers import read_headers
    from builder.sources.starter_config import with_kind

    options = {f"source.{key}": getattr(args, key) for key in _SELECTION}
    config = read_given(args, options, {"img_shape": [256, 256], "store.path": "-"})
    config, _ = apart(with_kind, config, limits=config.limits)
    source = open_source(config)
    refs = listed(source, config.limits)
    read = [apart(_read_episode, source, ref, limits=config.limits) for ref in refs[: args.limit]]
    rows = [row for each in read for row in each[0]]
    notes = Counter(note for each in read for note in each[1])
    rates = apart(read_headers, source, refs, limits=config.limits).rates
    failures = [each[2] for each in read if each[2]]
    head = {"source": config.source.path, "kind": config.source.kind, "episodes": len(refs)}
    if mixed := rates.mixed(config.tracker.horizon):
        head["rates"] = mixed
    if skipped := left_out(source.left_out()):
        head["note"] = skipped
    return head, rows, notes, failures


def _read_episode(source: Source, ref: EpisodeRef) -> tuple[list[Row], list[str], Row | None]:
    """Return the rows of one episode, its notes, and why it cannot be opened, if it cannot."""
    from builder.core.errors import SourceError

    try:
        with source.open(ref) as episode:
            rows = list(_source_rows(ref.path, episode.views, _words(episode)))
            return rows, list(_notes(episode)), None
    except SourceError as error:
        failure = {"path": ref.path, "stage": error.stage, "reason": str(error)}
        return _unselected_rows(source, ref), [], failure


def _unselected_rows(source: Source, ref: EpisodeRef) -> list[Row]:
    """Show an episode that can be opened, but not as a build would: the reason is in its views."""
    from builder.core.errors import SourceError
    from builder.inputs.foreign import foreign
    from builder.sources.clips import whole_of
    from builder.sources.selected import Selected

    if not isinstance(source, Selected):
        return []
    rows: list[Row] = []
    where = ref.path
    with suppress(SourceError), foreign(where), source.source.open(whole_of(ref)) as episode:
        for name in episode.views:
            with suppress(SourceError), foreign(where):
                rows += _source_rows(ref.path, {name: episode.views[name]}, _words(episode))
    return rows


def _source_rows(path: str, views: Mapping[str, FrameStream], text: str | None) -> Iterator[Row]:
    for name, stream in views.items():
        info = stream.info
        yield {
            "episode": path,
            "view": name,
            "frames": info.num_frames,
            "source": _shape(info.source_shape),
            "SAR": _ratio(info.sample_aspect_ratio),
            "turned": info.orientation,
            "why": info.orientation_from,
            "fps": f"{info.fps:.3g}" if info.fps else "-",
            "codec": info.codec or "-",
            "text": text or "-",
        }


def _words(episode: Episode) -> str:
    return episode.text or "; ".join(episode.texts)


def _notes(episode: Episode) -> Iterator[str]:
    yield from episode.notes
    for name, stream in episode.views.items():
        yield from (f"view {name}: {note}" for note in stream.info.notes)


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _ratio(ratio: tuple[int, int]) -> str:
    return f"{ratio[0]}:{ratio[1]}"
