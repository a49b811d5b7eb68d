"""What a dataset and its episodes say about themselves: format version 1.

``DatasetMeta`` is ``dataset.json``; ``EpisodeMeta`` is the ``metadata`` attribute of an
episode file and the truth about it.  Both are sealed: they carry their own digest.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from schemas.affine import AxisAffine, Orientation, Points, oriented_shape
from schemas.base import LATER, SHA256, Record, Sealed, Shape, Side
from schemas.geometry import Geometry

FORMAT_VERSION = 1

TEXT_INDEX = "text_index"
"""Name of the array that says which of several texts is that of a frame."""

Count = Annotated[int, Field(ge=0)]


def _safe_id(value: str) -> str:
    parts = value.split("/")
    if any(part in ("", ".", "..") for part in parts) or not value.isprintable() or "\\" in value:
        raise ValueError(f"an episode id is a relative path without '..', got {value!r}")
    return value


EpisodeId = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_safe_id)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]


class QuerySpec(Record):
    """Where the tracked points start: the cell centres of a grid.

    A model sees velocities only, so a point's index is its place; that is why the order is
    stored.  ``rows_fastest`` is AMPLIFY's: index = column * rows + row.
    """

    grid: Shape = Field(default=(20, 20), description="(rows, columns)")
    region: Literal["content", "canvas", "stored"] = Field(
        default="content",
        description="what the grid covers: the picture, or bars and all; stored: points that "
        "came from elsewhere, only the array queries tells where they are",
    )
    order: Literal["rows_fastest", "columns_fastest"] = Field(
        default="rows_fastest", description="what changes from one index to the next"
    )

    @property
    def num_points(self) -> int:
        """Points per window, N."""
        return self.grid[0] * self.grid[1]


class VisibilityRule(Record):
    """What ``vis == 1`` means in a track set."""

    rule: str = Field(description="in words, for a reader")
    threshold: float | None = None
    unit: str | None = None
    sticky: bool = Field(description="whether a point once lost stays lost within its window")


class TrackerInfo(Record):
    """Which tracker made the tracks, precisely enough to make them again."""

    kind: str = Field(description="tracker.kind of the config")
    name: str
    version: str = Field(description="of the method, or of the library that implements it")
    licence: str
    settings: dict[str, JsonValue] = Field(default_factory=dict, description="defaults included")
    visibility: VisibilityRule
    weights_sha256: SHA256 | None = None
    weights_url: str | None = None


class ColorInfo(Record):
    """How stored YUV was read as RGB, and whether the file said so or it was assumed."""

    matrix: str
    matrix_tagged: bool
    full_range: bool
    range_tagged: bool
    transfer: Annotated[str | None, LATER] = Field(
        default=None,
        description="transfer characteristics as the file says, such as bt709, smpte2084 (PQ) or "
        "arib_std_b67 (HLG); not undone in the pixels; null where it says nothing",
    )
    primaries: Annotated[str | None, LATER] = Field(
        default=None, description="colour primaries as the file says; null where it says nothing"
    )
    dolby_vision: Annotated[int | None, LATER] = Field(
        default=None, description="profile of Dolby Vision; null where the container names none"
    )


class ArrayMeta(Record):
    """One stored array.

    ``sha256`` is over the array's bytes in C order, little endian, without any filter; for
    ``codec: u16`` over the fixed-point numbers, for ``codec: jpeg`` over the JPEG files one after
    another.
    """

    dtype: str = Field(description="of what is read, such as float32, whatever the codec stores")
    shape: tuple[Count, ...] = Field(strict=False, description="of what is read")
    sha256: SHA256
    codec: str = Field(default="raw", description="raw, lz4, jpeg or u16")
    per_frame: Annotated[bool | None, LATER] = Field(
        default=None,
        description="of pass-through arrays: one row per frame, or one array for the whole "
        "episode; null where it was not recorded",
    )

    def has_row_per_frame(self, length: int) -> bool:
        """Tell whether there is a row for each of an episode's ``length`` frames.

        Where it was not recorded, an array as long as the episode is taken for one that has.
        """
        return self.shape[:1] == (length,) if self.per_frame is None else self.per_frame


class MotionSummary(Record):
    """How much the points of a view move, over real (not tail-padded) visible steps."""

    mean_px: float = Field(description="mean step length in img pixels")
    max_px: float = Field(description="largest step in img pixels")
    zero_share: float = Field(ge=0, le=1, description="share of steps shorter than half a pixel")
    visible_share: float = Field(ge=0, le=1)


class Camera(Record):
    """How one camera's pixels are placed: as they are stored, upright, on the canvas."""

    name: Name
    geometry: Geometry
    coded_shape: Shape = Field(description="(H, W) as stored in the source, before orientation")
    orientation: Orientation = "none"
    source_shape_assumed: Annotated[bool, LATER] = Field(
        default=False,
        description="true: nobody knows the size of the source, and img_shape stands in its place "
        "(older tracks without a size); what is decoded is no source pixel",
    )

    @model_validator(mode="after")
    def _orientation_fits(self) -> Camera:
        turned = oriented_shape(self.orientation, self.coded_shape)
        if turned != self.geometry.source_shape:
            raise ValueError(
                f"view {self.name}: coded_shape {self.coded_shape} turned by {self.orientation} is "
                f"{turned}, but the geometry's source_shape is {self.geometry.source_shape}"
            )
        return self

    def to_coded(self, source_xy: Points) -> Points:
        """Map upright source pixels (..., 2) (x, y) to pixels as stored, or as the camera gives."""
        return (~AxisAffine.orient(self.orientation, self.coded_shape))(source_xy)


