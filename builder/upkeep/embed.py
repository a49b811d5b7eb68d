"""Text embeddings as a layer: one array per episode, by an encoder of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from builder.dataset import Dataset
from builder.errors import ConfigError
from builder.layers import LayerWriter

Encoder = Callable[[str], Any]
"""From a text to numbers, (D,) or (words, D)."""


@dataclass
class Embedded:
    """How embedding ended; ``without_text`` lists the episodes that have none."""

    layer: str
    embedded: int = 0
    there: int = 0
    without_text: list[str] = field(default_factory=list)


def embed(path: Path | str, encoder: str, name: str = "text_emb") -> Embedded:
    """Encode the text of every episode into the layer ``name``, as the array of that name.

    ``encoder`` is ``module:function``; each different text is encoded once.  AMPLIFY's embedding
    is the first token of the last hidden state of a T5 encoder.  Raises ConfigError.
    """
    encode = _load(encoder)
    dataset, result = Dataset(Path(path), max_open=1), Embedded(name)
    known: dict[str, np.ndarray] = {}
    with LayerWriter(dataset.path, name, {"encoder": encoder}) as layer:
        for episode in dataset:
            meta = episode.meta
            if layer.has(meta):
                result.there += 1
            elif not meta.text:
                result.without_text.append(meta.id)
            else:
                if meta.text not in known:
                    known[meta.text] = _encoded(encode, meta.text, encoder)
                layer.write(meta, {None: {name: known[meta.text]}}, per_frame=False)
                result.embedded += 1
    return result


def _load(encoder: str) -> Encoder:
    module, _, name = encoder.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the encoder is module:function, where Python finds it, got {encoder!r}: {error}"
        ) from None
    if not callable(found):
        raise ConfigError(f"the encoder {encoder!r} cannot be called")
    return found


def _encoded(encode: Encoder, text: str, encoder: str) -> np.ndarray:
    """Encode a text; raises ConfigError for what is no finite array of numbers."""
    result = encode(text)
    if hasattr(result, "detach"):
        result = result.detach().cpu()
    array = np.asarray(result)
    if array.dtype.kind not in "iuf" or not array.size or not np.isfinite(array).all():
        raise ConfigError(
            f"{encoder} gave {array.dtype} {array.shape} for {text[:60]!r}; expected finite numbers"
        )
    return array
