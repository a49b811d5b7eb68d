"""Samples for training: windows with AMPLIFY's normalization, sampling, metrics.

Names load when used, so that importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.training.augment import RandomAugment as RandomAugment
    from builder.training.mixture import MixtureDataset as MixtureDataset
    from builder.training.normalize import clip_traj as clip_traj
    from builder.training.normalize import normalize_traj as normalize_traj
    from builder.training.normalize import unnormalize_traj as unnormalize_traj
    from builder.training.samples import collate as collate
    from builder.training.samples import decode_batch as decode_batch
    from builder.training.sampling import WindowSampler as WindowSampler
    from builder.training.sampling import window_weights as window_weights
    from builder.training.window_options import WindowOptions as WindowOptions
    from builder.training.windows import WindowDataset as WindowDataset

_HOME = {
    "MixtureDataset": "builder.training.mixture",
    "RandomAugment": "builder.training.augment",
    "WindowDataset": "builder.training.windows",
    "WindowOptions": "builder.training.window_options",
    "WindowSampler": "builder.training.sampling",
    "clip_traj": "builder.training.normalize",
    "collate": "builder.training.samples",
    "decode_batch": "builder.training.samples",
    "normalize_traj": "builder.training.normalize",
    "unnormalize_traj": "builder.training.normalize",
    "window_weights": "builder.training.sampling",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
