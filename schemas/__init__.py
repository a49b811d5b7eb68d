"""Schemas of letterset: geometry, dataset and config.  Needs pydantic, nothing heavier."""

from schemas.affine import AffineBatch, AxisAffine, normalize, swap_xy, unnormalize
from schemas.config import BuildConfig
from schemas.dataset import (
    FORMAT_VERSION,
    DatasetMeta,
    EpisodeMeta,
    QuerySpec,
    TrackerInfo,
    ViewMeta,
)
from schemas.geometry import Letterbox, Stretch

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
