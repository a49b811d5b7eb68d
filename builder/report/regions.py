"""Where on the canvas the points of a dataset are, by ninths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from builder.core.spacing import spread
from builder.dataset.episodes import Dataset
from builder.report.charts import tiles

WINDOWS = 16
"""Of each episode, spread evenly."""


def point_regions(dataset: Dataset, ids: Iterable[str]) -> dict[str, np.ndarray]:
    """Return by view the share of points in each ninth of the canvas, (3, 3), row by row.

    Points off the canvas count for the ninth they are nearest to.
    """
    counts: dict[str, np.ndarray] = {}
    for episode_id in ids:
        for name, view in dataset[episode_id].views.items():
            height, width = view.geometry.img_shape
            count = counts.setdefault(name, np.zeros((3, 3)))
            for window in spread(len(view.starts), WINDOWS):
                ninth = np.asarray(view.tracks[window]).reshape(-1, 2) * (3 / width, 3 / height)
                column, row = np.clip(np.floor(ninth), 0, 2).astype(int).T
                np.add.at(count, (row, column), 1)
    return {name: count / max(count.sum(), 1) for name, count in counts.items()}


def region_charts(dataset: Dataset, ids: Iterable[str]) -> Iterator[str]:
    """Draw one chart per view; nothing where there are no points."""
    for name, shares in point_regions(dataset, ids).items():
        if shares.any():
            yield tiles(f"{name}: points per region", shares, dataset.meta.img_shape)
