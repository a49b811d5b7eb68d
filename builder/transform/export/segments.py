"""Track files as the older route keeps them: one per video, at the video's own path.

Its loaders find every ``**/*.hdf5``, take one view, remap tracks from the attributes ``height``
and ``width`` to their img_shape, and look for pictures in a video of the same stem.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes

import h5py
import yaml

from builder.core.errors import ConfigError
from builder.dataset.episodes import Dataset
from builder.inputs.listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from builder.transform.export.amplify import write_size, write_tracks
from builder.transform.export.common import (
    chosen_views,
    new_folder,
    plan_undamaged,
    refuse,
    refused_windows,
    tell,
)
from builder.transform.export.common import view_of as view_named

log = logging.getLogger("letterset.export")

DEFAULT_VIEW = "default"


def export_segments(
    dataset: Dataset,
    out: Path | str,
    views: Sequence[str] | None = None,
    *,
    view_name: str | None = None,
    failures: dict[str, str] | None = None,
    notes: list[str] | None = None,
) -> dict[str, str]:
    """Write ``dataset`` to the new folder ``out``; returns the id of the episode of each file.

    A file has ``root/<view>/tracks``, ``vis`` and the attributes ``height`` and ``width``; a
    single view is called ``view_name``, by default "default", several keep their names.
    ``config.yaml`` beside them tells img_shape, horizon, number of tracks and frame rate.
    ``failures`` takes the damaged episodes, with the reason; ``notes`` sentences that whoever
    trains should read.

    Raises ConfigError, before any work, naming what the layout cannot hold, and OutputError when
    ``out`` cannot be written; then nothing is left there.
    """
    refuse("the older route", refused_windows(dataset, "its loader"))

    def plan(dataset: Dataset) -> tuple[list[str], dict[str, str]]:
        return chosen_views(dataset, views), _paths(dataset)

    dataset, (names, paths) = plan_undamaged(dataset, plan, failures)
    if view_name is not None and len(names) > 1:
        raise ConfigError(f"one name was given for the views {names}; choose one with --views")
    rates: set[float | None] = set()
    with new_folder(Path(out)) as folder:
        for path, episode_id in paths.items():
            episode = dataset[episode_id]
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(folder / path, "w") as file:
                for name in names:
                    view = view_named(episode, name)
                    shown = (view_name or DEFAULT_VIEW) if len(names) == 1 else name
                    group = file.create_group(f"root/{shown}")
                    write_tracks(group, view, dataset.meta.queries)
                    write_size(group, view)
                    rates.add(view.meta.fps)
        text = yaml.safe_dump(_config(dataset, rates), sort_keys=False)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    tell(_notes(dataset, rates), notes, log)
    return paths


def _paths(dataset: Dataset) -> dict[str, str]:
    """Return the episode of every file; raises ConfigError for two videos of one stem."""
    paths: dict[str, str] = {}
    for episode_id in dataset.ids:
        source = os.fsdecode(unquote_to_bytes(dataset[episode_id].meta.source.path))
        path = PurePosixPath(source)
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(f"episode {episode_id}: its source {source} lies outside the source")
        if path.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
            path = path.with_suffix("")
        name = f"{path}.hdf5"
        if name in paths:
            raise ConfigError(
                f"{source} and the source of {paths[name]} differ in their ending alone, but the "
                "older route knows a video by its stem: rename one, or export a subset"
            )
        paths[name] = episode_id
    return paths


def _config(dataset: Dataset, rates: set[float | None]) -> dict[str, Any]:
    meta = dataset.meta
    config: dict[str, Any] = {
        "img_shape": list(meta.img_shape),
        "horizon": meta.horizon,
        "n_tracks": meta.queries.num_points,
    }
    if len(rates) == 1 and (rate := next(iter(rates))) is not None:
        config["fps"] = rate
    if meta.config.get("geometry") == "resize_shorter":
        config["resize_shorter"] = meta.config.get("short_side")
    return {**config, "letterset": meta.digest}


def _notes(dataset: Dataset, rates: set[float | None]) -> list[str]:
    notes = []
    if len(rates) > 1:
        shown = ", ".join(
            "unknown" if rate is None else f"{rate:g}" for rate in sorted(rates, key=str)
        )
        notes.append(f"no fps in config.yaml, since the videos have several: {shown}")
    if dataset.meta.config.get("geometry") != "resize_shorter":
        notes.append(
            "tracks lie on the letterboxed canvas; a loader that reads the videos themselves "
            "stretches them to img_shape, bars left out: give it letterboxed videos (letterset "
            "render --to video), or build with geometry=resize_shorter"
        )
    return notes
