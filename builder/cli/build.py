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
from shlex import quote
from typing import TYPE_CHECKING

from builder.cli.common import check_there, declare, say, whole
from builder.cli.given import declare_given, read_given
from builder.cli.plan import tell
from builder.cli.waiting import stop_waiting, wipe_line
from builder.core.errors import ConfigError
from builder.core.messages import failed, noted
from builder.core.paths import is_url, without_passwords
from schemas.config import BuildConfig

if TYPE_CHECKING:
    from builder.build.pipeline import Summary

HELP = "build a dataset from videos"
EXAMPLE = """\
  letterset build videos dataset --img-shape 256 256
  letterset build letterset.yaml store.frames.codec=jpeg
  letterset build letterset.yaml --dry-run
  letterset build letterset.yaml --prepare
  letterset build letterset.yaml --shard 0/4
"""


_NEEDED = {"store.path": "OUT", "img_shape": "--img-shape H W"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare_given(parser, ", then OUT, the dataset folder to create or to finish")
    parser.add_argument("--source", metavar="DIR", help="the same as SOURCE")
    parser.add_argument("--out", metavar="DIR", help="the same as OUT")
    declare(parser, "--img-shape", help="height and width of every frame")
    parser.add_argument("--views", nargs="+", metavar="VIEW", help="views to build (default: all)")
    parser.add_argument(
        "--episodes", nargs="+", metavar="ID", help="ids, paths, or ranges such as 0:100"
    )
    parser.add_argument(
        "--workers",
        type=whole,
        metavar="N",
        help="videos built at a time (default: one for each core)",
    )
    parser.add_argument(
        "--shard",
        nargs="?",
        const="",
        metavar="i/n",
        help="build the i-th (from 0) of n parts; alone: this task's part of a SLURM array",
    )
    parser.add_argument(
        "--prepared",
        metavar="TOKEN",
        help="stop if this host does not see the folder that --prepare printed TOKEN for",
    )
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument(
        "--prepare",
        action="store_true",
        help="only create the dataset, for shards on many hosts, and print its TOKEN",
    )
    steps.add_argument("--dry-run", action="store_true", help="print what letterset plan does")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try sources again that failed before; forget those that are gone",
    )
    policy = parser.add_mutually_exclusive_group()
    policy.add_argument(
        "--overwrite",
        dest="changed",
        action="store_const",
        const="overwrite",
        default="refuse",
        help="build changed sources again; with changed settings, start anew (the old dataset "
        "moves to replaced/)",
    )
    policy.add_argument(
        "--append",
        dest="changed",
        action="store_const",
        const="append",
        help="keep the episodes of changed sources, and build only new ones",
    )
    declare(parser, "--quiet", "--json")


def read_config(args: argparse.Namespace) -> BuildConfig:
    """Make the config that config file, options and overrides describe; raises ConfigError."""
    options = {
        "source.path": args.source,
        "source.views": args.views,
        "source.episodes": args.episodes,
        "store.path": args.out,
        "img_shape": args.img_shape,
        "executor.workers": args.workers,
    }
    if args.dry_run:
        return read_given(args, options, {"img_shape": [256, 256], "store.path": "dataset"})
    return read_given(args, options, needed=_NEEDED)


def next_step(args: argparse.Namespace) -> str:
    """Say how to check what was built, or how to build what was planned."""
    out = quote(without_passwords(read_config(args).store.path))
    if args.dry_run:
        return "the same command without --dry-run"
    if args.prepare:
        return ""  # the token alone, for $(letterset build ... --prepare)
    return f"letterset validate {out}, letterset doctor {out}, letterset report {out}"


def run(args: argparse.Namespace) -> int:
    """Build, showing progress; returns the exit code."""
    from builder.build.shards import Shard

    shard = None
    if args.shard is not None:
        shard = Shard.parse(args.shard) if args.shard else Shard.of_slurm_array(os.environ)
    if args.prepare and (shard is not None or args.prepared is not None):
        raise ConfigError("--prepare is for once, before any shard; each of them takes --prepared")

    from builder.build.backends import settle_config
    from builder.build.estimate import refuse_if_full
    from builder.build.pipeline import build, prepare
    from builder.build.prepared import require_prepared
    from builder.build.progress import ProgressDisplay
    from builder.dataset.far_output import check_output_url
    from builder.dataset.output_folder import check_output_folder
    from builder.sources.scenes import search_notice

    config = read_config(args)
    if args.dry_run:
        return tell(config, args.json)
    if is_url(config.store.path) and (args.prepare or args.prepared is not None):
        raise ConfigError(
            f"{config.store.path}: --prepare and --prepared are for disks that hosts share; at a "
            "URL leave them out"
        )
    if args.prepared is not None:  # first: a host without the disk lacks the source, too
        require_prepared(config.store.path, args.prepared)
    check_there(config.source.path)
    if is_url(config.store.path):
        check_output_url(config.store.path)
    else:
        check_output_folder(config.store.path)
    config, why = settle_config(config)
    with ProgressDisplay(quiet=args.quiet or args.json) as progress:

        def note(sentence: str) -> None:
            wipe_line()
            progress.note(sentence)

        def start(todo: int, done: int) -> None:
            stop_waiting()
            progress.start(todo, done)

        for sentence in filter(None, (why, search_notice(config.source))):
            note(sentence)
        if args.prepare:
            stop_waiting()
            say(prepare(config, on_notice=note, changed=args.changed))
            return 0
        for sentence in refuse_if_full(config):
            note(sentence)
        summary = build(
            config,
            shard=shard,
            prepared=args.prepared,
            on_start=start,
            on_event=progress.event,
            on_weights=progress.weigh,
            on_notice=note,
            retry_failed=args.retry_failed,
            changed=args.changed,
        )
    if args.json:
        say(json.dumps(summary.as_json(), indent=2))
    else:
        told = progress.failed if not args.quiet and _one_place() else ()
        say(_summary_text(summary, without_passwords(config.store.path), told))
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
    lines += [*noted(summary.notes), *summary.left_out()]
    lines.append(f"{out}: {summary.summary()}")
    if summary.failures:
        lines.append("Fix or remove what failed, then run the same command with --retry-failed.")
    return "\n".join(lines)
