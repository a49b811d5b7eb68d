"""What exports share: damaged episodes left out, the views, and a folder that is whole or absent.

In another form nothing tells any more that an episode was damaged, so bytes are verified first.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TypeVar

from builder.core.errors import ConfigError, DatasetError, NewerFormatError, SourceError
from builder.core.messages import count, no_episodes
from builder.dataset.array_checks import check_digest, check_digests
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.dataset.index import EpisodeIndex
from builder.stores.atomic import fsync_folder, output_errors
from builder.stores.base import arrays_by_view
from schemas.dataset import ViewMeta

LEFT_OUT = "windows that stand still are left out (tracker.skip_still)"
"""Why a layout that holds the window of every frame is refused."""

P = TypeVar("P")
Damage = Callable[[EpisodeData], Iterable[str]]
"""Says what is damaged of an episode."""


def damage(episode: EpisodeData) -> list[str]:
    """Say what is damaged of an episode, layers included."""
    return [*episode.reader.problems(), *check_digests(episode.reader)]


def damage_of(*names: str, of_views: Sequence[str] = ()) -> Damage:
    """Return a function that says which of these arrays are damaged.

    ``names`` are those of the episode itself, ``of_views`` those of each view.
    """

    def damage(episode: EpisodeData) -> list[str]:
        return [
            f"{name if view is None else f'{view}/{name}'}: {text}"
            for view, there in arrays_by_view(episode.meta).items()
            for name in (names if view is None else of_views)
            if name in there
            for text in check_digest(episode.reader, view, name, there[name])
        ]

    return damage


def plan_undamaged(
    dataset: Dataset,
    plan: Callable[[Dataset], P],
    failures: dict[str, str] | None,
    damage: Damage = damage,
) -> tuple[Dataset, P]:
    """Return the dataset without its damaged episodes, and what ``plan`` makes of it.

    Damaged episodes are added to ``failures``, with the reason.  ``plan`` raises what cannot be
    exported at all before any array is read, and is made anew when one turns out to be damaged.
    Older files have no digests.

    Raises DatasetError for a damaged episode where ``failures`` is None, and SourceError when
    none is left.
    """
    opened = _undamaged(dataset, failures, lambda episode: ())
    planned = plan(opened)
    verified = _undamaged(opened, failures, damage)
    return verified, planned if verified is opened else plan(verified)


def _undamaged(dataset: Dataset, failures: dict[str, str] | None, damage: Damage) -> Dataset:
    """Leave out the episodes that cannot be opened or are damaged."""
    found: dict[str, str] = {}
    for episode_id in dataset.ids:
        try:
            episode = dataset[episode_id]
            if texts := list(damage(episode)) if episode.sealed else []:
                found[episode_id] = f"{episode.reader.path} is damaged: {'; '.join(texts)}"
        except (DatasetError, NewerFormatError) as error:
            found[episode_id] = str(error)
    if not found:
        return dataset
    if failures is None:
        key, reason = next(iter(found.items()))
        raise DatasetError(
            f"{count(len(found), 'episode')} of {dataset.path} cannot be exported, the first is "
            f"{key}: {reason}; give failures={{}} to list them there and export the others"
        )
    failures |= found
    if len(found) == len(dataset):
        raise SourceError(f"{dataset.path}: no episode is left to export; run letterset repair")
    return only(dataset, [key for key in dataset.ids if key not in found])


def only(dataset: Dataset, ids: Iterable[str]) -> Dataset:
    """Return the dataset as if it had these of its episodes alone."""
    rest, kept = copy(dataset), {*ids}
    rest.index = EpisodeIndex.of(line for key, line in dataset.index.items() if key in kept)
    rest.ids = rest.index.ids
    return rest


def tell(found: Iterable[str], notes: list[str] | None, log: logging.Logger) -> None:
    """Add sentences to ``notes``, which a caller gave to take them; without it, log them."""
    for note in found:
        if notes is None:
            log.warning("%s", note)
        else:
            notes.append(note)


def chosen_views(dataset: Dataset, views: Sequence[str] | None) -> list[str]:
    """Return the names given, by default those of the first episode's views.

    Raises ConfigError for a dataset without episodes.
    """
    if not len(dataset):
        raise ConfigError(no_episodes(dataset.path))
    return list(views or (view.name for view in dataset[dataset.ids[0]].meta.views))


def view_of(episode: EpisodeData, name: str) -> ViewData:
    """Return one view of an episode; raises ConfigError naming the views there are."""
    if name not in episode.views:
        raise ConfigError(f"episode {episode.id} has no view {name!r}; it has {[*episode.views]}")
    return episode.views[name]


def refused_views(
    dataset: Dataset, episode: EpisodeData, names: Sequence[str], needs: str, frames: bool = True
) -> list[str]:
    """Say which views of an episode a target cannot hold that ``needs`` all of ``names``.

    With ``frames`` it needs their frames, too, in one size.
    """
    refused = []
    for name in names:
        if name not in episode.views:
            refused.append(f"episode {episode.id} without view {name!r}: {needs}")
        elif frames:
            view = episode.views[name].meta
            if "frames" not in view.arrays:
                refused.append(f"episode {episode.id}, view {name}: no frames are stored")
            refused += refused_canvas(dataset, episode.id, view)
    return refused


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


def refused_windows(dataset: Dataset, reader: str) -> list[str]:
    """Say what of its windows a ``reader`` cannot use that looks them up by frame number."""
    meta, refused = dataset.meta, []
    if not meta.has_tracks:
        refused.append("a dataset without tracks (open a layer with tracks, or letterset track)")
    if meta.mode == "reinit" and meta.start_every != 1:
        refused.append(f"start_every {meta.start_every}: {reader} looks up windows by frame number")
    if dataset.skipped_windows:
        refused.append(f"{LEFT_OUT}: {reader} looks up windows by frame number")
    return refused


def refuse(layout: str, refused: Sequence[str]) -> None:
    """Raise ConfigError listing what a layout cannot hold, if there is anything."""
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ConfigError(
            f"{layout} cannot hold {'; '.join(refused[:5])}{more}. Leave these out, or build the "
            "dataset for it"
        )


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
