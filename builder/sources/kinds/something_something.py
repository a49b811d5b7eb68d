"""Something-Something v2: ``<id>.webm`` and label files in JSON."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from builder.core.paths import printable_path, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.foreign import foreign
from builder.inputs.listing import UNREADABLE, files, locate, walk
from builder.inputs.sidecars import read_json
from builder.inputs.video import VideoStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection

SUFFIXES = (".webm",)
_SPLITS = ("train", "validation", "test")


class SomethingSomethingConfig(Selection):
    """Settings of the ``something_something`` source."""


class SomethingSomething(BaseSource[SomethingSomethingConfig]):
    """Videos of one view; the label is the text, its template the task.

    Labels are all files below the root whose names end in train.json, validation.json or
    test.json; they also say the split.
    """

    Config: ClassVar = SomethingSomethingConfig

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for WebM videos and label files."""
        labels = any(name.endswith(("train.json", "validation.json")) for name in contents.names)
        if labels and any(name.endswith(SUFFIXES) for name in contents.names):
            return Evidence("WebM videos and label files", strength=3)
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the videos in natural order.  Raises SourceError for label files that are none."""
        labels = self._labels() if self.path.is_dir() else {}
        for relative in files(self.path, SUFFIXES, "video"):
            label = labels.get(os.path.basename(relative)[: -len(SUFFIXES[0])], {})
            split = label.get("split")
            yield EpisodeRef.at(
                os.fsencode(relative),
                (relative, _text(label.get("label"))),
                task=_plain(label.get("template")),
                splits=(split,) if split else (),
            )

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one video.  Raises DecodeError naming what is wrong with it."""
        relative, text = ref.locator
        turn = self._config.turned_by_hand("main")
        stream = VideoStream(locate(self.path, relative), limits=self._limits, orientation=turn)
        prints = fingerprints(self.path, [relative])
        yield Episode(views={"main": stream}, files=prints, text=text)

    def _labels(self) -> dict[str, dict[str, Any]]:
        labels = {}
        for folder, names in walk(self.path):
            for name in names:
                split = next((s for s in _SPLITS if name.endswith(f"{s}.json")), None)
                if split is None or name == UNREADABLE:
                    continue
                path = self.path / folder / name
                with foreign(path, what="not a list of labels with ids"):
                    for entry in read_json(path):
                        labels[str(entry["id"])] = {**entry, "split": split}
        return labels


def _text(value: Any) -> str | None:
    return safe_text(value) if isinstance(value, str) else None


def _plain(value: Any) -> str | None:
    safe = _text(value)
    return printable_path(safe) if safe else None
