"""The one JSON file that a checkpoint needs to meet a robot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from builder.dataset import Dataset, ViewData
from builder.errors import ConfigError
from builder.queries import query_points
from schemas.affine import swap_xy
from schemas.dataset import ViewMeta
from schemas.inference import ArrayStats, InferenceMeta, InferenceView


def inference_meta(
    dataset: Dataset, views: Sequence[str] | None = None, stats: Sequence[str] = ("actions",)
) -> InferenceMeta:
    """Describe a dataset for inference: views in order, geometry, queries, action statistics.

    ``views`` defaults to those of the first episode, ``stats`` names the pass-through arrays
    to sum up where they exist.  Raises ConfigError when the episodes of a view differ in
    geometry, naming two that do: one camera on a robot has one.
    """
    if not len(dataset):
        raise ConfigError(f"{dataset.path} has no episodes")
    names = list(views) if views else [view.name for view in dataset[dataset.ids[0]].meta.views]
    found: dict[str, tuple[str, ViewMeta]] = {}
    for episode_id in dataset.ids:
        for name in names:
            meta = _view(dataset, episode_id, name).meta
            first_id, first = found.setdefault(name, (episode_id, meta))
            if (first.geometry, first.orientation) != (meta.geometry, meta.orientation):
                raise ConfigError(
                    f"view {name} has source_shape {first.geometry.source_shape} in {first_id} and "
                    f"{meta.geometry.source_shape} in {episode_id}: a robot's camera has one; "
                    "export a dataset of that camera, or refit with schemas.inference.Decoder"
                )
    return InferenceMeta.seal(
        img_shape=dataset.meta.img_shape,
        horizon=dataset.meta.horizon,
        queries=dataset.meta.queries,
        views=tuple(_inference_view(dataset, meta) for _, meta in found.values()),
        stats={name: sums for name in stats if (sums := array_stats(dataset, name)) is not None},
    )


def _view(dataset: Dataset, episode_id: str, name: str) -> ViewData:
    views = dataset[episode_id].views
    if name not in views:
        raise ConfigError(f"episode {episode_id} has no view {name!r}; it has {list(views)}")
    return views[name]


def _inference_view(dataset: Dataset, meta: ViewMeta) -> InferenceView:
    queries_xy = query_points(dataset.meta.queries, meta.geometry).astype(np.float64)
    norm_xy = meta.geometry.encode(meta.geometry.to_source(queries_xy))
    return InferenceView(
        name=meta.name,
        geometry=meta.geometry,
        coded_shape=meta.coded_shape,
        orientation=meta.orientation,
        fps=meta.fps,
        queries_rc=tuple((float(row), float(col)) for row, col in swap_xy(norm_xy)),
    )


def array_stats(dataset: Dataset, name: str) -> ArrayStats | None:
    """Return exact statistics of an array over all episodes, None when none has it.

    One pass in id order, summed as deviations from the first row.
    """
    count, shift = 0, None
    for rows in _rows(dataset, name):
        if shift is None:
            shift = rows[0]
            total, squares = np.zeros_like(shift), np.zeros_like(shift)
            low, high = rows[0], rows[0]
        moved = rows - shift
        count += len(rows)
        total += moved.sum(axis=0)
        squares += (moved**2).sum(axis=0)
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    if shift is None:
        return None
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    lists = (shift + mean, np.sqrt(variance), low, high)
    return ArrayStats(
        count=count,
        **{
            key: tuple(v.tolist())
            for key, v in zip(("mean", "std", "min", "max"), lists, strict=True)
        },
    )


def _rows(dataset: Dataset, name: str) -> Iterator[np.ndarray]:
    for episode_id in dataset.ids:
        arrays = dataset[episode_id].arrays
        if name in arrays and len(arrays[name]):
            rows = np.asarray(arrays[name], np.float64)
            yield rows.reshape(len(rows), -1)
