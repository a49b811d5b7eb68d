"""Print the JSON Schema of a stored record, or list the records there are."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from builder.cli.common import say
from builder.core.errors import ConfigError
from builder.core.messages import near

if TYPE_CHECKING:
    from pydantic import BaseModel

HELP = "print the JSON Schema of a stored record"
EXAMPLE = """\
  letterset schema EpisodeMeta > episode.schema.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="name of the record (default: list all)"
    )


def records() -> dict[str, type[BaseModel]]:
    """Return the models of everything that is stored as JSON, and of the config, by name."""
    from builder.dataset.splits import Splits
    from schemas import config, dataset, geometry, inference, layers

    models = (
        dataset.DatasetMeta,
        dataset.EpisodeMeta,
        dataset.ViewMeta,
        dataset.QuerySpec,
        dataset.TrackerInfo,
        dataset.IndexLine,
        dataset.FailureLine,
        Splits,
        layers.LayerMeta,
        layers.LayerEpisode,
        inference.InferenceMeta,
        geometry.Letterbox,
        geometry.Stretch,
        geometry.AxisAffine,
        config.BuildConfig,
    )
    return {model.__name__: model for model in models}


def run(args: argparse.Namespace) -> int:
    """Print one schema, or the names of all; returns the exit code."""
    models = records()
    if args.model is None:
        for name, model in models.items():
            say(f"{name:14} {(model.__doc__ or '').splitlines()[0].replace('``', '')}")
        return 0
    if args.model not in models:
        raise ConfigError(
            f"no model {args.model!r}{near(args.model, list(models))}; "
            f"there are {', '.join(models)}"
        )
    say(json.dumps(models[args.model].model_json_schema(), indent=2))
    return 0
