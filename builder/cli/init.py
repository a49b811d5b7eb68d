"""Look at a folder, say what it holds, and write a commented config for it."""

import argparse
from pathlib import Path
from shlex import quote

from builder.cli.common import declare, say
from builder.cli.given import declare_given, read_given
from builder.core.errors import ConfigError
from builder.core.messages import count
from builder.core.paths import is_url

HELP = "write a commented config for a folder"
EXAMPLE = """\
  letterset init videos
  letterset init videos --out build.yaml --img-shape 128 128
"""

_KEPT = ("img_shape", "source.kind", "source.path", "store.path")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare_given(parser, f" ({', '.join(_KEPT)})")
    parser.add_argument("--kind", help="source kind (default: what it looks like)")
    declare(parser, "--img-shape", help="height and width of every frame (default: 256 256)")
    parser.add_argument("--out", default="letterset.yaml", help="config to write; must not exist")


def next_step(args: argparse.Namespace) -> str:
    """Say how to use the config."""
    out = quote(args.out)
    return f"letterset preview {out}, then letterset build {out}"


def run(args: argparse.Namespace) -> int:
    """Write the config; returns 1 when no episode could be opened."""
    from builder.build.reader import apart
    from builder.sources.starter_config import guess, write_config

    for word in args.given:
        key, equals, _ = word.partition("=")
        if equals and key.strip() not in _KEPT:
            raise ConfigError(
                f"{word}: init writes {', '.join(_KEPT)}; change the rest in the config, or give "
                "it to preview and build"
            )
    options = {"source.kind": args.kind, "img_shape": args.img_shape}
    config = read_given(args, options, {"img_shape": (256, 256), "store.path": "dataset"})
    part = config.source
    if is_url(part.path):
        raise ConfigError(
            f"{part.path}: init looks at local folders only; letterset inspect and preview show "
            "what is at a URL"
        )
    kind = part.kind if "kind" in part.model_fields_set else None
    found, out = apart(guess, Path(part.path), kind), Path(args.out)
    write_config(found, out, config.img_shape, config.store.path)
    say(f"{part.path}: {found.kind}, because {found.why}; {count(found.episodes, 'episode')}")
    for name, view in found.headers.views.items():
        say(f"  view {name}: {view.text()}")
    for problem in found.problems[:20]:
        say(f"  cannot be opened: {problem}")
    for note in found.notes:
        say(f"  {note}")
    say(f"wrote {out}")
    return 0 if found.views else 1
