"""Compares a sample of stored frames with their source, decoded and letterboxed again."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builder.build.backends import open_source_part
from builder.build.reader import each_apart
from builder.build.resume import source_change
from builder.build.run_log import last_config, last_limits
from builder.canvas.letterbox import Letterboxer
from builder.core.errors import LettersetError
from builder.core.paths import is_url
from builder.core.spacing import spread
from builder.core.working import still_working
from builder.dataset.episodes import Dataset, ViewData
from builder.dataset.validate import Problem
from builder.inputs.streams import FrameStream
from builder.sources.base import EpisodeRef, Source
from builder.transform.track_layer import episode_refs

EPISODES, FRAMES = 8, 3
"""Episodes and frames of each view that are looked at, spread evenly."""

# Mean difference in levels that JPEG may make; a frame of another moment makes more.
_JPEG_LEVELS = 6.0


def compare_source(path: Path | str, source: str | None = None) -> list[Problem]:
    """Return where a sample of stored frames differs from the source, letterboxed again.

    ``source`` is where the videos are, by default where the last build read them; they are read
    within the limits of that build.  When they are gone, a note says so; without any record of
    them nothing is said.  Raises DatasetError when there is no dataset.
    """
    dataset = Dataset(Path(path), max_open=1)
    source = source or recorded_source(dataset.path)
    if source is None:
        return []
    if is_url(source):
        text = f"frames were not compared: {source} is a URL; give a local copy with --source"
        return [Problem(None, "source", text, note=True)]
    if not Path(source).exists():
        text = f"frames were not compared: the source {source} is not there; give --source"
        return [Problem(None, "source", text, note=True)]
    part: Any  # there is one, as ``source`` says where
    try:
        part, refs = episode_refs(dataset, source)
        limits = last_limits(dataset.path)
        videos = open_source_part(part, limits)
    except LettersetError as error:
        return [Problem(None, "source", f"frames were not compared: {error}", note=True)]
    ids = [dataset.ids[at] for at in spread(len(dataset), EPISODES)]
    chosen = [(episode_id, refs.get(episode_id)) for episode_id in ids]
    compare = partial(_compare_episode, dataset.path, Path(source), videos)
    found = each_apart(compare, chosen, limits=limits)
    return [problem for problems in found for problem in problems]


def _compare_episode(
    path: Path, source: Path, videos: Source, chosen: tuple[str, EpisodeRef | None]
) -> list[Problem]:
    """Return where frames of one episode differ, in a process that decodes them."""
    episode_id, ref = chosen
    episode = Dataset(path, max_open=1)[episode_id]
    if ref is None or source_change(episode.meta, source):
        text = "frames were not compared: its source is gone or has changed"
        return [Problem(episode_id, "source", text, note=True)]
    found: list[Problem] = []
    try:
        with videos.open(ref) as opened:
            for name, view in episode.views.items():
                for message in _differences(view, opened.views[name]):
                    found.append(Problem(episode_id, f"{name}/frames", message))
    except LettersetError as error:
        found.append(Problem(episode_id, "source", str(error)))
    return found


def recorded_source(path: Path) -> str | None:
    """Return where the last build of a dataset read its videos; None without a record of it."""
    recorded: Any = last_config(path).get("source")
    return str(recorded["path"]) if isinstance(recorded, dict) and "path" in recorded else None


def _differences(view: ViewData, stream: FrameStream) -> Iterator[str]:
    stored: Any = view.frames
    if stored is None:
        return
    lossy = view.meta.arrays["frames"].codec == "jpeg"
    boxer = Letterboxer(view.geometry, view.meta.orientation)
    wanted = {*np.linspace(0, len(stored) - 1, FRAMES).round().astype(int).tolist()}
    for index, frame in enumerate(stream):
        still_working()
        if index not in wanted:
            continue
        off = np.abs(boxer.canvas(frame.image).astype(np.int16) - np.asarray(stored[index]))
        if off.mean() > (_JPEG_LEVELS if lossy else 0):
            yield (
                f"frame {index} differs from its source by {off.mean():.3g} levels on average, "
                f"at most {off.max()}"
            )
