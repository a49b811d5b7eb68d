"""The picture a model sees: letterboxed pixels, query points on it, windows of its frames."""

from builder.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
