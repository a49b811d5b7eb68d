"""Building a dataset: every episode of a source that is not there yet, each in a child process."""

from builder.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
