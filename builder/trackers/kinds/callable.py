"""The ``callable`` tracker: a function of the user's own, called with one window at a time."""

from __future__ import annotations

import traceback
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from builder.canvas.letterbox import letterbox_frame
from builder.core.errors import ConfigError, LettersetError, TrackingError
from builder.core.user_code import UserFunction, as_array, load_function
from builder.inputs.fingerprint import file_sha256
from builder.trackers.base import Session
from builder.trackers.windowed import WindowedTracker
from schemas.base import SHA256, Record, Shape, Side
from schemas.dataset import TrackerInfo, VisibilityRule
from schemas.geometry import Stretch

FAR_OFF = 0.05
"""A track that starts so far from its query, as a share of the longer side, is in other units."""

Result = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]


class CallableConfig(Record):
    """Settings of a tracker of your own."""

    call: str = Field(
        description="module:function, looked for in the working folder first; it gets video "
        "(T, H, W, 3) uint8 RGB and queries_xy (N, 2) float32, places in its first frame, and "
        "returns tracks_xy (T, N, 2), visible (T, N) and, if you like, confidence (T, N)"
    )
    coordinates: Literal["pixel_edge", "pixel_center"] = Field(
        description="how its points count pixels: the first pixel's centre is 0.5 (edge: TAPIR, "
        "TAPNext) or 0 (center: AllTracker, CoTracker, OpenCV)"
    )
    size: Shape | None = Field(
        default=None,
        description="(H, W) of the video it is given, stretched to it where needed; its points are "
        "pixels of that; default: as tracker.input says",
    )
    conf: bool = Field(
        default=False, description="also keep conf: its third result, a confidence from 0 to 1"
    )
    min_clip: Side = Field(
        default=1, description="frames it needs at least; the last one is repeated"
    )
    max_clip: Side = Field(
        default=300, description="longest window, in frames, that is held in memory as a whole"
    )
    name: str | None = Field(default=None, description="of the method; recorded; default: call")
    version: str = Field(default="unknown", description="of the method; recorded")
    licence: str = Field(default="unknown", description="of the tracks it makes; recorded")
    weights: str | None = Field(
        default=None, description="a file that it loads, so that its hash is recorded"
    )
    weights_url: str | None = Field(default=None, description="where that file came from; recorded")
    source_sha256: SHA256 | None = Field(
        default=None,
        description="of the file that defines it: another one is refused; recorded in any case, "
        "so that a build goes on with the same function only",
    )


class Prepared(NamedTuple):
    """A frame as the function gets it, and the shape (H, W) that it was pushed in."""

    pixels: np.ndarray
    shape: tuple[int, int]


