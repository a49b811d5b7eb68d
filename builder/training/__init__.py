"""For training: windows, AMPLIFY-compatible normalization, metrics.

Names load when used, so that importing this package loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from builder.registry import raise_missing_extra

if TYPE_CHECKING:
    from builder.training.augment import RandomAugment
    from builder.training.batches import collate
    from builder.training.maps import decode_batch
    from builder.training.mixture import MixtureDataset
    from builder.training.normalize import clip_traj, normalize_traj, unnormalize_traj
    from builder.training.options import WindowOptions
    from builder.training.sampling import WindowSampler
    from builder.training.table import window_weights
    from builder.training.windows import WindowDataset

_HOME = {
    "MixtureDataset": "builder.training.mixture",
    "RandomAugment": "builder.training.augment",
    "WindowDataset": "builder.training.windows",
    "WindowOptions": "builder.training.options",
    "WindowSampler": "builder.training.sampling",
    "clip_traj": "builder.training.normalize",
    "collate": "builder.training.batches",
    "decode_batch": "builder.training.maps",
    "normalize_traj": "builder.training.normalize",
    "unnormalize_traj": "builder.training.normalize",
    "window_weights": "builder.training.table",
}

__all__ = [
    "MixtureDataset",
    "RandomAugment",
    "WindowDataset",
    "WindowOptions",
    "WindowSampler",
    "clip_traj",
    "collate",
    "decode_batch",
    "normalize_traj",
    "unnormalize_traj",
    "window_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise_missing_extra(error)
        raise
