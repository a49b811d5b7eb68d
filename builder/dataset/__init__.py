"""A dataset as it lies on disk: opening, reading, listing and verifying it.

``dataset[id]`` is an episode, ``episode.views[name]`` a view.
"""

from builder.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
