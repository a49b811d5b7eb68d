"""One picture of a built dataset: letterboxed frames over time, with bars, queries and tracks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from builder.core.errors import DatasetError
from builder.core.spacing import spread
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.report.draw import (
    contact_sheet,
    draw_geometry,
    draw_queries,
    draw_tracks,
    enlarge,
    png,
    row_colors,
)
from builder.report.moments import window_starts
from builder.report.page import write_output
from builder.report.preview import stratified
from builder.stores.atomic import make_place

MAX_LOOKED_AT = 24  # episodes, and windows of each, to choose from


def dataset_picture(
    dataset: Dataset, path: Path, episodes: int = 3, columns: int = 4, tile_px: int = 384
) -> None:
    """Write a PNG: a row per episode, its liveliest window at ``columns`` moments.

    The first column shows the query points, the others the tracks so far.  Episodes are chosen
    so that different source shapes are there.  Raises DatasetError when there are none,
    OutputError when ``path`` cannot be written.
    """
    if not dataset.ids:
        raise DatasetError(f"{dataset.path}: there are no episodes to draw")
    make_place(path)
    looked_at = [dataset.ids[k] for k in spread(len(dataset.ids), MAX_LOOKED_AT)]
    shapes = {key: _first_view(dataset[key]).geometry.source_shape for key in looked_at}
    colors = row_colors(dataset.meta.queries)
    images, labels = [], []
    for key in sorted(stratified(shapes, episodes)):
        for image, label in _moments(dataset[key], colors, columns, tile_px):
            images.append(image)
            labels.append(label)
    write_output(path, png(contact_sheet(images, labels, columns)))


def _first_view(episode: EpisodeData) -> ViewData:
    return next(iter(episode.views.values()))


def _moments(
    episode: EpisodeData, colors: np.ndarray, columns: int, tile_px: int
) -> Iterator[tuple[np.ndarray, str]]:
    """Yield pictures and labels of one window at evenly spread steps."""
    view = _first_view(episode)
    box, length = view.geometry, episode.meta.length
    zoom = tile_px / max(box.img_shape)
    starts = window_starts(episode, view)
    window = _liveliest(view, starts, length)
    start, tracks_xy, vis = int(starts[window]), view.tracks[window], view.vis[window]
    (height, width), (img_height, img_width) = box.source_shape, box.img_shape
    last = min(len(tracks_xy), length - start) - 1
    for k, step in enumerate(np.linspace(0, last, columns).round().astype(int)):
        frame = np.zeros((*box.img_shape, 3), np.uint8)
        if view.frames is not None:
            frame = np.asarray(view.frames[start + step])
        image = draw_geometry(enlarge(frame, zoom), box, zoom)
        if k == 0:
            image = draw_queries(image, tracks_xy[0], colors, zoom)
            label = f"{episode.meta.source.path}, frame {start}\n"
            label += f"{height} x {width} px in {img_height} x {img_width}"
        else:
            so_far = slice(0, step + 1)
            image = draw_tracks(image, tracks_xy[so_far], vis[so_far], colors, last, zoom)
            label = f"frame {start + step}\n"
        yield image, label


def _liveliest(view: ViewData, starts: np.ndarray, length: int) -> int:
    """Find the window whose visible points get farthest, among those without a frozen tail."""
    whole = np.flatnonzero(starts + view.tracks.shape[1] <= length)
    if not len(whole):
        return 0
    best, farthest = 0, -1.0
    for window in (int(whole[k]) for k in spread(len(whole), MAX_LOOKED_AT)):
        tracks_xy, seen = np.asarray(view.tracks[window]), np.asarray(view.vis[window][-1])
        distance = np.linalg.norm(tracks_xy[-1] - tracks_xy[0], axis=-1)
        if (score := float((distance * seen).mean())) > farthest:
            best, farthest = window, score
    return best
