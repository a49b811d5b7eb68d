"""What exports share: which views, on one canvas, and a folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.core.errors import ConfigError
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.stores.atomic import fsync_folder, output_errors
from schemas.dataset import ViewMeta


def chosen_views(dataset: Dataset, views: Sequence[str] | None) -> list[str]:
    """Return the names given, by default those of the first episode's views.

    Raises ConfigError for a dataset without episodes.
    """
    if not len(dataset):
        raise ConfigError(f"{dataset.path} has no episodes")
    return list(views or (view.name for view in dataset[dataset.ids[0]].meta.views))


def view_of(episode: EpisodeData, name: str) -> ViewData:
    """Return one view of an episode; raises ConfigError naming the views there are."""
    if name not in episode.views:
        raise ConfigError(f"episode {episode.id} has no view {name!r}; it has {[*episode.views]}")
    return episode.views[name]


def refused_canvas(dataset: Dataset, episode_id: str, view: ViewMeta) -> list[str]:
    """Say, for a target with one size for all, that a view has another; else nothing.

    That is so where videos were resized by their shorter side.
    """
    shape = view.geometry.img_shape
    if shape == dataset.meta.img_shape:
        return []
    return [
        f"episode {episode_id}, view {view.name}: frames and tracks of {shape}, not of one "
        f"img_shape {dataset.meta.img_shape} (geometry: letterbox gives that)"
    ]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``out`` in the end; after an error nothing is left.

    Raises ConfigError when ``out`` is there, and OutputError when it cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another name or move it away")
    half = out.with_name(f".{out.name}.half-{os.getpid()}")
    with output_errors(out):
        try:
            half.mkdir(parents=True)
            yield half
            os.rename(half, out)
            fsync_folder(out.absolute().parent)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
