"""The one JSON file that a checkpoint needs to meet a robot."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from builder.canvas.query_grid import EDGE_PX, query_points
from builder.core.errors import ConfigError
from builder.dataset.array_stats import array_stats
from builder.dataset.episodes import Dataset
from builder.transform.export.common import (
    chosen_views,
    damage_of,
    plan_undamaged,
    refused_canvas,
    view_of,
)
from schemas.affine import swap_xy
from schemas.dataset import ViewMeta
from schemas.inference import InferenceMeta, InferenceView


def inference_meta(
    dataset: Dataset,
    views: Sequence[str] | None = None,
    stats: Sequence[str] = ("actions",),
    *,
    failures: dict[str, str] | None = None,
) -> InferenceMeta:
    """Describe a dataset for inference: views in order, geometry, queries, action statistics.

    ``views`` defaults to those of the first episode, ``stats`` names the pass-through arrays
    to sum up where they exist.  ``failures`` takes the episodes of which these are damaged, with
    the reason; without it they are refused with a DatasetError.  Raises ConfigError when views
    are not of one canvas, or the episodes of a view differ in geometry or in points that were
    stored, naming two that do: one camera on a robot has one of each.
    """
    damage = damage_of(
        *stats, of_views=("queries",) if dataset.meta.queries.region == "stored" else ()
    )
    dataset, found = plan_undamaged(dataset, partial(_cameras, views=views), failures, damage)
    return InferenceMeta.seal(
        img_shape=dataset.meta.img_shape,
        horizon=dataset.meta.horizon,
        queries=dataset.meta.queries,
        views=tuple(_inference_view(dataset, meta) for meta in found),
        stats={name: sums for name in stats if (sums := array_stats(dataset, name)) is not None},
    )


def _cameras(dataset: Dataset, views: Sequence[str] | None) -> list[ViewMeta]:
    """Return the views in order, each as its first episode has it; refuse what differs."""
    names = chosen_views(dataset, views)
    found: dict[str, tuple[str, ViewMeta]] = {}
    for episode_id in dataset.ids:
        for name in names:
            meta = view_of(dataset[episode_id], name).meta
            if refused := refused_canvas(dataset, episode_id, meta):
                raise ConfigError(f"a model on a robot has one canvas: {refused[0]}")
            first_id, first = found.setdefault(name, (episode_id, meta))
            if (first.geometry, first.orientation) != (meta.geometry, meta.orientation):
                raise ConfigError(
                    f"view {name} has source_shape {first.geometry.source_shape} in {first_id} and "
                    f"{meta.geometry.source_shape} in {episode_id}: a robot's camera has one; "
                    "export a dataset of that camera, or refit with schemas.inference.Decoder"
                )
    return [meta for _, meta in found.values()]


def _queries(dataset: Dataset, view: ViewMeta) -> np.ndarray:
    """Return where the tracks of a view start, (N, 2) img pixels: its grid, or what is stored."""
    if dataset.meta.queries.region != "stored":
        return query_points(dataset.meta.queries, view.geometry).astype(np.float64)
    first_id, *others = dataset.ids
    queries_xy = np.asarray(dataset[first_id].views[view.name].queries, np.float64)
    for other_id in others:
        if np.abs(dataset[other_id].views[view.name].queries - queries_xy).max() > EDGE_PX:
            raise ConfigError(
                f"view {view.name} has other query points in {first_id} than in {other_id}: a "
                "model on a robot starts from one set; export a dataset whose episodes share it"
            )
    return queries_xy


def _inference_view(dataset: Dataset, meta: ViewMeta) -> InferenceView:
    norm_xy = meta.geometry.encode(meta.geometry.to_source(_queries(dataset, meta)))
    return InferenceView(
        name=meta.name,
        geometry=meta.geometry,
        coded_shape=meta.coded_shape,
        orientation=meta.orientation,
        fps=meta.fps,
        queries_rc=tuple((float(row), float(col)) for row, col in swap_xy(norm_xy)),
    )