class ViewMeta(Camera):
    """One camera of one episode."""

    orientation_from: Annotated[str | None, LATER] = Field(
        default=None,
        description="what the orientation was taken from, in words; null: taken as stored, since "
        "nothing said otherwise, or not recorded",
    )
    color: ColorInfo | None = None
    codec: str | None = Field(default=None, description="of the source, e.g. h264")
    fps: float | None = Field(default=None, gt=0)
    arrays: dict[str, ArrayMeta]
    motion: MotionSummary | None = None
    notes: tuple[str, ...] = Field(
        default=(), strict=False, description="what a reader should know, in sentences"
    )


Runs = Annotated[
    tuple[Annotated[tuple[Count, Side], Field(strict=False)], ...], Field(strict=False)
]
"""Runs of windows: the number of each one's first, counted over all, and how many they are."""


class StillWindows(Record):
    """Windows that were not tracked, since nothing moves in them (``tracker.skip_still``)."""

    threshold: float = Field(gt=0, description="grey levels by which a picture may differ")
    skipped: Runs = Field(default=(), description="runs of them: (first, how many)")

    @model_validator(mode="after")
    def _runs_ascend(self) -> StillWindows:
        check_runs(self.skipped)
        return self

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.skipped)


def check_runs(runs: tuple[tuple[int, int], ...]) -> None:
    """Raise ValueError unless runs ascend and leave something between them."""
    for (first, count), (after, _) in pairwise(runs):
        if after <= first + count:
            raise ValueError(f"runs of windows ascend, got ({first}, {count}) and then {after}")


class Fingerprint(Record):
    """Enough of a source file to notice that it changed."""

    size: Count
    sha256: SHA256 = Field(description="of the first and the last MiB")


class ClipInfo(Record):
    """Where a clip lies in the episode it was cut from (``source.clip``)."""

    of: str = Field(description="path of that episode, as a path of a source is written")
    first: Annotated[int, Field(ge=0)] = Field(
        description="frame it begins with, of those that were kept of that episode"
    )
    shared: Annotated[int, Field(ge=0)] = Field(
        description="last frames that the next clip has, too"
    )


class SourceInfo(Record):
    """Where an episode came from."""

    kind: str
    path: str = Field(description="relative to the source's root, odd bytes percent-encoded")
    files: dict[str, Fingerprint] = Field(
        default_factory=dict, description="relative path to fingerprint"
    )
    licence: str | None = None
    clip: Annotated[ClipInfo | None, LATER] = Field(
        default=None, description="which part of an episode it is; null for a whole one"
    )


