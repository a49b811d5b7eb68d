"""What a dataset and its episodes say about themselves: format version 1.

``DatasetMeta`` is ``dataset.json``; ``EpisodeMeta`` is the ``metadata`` attribute of an
episode file and the truth about it.  Both are sealed: they carry their own digest.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from schemas.affine import AxisAffine, Orientation, Points, oriented_shape
from schemas.base import LATER, SHA256, Record, Sealed, Shape, Side
from schemas.geometry import Geometry

FORMAT_VERSION = 1

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

    color: ColorInfo | None = None
    codec: str | None = Field(default=None, description="of the source, e.g. h264")
    fps: float | None = Field(default=None, gt=0)
    arrays: dict[str, ArrayMeta]
    motion: MotionSummary | None = None
    notes: tuple[str, ...] = Field(
        default=(), strict=False, description="what a reader should know, in sentences"
    )


class Fingerprint(Record):
    """Enough of a source file to notice that it changed."""

    size: Count
    sha256: SHA256 = Field(description="of the first and the last MiB")


class SourceInfo(Record):
    """Where an episode came from."""

    kind: str
    path: str = Field(description="relative to the source's root, odd bytes percent-encoded")
    files: dict[str, Fingerprint] = Field(
        default_factory=dict, description="relative path to fingerprint"
    )
    licence: str | None = None


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
    task: str | None = Field(default=None, description="its name, as the source has it")
    group: str | None = Field(default=None, description="such as a suite, or the folder above")
    text: str | None = Field(default=None, description="the instruction, in words")
    views: tuple[ViewMeta, ...] = Field(strict=False, min_length=1)
    missing_views: Annotated[tuple[Name, ...], LATER] = Field(
        default=(), strict=False, description="asked for, but not there (missing_views: mask)"
    )
    arrays: dict[str, ArrayMeta] = Field(
        default_factory=dict, description="pass-through arrays of the root"
    )

    @model_validator(mode="after")
    def _views_differ(self) -> EpisodeMeta:
        names = [*(view.name for view in self.views), *self.missing_views]
        if len(set(names)) != len(names):
            raise ValueError(f"view names must differ, got {names}")
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
