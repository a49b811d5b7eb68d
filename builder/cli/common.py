"""What the verbs share: printing, and options that mean the same everywhere."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.core.errors import ConfigError
from builder.core.paths import printable_path
from builder.core.result import Result
from builder.dataset.output_folder import is_url

# Options and arguments that mean the same for all verbs that take them.
SHARED: dict[str, dict[str, Any]] = {
    "dataset": {"metavar": "DATASET", "help": "dataset folder"},
    "source": {"metavar": "SOURCE", "help": "folder or file to read"},
    "out": {"metavar": "OUT", "help": "folder to create"},
    "overrides": {"nargs": "*", "metavar": "key=value", "help": "settings to change"},
    "--img-shape": {"nargs": 2, "type": int, "metavar": ("H", "W")},
    "--views": {"nargs": "+", "metavar": "VIEW"},
    "--episode": {"metavar": "ID"},
    "--view": {"metavar": "NAME"},
    "--quiet": {"action": "store_true", "help": "no progress, only the summary"},
    "--json": {"action": "store_true", "help": "print JSON instead of text"},
}

# Those that name what is read, not written.
INPUTS = ("source", "dataset", "datasets", "legacy", "path", "videos", "geometry", "points")


def say(text: str) -> None:
    """Print to standard output; odd characters in file names never stop the command."""
    encoding = sys.stdout.encoding or "utf-8"
    safe = text.encode(encoding, "backslashreplace").decode(encoding)
    sys.stdout.write(safe if safe.endswith("\n") else safe + "\n")


def check_inputs(args: argparse.Namespace) -> None:
    """Refuse inputs that are not there, alike for all verbs.  Raises ConfigError."""
    for name in INPUTS:
        given = getattr(args, name, None)
        for path in given if isinstance(given, list) else [given]:
            if path not in (None, "-"):
                check_there(path)


def check_there(path: str) -> None:
    """Refuse a local path at which there is nothing.  Raises ConfigError."""
    if not is_url(path) and not os.path.lexists(path):
        raise ConfigError(f"{printable_path(path)}: there is no such file or folder")


def config_and_overrides(args: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """Tell the config file, if one is given, from key=value pairs that stand in its place."""
    if args.config and "=" in args.config and not Path(args.config).exists():
        return None, [args.config, *args.overrides]
    return Path(args.config) if args.config else None, args.overrides


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that are no numbers above 0.  Raises ConfigError naming the first."""
    for name in names:
        given = getattr(args, name)
        for number in given if isinstance(given, list) else [given]:
            if not 0 < number < math.inf:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} takes a number above 0, got {number}")


def one_of(names: Sequence[str], wanted: str | None, what: str, place: object) -> str:
    """Return the name that is wanted, or the first.  Raises ConfigError naming the first."""
    if wanted in names or (wanted is None and names):
        return wanted or names[0]
    there = f"it has {len(names)}, the first is {names[0]}" if names else "it has none"
    raise ConfigError(f"no {what}{'' if wanted is None else f' {wanted!r}'} in {place}; {there}")


def check_suffix(out: Path, suffixes: Sequence[str]) -> None:
    """Refuse to write a file under the name of another kind.  Raises ConfigError."""
    if out.suffix.lower() not in suffixes:
        raise ConfigError(f"{out}: expected a name that ends in {' or '.join(suffixes)}")


def help_text(action: argparse.Action) -> str:
    """Return what an option or argument means, with its default where it has one."""
    text = action.help or ""
    if not action.option_strings or action.nargs == 0 or action.default in (None, [], ()):
        return text
    return text if "default" in text else f"{text} (default: {action.default})"


def declare(parser: argparse._ActionsContainer, *names: str, **own: Any) -> None:
    """Declare options and arguments of ``SHARED``, with what the verb says of its own."""
    for name in names:
        parser.add_argument(name, **{**SHARED[name], **own})


def show_count(done: int, total: int) -> None:
    """Show on a terminal how many are done; the line is wiped out when all are."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done}/{total}" if done < total else "\r\033[K")
        sys.stderr.flush()


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows out in aligned columns under the keys of the first."""
    columns = list(rows[0])
    cells = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def say_result(result: Result, as_json: bool, place: str = "") -> int:
    """Print how a verb ended, as text or as JSON; returns its exit code."""
    say(json.dumps(result.as_json(), indent=2) if as_json else result.text(place))
    return result.exit_code
