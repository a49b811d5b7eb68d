"""Letterset's public names: ``from letterset import open_dataset, WindowDataset``.

Names load when used: reading a dataset needs the core install alone.  What authors of sources,
trackers, stores and executors need is in ``letterset.plugins``.
"""

from typing import TYPE_CHECKING

from letterset.own_packages import load_own_packages

load_own_packages()

from builder.core.lazy import lazy_names  # noqa: E402  (ours only once it is loaded)

if TYPE_CHECKING:
    from builder.build.config_file import load_config as load_config
    from builder.build.pipeline import Summary as Summary
    from builder.build.pipeline import build as build
    from builder.canvas.letterbox import Letterboxer as Letterboxer
    from builder.canvas.letterbox import letterbox_frame as letterbox_frame
    from builder.canvas.letterbox import unletterbox_frame as unletterbox_frame
    from builder.canvas.query_grid import query_points as query_points
    from builder.core.errors import ConfigError as ConfigError
    from builder.core.errors import DatasetError as DatasetError
    from builder.core.errors import LettersetError as LettersetError
    from builder.core.errors import MissingExtraError as MissingExtraError
    from builder.core.errors import NewerFormatError as NewerFormatError
    from builder.dataset.episodes import Dataset as Dataset
    from builder.dataset.episodes import EpisodeData as EpisodeData
    from builder.dataset.episodes import ViewData as ViewData
    from builder.dataset.opening import open_dataset as open_dataset
    from builder.dataset.splits import hash_splits as hash_splits
    from builder.dataset.splits import read_splits as read_splits
    from builder.dataset.splits import write_splits as write_splits
    from builder.inference.live import LiveWindows as LiveWindows
    from builder.inference.preprocess import Preprocessor as Preprocessor
    from builder.training.augment import RandomAugment as RandomAugment
    from builder.training.block_sampling import BlockSampler as BlockSampler
    from builder.training.metrics import Monitor as Monitor
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
    from schemas.affine import AffineBatch as AffineBatch
    from schemas.affine import AxisAffine as AxisAffine
    from schemas.affine import normalize as normalize
    from schemas.affine import swap_xy as swap_xy
    from schemas.affine import unnormalize as unnormalize
    from schemas.config import BuildConfig as BuildConfig
    from schemas.dataset import FORMAT_VERSION as FORMAT_VERSION
    from schemas.dataset import DatasetMeta as DatasetMeta
    from schemas.dataset import EpisodeMeta as EpisodeMeta
    from schemas.dataset import QuerySpec as QuerySpec
    from schemas.dataset import TrackerInfo as TrackerInfo
    from schemas.dataset import ViewMeta as ViewMeta
    from schemas.geometry import Letterbox as Letterbox
    from schemas.geometry import Stretch as Stretch
    from schemas.inference import Decoder as Decoder

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
