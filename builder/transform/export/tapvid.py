"""Tracks in the TAP-Vid format: a pickle of plain dicts and arrays.

Its convention: ``points`` are (x, y) in [0, 1], raster coordinates divided by the width and the
height, so a continuous canvas pixel p becomes exactly p / size.  ``occluded`` is the opposite
of our visibility.
"""

import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builder.canvas.windows import disjoint_rows
from builder.core.errors import ConfigError, SourceError
from builder.core.messages import count
from builder.dataset.episodes import Dataset, EpisodeData
from builder.stores.atomic import make_place, output_errors
from builder.transform.export.common import plan_undamaged, tell, view_of

log = logging.getLogger("letterset.export")


def export_tapvid(
    dataset: Dataset,
    out: Path,
    views: list[str] | None = None,
    *,
    failures: dict[str, str] | None = None,
    notes: list[str] | None = None,
) -> list[str]:
    """Write ``{name: {video, points, occluded}}``; returns the names.

    ``video`` (T, H, W, 3) uint8, ``points`` (N, T, 2) float32, ``occluded`` (N, T) bool.
    Whole-episode tracks give one clip per episode and view, windows one clip each, back to
    back and without the frozen tail.  Clips in which nothing can be scored, such as those of one
    frame, are left out: TAP-Vid's score of them is NaN, and so is its mean with others.
    ``notes`` takes a sentence that names them; without it it is logged.  ``failures`` takes the
    damaged episodes, with the reason; without it they are refused with a DatasetError.

    Raises ConfigError for a view that is not there or has no frames, SourceError when no clip is
    left, and OutputError when ``out`` cannot be written.
    """
    make_place(out)
    clips: dict[str, dict[str, Any]] = {}
    dataset, pairs = plan_undamaged(dataset, partial(_pairs, views=views), failures)
    for episode_id, name in pairs:
        clips.update(_clips(dataset[episode_id], name))
    unscored = [name for name, clip in clips.items() if not _can_be_scored(clip["occluded"])]
    for name in unscored:
        del clips[name]
    if not clips:
        raise SourceError(f"{dataset.path}: there is no clip in which a point is seen twice")
    if unscored:
        more = f" and {len(unscored) - 5} more" if len(unscored) > 5 else ""
        note = (
            f"left out {count(len(unscored), 'clip')} of one frame, or in which no point is seen "
            f"twice, for TAP-Vid's score of them is NaN: {', '.join(unscored[:5])}{more}"
        )
        tell([note], notes, log)
    with output_errors(out), out.open("xb") as file:
        try:
            pickle.dump(clips, file, protocol=4)
        except BaseException:
            out.unlink()
            raise
    return list(clips)


def _can_be_scored(occluded: np.ndarray) -> bool:
    """Tell whether a point of ``occluded`` (N, T) is seen where it is queried and once more."""
    return bool(((~occluded).sum(axis=1) > 1).any())


def _pairs(dataset: Dataset, views: list[str] | None) -> list[tuple[str, str]]:
    """Return what clips are made of: ids and views."""
    pairs = [(each.id, name) for each in dataset for name in views or list(each.views)]
    for episode_id, name in pairs:
        if "frames" not in view_of(dataset[episode_id], name).meta.arrays:
            raise ConfigError(
                f"{episode_id}, view {name}: TAP-Vid clips hold frames, none are stored"
            )
    return pairs


def _clips(episode: EpisodeData, name: str) -> dict[str, dict[str, Any]]:
    meta, view = episode.meta, view_of(episode, name)
    starts = np.asarray(view.starts)
    height, width = view.geometry.img_shape
    clips = {}
    for row in disjoint_rows(starts, meta.horizon):
        start, stop = int(starts[row]), min(meta.length, int(starts[row]) + meta.horizon)
        tracks_xy = np.asarray(view.tracks[row, : stop - start])
        vis = np.asarray(view.vis[row, : stop - start])
        clips[f"{meta.id}/{name}/{start:06d}"] = {
            "video": np.array(view.frames[start:stop]),
            "points": (np.swapaxes(tracks_xy, 0, 1) / (width, height)).astype(np.float32),
            "occluded": np.swapaxes(vis, 0, 1) < 0.5,
        }
    return clips
