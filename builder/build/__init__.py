"""Building a dataset: every episode of a source that is not there yet, each in a child process."""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.build.config_file import load_config as load_config
    from builder.build.pipeline import Summary as Summary
    from builder.build.pipeline import build as build

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
