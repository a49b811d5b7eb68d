"""Split a dataset into named parts: lists of ids in splits/; no data is copied.

The part of an episode depends on its own id, task or group alone, so episodes added later move
no other. Clips of one video (source.clip) stay together. Read a part with
WindowDataset(dataset, split="default/train").
"""

import argparse

from builder.cli.common import declare, each_counted, say
from builder.core.errors import ConfigError
from builder.core.messages import no_episodes

HELP = "split a dataset into named parts"
EXAMPLE = """\
  letterset split dataset --shares train=0.9 val=0.1
  letterset split dataset --name tasks --shares train=0.9 val=0.1 --by task
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument(
        "--shares",
        required=True,
        metavar="NAME=SHARE ...",
        help="parts and their shares, up to 1 in all",
    )
    parser.add_argument(
        "--by",
        choices=("episode", "clip", "task", "group"),
        default="episode",
        help="what stays together; episode: with all its clips; clip: each by itself",
    )
    parser.add_argument("--name", default="default", help="name of the file in splits/")
    parser.add_argument(
        "--salt", help="another salt gives another split (default: the first that fills each part)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a split of that name")
    declare(parser, "--workers")


def next_step(args: argparse.Namespace) -> str:
    """Say how to read the first part."""
    part = args.shares.partition("=")[0]
    return f"WindowDataset({args.dataset!r}, split={f'{args.name}/{part}'!r})"


def run(args: argparse.Namespace) -> int:
    """Write the split; returns the exit code."""
    from builder.dataset.opening import open_dataset
    from builder.dataset.splits import (
        full_salt,
        hash_splits,
        refuse_other,
        split_keys,
        write_splits,
    )

    dataset = open_dataset(args.dataset)
    if not len(dataset):
        raise ConfigError(no_episodes(dataset.path))
    keys = split_keys(dataset, args.by, each_counted(args))
    shares = dict(_share(text) for text in args.shares.split())
    salt = args.salt
    if salt is None:
        salt = full_salt(dataset.path, args.name, keys, shares, args.by)
    splits = hash_splits(keys, shares, by=args.by, salt=salt)
    if not args.overwrite:
        refuse_other(dataset.path, args.name, splits, keys)
    path = write_splits(dataset.path, args.name, splits)
    counts = ", ".join(f"{name} {len(ids)}" for name, ids in splits.splits.items())
    say(f"wrote {path}: {counts}")
    if salt and args.salt is None:
        say(f"note: drawn with --salt {salt}, as few episodes may leave a part empty without")
    for name in (name for name, ids in splits.splits.items() if not ids):
        say(f"note: the part {name} is empty: too few episodes, or try another --salt")
    return 0


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise ConfigError(f"a share is NAME=NUMBER, got {text!r}; e.g. train=0.9") from None
