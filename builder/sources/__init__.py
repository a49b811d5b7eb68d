"""Videos and episodes as others keep them: what a source is, and what of it is used."""

from builder.sources.base import BaseSource, Episode, EpisodeRef, Source
from builder.sources.selected import Selected
from builder.sources.selection import Selection

__all__ = ["BaseSource", "Episode", "EpisodeRef", "Selected", "Selection", "Source"]
