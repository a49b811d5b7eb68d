"""A first config for a folder: what it holds, and every choice that matters, with comments."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any

from builder.core.errors import ConfigError, SourceError
from builder.core.messages import count
from builder.inputs.streams import StreamInfo
from builder.sources.base import SOURCES
from builder.sources.recognize import Recognized, recognize
from schemas.config import BuildConfig, Limits, SourcePart

MAX_LISTED = 10_000
_TRIED = 5


@dataclass(frozen=True)
class Guess:
    """What a path seems to hold.  ``episodes`` counts up to ``MAX_LISTED``.

    ``views`` and ``arrays`` (their shapes) are those of the first episode that opens.
    """

    kind: str
    path: Path
    settings: Mapping[str, Any]
    why: str
    episodes: int
    views: dict[str, StreamInfo]
    arrays: dict[str, tuple[int, ...]]
    problems: tuple[str, ...] = ()


def with_kind(config: BuildConfig) -> tuple[BuildConfig, str | None]:
    """Set the kind of a source that states none; also return why, unless it is plain videos.

    Raises SourceError when it looks like nothing, ConfigError when it looks like several.
    """
    part = config.source
    if "kind" in part.model_fields_set:
        return config, None
    seen = recognize(Path(part.path))
    # Only what is not the default anyway: the settings are the dataset's for ever.
    _, default = SOURCES.configure(SourcePart(kind=seen.kind, path=part.path))
    own = {key: value for key, value in seen.settings.items() if getattr(default, key) != value}
    source = SourcePart(kind=seen.kind, path=part.path, **{**own, **part.settings})
    said = "".join(f" source.{key}={value}" for key, value in own.items())
    why = None if seen.kind == "video" else f"source.kind={seen.kind}{said}, because {seen.why}"
    return config.model_copy(update={"source": source}), why


def guess(path: Path, kind: str | None = None) -> Guess:
    """Look at a file or folder: its kind, and the views of the first episode that opens.

    Raises SourceError when nothing is recognized, ConfigError when several kinds are,
    MissingExtraError when reading it needs more.
    """
    seen = recognize(path) if kind is None else Recognized(kind, "it was asked for", {})
    part = SourcePart(kind=seen.kind, path=str(path), **seen.settings)
    make_source, own = SOURCES.configure(part)
    source = make_source(path, own, Limits())
    refs = list(islice(source.refs(), MAX_LISTED))
    problems: list[str] = []
    for ref in refs[:_TRIED]:
        try:
            with source.open(ref) as episode:
                views = {name: stream.info for name, stream in episode.views.items()}
                arrays = {**episode.arrays, **episode.constants}
                shapes = {name: array.shape for name, array in arrays.items()}
            break
        except SourceError as error:
            problems.append(str(error))
    else:
        views, shapes = {}, {}
    return Guess(
        seen.kind, path, seen.settings, seen.why, len(refs), views, shapes, tuple(problems)
    )


def write_config(guess: Guess, path: Path) -> None:
    """Write a commented YAML config for a guess; raises ConfigError where it cannot be."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(config_text(guess))
    except FileExistsError:
        raise ConfigError(f"{path} exists already; choose another name or move it away") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place") from None
    except UnicodeEncodeError:
        path.unlink()
        raise ConfigError(
            "the source's path is not valid UTF-8; rename a folder, or pass it with --source"
        ) from None


def config_text(guess: Guess) -> str:
    """Return the YAML text of a config for a guess."""
    more = " or more" if guess.episodes == MAX_LISTED else ""
    lines = [
        f"# A guess: {guess.why}; {count(guess.episodes, 'episode')}{more}.",
        f"# Look before you build:  letterset preview {_comment(quote(str(guess.path)))}",
        "img_shape: [256, 256]     # (height, width) every frame is letterboxed to",
        "",
        "source:",
        f"  kind: {guess.kind}",
        f"  path: {json.dumps(str(guess.path), ensure_ascii=False)}",
        *(f"  {key}: {json.dumps(value)}" for key, value in guess.settings.items()),
        *_view_lines(guess),
        "  # frame_step: 2         # keep every n-th frame; or fps: 10",
        "  # start_seconds: 0      # and end_seconds, max_frames",
        '  # include: ["*"]        # globs of episode paths; or exclude',
        "",
        "queries: {grid: [20, 20], region: content}   # rows, columns of tracked points",
        "tracker: {kind: dis, horizon: 16}",
        "store:",
        "  path: dataset",
        "  frames: {codec: raw}    # lz4: half the size; jpeg: a tenth; none: tracks only",
    ]
    return "\n".join(lines) + "\n"


def _view_lines(guess: Guess) -> list[str]:
    lines = [f"  # cannot be opened: {_comment(problem)}" for problem in guess.problems]
    for name, view in guess.views.items():
        height, width = view.source_shape
        fps = f"{view.fps:.3g} fps" if view.fps else "fps unknown"
        turned = "upright" if view.orientation == "none" else f"turned by {view.orientation}"
        notes = "".join(f"; {_comment(note)}" for note in view.notes)
        lines.append(
            f"  # view {name}: {height} x {width} (H x W, aspect {width / height:.3g}), "
            f"{count(view.num_frames, 'frame')}, {fps}, {turned}{notes}"
        )
    if guess.arrays:
        shapes = ", ".join(f"{name} {shape}" for name, shape in guess.arrays.items())
        lines.append(f"  # arrays that pass through: {shapes}")
    if guess.views:
        lines.append(f"  # views: [{', '.join(guess.views)}]")
        turn = next(iter(guess.views.values())).orientation
        lines.append(f"  # orientation: {turn}     # none, vflip, hflip, rot180, rot90, rot270")
    return lines


def _comment(text: str) -> str:
    return " ".join(text.split())
