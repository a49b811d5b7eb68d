"""What verbs that look at a source were given: a folder, a file or a config, and settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from builder.build.config_file import load_config
from builder.cli.common import check_there, is_config
from builder.core.errors import ConfigError
from builder.core.paths import is_url
from schemas.config import BuildConfig


def declare_given(parser: argparse._ActionsContainer, more: str = "") -> None:
    """Declare the positional arguments: a source, a config or both, and settings."""
    parser.add_argument(
        "given",
        nargs="*",
        metavar="SOURCE|CONFIG|key=value",
        help=f"folder or file to read, or a config that names it{more}; settings to change",
    )


def read_given(
    args: argparse.Namespace,
    options: Mapping[str, Any] | None = None,
    fallbacks: Mapping[str, Any] | None = None,
    needed: Mapping[str, str] | None = None,
) -> BuildConfig:
    """Make the config that was given: config file, options over it, key=value over both.

    ``options`` are values by dotted key, None where not given, as are ``fallbacks``, for what
    nothing says.  ``needed`` are the words to give by key that has neither; with ``store.path``
    among the ``options`` a second path is where to write.  Raises ConfigError.
    """
    options = dict(options or {})
    paths, overrides = _sorted_words(args.given)
    configs = [path for path in paths if is_config(path)]
    for path in configs[1:]:
        raise ConfigError(f"{path}: there is a config already, {configs[0]}; give one")
    before = paths[: paths.index(configs[0])] if configs else paths
    after = paths[paths.index(configs[0]) + 1 :] if configs else []
    places = ["source.path", "store.path"] if "store.path" in options else ["source.path"]
    if configs and after and not before and len(places) > 1:
        del places[0]  # CONFIG OUT
    rest = [*before, *after]
    places = [key for key in places if options.get(key) is None]
    options |= zip(places, rest, strict=False)
    for path in rest[len(places) :]:
        raise ConfigError(f"there is no place for {path!r}: a name with spaces needs quotes")
    if (source := options.get("source.path")) is not None:
        check_there(source)
    for path in configs:
        check_there(path)
    given = {key: value for key, value in options.items() if value is not None}
    said = {*given, *(word.partition("=")[0].strip() for word in overrides)}
    lacking = [
        words
        for key, words in {"source.path": "SOURCE", **(needed or {})}.items()
        if not configs and not said & {key, key.partition(".")[0]}
    ]
    if lacking:
        raise ConfigError(
            f"{', '.join(lacking)} missing (or a config file); for example: "
            f"{args.parser.prog} {retold(args) if needed else 'videos'}"
        )
    return load_config(Path(configs[0]) if configs else None, overrides, given, fallbacks)


def retold(args: argparse.Namespace) -> str:
    """Write the arguments of a build of what was looked at, for a shell."""
    paths, overrides = _sorted_words(args.given)
    words, said, shape = [*paths] or ["videos"], " ".join(overrides), args.img_shape or (256, 256)
    if not any(map(is_config, paths)):
        words += ["dataset"] if len(paths) < 2 and "store.path=" not in said else []
        words += ["--img-shape", *map(str, shape)] if "img_shape=" not in said else []
    return " ".join(map(quote, [*words, *overrides]))


def _sorted_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Tell paths from key=value, also where a shell has taken ``key = value`` apart."""
    joined: list[str] = []
    for word in words:
        if joined and (word.startswith("=") or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    paths = [word for word in joined if is_url(word) or os.path.lexists(word)]
    overrides = [word for word in joined if "=" in word and word not in paths]
    return [word for word in joined if word not in overrides], overrides
