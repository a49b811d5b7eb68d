"""Opening a folder of older files as a dataset.

Tracks are read in (x, y) pixels of ``img_shape``, by exactly the older route's arithmetic
(``schemas.legacy``).  Older files have no digests, which are zeros here, and arrays that they do
not hold (frames, timestamps) are absent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from builder.canvas.query_grid import grid_span
from builder.canvas.windows import EPISODE_HORIZON
from builder.core.errors import ConfigError, DatasetError, SourceError
from builder.core.lru_cache import LruCache
from builder.core.own_files import own_files
from builder.core.paths import printable_path
from builder.core.records import checked_shape
from builder.core.registry import raise_missing_extra
from builder.dataset.episodes import (
    MAX_OPEN_EPISODES,
    Dataset,
    EpisodeData,
    OlderTracks,
    TrackedSize,
    ViewData,
)
from builder.dataset.index import EpisodeIndex
from builder.dataset.legacy.files import (
    CONFIG_NAME,
    Layout,
    LegacyRef,
    Mode,
    checked_choice,
    inspect_file,
    mixture_of,
    track_files,
)
from builder.dataset.legacy.reader import UNSEALED, LegacyReader
from builder.dataset.legacy.sizes import GivenSizes, settled, with_given_sizes
from builder.stores.reading import ReaderCache
from schemas.dataset import DatasetMeta, IndexLine, QuerySpec, TrackerInfo, VisibilityRule
from schemas.legacy import QUERY_SLACK_PX, PixelOrigin, missing_size_note

if TYPE_CHECKING:
    from builder.dataset.legacy.videos import Videos
    from builder.stores.base import EpisodeReader

log = logging.getLogger("letterset.legacy")

UNKNOWN_TRACKER = TrackerInfo(
    kind="unknown",
    name="unknown",
    version="unknown",
    licence="unknown",
    visibility=VisibilityRule(rule="as the older files hold it", sticky=False),
)


class LegacyView(ViewData):
    """One view of an older file."""

    @property
    def older_tracks(self) -> OlderTracks | None:
        """The tracks, which know how they are stored."""
        return self.tracks

    def tracked_size(self) -> TrackedSize:
        """Return the size, and how it is known."""
        ref: LegacyRef = self._reader.ref  # type: ignore[attr-defined]
        size = ref.sizes[self.name]
        if size.origin != "unknown" or size.basis or (short := ref.short_side) is None:
            return size
        return size._replace(basis=f"{CONFIG_NAME} beside them says resize_shorter {short}")


class LegacyEpisode(EpisodeData):
    """One older file as an episode."""

    sealed = False
    view_type = LegacyView

    @classmethod
    def of(
        cls,
        ref: LegacyRef,
        img_shape: tuple[int, int],
        pixel_origin: PixelOrigin = "corner",
        videos: Videos | None = None,
    ) -> LegacyEpisode:
        """Open a file; ``videos`` tell its sizes and bring no frames.

        Raises DatasetError naming file and view, and what ``Videos.tracked_size`` raises.
        """
        return cls(LegacyReader(settled(ref, videos), img_shape, pixel_origin))

    @property
    def ref(self) -> LegacyRef:
        """The file, its sizes settled."""
        return self.reader.ref  # type: ignore[attr-defined]


class LegacyDataset(Dataset):
    """A folder of older files; see :class:`builder.dataset.episodes.Dataset`.

    ``refs`` are the files by id, ``problems`` the reasons for those left out (with
    ``on_error="skip"``) by relative path, ``notes`` what a user should know about the others.
    """

    episode_type = LegacyEpisode

    def __init__(
        self,
        path: Path,
        refs: Mapping[str, LegacyRef],
        img_shape: tuple[int, int],
        pixel_origin: PixelOrigin,
        problems: Mapping[str, str],
        max_open: int,
        videos: Videos | None = None,
    ) -> None:
        self.path, self.refs, self.ids = path, refs, tuple(refs)
        self.img_shape, self.pixel_origin = img_shape, pixel_origin
        self.problems, self.videos = problems, videos
        self.index = EpisodeIndex.of(
            IndexLine(id=key, length=ref.length, views=tuple(ref.tracked), digest=UNSEALED)
            for key, ref in refs.items()
        )
        self.max_open = max_open
        self._open = LruCache[str, EpisodeData](max_open)
        self._readers = ReaderCache()
        unsized = [
            f"{printable_path(ref.path.relative_to(path))} ({view})"
            for ref in refs.values()
            for view, size in ref.sizes.items()
            if size.origin == "unknown" and videos is None
        ]
        self.notes = (missing_size_note(unsized, img_shape),) if unsized else ()
        self.meta = _dataset_meta(refs, img_shape, pixel_origin)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of(self.img_shape)

    def with_layers(self, tracks: str | None = None, layers: Sequence[str] = ()) -> Dataset:
        """Older files have no layers: raises ConfigError."""
        raise ConfigError(f"{self.path}: older files have no layers; run letterset migrate")

    def with_img_shape(self, img_shape: tuple[int, int]) -> LegacyDataset:
        """Return the same files, read for another ``img_shape``."""
        return LegacyDataset(*self._made_of(img_shape))

    def _reader(self, episode_id: str) -> EpisodeReader:
        """Open one file; without the advice of others to run ``letterset repair``."""
        return self._readers.open(self.open_file, episode_id)

    def open_file(self, episode_id: str) -> LegacyReader:
        """Open a file anew; raises DatasetError naming file and view for contradictions."""
        try:
            ref = settled(self.refs[episode_id], self.videos)
        except SourceError as error:
            raise DatasetError(str(error)) from None
        return LegacyReader(ref, self.img_shape, self.pixel_origin, self.videos)

    def _made_of(self, img_shape: tuple[int, int]) -> tuple[Any, ...]:
        given = (self.pixel_origin, self.problems, self.max_open, self.videos)
        return (self.path, self.refs, img_shape, *given)


def open_legacy(
    folder: str | Path,
    img_shape: tuple[int, int],
    *,
    pixel_origin: PixelOrigin = "corner",
    layout: Layout | None = None,
    mode: Mode | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    max_open: int = MAX_OPEN_EPISODES,
    videos: str | Path | None = None,
    frame_step: int = 1,
    tracked: GivenSizes | None = None,
) -> LegacyDataset:
    """Open a folder of older HDF5 files (searched recursively); reads headers only.

    ``img_shape`` (H, W) is the training configuration's.  ``pixel_origin="center"`` adds the
    half pixel by which CoTracker's coordinates fall short of edge coordinates.  ``layout`` and
    ``mode`` are recognized unless given: files of ATM hold ``video`` or ``task_emb_bert``; a
    leading axis of 1 is a whole episode, unless the folder's name says reinit.

    ``videos`` is a folder with the files' videos (see ``legacy.videos.Videos``), of which every
    ``frame_step``-th frame was tracked: views then have ``frames``, stretched to
    ``img_shape`` as the tracks are and decoded when touched.  ATM files bring their own.

    Tracks without a size count as pixels of ``img_shape``, unless ``tracked`` gives one, (H, W) for
    all views or a mapping of views to them, or the videos tell it (``Videos.tracked_size``).

    Raises DatasetError naming file and view for what cannot be trusted (``on_error="skip"``
    lists such files in ``problems`` instead), and for a folder of files that do not fit together
    or without any older file; ConfigError for invalid options.
    """
    img_shape = checked_shape(img_shape, "img_shape")
    checked_choice("pixel_origin", pixel_origin, get_args(PixelOrigin))
    checked_choice("layout", layout, (None, *get_args(Layout)))
    checked_choice("mode", mode, (None, *get_args(Mode)))
    checked_choice("on_error", on_error, ("raise", "skip"))
    refs, problems = scan(Path(folder), layout, mode, on_error)
    refs = with_given_sizes(refs, tracked)
    if mixture := mixture_of(refs.values()):
        raise DatasetError(f"{folder}: {mixture}; open each kind from a folder of its own")
    found = None
    if videos is not None:
        try:
            from builder.dataset.legacy.videos import Videos
        except ModuleNotFoundError as error:  # decoding needs more than a core install
            raise_missing_extra(error)
        found = Videos(Path(videos), frame_step)
        refs = dict(_with_videos(refs, found, problems, on_error))
    dataset = LegacyDataset(Path(folder), refs, img_shape, pixel_origin, problems, max_open, found)
    for note in dataset.notes:
        log.warning(note)
    return dataset


def _with_videos(
    refs: Mapping[str, LegacyRef],
    videos: Videos,
    problems: dict[str, str],
    on_error: Literal["raise", "skip"],
) -> Iterator[tuple[str, LegacyRef]]:
    """Yield the files whose views have a video, by name alone."""
    for key, ref in refs.items():
        try:
            for view, tracked in ref.tracked.items():
                if ref.layout == "amplify" or tracked is None:
                    videos.find(ref, view)
        except SourceError as error:
            if on_error == "raise":
                raise DatasetError(str(error)) from None
            problems[printable_path(ref.relative)] = str(error)
        else:
            yield key, ref


def scan(
    folder: Path, layout: Layout | None, mode: Mode | None, on_error: Literal["raise", "skip"]
) -> tuple[dict[str, LegacyRef], dict[str, str]]:
    """Read all headers: files by id, and problems by relative path; see :func:`open_legacy`.

    Raises ConfigError for a dataset of letterset, which has a geometry already.
    """
    if own := own_files(folder):
        raise ConfigError(f"{folder}: not a folder of older files but {own}")
    refs: dict[str, LegacyRef] = {}
    problems: dict[str, str] = {}
    for path in track_files(folder):
        try:
            ref = inspect_file(folder, path, layout, mode)
        except DatasetError as error:
            if on_error == "raise":
                raise
            problems[printable_path(path.relative_to(folder))] = str(error)
            continue
        if ref is not None:
            refs[ref.id] = ref
    if not refs and not problems:
        raise DatasetError(
            f"{folder} holds no older track files: expected HDF5 files with root/<view>/tracks"
        )
    return refs, problems


def query_spec(queries_xy: np.ndarray, img_shape: tuple[int, int]) -> QuerySpec:
    """Say what query points (N, 2) are: AMPLIFY's grid over the whole canvas, to a pixel, or not.

    A square grid over another part of it is ``stored``, with its rows and columns.
    """
    span = grid_span(queries_xy, QUERY_SLACK_PX)
    if span is None:
        return QuerySpec(grid=(len(queries_xy), 1), region="stored")
    side = math.isqrt(len(queries_xy))
    whole = np.abs(np.subtract(span, img_shape)).max() <= QUERY_SLACK_PX
    return QuerySpec(grid=(side, side), region="canvas" if whole else "stored")


def _dataset_meta(
    refs: Mapping[str, LegacyRef], img_shape: tuple[int, int], pixel_origin: PixelOrigin
) -> DatasetMeta:
    """Derive what all episodes share; the query points are those of the first readable file."""
    first = next(iter(refs.values()), None)
    mode = first.mode if first else "reinit"
    horizon = first.horizon if first and mode == "reinit" else EPISODE_HORIZON
    queries = QuerySpec(region="canvas")
    for ref in refs.values():
        try:
            # Without the videos: a bad one must not hide what its file says.
            reader = LegacyReader(settled(ref, None), img_shape, pixel_origin)
            queries = query_spec(reader.array(next(iter(ref.sizes)), "queries"), img_shape)
        except DatasetError:
            continue
        break
    return DatasetMeta.seal(
        created_with=version("letterset"),
        img_shape=img_shape,
        horizon=horizon,
        start_every=1,
        mode=mode,
        queries=queries,
        tracker=UNKNOWN_TRACKER,
        config={},
    )
