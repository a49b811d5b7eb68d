"""The build config: what to read, how to place it, what to track, where to write.

Each part is an envelope ``{kind, ...}``: the common keys are checked here, a backend's own
keys by the model that sits beside the backend (see ``builder.core.registry``).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from schemas.base import LATER, Record, Shape, Side
from schemas.dataset import QuerySpec
from schemas.geometry import Geometry, Letterbox, Stretch


class Part(Record):
    """An envelope: ``kind`` names the backend, unknown keys are kept for its own model."""

    model_config = ConfigDict(extra="allow")
    kind: str

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that belong to the backend alone."""
        return dict(self.model_extra or {})


class SourcePart(Part):
    """Where episodes come from."""

    kind: str = "video"
    path: str = Field(description="folder or file to read")


class ShortSide(Record):
    """Frames scaled until the short side has this many pixels."""

    short_side: Annotated[int, Field(ge=16, le=8192, description="in pixels")]


class TrackerPart(Part):
    """How points are tracked."""

    kind: str = "dis"
    horizon: Side = Field(default=16, description="steps per window")
    start_every: Side = Field(default=1, description="a window starts at every n-th frame")
    mode: Literal["reinit", "episode"] = Field(
        default="reinit",
        description="reinit: windows of horizon steps, each from the query points anew; episode: "
        "one window, as long as the episode",
    )
    input: Literal["content", "source"] | ShortSide = Field(
        default="content",
        description="what the tracker sees, never bars: the picture as the canvas has it, as large "
        "as in the source, or scaled to a short side",
    )
    skip_still: Annotated[float | None, LATER] = Field(
        default=None,
        gt=0,
        le=255,
        description="leave out windows that stand still: in no view does a picture differ from "
        "the window's first by more than so many grey levels, anywhere (means over 8 x 8 pixels "
        "of the letterboxed frames; 6 is above the noise of most cameras); null: track all",
    )

    @model_validator(mode="after")
    def _still_windows(self) -> "TrackerPart":
        if self.skip_still is not None and self.mode == "episode":
            raise ValueError("skip_still leaves out windows; mode: episode has one, so set it null")
        return self


class FrameStorage(Record):
    """How frames are kept."""

    codec: Literal["raw", "lz4", "jpeg", "none"] = Field(
        default="raw",
        description="raw: memory-mapped; lz4: packed, lossless; jpeg: small, lossy; none: no "
        "frames",
    )
    quality: Annotated[int, Field(ge=1, le=100)] = Field(default=95, description="jpeg only")


class TrackStorage(Record):
    """How tracks are kept."""

    dtype: Literal["f32", "u16"] = Field(
        default="f32",
        description="u16: half the size, in steps of 1/64 px from -192 to 831.98 px; points "
        "beyond are refused",
    )


class StorePart(Part):
    """Where and how the dataset is written."""

    kind: str = "hdf5"
    path: str = Field(description="output folder")
    frames: FrameStorage = FrameStorage()
    tracks: TrackStorage = TrackStorage()


class ExecutorPart(Part):
    """Who does the work."""

    kind: str = "processes"
    workers: Side | None = Field(default=None, description="default: one per core that may be used")


class Limits(Record):
    """What one source may cost before it is refused."""

    max_pixels: Annotated[int, Field(ge=1)] = Field(
        default=64_000_000, description="of one source frame"
    )
    max_frames: Annotated[int, Field(ge=1)] = Field(default=10_000_000, description="of one view")
    max_array_bytes: Annotated[int, Field(ge=1)] = Field(
        default=4 << 30, description="of one pass-through array, or a file that is read whole"
    )
    max_chunk_bytes: Annotated[int, Field(ge=1)] = Field(
        default=256 << 20, description="of one chunk of HDF5, Zarr or Parquet, decompressed"
    )
    stall_seconds: Annotated[float, Field(gt=0)] = Field(
        default=120.0,
        description="of silence, no frame and no report of a long one, before a worker is stopped",
    )


class BuildConfig(Record):
    """One build."""

    img_shape: Shape = Field(description="(H, W) every frame is letterboxed to")
    geometry: Literal["letterbox", "resize_shorter"] = Field(
        default="letterbox",
        description="resize_shorter is the older preprocessing: aspect kept, no padding, each "
        "video at a size of its own; readers then stretch to img_shape",
    )
    short_side: Side = Field(default=480, description="resize_shorter only, in pixels")
    source: SourcePart
    queries: QuerySpec = QuerySpec()
    tracker: TrackerPart = TrackerPart()
    store: StorePart
    executor: ExecutorPart = ExecutorPart()
    limits: Limits = Limits()

    # Where things lie, which of them are built and who does the work cannot change an episode.
    _LOCATION_KEYS: ClassVar[dict[str, set[str]]] = {
        "source": {"path", "include", "exclude", "episodes"},
        # TrackerInfo has the weights' hash, each view the track file's.
        "tracker": {"weights", "folder"},
        "store": {"path", "kind"},
    }

    def fit(
        self, source_shape: tuple[int, int], sample_aspect_ratio: tuple[int, int] = (1, 1)
    ) -> Geometry:
        """Place a source of (H, W) as this config says."""
        if self.geometry == "resize_shorter":
            return Stretch.shorter(source_shape, self.short_side)
        return Letterbox.fit(source_shape, self.img_shape, sample_aspect_ratio)

    def content(self) -> dict[str, Any]:
        """Return the settings that affect what is written, as JSON data."""
        data = self.model_dump(mode="json", exclude={"executor", "limits"})
        if self.geometry != "resize_shorter":
            del data["short_side"]
        for part, keys in self._LOCATION_KEYS.items():
            data[part] = {key: value for key, value in data[part].items() if key not in keys}
        return data
