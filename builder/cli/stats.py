"""Show statistics of windows, and of actions and other arrays; keep the table that filters read.

With the table, WindowDataset(dataset, where="motion > 1 and vis > 0.5") reads only the windows
that match. Only episodes that changed since the last time are read again. The table,
stats/windows.hdf5, and the summary, stats/summary.json, are derived from the dataset and safe to
delete.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.cli.common import declare, each_counted, one_of, say, table
from builder.core.errors import ConfigError
from builder.core.messages import count, no_episodes

HELP = "show statistics of windows and arrays"
EXAMPLE = """\
  letterset stats dataset
  letterset stats dataset --where "motion > 1 and vis > 0.5"
"""
NEXT = 'WindowDataset({dataset!r}, where="motion > 1") reads the windows that match'


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument("--tracks", metavar="NAME", help="use the tracks of this layer")
    parser.add_argument("--where", metavar="EXPR", help="also count the windows that match")
    parser.add_argument("--again", action="store_true", help="compute everything again")
    declare(parser, "--workers", "--json")


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns 0."""
    from builder.dataset.layers import layer_names
    from builder.dataset.opening import open_dataset
    from builder.dataset.summary import summarize

    folder = Path(args.dataset)
    if args.tracks is not None:
        one_of(layer_names(folder), args.tracks, "layer", folder)
    dataset = open_dataset(folder, tracks=args.tracks)
    if not len(dataset):
        raise ConfigError(no_episodes(folder))
    found = summarize(dataset, args.where, each=each_counted(args), again=args.again)
    if args.json:
        say(json.dumps(found, indent=2))
        return 0
    _say_columns("", found["columns"])
    for name, columns in found.get("views", {}).items():
        _say_columns(f"view {name}", columns)
    for name, values in found["arrays"].items():
        say(f"\n{name}: {count(values['count'], 'row')}")
        if values["mean"]:  # an array of no columns has nothing to show
            say(table([_row(key, each) for key, each in values.items() if key != "count"]))
    some = found["within_clip"]
    said = f"\n{found['table']}: {count(found['windows'], 'window')}, {some} within their clip"
    say(f"{said}; the numbers above are of {'those' if some else 'all'}")
    if found["still"]:
        say(f"{count(found['still'], 'window')} more stand still and were not tracked")
    if args.where:
        match = f"{found['matching_within_clip']} of them" if some else "none of them"
        say(f"{found['matching']} match {args.where}, {match} within their clip")
    return 0


def _say_columns(title: str, columns: Mapping[str, Mapping[str, float | None]]) -> None:
    from builder.dataset.window_table import COLUMNS

    rows = [
        {title or "column": name, **summary, "meaning": COLUMNS.get(name, "")}
        for name, summary in columns.items()
    ]
    say(table([{key: _shown(value) for key, value in row.items()} for row in rows]))


def _row(name: str, values: Sequence[float]) -> dict[str, Any]:
    return {"": name, **{str(index): _shown(value) for index, value in enumerate(values)}}


def _shown(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else value
