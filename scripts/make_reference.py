"""Write docs/reference from the code itself: the command line, the config, the stored records.

    python scripts/make_reference.py

A test holds that what is committed is what this writes.  Nothing here depends on the width of a
terminal or on the Python version: argparse's own help does.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from reference_tables import fields_table, prose, table

from builder.cli.common import help_text
from builder.cli.main import parser
from builder.cli.schema import records
from builder.core.registry import BUILTIN, Backends
from builder.sources.selection import Clips, Selection
from schemas import config

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by scripts/make_reference.py from the code; do not edit. -->\n"


def pages() -> dict[str, str]:
    """Return every page by file name.  Raises MissingExtraError when a backend cannot load."""
    return {"cli.md": cli(), "config.md": config_page(), "format-models.md": records_page()}


def cli() -> str:
    """Return the page on the command line."""
    parts = [NOTE, "# Command line\n", _exit_codes()]
    for verb, each in verbs().items():
        intro = (each.description or "").strip()
        example = textwrap.dedent((each.epilog or "").partition("\n")[2]).strip()
        parts += [f"## letterset {verb}\n", intro + "\n", f"```text\n{usage(verb, each)}\n```\n"]
        rows = [_option(action) for action in each._actions if action.dest != "help"]
        parts += [table(("argument", "meaning"), rows), f"```sh\n{example}\n```\n"]
    return "\n".join(parts)


def _exit_codes() -> str:
    codes = {
        "0": "good",
        "1": "finished, but inputs failed or problems were found, each listed; or no whole dataset,"
        " or one that cannot be read now",
        "2": "bad usage or config, or an input that is not there; found before any work",
        "3": "nothing could be built; a shard ends with 1, as others may have built something",
        "4": "the output is unusable: no space, read-only, locked, a newer format",
        "130, 143": "interrupted, terminated; run the same command again to go on",
        "70": "a bug of letterset",
    }
    head = "Every verb ends with one of these exit codes.\n\n"
    return head + table(("code", "meaning"), codes.items())


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every verb, in the order of the help."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def usage(verb: str, each: argparse.ArgumentParser) -> str:
    """Return one line: positional arguments first, then options."""
    named = [action for action in each._actions if action.dest != "help"]
    ordered = sorted(named, key=lambda action: bool(action.option_strings))
    words = [_word(action) for action in ordered]
    line = f"letterset {verb} " + " ".join(words)
    return "\n    ".join(textwrap.wrap(line, 92, break_long_words=False, break_on_hyphens=False))


def _word(action: argparse.Action) -> str:
    value = _value(action)
    optional = action.nargs in ("?", "*") or (bool(action.option_strings) and not action.required)
    if not action.option_strings:
        return f"[{value}]" if optional else value
    word = " ".join(filter(None, (action.option_strings[0], value)))
    return word if action.required else f"[{word}]"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if isinstance(name, tuple):
        return " ".join(name)
    if action.choices is not None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    if action.option_strings and action.nargs == "?":
        return f"[{name}]"
    return f"{name} ..." if action.nargs in ("*", "+") else str(name)


def _option(action: argparse.Action) -> tuple[str, str]:
    name = ", ".join(action.option_strings)
    return f"`{' '.join(filter(None, (name, _value(action))))}`", help_text(action)


def config_page() -> str:
    """Return the page on the build config and the settings of every backend."""
    parts = [
        NOTE,
        "# Build config\n",
        "A YAML file with these keys. `letterset build CONFIG.yaml key=value` lays values over\n"
        "it; dots lead into groups, as in `store.frames.codec=jpeg`. Unknown keys are errors.\n",
        *_models(config.BuildConfig, set()),
        *_models(Clips, set()),
    ]
    for part, found in BUILTIN.items():
        parts.append(f"## Kinds of {part}\n")
        if part == "sources":
            parts += ["Every source has these settings, and some have more.\n"]
            parts.append(fields_table(Selection.model_json_schema()))
        for kind in found:
            parts += _backend(part, kind)
    return "\n".join(parts)


def _backend(part: str, kind: str) -> Iterator[str]:
    made: Any = Backends[Any](part).load(kind)
    yield f"### {part[:-1]}.kind: {kind}\n"
    yield prose(made.__doc__ or "")
    schema = made.Config.model_json_schema()
    # What every source has is told once, above.
    shared = Selection.model_fields if part == "sources" else ()
    own = {key: each for key, each in schema.get("properties", {}).items() if key not in shared}
    yield fields_table({**schema, "properties": own}) if own else "No settings of its own.\n"


def records_page() -> str:
    """Return the page on the stored records."""
    intro = "What [the format](../format.md) stores as JSON. `letterset schema MODEL` prints the\n"
    intro += "JSON Schema. Every record is strict: unknown keys and wrong types are refused.\n"
    seen: set[str] = set()
    parts = [NOTE, "# Stored records\n", intro]
    for model in records().values():
        if model is not config.BuildConfig:  # it has a page of its own
            parts += _models(model, seen)
    return "\n".join(parts)


def _models(model: type[BaseModel], seen: set[str]) -> Iterator[str]:
    """Yield a section for a model and for every model it is made of, each once."""
    schema = model.model_json_schema()
    for name, each in {model.__name__: schema, **schema.get("$defs", {})}.items():
        if name not in seen and each.get("properties"):
            seen.add(name)
            yield f"## {name}\n"
            yield prose(each.get("description", ""))
            yield fields_table(each, schema.get("$defs"))


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
