"""Tracks that exist already: read from files, checked against their view, given out as windows."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

import numpy as np
from pydantic import Field, field_validator

from builder.canvas.query_grid import is_older_grid
from builder.core.errors import ConfigError, SourceError, TrackingError
from builder.core.paths import printable_path
from builder.inputs.fingerprint import fingerprints
from builder.inputs.listing import HDF5_SUFFIXES, PICKLE_SUFFIXES
from builder.inputs.track_files import Names, StoredTracks, read_tracks
from builder.trackers.base import BaseSession, Session, Tracker, ViewKey, Window
from schemas.base import LATER, Record, Shape
from schemas.dataset import TrackerInfo, VisibilityRule
from schemas.geometry import Geometry, Stretch, swap_xy, unnormalize

_SUFFIX = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{0,4}$")
_FIELDS = ("id", "path", "parent", "name", "view")

TOLERANCE_PX = 1e-3
"""How exactly all windows of a view must start from the same points."""
SLACK_PX = 1.0
"""How far a visible point may start outside the frame: rounding, not another size."""

DEFAULT_NAMES = {
    ".npz": Names("tracks", "visibility"),
    **dict.fromkeys(HDF5_SUFFIXES, Names("root/{view}/tracks", "root/{view}/vis")),
    **dict.fromkeys(PICKLE_SUFFIXES, Names("{name}", "occluded")),
}


class PrecomputedConfig(Record):
    """Settings of the tracks that exist already."""

    folder: str = Field(description="where the track files are")
    file: str = Field(
        default="{path}.npz",
        description="a view's file in it, .npz, .hdf5, .h5, .pkl or .pickle; {id} of the episode, "
        "{path} of its source without suffixes, {name}, the last part of that, {parent}, what is "
        "before it, and {view}",
    )
    tracks: str | None = Field(
        default=None,
        description="the array in it (of a pickle: the entry), with the same fields; default: "
        "tracks (npz), root/{view}/tracks (HDF5), {name} (pickle)",
    )
    visibility: str | None = Field(
        default=None,
        description="default: visibility (npz), root/{view}/vis (HDF5), occluded (pickle); empty "
        "when there is none and every point counts as visible",
    )
    confidence: Annotated[str | None, LATER] = Field(
        default=None,
        description="an array of numbers from 0 to 1 in it, stored as conf; default: none is read",
    )
    visibility_threshold: float = Field(default=0.5, description="visible is what is above")
    coordinates: Literal["pixel_edge", "pixel_center", "normalized", "signed"] = Field(
        description="pixels whose first centre is at 0.5 (edge) or 0 (center: CoTracker, OpenCV), "
        "or shares of the frame from 0 to 1 (normalized: TAP-Vid, ATM) or from -1 to 1 (signed)",
    )
    order: Literal["xy", "rc"] = Field(default="xy", description="(x, y) or (row, column)")
    size: Shape | None = Field(
        default=None,
        description="(H, W) the pixels are of; default: what the file says, else, but for HDF5, "
        "the source's upright size",
    )
    made_by: str = Field(default="unknown", description="what made the tracks; recorded")
    licence: str = Field(default="unknown", description="of the tracks; recorded")

    @field_validator("file", "tracks", "visibility", "confidence")
    @classmethod
    def _known_fields(cls, value: str | None) -> str | None:
        try:
            (value or "").format(**dict.fromkeys(_FIELDS, ""))
        except (KeyError, IndexError, ValueError, AttributeError):
            known = ", ".join(f"{{{name}}}" for name in _FIELDS)
            raise ValueError(f"the fields are {known}") from None
        return value

    @field_validator("file")
    @classmethod
    def _known_suffix(cls, value: str) -> str:
        if Path(value).suffix.lower() not in DEFAULT_NAMES:
            raise ValueError(f"expected a name that ends in one of {', '.join(DEFAULT_NAMES)}")
        return value


class Precomputed(Tracker):
    """Tracks that exist already, in files: see docs/guides/precomputed-tracks.md."""

    Config = PrecomputedConfig
    brings_points = True

    def __init__(self, config: PrecomputedConfig) -> None:
        self.config = config
        self.gives_conf = config.confidence is not None

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records.  Raises ConfigError when the folder is not there."""
        if not Path(self.config.folder).expanduser().is_dir():
            raise ConfigError(f"tracker.folder: there is no folder {self.config.folder}")
        settings = self.config.model_dump(mode="json", exclude={"folder", "made_by", "licence"})
        return TrackerInfo(
            kind="precomputed",
            name=self.config.made_by,
            version="unknown",
            licence=self.config.licence,
            settings=settings,
            visibility=VisibilityRule(
                rule="the visibility in the files is above the threshold",
                threshold=self.config.visibility_threshold,
                sticky=False,
            ),
        )

    def for_view(self, key: ViewKey, geometry: Geometry, length: int) -> ViewTracks:
        """Read the tracks of one view.  Raises TrackingError naming view, episode and file."""
        relative, names = self._names(key)
        folder = Path(self.config.folder).expanduser()
        where = f"view {key.view} of {key.episode}: {printable_path(folder / relative)}"
        try:
            stored = read_tracks(folder / relative, names)
            [mark] = fingerprints(folder, [relative]).values()
        except SourceError as error:
            raise TrackingError(f"view {key.view} of {key.episode}: {error}") from None
        xy, vis = self._source_tracks(stored, geometry.source_shape, where)
        note = f"tracks of {printable_path(relative)}: {mark.size} bytes, sha256 {mark.sha256}"
        # Shares need no size that could be wrong, and ATM's points begin where they were in the
        # first frame, not where they were queried.
        strict = self.config.coordinates != "normalized"
        conf = _checked_conf(stored.conf, where)
        made = self.info, xy, vis, conf
        notes = (note,)
        return ViewTracks(*made, geometry, length, key.cut, where, notes, strict, key.first)

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Refuse to guess: raises TrackingError, for tracks belong to a view."""
        raise TrackingError("precomputed tracks belong to a view: open what for_view returns")

    def _names(self, key: ViewKey) -> tuple[str, Names]:
        """Fill in the names of a view's file and arrays."""
        # Odd bytes of a path are percent-encoded in it.
        source = PurePosixPath(os.fsdecode(unquote_to_bytes(key.path)))
        path = "/".join(_SUFFIX.sub("", part) for part in source.parts)
        parent, _, name = path.rpartition("/")
        values = (key.episode, path, parent, name, key.view)
        fields = dict(zip(_FIELDS, values, strict=True))
        relative = self.config.file.format(**fields)
        if ".." in source.parts or source.is_absolute():
            raise TrackingError(f"view {key.view} of {key.episode}: {path!r} leaves tracker.folder")
        default = DEFAULT_NAMES[Path(relative).suffix.lower()]
        tracks = self.config.tracks or default.tracks
        vis = default.vis if self.config.visibility is None else self.config.visibility
        optional = (
            name.format(**fields) if name else None for name in (vis, self.config.confidence)
        )
        return relative, Names(tracks.format(**fields), *optional)

    def _source_tracks(
        self, stored: StoredTracks, source_shape: tuple[int, int], where: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tracks ([S, ]steps, N, 2) in source pixels, (x, y), and which are visible.

        Raises TrackingError for what is not finite.
        """
        tracks, vis, size, _ = stored
        finite = np.isfinite(tracks).all(axis=-1)
        if not finite.all() or (vis is not None and not np.isfinite(vis).all()):
            bad = np.argwhere(~finite if vis is None else ~(finite & np.isfinite(vis)))[0].tolist()
            axes = ("frame", "point") if len(bad) == 2 else ("window", "step", "point")
            at = ", ".join(f"{axis} {number}" for axis, number in zip(axes, bad, strict=True))
            raise TrackingError(
                f"{where}: NaN or infinity at {at}; they are never stored. Give hidden points a "
                "place and visibility 0, or leave the episode out"
            )
        config, points = self.config, tracks.astype(np.float64)
        xy = points if config.order == "xy" else swap_xy(points)
        if config.coordinates == "normalized":
            xy = Stretch(source_shape=(1, 1), img_shape=source_shape).to_img(xy)
        elif config.coordinates == "signed":
            xy = unnormalize(xy, source_shape)
        else:
            xy = xy + (0.5 if config.coordinates == "pixel_center" else 0.0)
            tracked = self._tracked_size(size, source_shape, where)
            xy = Stretch(source_shape=tracked, img_shape=source_shape).to_img(xy)
        seen = np.ones(xy.shape[:-1], bool) if vis is None else vis > config.visibility_threshold
        return xy, seen

    def _tracked_size(
        self, size: tuple[int, int] | None, source_shape: tuple[int, int], where: str
    ) -> tuple[int, int]:
        """Return (H, W) of the frames whose pixels the tracks count."""
        given = self.config.size
        if size is not None and given not in (None, size):
            raise TrackingError(
                f"{where}: its height and width say {size}, but tracker.size is {given}"
            )
        known = size or given
        if known is None and Path(self.config.file).suffix.lower() in HDF5_SUFFIXES:
            raise TrackingError(
                f"{where}: no height and width of the frames that were tracked are in it; set "
                f"tracker.size, [{source_shape[0]}, {source_shape[1]}] if it was the source's own"
            )
        return known or source_shape


@dataclass(eq=False)
class ViewTracks(Tracker):
    """The tracks of one view; raises TrackingError when they do not fit the view.

    ``xy`` (S, steps, N, 2) in source pixels, ``vis`` (S, steps, N) bool, ``conf`` (S, steps, N)
    or None; without S they are of one window, the whole episode.  ``strict``: no visible point may
    start outside the frame, else only most may not.  The view begins at frame ``first`` of the
    tracks.
    """

    recorded: TrackerInfo
    xy: np.ndarray
    vis: np.ndarray
    conf: np.ndarray | None
    geometry: Geometry
    length: int
    cut: bool
    where: str
    notes: tuple[str, ...]
    strict: bool = True
    first: int = 0

    def __post_init__(self) -> None:
        self.whole = self.xy.ndim == 3
        if self.whole:
            self.xy, self.vis = self.xy[None], self.vis[None]
            self.conf = None if self.conf is None else self.conf[None]
        self.gives_conf = self.conf is not None
        first_xy = self.geometry.to_img(self.xy[:, 0])
        self.queries_xy = first_xy[0].astype(np.float32)
        self._check_starts(first_xy)

    @property
    def info(self) -> TrackerInfo:
        """What the dataset records about it."""
        return self.recorded

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> StoredSession:
        """Start a session; see ``Tracker.open``.

        ``queries_xy`` are the own points that lie in the picture.
        """
        self._go_to_first(start_every)
        inside = np.asarray(self.geometry.inside(self.queries_xy))
        to_shown = Stretch(source_shape=self.geometry.source_shape, img_shape=shape)
        tracks_xy = to_shown.to_img(self.xy[:, :, inside])
        vis = self.vis[:, :, inside]
        conf = None if self.conf is None else self.conf[:, :, inside]
        session = StoredSession(shape, queries_xy, horizon, start_every, tracks_xy, vis, conf)
        self._check_length(horizon, start_every)
        if tracks_xy.shape[2] != len(queries_xy) or not np.allclose(
            tracks_xy[0, 0], queries_xy, rtol=0, atol=0.01
        ):
            raise TrackingError(
                f"{self.where}: asked for {len(queries_xy)} points that are not its own "
                f"{tracks_xy.shape[2]}; precomputed tracks cannot start anywhere else"
            )
        return session

    def _go_to_first(self, start_every: int) -> None:
        """Leave out the windows before the view's first frame."""
        windows, between = divmod(self.first, start_every)
        if self.whole and self.first:
            raise TrackingError(
                f"{self.where}: one track from the first frame on starts no clip at frame "
                f"{self.first}: give windows, or leave source.clip out"
            )
        if between:
            raise TrackingError(
                f"{self.where}: a clip begins at frame {self.first}, and a window at every "
                f"{start_every} (tracker.start_every): set source.clip.frames to a multiple of it"
            )
        self.xy, self.vis, self.first = self.xy[windows:], self.vis[windows:], 0
        self.conf = None if self.conf is None else self.conf[windows:]

    def _check_starts(self, first_img_xy: np.ndarray) -> None:
        """Require one set of points (S, N, 2) for all windows, visible ones inside the frame.

        Notes how many start outside it.
        """
        off = np.abs(first_img_xy - first_img_xy[0]).max(axis=(1, 2))
        if off.max() > TOLERANCE_PX:
            window = int(np.argmax(off > TOLERANCE_PX))
            raise TrackingError(
                f"{self.where}: window {window} starts up to {off[window]:g} img px from where "
                "the first one starts; all windows must start at the same points"
            )
        start, (height, width) = self.xy[0, 0], self.geometry.source_shape
        out = ((start < -SLACK_PX) | (start > np.add((width, height), SLACK_PX))).any(axis=1)
        if lost := int((~np.asarray(self.geometry.inside(self.queries_xy))).sum()):
            note = f"{lost} of {len(start)} points start outside the picture and are never visible"
            self.notes = (*self.notes, note)
        shown = self.vis[0, 0]
        out &= shown
        if is_older_grid(start, height):
            return  # in portrait its right columns start outside: they are told and masked
        if out.any() and (self.strict or 2 * out.sum() > shown.sum()):
            point = int(np.argmax(out))
            x, y = start[point]
            raise TrackingError(
                f"{self.where}: point {point} starts visible at (x, y) = ({x:g}, {y:g}), outside "
                f"its source of {height} x {width} (H x W): tracker.coordinates, order or size do "
                "not describe this file"
            )

    def _check_length(self, horizon: int, start_every: int) -> None:
        """Require as many windows and steps as the view has; more where the view was cut."""
        windows, steps = self.xy.shape[:2]
        wanted = len(range(0, self.length, start_every))
        if windows == 1 and (self.whole or horizon >= self.length):
            if wanted > 1:
                raise TrackingError(
                    f"{self.where}: it has one track of {steps} steps per point, not one for "
                    f"each of {wanted} windows: set tracker.mode=episode"
                )
            if steps < self.length or (steps > self.length and not self.cut):
                raise TrackingError(
                    f"{self.where}: tracks of {steps} frames for a view of {self.length}"
                )
            return
        if windows < wanted or (windows > wanted and not self.cut):
            raise TrackingError(
                f"{self.where}: {windows} windows, but {self.length} frames with a start at "
                f"every {start_every} (tracker.start_every) have {wanted}"
            )
        if steps < min(horizon, self.length):
            raise TrackingError(
                f"{self.where}: windows of {steps} steps, tracker.horizon is {horizon}"
            )


@dataclass(eq=False)
class StoredSession(BaseSession):
    """Gives stored windows out when their last frame is pushed.

    ``tracks_xy`` (S, steps, N, 2) pixels of the frames, ``vis`` and ``conf`` (S, steps, N).
    """

    tracks_xy: np.ndarray
    vis: np.ndarray
    conf: np.ndarray | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._given = 0

    def _add(self, frame_rgb: np.ndarray) -> list[Window]:
        return self._finished(self.horizon)

    def finish(self) -> list[Window]:
        """Return the windows still open; their tail repeats the last real step."""
        return self._finished(1)

    def _finished(self, least: int) -> list[Window]:
        """Return the next windows of which ``least`` frames were pushed."""
        windows = []
        while self._given * self.start_every + least <= self._pushed:
            start = self._given * self.start_every
            last = min(self.horizon, self._pushed - start) - 1
            steps = np.minimum(np.arange(self.horizon), last)
            tracks_xy = self.tracks_xy[self._given, steps].astype(np.float32)
            vis = self.vis[self._given, steps].astype(np.uint8)
            conf = None if self.conf is None else self.conf[self._given, steps].astype(np.float32)
            windows.append(Window(start, tracks_xy, vis, conf))
            self._given += 1
        return windows


def _checked_conf(conf: np.ndarray | None, where: str) -> np.ndarray | None:
    """Raise TrackingError for a confidence outside 0 to 1, or NaN."""
    if conf is not None and not ((conf >= 0) & (conf <= 1)).all():
        raise TrackingError(f"{where}: tracker.confidence must lie between 0 and 1, without NaN")
    return conf
