"""What lies beside the episodes of a dataset: splits, tables of windows, layers."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from builder.core.errors import DatasetError, LettersetError
from builder.dataset.layers import FOLDER as LAYERS
from builder.dataset.layers import layer_names
from builder.dataset.splits import FOLDER as SPLITS
from builder.dataset.splits import read_splits
from builder.dataset.window_table.table import check_tables
from builder.stores.base import Store


def check_beside(
    folder: Path, ids: Container[str] | None = None
) -> Iterator[tuple[str, str, bool]]:
    """Yield (where, message, whether it is only a note) for what is wrong beside the episodes.

    ``ids`` are the dataset's; None when they are not known.
    """
    yield from check_tables(folder)
    for name in _lost_layers(folder):
        text = "layer.json is missing: restore it, or delete the folder and make it again"
        yield f"{LAYERS}/{name}", text, False
    for path in sorted((folder / SPLITS).glob("*.json")):
        where = f"{SPLITS}/{path.name}"
        try:
            parts = read_splits(folder, path.stem).splits
        except LettersetError as error:
            yield where, str(error), False
            continue
        for part, listed in parts.items():
            gone = [] if ids is None else [each for each in listed if each not in ids]
            if gone:
                text = f"{part} lists {len(gone)} that are not in the dataset, the first {gone[0]}"
                yield where, text, True  # it may be on purpose


def foreign(folder: Path, store: Store) -> Iterator[Path]:
    """Yield the files among the episodes of a dataset that are no part of any, sorted."""
    episodes, found = set[Path](), list[Path]()
    for each in store.ids():
        with suppress(DatasetError):  # of a name that no episode can have
            episodes.add(store.path(each))
    for place, folders, names in os.walk(folder / store.place):
        folders[:] = [name for name in folders if Path(place, name) not in episodes]
        found += [path for name in names if (path := Path(place, name)) not in episodes]
    yield from sorted(found)


def _lost_layers(folder: Path) -> list[str]:
    """Name the layers whose own metadata are gone, so that nothing else knows of them."""
    found = {
        path.parent.relative_to(folder / LAYERS).parts for path in (folder / LAYERS).rglob("*.hdf5")
    }
    return sorted({parts[0] for parts in found if parts} - {*layer_names(folder)})
