"""Samples for training: windows with AMPLIFY's normalization, sampling, metrics.

Names load when used, so that importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.training.augment import RandomAugment as RandomAugment
    from builder.training.block_sampling import BlockSampler as BlockSampler
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

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