class CallableTracker(WindowedTracker):
    """A function of your own: see docs/guides/other-trackers.md.

    It is called once per window, in the worker that builds the episode.
    """

    Config = CallableConfig
    code_setting = "call"

    def __init__(self, config: CallableConfig) -> None:
        self.config = config
        self.min_clip, self.gives_conf = config.min_clip, config.conf

    def __reduce__(self) -> tuple[type, tuple[CallableConfig]]:
        # The function stays behind; the other process imports its own.
        return type(self), (self.config,)

    @cached_property
    def function(self) -> UserFunction:
        """The function.  Raises ConfigError when it is not there, or not the one wanted."""
        found = load_function(self.config.call, "tracker.call")
        wanted = self.config.source_sha256
        if wanted not in (None, found.source_sha256):
            raise ConfigError(
                f"tracker.call {self.config.call}: the file that defines it has the SHA-256 "
                f"{found.source_sha256 or 'unknown'}, expected {wanted}: it is another function, "
                "or was edited since"
            )
        return found

    @property
    def pins(self) -> dict[str, Any]:
        """Hold workers, which import for themselves, to this very function."""
        return {"source_sha256": self.function.source_sha256}

    @property
    def notice(self) -> str | None:  # type: ignore[override]
        """Tell of a function without a source."""
        if self.function.source_sha256:
            return None
        return f"{self.config.call} has no source to read: should it change, nothing will tell"

    @cached_property
    def info(self) -> TrackerInfo:
        """What the dataset records about it.  Raises ConfigError when it is not there."""
        config = self.config
        own = {"name", "version", "licence", "weights", "weights_url"}
        settings = config.model_dump(mode="json", exclude=own)
        settings["source_sha256"] = self.function.source_sha256 or "unknown"
        return TrackerInfo(
            kind="callable",
            name=config.name or config.call,
            version=config.version,
            licence=config.licence,
            settings=settings,
            visibility=VisibilityRule(
                rule=f"{config.call} says so; step 0 is always visible", sticky=False
            ),
            weights_sha256=self._weights_sha256(),
            weights_url=config.weights_url,
        )

    def _weights_sha256(self) -> str | None:
        if self.config.weights is None:
            return None
        try:
            return file_sha256(Path(self.config.weights).expanduser())
        except OSError as error:
            raise ConfigError(
                f"tracker.weights {self.config.weights}: {error.strerror or error}"
            ) from None

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Start a session; see ``Tracker.open``."""
        if horizon > self.config.max_clip:
            raise TrackingError(
                f"{self.config.call} would get a window of {horizon} frames at once, the limit is "
                f"{self.config.max_clip}: use a shorter tracker.horizon (with tracker.mode=reinit) "
                "or raise tracker.max_clip"
            )
        return super().open(shape, queries_xy, horizon, start_every)

    def prepare(self, frame_rgb: np.ndarray) -> Prepared:
        """Bring a frame to the size that the function is given, once for all windows."""
        shape = frame_rgb.shape[:2]
        if self.config.size in (None, shape):
            return Prepared(frame_rgb.copy(), shape)
        box = Stretch(source_shape=shape, img_shape=self.config.size)
        return Prepared(letterbox_frame(frame_rgb, box), shape)

    def track(self, clips: list[list[Prepared]], queries_xy: np.ndarray) -> list[Result]:
        """Call the function for each clip.  Raises TrackingError naming it."""
        return [self._track_one(clip, queries_xy) for clip in clips]

    def _track_one(self, clip: list[Prepared], queries_xy: np.ndarray) -> Result:
        video = np.stack([frame.pixels for frame in clip])
        to_given = Stretch(source_shape=clip[0].shape, img_shape=video.shape[1:3])
        origin = 0.5 if self.config.coordinates == "pixel_center" else 0.0
        start_xy = to_given.to_img(queries_xy.astype(np.float64)) - origin
        result = self._called(video, start_xy)
        try:
            tracks, vis, conf = checked(result, start_xy, video.shape, self.config.conf)
        except ValueError as error:
            raise TrackingError(f"{self.config.call} {error}") from None
        vis[0] = True  # a query is where its point was seen
        return np.asarray(to_given.to_source(tracks + origin)), vis, conf

    def _called(self, video: np.ndarray, start_xy: np.ndarray) -> Any:
        try:
            return self.function.call(video, start_xy.astype(np.float32))
        except LettersetError:
            raise
        except Exception as error:
            inner = traceback.extract_tb(error.__traceback__)[1:]
            where = "".join(f" (line {at.lineno} of {Path(at.filename).name})" for at in inner[-1:])
            raise TrackingError(
                f"{self.config.call} failed on a window of {len(video)} frames with "
                f"{len(start_xy)} points: {type(error).__name__}: {error}{where}"
            ) from error


def checked(
    result: Any, start_xy: np.ndarray, video_shape: tuple[int, ...], wants_conf: bool
) -> Result:
    """Return tracks (T, N, 2) float64, vis (T, N) uint8 and conf (T, N), or None.

    Raises ValueError, as the end of a sentence, for what is not as documented.
    """
    form = (video_shape[0], len(start_xy))
    if not isinstance(result, tuple | list) or len(result) not in (2, 3):
        got = f"{len(result)} values" if isinstance(result, tuple | list) else type(result).__name__
        raise ValueError(f"returned {got}, expected tracks_xy, visible or these and confidence")
    if wants_conf and len(result) == 2:
        raise ValueError("returned no confidence, which tracker.conf=true asks for")
    tracks, vis = as_array(result[0]), as_array(result[1])
    _require("tracks_xy", tracks, (*form, 2), "fiu")
    _require("visible", vis, form, "bfiu")
    tracks = tracks.astype(np.float64)
    if not np.isfinite(tracks).all():
        step, point, _ = np.argwhere(~np.isfinite(tracks))[0]
        raise ValueError(f"returned NaN or infinity at step {step} of point {point}")
    if ((vis != 0) & (vis != 1)).any():
        raise ValueError("returned visible other than 0 and 1; compare with a threshold of yours")
    off = float(np.median(np.abs(tracks[0] - start_xy).max(axis=1)))
    if off > FAR_OFF * max(video_shape[1:3]):
        swapped = np.median(np.abs(tracks[0, :, ::-1] - start_xy).max(axis=1)) < off / 2
        raise ValueError(
            f"returned tracks that start {off:.0f} px from their queries: "
            + ("x and y are swapped" if swapped else "expected pixels of the video it was given")
        )
    if not wants_conf:
        return tracks, vis.astype(np.uint8), None
    conf = as_array(result[2])
    _require("confidence", conf, form, "fiu")
    if not ((conf >= 0) & (conf <= 1)).all():
        raise ValueError("returned confidence outside 0 to 1, or NaN")
    return tracks, vis.astype(np.uint8), conf.astype(np.float32)


def _require(name: str, array: np.ndarray, shape: tuple[int, ...], kinds: str) -> None:
    if array.shape == shape and array.dtype.kind in kinds:
        return
    swapped = (shape[1], shape[0], *shape[2:])
    hint = "; steps come first, then points" if array.shape == swapped != shape else ""
    axes = "(T, N, 2)" if len(shape) == 3 else "(T, N)"
    raise ValueError(
        f"returned {name} {array.shape} {array.dtype}, expected numbers {shape}, {axes}{hint}"
    )
