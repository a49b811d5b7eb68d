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
from builder.core.paths import is_url
from builder.inputs.streams import StreamInfo
from builder.sources.base import SOURCES
from builder.sources.headers import Headers, read_headers
from builder.sources.recognize import Recognized, recognize, recognize_far
from builder.sources.selected import Selected
from builder.sources.selection import Selection
from schemas.config import BuildConfig, Limits, SourcePart

MAX_LISTED = 10_000
_TRIED = 5
HORIZON = 16


@dataclass(frozen=True)
class Guess:
    """What a path seems to hold.  ``episodes`` counts up to ``MAX_LISTED``.

    ``views`` and ``arrays`` (their shapes) are those of the first episode that opens, ``notes``
    say what of it is left out; ``headers`` are of many.
    """

    kind: str
    path: Path
    settings: Mapping[str, Any]
    why: str
    episodes: int
    views: dict[str, StreamInfo]
    arrays: dict[str, tuple[int, ...]]
    headers: Headers
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def with_kind(config: BuildConfig) -> tuple[BuildConfig, str | None]:
    """Set the kind of a source that states none; also return why, unless it is plain videos.

    Raises SourceError when it looks like nothing, ConfigError when it looks like several.
    """
    part = config.source
    if "kind" in part.model_fields_set:
        return config, None
    seen = recognize_far(part.path) if is_url(part.path) else recognize(Path(part.path))
    # Only what is not the default anyway: the settings are the dataset's for ever.
    _, default = SOURCES.configure(SourcePart(kind=seen.kind, path=part.path))
    own = {key: value for key, value in seen.settings.items() if getattr(default, key) != value}
    source = SourcePart(kind=seen.kind, path=part.path, **{**own, **part.settings})
    said = "".join(f" source.{key}={value}" for key, value in own.items())
    why = None if seen.kind == "video" else f"source.kind={seen.kind}{said}, because {seen.why}"
    return config.model_copy(update={"source": source}), why


def guess(path: Path, kind: str | None = None) -> Guess:
    """Look at a file or folder: its kind, and the views of its episodes.

    Raises SourceError when nothing is recognized, ConfigError when several kinds are,
    MissingExtraError when reading it needs more.
    """
    seen = recognize(path) if kind is None else Recognized(kind, "it was asked for", {})
    part = SourcePart(kind=seen.kind, path=str(path), **seen.settings)
    make_source, own = SOURCES.configure(part)
    source = make_source(path, own, Limits())
    source = Selected(source, own) if isinstance(own, Selection) else source
    refs = list(islice(source.refs(), MAX_LISTED))
    problems: list[str] = []
    for ref in refs[:_TRIED]:
        try:
            with source.open(ref) as episode:
                notes = episode.notes
                views = {name: stream.info for name, stream in episode.views.items()}
                arrays = {**episode.arrays, **episode.constants}
                shapes = {name: array.shape for name, array in arrays.items()}
            break
        except SourceError as error:
            problems.append(str(error))
    else:
        views, shapes, notes = {}, {}, ()
    headers = read_headers(source, refs) if views else Headers()
    if mixed := headers.rates.mixed(HORIZON):
        notes = (*notes, mixed)
    found = (seen.kind, path, seen.settings, seen.why, len(refs), views, shapes, headers)
    return Guess(*found, headers.problems or tuple(problems), notes)


def write_config(
    guess: Guess, path: Path, img_shape: tuple[int, int] = (256, 256), out: str = "dataset"
) -> None:
    """Write a commented YAML config for a guess; raises ConfigError where it cannot be."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(config_text(guess, img_shape, out))
    except FileExistsError:
        raise ConfigError(f"{path} exists already; choose another name or move it away") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place") from None
    except UnicodeEncodeError:
        path.unlink()
        raise ConfigError(
            "the source's path is not valid UTF-8; rename a folder, or pass it with --source"
        ) from None


def config_text(guess: Guess, img_shape: tuple[int, int] = (256, 256), out: str = "dataset") -> str:
    """Return the YAML text of a config for a guess."""
    more = " or more" if guess.episodes == MAX_LISTED else ""
    lines = [
        f"# A guess: {guess.why}; {count(guess.episodes, 'episode')}{more}.",
        f"# Look before you build:  letterset preview {_comment(quote(str(guess.path)))}",
        f"img_shape: {[*img_shape]}     # (height, width) every frame is letterboxed to",
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
        f"tracker: {{kind: dis, horizon: {HORIZON}}}",
        "store:",
        f"  path: {json.dumps(out, ensure_ascii=False) if out != 'dataset' else out}",
        "  frames: {codec: raw}    # lz4: half the size; jpeg: a tenth; none: tracks only",
    ]
    return "\n".join(lines) + "\n"


def _view_lines(guess: Guess) -> list[str]:
    shown = guess.problems[:_TRIED]
    lines = [f"  # cannot be opened: {_comment(problem)}" for problem in shown]
    if more := len(guess.problems) - len(shown):
        lines.append(f"  # cannot be opened: {more} more, see letterset inspect")
    lines += [f"  # {_comment(note)}" for note in guess.notes]
    for name, view in guess.headers.views.items():
        own = guess.views[name].notes if name in guess.views else ()
        lines.append(f"  # view {name}: {'; '.join([view.text(), *map(_comment, own)])}")
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