class EpisodeMeta(Sealed):
    """Everything about one episode; stored inside it."""

    format_version: Literal[1] = 1
    id: EpisodeId
    source: SourceInfo
    length: Side = Field(description="frames of the reference clock, T")
    mode: Literal["reinit", "episode"] = "reinit"
    horizon: Side = Field(description="steps per window; in mode episode the length")
    start_every: Side = Field(
        default=1, description="frames from window to window; in mode episode the length"
    )
    still: Annotated[StillWindows | None, LATER] = Field(
        default=None,
        description="windows that are not there, for nothing moves in them; null: none left out",
    )
    task: str | None = Field(default=None, description="its name, as the source has it")
    group: str | None = Field(default=None, description="such as a suite, or the folder above")
    text: str | None = Field(default=None, description="the instruction, in words")
    texts: Annotated[tuple[str, ...], LATER] = Field(
        default=(),
        strict=False,
        description="the instructions, where an episode has several; the array text_index says "
        "which is that of each frame, and text is null",
    )
    views: tuple[ViewMeta, ...] = Field(strict=False, min_length=1)
    missing_views: Annotated[tuple[Name, ...], LATER] = Field(
        default=(), strict=False, description="asked for, but not there (missing_views: mask)"
    )
    dataset: Annotated[SHA256 | None, LATER] = Field(
        default=None,
        description="digest of the dataset.json it was built under; null where it was not recorded",
    )
    arrays: dict[str, ArrayMeta] = Field(
        default_factory=dict, description="pass-through arrays of the root"
    )
    notes: Annotated[tuple[str, ...], LATER] = Field(
        default=(), strict=False, description="what of the source was left out, in sentences"
    )

    @model_validator(mode="after")
    def _views_differ(self) -> EpisodeMeta:
        names = [*(view.name for view in self.views), *self.missing_views]
        if len(set(names)) != len(names):
            raise ValueError(f"view names must differ, got {names}")
        return self

    @model_validator(mode="after")
    def _skipped_are_windows(self) -> EpisodeMeta:
        windows = -(-self.length // self.start_every) if self.mode == "reinit" else 0
        first, count = self.still.skipped[-1] if self.still and self.still.skipped else (0, 0)
        if first + count > windows:
            raise ValueError(f"{first + count} windows are said to stand still, of {windows}")
        return self

    @model_validator(mode="after")
    def _texts_have_frames(self) -> EpisodeMeta:
        if self.texts and (self.text is not None or TEXT_INDEX not in self.arrays):
            raise ValueError(f"several texts go with the array {TEXT_INDEX} and without text")
        return self

    @model_validator(mode="after")
    def _rows_are_frames(self) -> EpisodeMeta:
        for name, array in self.arrays.items():
            if array.per_frame and array.shape[:1] != (self.length,):
                raise ValueError(
                    f"the array {name} is said to have a row per frame, but its shape is "
                    f"{array.shape} and the episode has {self.length} frames"
                )
        return self

    @property
    def all_texts(self) -> tuple[str, ...]:
        """The instructions: none, one or several."""
        return self.texts or ((self.text,) if self.text else ())

    def per_frame(self, name: str) -> bool:
        """Tell whether a pass-through array has one row per frame; KeyError if there is none."""
        return self.arrays[name].has_row_per_frame(self.length)

    def view(self, name: str) -> ViewMeta:
        """Return one view; raises KeyError that lists the views there are."""
        for view in self.views:
            if view.name == name:
                return view
        raise KeyError(f"no view {name!r} in {self.id}; it has {[v.name for v in self.views]}")


class DatasetMeta(Sealed):
    """What all episodes of a dataset share; written first, then immutable."""

    format_version: Literal[1] = 1
    created_with: str = Field(description="letterset version that created the dataset")
    img_shape: Shape
    horizon: Side = Field(description="steps per window")
    start_every: Side = Field(description="a window starts at every n-th frame")
    mode: Literal["reinit", "episode"] = Field(
        description="reinit: windows of horizon steps; episode: one window per episode"
    )
    queries: QuerySpec
    tracker: TrackerInfo
    config: dict[str, JsonValue] = Field(description="every setting that affects content")
    parts: Annotated[tuple[SHA256, ...], LATER] = Field(
        default=(),
        strict=False,
        description="digests of the dataset.json of the datasets that were merged: their episodes "
        "are here as they were built",
    )

    def describes(self, episode: EpisodeMeta) -> bool:
        """Tell whether an episode was built under this description; True if that is unknown."""
        return episode.dataset in (None, self.digest, *self.parts)

    @property
    def has_tracks(self) -> bool:
        """Whether episodes have tracks, not frames alone."""
        return self.tracker.kind != "none"


class IndexLine(Record):
    """One finished episode, as listed in ``index/<writer>.jsonl``."""

    id: EpisodeId
    length: Side
    views: tuple[Name, ...] = Field(strict=False)
    digest: SHA256
    skipped: Annotated[Runs, LATER] = Field(
        default=(), description="windows that are not there, as in the episode's metadata"
    )

    @model_validator(mode="after")
    def _runs_ascend(self) -> IndexLine:
        check_runs(self.skipped)
        return self

    @property
    def frames(self) -> int:
        """Frames of all views."""
        return self.length * len(self.views)


class FailureLine(Record):
    """One source that could not be built, as listed in ``failures/<writer>.jsonl``."""

    id: EpisodeId
    path: str
    stage: str = Field(description="where it failed: open, decode, track, store, worker")
    reason: str
