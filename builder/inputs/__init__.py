"""Reading what others made, and trusting none of it: video, images, HDF5, Zarr, pickles."""

from builder.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
