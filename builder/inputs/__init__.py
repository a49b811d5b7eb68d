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

_HOME = {
    "BlockStream": "builder.inputs.streams",
    "Frame": "builder.inputs.streams",
    "FrameStream": "builder.inputs.streams",
    "StreamInfo": "builder.inputs.streams",
    "VideoStream": "builder.inputs.video",
    "even_times": "builder.inputs.streams",
    "files": "builder.inputs.listing",
    "fingerprints": "builder.inputs.fingerprint",
    "locate": "builder.inputs.listing",
    "read_npy": "builder.inputs.sidecars",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
