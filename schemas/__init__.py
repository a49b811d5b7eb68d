"""Schemas of letterset: geometry, dataset and config.  Needs pydantic, nothing heavier."""

from schemas.config import BuildConfig
from schemas.dataset import (
    FORMAT_VERSION,
    DatasetMeta,
    EpisodeMeta,
    QuerySpec,
    TrackerInfo,
    ViewMeta,
)
from schemas.geometry import (
    AffineBatch,
    AxisAffine,
    Letterbox,
    Stretch,
    normalize,
    swap_xy,
    unnormalize,
)

__all__ = [
    "FORMAT_VERSION",
    "AffineBatch",
    "AxisAffine",
    "BuildConfig",
    "DatasetMeta",
    "EpisodeMeta",
    "Letterbox",
    "QuerySpec",
    "Stretch",
    "TrackerInfo",
    "ViewMeta",
    "normalize",
    "swap_xy",
    "unnormalize",
]
