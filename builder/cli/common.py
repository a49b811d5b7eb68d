"""What the verbs share: printing, and options that mean the same everywhere."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from builder.cli.waiting import show_count, wipe_line
from builder.core.errors import ConfigError
from builder.core.messages import near
from builder.core.paths import is_url, printable_path
from builder.core.result import Result
from builder.core.standard_streams import write_line
from builder.core.working import Each

A = TypeVar("A")
T = TypeVar("T")


def shape_of(words: str) -> tuple[int, int]:
    """Read ``--img-shape`` and the like: H W, or HxW.  Raises argparse's error of a wrong type."""
    sides = re.split(r"[ ,x]+", words.strip("[]() "))
    if len(sides) != 2 or not all(re.fullmatch(r"-?\d+", side) for side in sides):
        raise argparse.ArgumentTypeError(
            f"expected height and width in whole pixels, such as 256 256, got {words}"
        )
    return int(sides[0]), int(sides[1])


def whole(text: str) -> int:
    """Read a whole number.  Raises argparse's error of a wrong type."""
    return _number(int, text, "a whole number")


def number(text: str) -> float:
    """Read a number.  Raises argparse's error of a wrong type."""
    return _number(float, text, "a number")


def percentage(text: str) -> float:
    """Read a percentage, with or without its sign.  Raises argparse's error of a wrong type."""
    return _number(float, text.strip().removesuffix("%"), "a percentage such as 5%")


def _number(kind: Any, text: str, what: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}") from None


# Options and arguments that mean the same for all verbs that take them.
SHARED: dict[str, dict[str, Any]] = {
    "dataset": {"metavar": "DATASET", "help": "dataset folder, or the config it was built from"},
    "out": {"metavar": "OUT", "help": "folder to create"},
    "overrides": {"nargs": "*", "metavar": "key=value", "help": "settings to change"},
    "--img-shape": {"type": shape_of, "metavar": "H W"},
    "--views": {"nargs": "+", "metavar": "VIEW"},
    "--episode": {"metavar": "ID", "help": "id, its beginning, or the path of the source"},
    "--view": {"metavar": "NAME"},
    "--tracked": {
        "metavar": "H W",
        "help": "size of the frames that were tracked, for older files that record none; by view: "
        "VIEW=HxW ...",
    },
    "--videos": {"metavar": "DIR", "help": "folder of the videos that were tracked"},
    "--frame-step": {
        "type": whole,
        "default": 1,
        "metavar": "N",
        "help": "every n-th frame of them was tracked",
    },
    "--workers": {
        "type": whole,
        "metavar": "N",
        "help": "processes that read at a time (default: one for each core)",
    },
    "--quiet": {"action": "store_true", "help": "no progress, only the summary"},
    "--json": {"action": "store_true", "help": "print JSON instead of text"},
}

# Those that name what is read, not written.
INPUTS = ("source", "dataset", "datasets", "legacy", "videos", "geometry", "points")

_NUMBER = r"-?\d+(\.\d*)?"
# Options of several words, and what these look like: what else follows is no part of them.
WORDS = {
    "--img-shape": re.compile(_NUMBER),
    "--coded-shape": re.compile(_NUMBER),
    "--tracked": re.compile(rf"{_NUMBER}|(.+=)?\d+x\d+"),
    "--shares": re.compile(r"[^=]*=.*"),
}
# Of these a lone number is half of what they take: what follows it is told as the other half.
SHAPES = ("--img-shape", "--coded-shape", "--tracked")


def say(text: str) -> None:
    """Print to standard output; odd characters in file names never stop it, nor act on it."""
    wipe_line()
    write_line(sys.stdout, text)


def warn(text: str) -> None:
    """Print to standard error, beside results on standard output."""
    wipe_line()
    write_line(sys.stderr, text)


def check_inputs(args: argparse.Namespace) -> None:
    """Refuse inputs that are not there, alike for all verbs.  Raises ConfigError.

    A config in place of a dataset stands for the dataset that it says to build.
    """
    if is_config(dataset := getattr(args, "dataset", None) or "") and os.path.isfile(dataset):
        from builder.build.config_file import load_config

        args.dataset = load_config(Path(dataset)).store.path
    for name in INPUTS:
        given = getattr(args, name, None)
        for path in given if isinstance(given, list) else [given]:
            if path not in (None, "-"):
                check_there(path)


def check_there(path: str) -> None:
    """Refuse a local path at which there is nothing.  Raises ConfigError."""
    if not is_url(path) and not os.path.lexists(path):
        folder, name = os.path.split(path.rstrip("/"))
        beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        meant = near(name, [printable_path(each) for each in beside])
        raise ConfigError(f"{printable_path(path)}: there is no such file or folder{meant}")


def is_config(path: str) -> bool:
    """Tell whether a path is that of a build config, by its ending."""
    return path.lower().endswith((".yaml", ".yml"))


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that are no numbers above 0, if given.  Raises ConfigError for the first."""
    for name in names:
        given = getattr(args, name)
        for number in given if isinstance(given, list) else [given]:
            if number is not None and not 0 < number < math.inf:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} takes a number above 0, got {number}")


def one_of(names: Sequence[str], wanted: str | None, what: str, place: object) -> str:
    """Return the name that is wanted, or the first.  Raises ConfigError naming the first."""
    if wanted in names or (wanted is None and names):
        return wanted or names[0]
    there = f"it has {len(names)}, the first is {names[0]}" if names else "it has none"
    raise ConfigError(f"no {what}{'' if wanted is None else f' {wanted!r}'} in {place}; {there}")


def tracked_sizes(given: str | None) -> Any:
    """Read ``--tracked``: one (H, W), or sizes by view.  Raises ConfigError for anything else."""
    if not given:
        return None
    words = given.split()
    if alone := re.fullmatch(r"(\d+)[ x](\d+)", " ".join(words)):
        return (int(alone[1]), int(alone[2]))
    found = [re.fullmatch(r"(.+)=(\d+)x(\d+)", word) for word in words]
    if not all(found):
        raise ConfigError(f"--tracked takes H W, or VIEW=HxW for each view, got {' '.join(words)}")
    views = [each[1] for each in found if each]
    if twice := next((view for view in views if views.count(view) > 1), None):
        raise ConfigError(f"--tracked gives the view {twice} twice: {' '.join(words)}")
    return {each[1]: (int(each[2]), int(each[3])) for each in found if each}


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


def each_counted(args: argparse.Namespace) -> Each:
    """Read episodes of ``args.dataset`` in ``args.workers`` processes, counted on a terminal.

    Raises ConfigError.
    """
    from builder.build.reader import each_apart
    from builder.build.run_log import last_limits

    check_positive(args, "workers")
    limits = last_limits(Path(args.dataset)) if hasattr(args, "dataset") else None

    def each(function: Callable[[A], T], items: Sequence[A], /) -> Iterator[T]:
        show_count(0, len(items))
        found = each_apart(function, items, limits=limits, workers=args.workers)
        for done, result in enumerate(found, 1):
            show_count(done, len(items))
            yield result

    return each


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
