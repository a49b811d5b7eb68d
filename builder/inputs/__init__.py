"""Reading what others made, and trusting none of it: video, images, HDF5, Zarr, pickles."""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.inputs.fingerprint import fingerprints as fingerprints
    from builder.inputs.listing import files as files
    from builder.inputs.listing import locate as locate
    from builder.inputs.sidecars import read_npy as read_npy
    from builder.inputs.streams import BlockStream as BlockStream
    from builder.inputs.streams import Frame as Frame
    from builder.inputs.streams import FrameStream as FrameStream
    from builder.inputs.streams import StreamInfo as StreamInfo
    from builder.inputs.streams import even_times as even_times
    from builder.inputs.video import VideoStream as VideoStream

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
