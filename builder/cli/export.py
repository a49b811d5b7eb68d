"""Write a dataset, or what is needed of it, in another form.

Targets: inference is one JSON to keep beside a checkpoint (views in order, geometry, queries,
action statistics); read it with schemas.inference.Decoder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli.common import say
from builder.errors import ConfigError, OutputError

HELP = "write a dataset in another form"
EXAMPLE = """\
  letterset export dataset checkpoint/inference.json --to inference
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("out", metavar="OUT", help="file or folder to write")
    parser.add_argument("--to", required=True, choices=("inference",), help="what to write")
    parser.add_argument("--views", nargs="+", metavar="VIEW", help="views, in the model's order")


def run(args: argparse.Namespace) -> int:
    """Export; returns the exit code."""
    from builder.dataset import open_dataset
    from builder.export.inference import inference_meta

    out = Path(args.out)
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another name or move it away")
    meta = inference_meta(open_dataset(args.dataset), args.views)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(meta.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error}") from None
    say(f"wrote {out}: views {', '.join(view.name for view in meta.views)}")
    return 0
