"""A dataset as it lies on disk: opening, reading, listing and verifying it.

``dataset[id]`` is an episode, ``episode.views[name]`` a view.
"""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.dataset.episodes import Dataset as Dataset
    from builder.dataset.episodes import EpisodeData as EpisodeData
    from builder.dataset.episodes import ViewData as ViewData
    from builder.dataset.opening import open_dataset as open_dataset

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
