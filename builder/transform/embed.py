"""Text embeddings as a layer: one array per episode, by an encoder of the user's."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from builder.core.errors import ConfigError, DatasetError, NewerFormatError
from builder.core.messages import count
from builder.core.result import Result
from builder.core.user_code import as_array, load_function
from builder.dataset.episodes import Dataset
from builder.dataset.layers import LayerWriter
from schemas.dataset import EpisodeMeta

Encoder = Callable[[str], Any]
"""From a text to numbers, (1, D) for one token, (words, D) or (D,)."""


@dataclass
class Embedded(Result):
    """How embedding ended; ``without_text`` lists the episodes that have none.

    ``failures`` says by id which episodes, or parts of the layer, could not be opened.
    """

    layer: str
    embedded: int = 0
    there: int = 0
    without_text: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """Whether an episode has no text or cannot be opened."""
        return bool(self.failures or self.without_text)

    def lines(self) -> list[str]:
        """Name the episodes that cannot be opened, and those without text."""
        return [*super().lines(), *(f"NO TEXT {key}" for key in self.without_text)]

    def summary(self) -> str:
        """Count the episodes."""
        return (
            f"layer {self.layer}: {count(self.embedded, 'episode')} embedded, {self.there} already "
            f"there, {len(self.without_text)} without text, {len(self.failures)} failed"
        )


def embed(path: Path | str, encoder: str, name: str = "text_emb") -> Embedded:
    """Encode the text of every episode into the layer ``name``, as the array of that name.

    ``encoder`` is ``module:function``; each different text is encoded once.  AMPLIFY's embedding
    is (1, 512): the first token of the last hidden state of T5-small's encoder, for a batch of one
    text.  Raises ConfigError.
    """
    encode = load_function(encoder, "the encoder").call
    dataset, result = Dataset(Path(path), max_open=1), Embedded(name)
    layer = LayerWriter(dataset.path, name, {"encoder": encoder})
    known: dict[str, np.ndarray] = {}
    with ExitStack() as opened:
        begun = layer.folder.exists()
        if begun:
            opened.enter_context(layer)
        for episode_id in dataset.ids:
            try:
                meta = dataset[episode_id].meta
                there = begun and layer.has(meta)
            except (DatasetError, NewerFormatError) as error:
                result.failures[episode_id] = str(error)
                continue
            if there:
                result.there += 1
            elif meta.texts:
                result.failures[episode_id] = (
                    f"it has {len(meta.texts)} texts, each of some frames: one embedding cannot "
                    f"stand for them; encode the text of a sample in training instead"
                )
            elif not meta.text:
                result.without_text.append(meta.id)
            else:
                if meta.text not in known:
                    known[meta.text] = _encoded(encode, meta, encoder)
                if not begun:  # not before there is something to store
                    opened.enter_context(layer)
                    begun = True
                layer.write(meta, {None: {name: known[meta.text]}}, per_frame=False)
                result.embedded += 1
    return result


def _encoded(encode: Encoder, meta: EpisodeMeta, encoder: str) -> np.ndarray:
    """Encode a text; raises ConfigError for what is no finite array of numbers."""
    text = str(meta.text)
    try:
        array = as_array(encode(text))
    except Exception as error:
        raise ConfigError(
            f"your encoder {encoder} failed for episode {meta.id}: {type(error).__name__}: {error}"
        ) from error
    if array.dtype.kind not in "iuf" or not array.size or not np.isfinite(array).all():
        raise ConfigError(
            f"{encoder} gave {array.dtype} {array.shape} for {text[:60]!r}; expected finite numbers"
        )
    return array
