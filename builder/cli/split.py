"""Split a dataset into named parts: lists of ids in splits/; no data is copied.

By hash, each episode's part depends on its own id, task or group alone, so episodes added later
move no other. Read one with WindowDataset(dataset, split="default/train").
"""

import argparse
from typing import Any

from builder.cli.common import declare, say
from builder.core.errors import ConfigError

HELP = "split a dataset into named parts"
EXAMPLE = """\
  letterset split dataset --shares train=0.9 val=0.1
  letterset split dataset --name tasks --shares train=0.9 val=0.1 --by task
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument(
        "--shares", nargs="+", required=True, metavar="NAME=SHARE", help="expected shares, up to 1"
    )
    parser.add_argument(
        "--by", choices=("episode", "task", "group"), default="episode", help="what stays together"
    )
    parser.add_argument("--name", default="default", help="name of the file in splits/")
    parser.add_argument("--salt", default="", help="another salt gives another split")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a split of that name made otherwise"
    )


def run(args: argparse.Namespace) -> int:
    """Write the split; returns the exit code."""
    from builder.dataset.opening import open_dataset
    from builder.dataset.splits import hash_splits, refuse_other, write_splits

    dataset = open_dataset(args.dataset)
    keys = {key: _key(dataset, key, args.by) for key in dataset.ids}
    shares = dict(_share(text) for text in args.shares)
    splits = hash_splits(keys, shares, by=args.by, salt=args.salt)
    if not args.overwrite:
        refuse_other(dataset.path, args.name, splits)
    path = write_splits(dataset.path, args.name, splits)
    counts = ", ".join(f"{name} {len(ids)}" for name, ids in splits.splits.items())
    say(f"wrote {path}: {counts}")
    for name in (name for name, ids in splits.splits.items() if not ids):
        say(f"note: the part {name} is empty: too few episodes, or try another --salt")
    return 0


def _key(dataset: Any, episode_id: str, by: str) -> str | None:
    return episode_id if by == "episode" else getattr(dataset[episode_id].meta, by)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise ConfigError(f"a share is NAME=NUMBER, got {text!r}; e.g. train=0.9") from None
