"""Samples for training: windows with AMPLIFY's normalization, sampling, metrics.

Names load when used, so that importing this package loads no torch.
"""

from builder.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
