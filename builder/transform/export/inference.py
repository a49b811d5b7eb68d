"""The one JSON file that a checkpoint needs to meet a robot."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from builder.canvas.query_grid import EDGE_PX, query_points
from builder.core.errors import ConfigError
from builder.dataset.array_stats import array_stats
from builder.dataset.episodes import Dataset
from builder.sources.clock import ALIGNED
from builder.transform.export.common import (
    chosen_views,
    damage_of,
    plan_undamaged,
    refused_canvas,
    view_of,
)
from schemas.affine import swap_xy
from schemas.config import TrackerPart
from schemas.dataset import ViewMeta
from schemas.geometry import Stretch
from schemas.inference import InferenceMeta, InferenceView, LiveTracking

MAX_RECORDS = 50
Cameras = tuple[ViewMeta, ...]


def inference_meta(
    dataset: Dataset,
    views: Sequence[str] | None = None,
    stats: Sequence[str] = ("actions",),
    *,
    coded_shape: tuple[int, int] | None = None,
    failures: dict[str, str] | None = None,
) -> InferenceMeta:
    """Describe a dataset for inference: views in order, geometry, queries, action statistics.

    ``views`` defaults to those of the first episode, ``stats`` names the pass-through arrays
    to sum up where they exist.  ``failures`` takes the episodes of which these are damaged, with
    the reason; without it they are refused with a DatasetError.  One camera on a robot has one
    geometry: where the episodes of a view differ, ``coded_shape`` (H, W) chooses the camera.
    Raises ConfigError when views are not of one canvas, or the episodes of a view differ in
    geometry or in points that were stored, naming two that do.
    """
    plan = partial(_one_set, views=views, coded_shape=coded_shape)
    dataset, found = plan_undamaged(dataset, plan, failures, _damage(dataset, stats))
    return _record(dataset, found, stats)


def inference_metas(
    dataset: Dataset,
    views: Sequence[str] | None = None,
    stats: Sequence[str] = ("actions",),
    *,
    failures: dict[str, str] | None = None,
) -> list[InferenceMeta]:
    """Describe every set of cameras that episodes were recorded with, the most frequent first.

    Otherwise as :func:`inference_meta`.  Raises ConfigError for more than MAX_RECORDS sets.
    """
    plan = partial(_sets, views=views)
    dataset, found = plan_undamaged(dataset, plan, failures, _damage(dataset, stats))
    return [_record(dataset, cameras, stats) for cameras in found]


def _damage(dataset: Dataset, stats: Sequence[str]) -> Any:
    stored = dataset.meta.queries.region == "stored"
    return damage_of(*stats, of_views=("queries",) if stored else ())


def _record(dataset: Dataset, cameras: Sequence[ViewMeta], stats: Sequence[str]) -> InferenceMeta:
    return InferenceMeta.seal(
        img_shape=dataset.meta.img_shape,
        horizon=dataset.meta.horizon,
        queries=dataset.meta.queries,
        views=tuple(_inference_view(dataset, meta) for meta in cameras),
        stats={name: sums for name in stats if (sums := array_stats(dataset, name)) is not None},
        live=_live(dataset, cameras),
    )


def _live(dataset: Dataset, views: Sequence[ViewMeta]) -> LiveTracking | None:
    """Describe how the tracks were made; None where no build did, as for older files."""
    layer = dataset.layers[dataset.track_layer] if dataset.track_layer else None
    part: Any = (dataset.meta.config if layer is None else layer.made_by).get("tracker")
    if not isinstance(part, dict):
        return None
    source: Any = dataset.meta.config.get("source") or {}
    given = ("fps", "frame_step", "tolerance_seconds")
    # The clock's own view needed no aligning; where none did, each does for the clock.
    clocks = [each.name for each in views if not any(n.startswith(ALIGNED) for n in each.notes)]
    return LiveTracking(
        tracker=dataset.meta.tracker,
        settings=TrackerPart.model_validate(part),
        reference_view=clocks[0] if clocks else None,
        **{key: source[key] for key in given if source.get(key) is not None},
    )


def _seen(dataset: Dataset, names: Sequence[str]) -> Iterator[tuple[str, Cameras]]:
    """Yield the views of every episode in order.  Raises ConfigError for one of another canvas."""
    for episode_id in dataset.ids:
        cameras = tuple(view_of(dataset[episode_id], name).meta for name in names)
        for meta in cameras:
            refused = refused_canvas(dataset, episode_id, meta)
            if refused and not isinstance(meta.geometry, Stretch):
                raise ConfigError(f"a model on a robot has one canvas: {refused[0]}")
        yield episode_id, cameras


def _sets(dataset: Dataset, views: Sequence[str] | None) -> list[Cameras]:
    """Return the sets of cameras there are, as their first episode has them."""
    first: dict[Any, Cameras] = {}
    times = Counter[Any]()
    for _, cameras in _seen(dataset, chosen_views(dataset, views)):
        key = tuple((meta.geometry, meta.orientation) for meta in cameras)
        first.setdefault(key, cameras)
        times[key] += 1
        if len(first) > MAX_RECORDS:
            raise ConfigError(
                f"{dataset.path} has more than {MAX_RECORDS} sets of cameras: choose one with "
                "--coded-shape H W"
            )
    return [first[key] for key, _ in times.most_common()]


def _one_set(
    dataset: Dataset, views: Sequence[str] | None, coded_shape: tuple[int, int] | None
) -> list[ViewMeta]:
    """Return the views in order, each as its first episode has it; refuse what differs."""
    names = chosen_views(dataset, views)
    found: dict[str, dict[Any, tuple[str, ViewMeta]]] = {name: {} for name in names}
    for episode_id, cameras in _seen(dataset, names):
        for meta in cameras:
            found[meta.name].setdefault((meta.geometry, meta.orientation), (episode_id, meta))
    chosen = [_camera(name, list(each.values()), coded_shape) for name, each in found.items()]
    if coded_shape not in (None, *(meta.coded_shape for meta in chosen)):
        shapes = ", ".join(f"{meta.name} {meta.coded_shape}" for meta in chosen)
        raise ConfigError(
            f"no view was ever of (H, W) = {coded_shape}: there are {shapes}; a camera of another "
            "size is refitted with letterset.Decoder.refit"
        )
    return chosen


def _camera(
    name: str, found: list[tuple[str, ViewMeta]], coded_shape: tuple[int, int] | None
) -> ViewMeta:
    """Return the one geometry of a view, or the one of ``coded_shape`` where it has several."""
    if len(found) > 1 and coded_shape is not None:
        shapes = sorted({meta.coded_shape for _, meta in found})
        found = [each for each in found if each[1].coded_shape == coded_shape]
        if not found:
            raise ConfigError(
                f"view {name} was never of (H, W) = {coded_shape}: it has {shapes}; a camera of "
                "another size is refitted with letterset.Decoder.refit"
            )
    if len(found) > 1:
        (first_id, first), (other_id, other) = found[:2]
        raise ConfigError(
            f"view {name} has source_shape {first.geometry.source_shape} in {first_id} and "
            f"{other.geometry.source_shape} in {other_id}: a robot's camera has one; choose it "
            f"with --coded-shape {first.coded_shape[0]} {first.coded_shape[1]}, or export a "
            "dataset of that camera"
        )
    return found[0][1]


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
    geometry = tracked = meta.geometry
    if geometry.img_shape != dataset.meta.img_shape:
        geometry = geometry.onto(dataset.meta.img_shape)
    norm_xy = geometry.encode(tracked.to_source(_queries(dataset, meta)))
    own_route = dataset.meta.config.get("geometry") == "resize_shorter"
    return InferenceView(
        name=meta.name,
        geometry=geometry,
        tracked=tracked if isinstance(tracked, Stretch) and own_route else None,
        coded_shape=meta.coded_shape,
        orientation=meta.orientation,
        source_shape_assumed=meta.source_shape_assumed,
        fps=meta.fps,
        queries_rc=tuple((float(row), float(col)) for row, col in swap_xy(norm_xy)),
    )
