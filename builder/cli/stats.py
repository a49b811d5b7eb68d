"""Compute the table of windows that filters read, and statistics of actions and the like.

The table, stats/windows.hdf5, is derived from the dataset and safe to delete; a build leaves it
up to date, and this computes it again. With it,
WindowDataset(dataset, where="motion > 1 and vis > 0.5") reads only the windows that match.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.common import declare, one_of, say, table
from builder.core.messages import count

if TYPE_CHECKING:
    from builder.dataset.episodes import Dataset

HELP = "statistics of windows and arrays"
EXAMPLE = """\
  letterset stats dataset
  letterset stats dataset --where "motion > 1 and vis > 0.5"
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument("--tracks", metavar="NAME", help="of the windows of this track layer")
    parser.add_argument("--where", metavar="EXPR", help="also count the windows that match")
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns 0."""
    from builder.dataset.layers import layer_names
    from builder.dataset.opening import open_dataset
    from builder.dataset.window_table import COLUMNS, read_columns, write_window_stats

    folder = Path(args.dataset)
    if args.tracks is not None:
        one_of(layer_names(folder), args.tracks, "layer", folder)
    dataset = open_dataset(folder, tracks=args.tracks)
    path = write_window_stats(dataset)
    windows = read_columns(dataset, COLUMNS, dataset.index.views).by_window()
    found: dict[str, Any] = {"table": str(path), "windows": len(windows.start)}
    found["columns"] = {name: _summary(values) for name, values in windows.columns.items()}
    if args.where:
        from builder.dataset.filters import Expression

        found["matching"] = int(Expression(args.where, COLUMNS).mask(windows.columns).sum())
    found["arrays"] = dict(_arrays(dataset))
    if args.json:
        say(json.dumps(found, indent=2))
        return 0
    rows = [{"column": name, **summary} for name, summary in found["columns"].items()]
    say(table([{key: _shown(value) for key, value in row.items()} for row in rows]))
    for name, values in found["arrays"].items():
        say(f"\n{name}: {count(values['count'], 'row')}")
        if values["mean"]:  # an array of no columns has nothing to show
            say(table([_row(key, each) for key, each in values.items() if key != "count"]))
    say(f"\n{path}: {count(found['windows'], 'window')}")
    if args.where:
        say(f"{found['matching']} match {args.where}")
    return 0


def _arrays(dataset: Dataset) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and statistics of every array that has a row per frame."""
    from builder.dataset.array_stats import array_stats, quantiles

    for name in sorted({name for episode in dataset for name in episode.arrays}):
        if (stats := array_stats(dataset, name)) is not None:
            more = quantiles(dataset, name, stats)
            shares = {
                f"q{share * 100:02.0f}": q for share, q in zip(more.at, more.values, strict=True)
            }
            yield name, {**stats.model_dump(), **shares, "q_error": more.error}


def _row(name: str, values: Sequence[float]) -> dict[str, Any]:
    return {"": name, **{str(index): _shown(value) for index, value in enumerate(values)}}


def _summary(values: Any) -> dict[str, float | None]:
    """Mean and some quantiles of a column; None where nothing was counted."""
    import numpy as np

    known = values[~np.isnan(values)]
    names = {"mean": None, "p10": 10, "p50": 50, "p90": 90}
    if not known.size:
        return dict.fromkeys(names)
    return {
        name: float(known.mean() if share is None else np.percentile(known, share))
        for name, share in names.items()
    }


def _shown(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else value
