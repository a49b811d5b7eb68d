"""Readers that were used before: opening their episodes again takes no reading and checking."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from builder.stores.base import EpisodeReader

_MAX_KNOWN = 4096
"""Readers that are kept, with no file open: metadata, some 25 KB each."""


class Recall:
    """Opens episodes, those that are known already far faster."""

    def __init__(self) -> None:
        self._known: OrderedDict[Any, Any] = OrderedDict()

    def reader(
        self, open_new: Callable[[str], EpisodeReader], episode_id: str, layer: str | None = None
    ) -> EpisodeReader:
        """Return a reader of an episode, or of a layer's; ``open_new`` makes one.

        That is called when there is none yet and when the file changed; what it raises is raised.
        """
        known = self._known.pop((layer, episode_id), None)
        reader: EpisodeReader = (known and known.again()) or open_new(episode_id)
        # Not the same: whoever holds that may open files with it.
        if twin := getattr(reader, "again", lambda: None)():
            self._known[layer, episode_id] = twin
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return reader
