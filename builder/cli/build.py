"""Build a dataset from videos: letterbox every frame, track points, store both.

Settings come from a YAML config, from options, or from key=value pairs laid over either
(for example tracker.horizon=8 store.frames.codec=jpeg). Running the same command again
finishes what is missing; nothing that is done is done twice.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from builder.build.config_file import load_config
from builder.cli.common import check_there, config_and_overrides, declare, say
from builder.core.errors import ConfigError
from builder.core.messages import count, duration, failed, size
from schemas.config import BuildConfig

if TYPE_CHECKING:
    from builder.build.estimate import DryRun
    from builder.build.pipeline import Summary

HELP = "build a dataset from videos"
EXAMPLE = """\
  letterset build --source videos --out dataset --img-shape 256 256
  letterset build cfg/quickstart.yaml store.frames.codec=jpeg
  letterset build cfg/quickstart.yaml --dry-run
  letterset build cfg/quickstart.yaml --shard 0/4
"""


_NEEDED = {
    "source.path": "--source DIR",
    "store.path": "--out DIR",
    "img_shape": "--img-shape H W",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="build config")
    declare(parser, "overrides")
    parser.add_argument("--source", metavar="DIR", help="folder or file to read")
    parser.add_argument("--out", metavar="DIR", help="dataset folder to create or to finish")
    # Not numbers yet: the schema refuses what is none, by name.
    declare(parser, "--img-shape", type=None, help="height and width of every frame")
    parser.add_argument("--views", nargs="+", metavar="VIEW", help="views to build (default: all)")
    parser.add_argument(
        "--episodes", nargs="+", metavar="ID", help="ids, paths, or ranges such as 0:100"
    )
    parser.add_argument("--workers", metavar="N", help="videos built at a time (default: cores)")
    parser.add_argument(
        "--shard",
        nargs="?",
        const="",
        metavar="i/n",
        help="build the i-th (from 0) of n parts; alone: this task's part of a SLURM array",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="probe a few episodes; print bytes, space, hours"
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try sources that failed before again, and forget those that are gone",
    )
    policy = parser.add_mutually_exclusive_group()
    policy.add_argument(
        "--overwrite",
        dest="changed",
        action="store_const",
        const="overwrite",
        default="refuse",
        help="build episodes whose source changed again; with changed settings, start anew",
    )
    policy.add_argument(
        "--append",
        dest="changed",
        action="store_const",
        const="append",
        help="keep episodes whose source changed as they are, build only new ones",
    )
    declare(parser, "--quiet", "--json")


def read_config(args: argparse.Namespace) -> BuildConfig:
    """Make the config that config file, options and overrides describe; raises ConfigError."""
    path, overrides = config_and_overrides(args)
    options: dict[str, Any] = {
        "source.path": args.source,
        "source.views": args.views,
        "source.episodes": args.episodes,
        "store.path": args.out,
        "img_shape": [_integer(side) for side in args.img_shape] if args.img_shape else None,
        "executor.workers": _integer(args.workers) if args.workers else None,
    }
    given = {key: value for key, value in options.items() if value is not None}
    said = {*given, *(word.partition("=")[0] for word in overrides)}
    missing = [flag for key, flag in _NEEDED.items() if not said & {key, key.partition(".")[0]}]
    if path is None and missing:
        raise ConfigError(
            f"{', '.join(missing)} missing (or a config file); for example: "
            "letterset build --source videos --out dataset --img-shape 256 256"
        )
    return load_config(path, overrides, given)


def _integer(text: str) -> Any:
    # What is no integer goes on as it is, for the schema to refuse by name.
    try:
        return int(text)
    except ValueError:
        return text


def run(args: argparse.Namespace) -> int:
    """Build, showing progress; returns the exit code."""
    from builder.build.shards import Shard

    shard = None
    if args.shard is not None:
        shard = Shard.parse(args.shard) if args.shard else Shard.of_slurm_array(os.environ)

    from builder.build.backends import settle_config
    from builder.build.estimate import dry_run, refuse_if_full
    from builder.build.pipeline import build
    from builder.build.progress import ProgressDisplay
    from builder.dataset.output_folder import check_output_folder

    config = read_config(args)
    check_there(config.source.path)
    check_output_folder(config.store.path)
    config, why = settle_config(config)
    if args.dry_run:
        found = dry_run(config)
        said = f"source     {why}\n" if why else ""
        say(json.dumps(asdict(found), indent=2) if args.json else said + _dry_run_text(found))
        return 0
    refuse_if_full(config)
    with ProgressDisplay(quiet=args.quiet or args.json) as progress:
        if why:
            progress.note(why)
        summary = build(
            config,
            shard=shard,
            on_start=progress.start,
            on_event=progress.event,
            on_notice=progress.note,
            retry_failed=args.retry_failed,
            changed=args.changed,
        )
    if args.json:
        say(json.dumps(summary.as_json(), indent=2))
    else:
        told = progress.failed if not args.quiet and _one_place() else ()
        say(_summary_text(summary, config.store.path, told))
    # How sources fell to shards says nothing about the dataset, so no shard ends with 3.
    return min(1, summary.exit_code) if shard else summary.exit_code


def _one_place() -> bool:
    """Tell whether the summary goes where the progress went: one terminal, or one log."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):
        return False  # what is no file


def _summary_text(summary: Summary, out: str, told: Collection[str]) -> str:
    lines = [
        failed(line.path, line.reason, line.stage)
        for line in summary.failures
        if line.path not in told
    ]
    lines.append(f"{out}: {summary.summary()}")
    if summary.failures:
        lines.append("Fix or remove what failed, then run the same command with --retry-failed.")
    return "\n".join(lines)


def _dry_run_text(found: DryRun) -> str:
    lines = [
        f"episodes   {found.episodes}  (probed {found.probed})",
        f"frames     about {found.frames}",
        f"time       about {duration(found.hours * 3600)} with {count(found.workers, 'worker')}",
        f"free       {size(found.free_bytes)}",
        *(
            f"{'bytes' if codec == found.codec else '  or':10} about {size(bytes_)} "
            f"with store.frames.codec={codec}"
            for codec, bytes_ in found.bytes_by_codec.items()
        ),
        *(f"unreadable {path}: {reason}" for path, reason in found.unreadable.items()),
    ]
    if found.bytes_by_codec[found.codec] > found.free_bytes:
        lines.append("This does not fit: free some space, or store frames smaller.")
    return "\n".join(lines)
