"""Windows of tracks from live cameras, with the numbers that training saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from builder.canvas.model_points import affine_matrix, map_operations, write_points
from builder.canvas.stillness import StillMeter
from builder.core.errors import ConfigError
from builder.inference.clock import Counts, LiveClock, Tick
from builder.inference.preprocess import canvas_of, check_image, on_img_shape
from builder.trackers.base import TRACKERS, Tracker, ViewKey, Window
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from schemas.affine import AxisAffine, Points
from schemas.dataset import TrackerInfo
from schemas.inference import Decoder, InferenceMeta, InferenceView, LiveTracking

Sample = dict[str, Any]


class LiveWindows:
    """Frames of live cameras in, windows of tracks out: as ``WindowDataset`` gives them.

    A sample has, for V views and N points: ``traj`` (V, horizon, N, 2) float32, (row, col) in
    [-1, 1]; ``vis`` (V, horizon, N) float32; ``valid`` (horizon,) bool, all true; ``in_content``
    (V, N) bool; ``decode`` (V, 2, 3) float64; ``view_mask`` (V,) bool; ``t``, the number of its
    first step among the frames that were picked; ``seconds`` (horizon,) float64, the time of each
    step; with ``velocities`` also ``velocity`` (V, horizon - 1, N, 2), the difference of ``traj``;
    with ``images`` the letterboxed frames at step 0, (V, H, W, 3) uint8 RGB.

    Frames are picked by time at the rate of training (``source.fps`` of the build, else the rate
    of its videos), as a build picks them, and are never interpolated.  A frame older than the one
    before it is left out; where a tick has no frame of its own tracking begins anew, so no window
    goes across a gap; frames that wait too long for another view are dropped.  ``counts`` tells
    how many.  Memory does not depend on how long it runs.
    """

    def __init__(
        self,
        meta: InferenceMeta,
        *,
        stride: int | None = None,
        tracker: Mapping[str, Any] | None = None,
        device: str | None = None,
        any_tracker: bool = False,
        every_frame: bool = False,
        wait: bool = False,
        images: bool = False,
        velocities: bool = False,
    ) -> None:
        """Prepare for the cameras that ``meta`` describes.

        ``stride`` is how many picked frames lie between the starts of two windows (default: as
        in training).  ``tracker`` gives settings that are no part of the record, such as
        ``{"weights": "scaled_online.pth"}``; ``device`` is where a learned tracker runs and the
        samples, torch tensors, are put; without it they are numpy arrays.  Another tracker, or
        other weights or settings, than in training are refused unless ``any_tracker``;
        ``every_frame`` takes frames as they come, whatever their times.  A frame just before its
        tick is taken at once; ``wait`` waits for the next one, to choose the nearer as a build
        does also where the camera's rate varies (see ``LiveClock``).
        Raises ConfigError for a tracker that differs or cannot be opened, and ValueError for a
        record that tells of none, for a view that is stretched, and for a ``stride`` below 1.
        """
        live = _recorded(meta)
        self.meta, self._decoder, self._device = meta, Decoder(meta), device
        self._images, self._velocities = images, velocities
        self._tracker = _open_tracker(live, tracker or {}, device, any_tracker)
        if stride is not None and not (isinstance(stride, int) and stride > 0):
            raise ValueError(f"stride is a whole number of frames, 1 or more; got {stride!r}")
        changes = {} if stride is None else {"start_every": stride}
        self._part = live.settings.model_copy(update=changes)
        self.horizon, self.stride = self._part.horizon, self._part.start_every
        names = [view.name for view in meta.views]
        reference = live.reference_view if live.reference_view in names else names[0]
        rate = (live.fps or self._decoder.view(reference).fps, live.frame_step if live.fps else 1)
        if every_frame:
            rate = (None, live.frame_step)
        self.reference_view = str(reference)
        self._clock_settings = (names, self.reference_view, *rate, live.tolerance_seconds, wait)
        self.reset()

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> LiveWindows:
        """Read what ``letterset export --to inference`` wrote; ``options`` as of the class.

        Raises OSError, ValueError and ConfigError naming what is wrong.
        """
        return cls(Decoder.load(path).meta, **options)

    def __repr__(self) -> str:
        names, _, fps, step, *_ = self._clock_settings
        every = f"{fps / step:g} frames a second" if fps else f"every {step}. frame"
        return (
            f"LiveWindows(views={names}, horizon={self.horizon}, stride={self.stride}, {every}, "
            f"tracker={self._tracker.info.name!r})"
        )

    @property
    def counts(self) -> Counts:
        """What became of the frames since the last reset."""
        return self._clock.counts

    def reset(self) -> None:
        """Begin a new episode: no window reaches back across this."""
        self._clock = LiveClock(*self._clock_settings)
        self._fed = 0
        self._begin()

    def push(self, frames: Mapping[str, Any], seconds: float) -> list[Sample]:
        """Take frames by view, all of one time; returns the windows they finished, in order.

        A frame is RGB (H, W, 3) uint8 as the camera gives it, or an ``av.VideoFrame``.  Views may
        come in calls of their own, each with its time.  Raises KeyError for an unknown view,
        TypeError and ValueError for what is no frame of the view's resolution, for a time that
        jumps back, and for a camera slower than the frames of training.
        """
        if not isinstance(frames, Mapping):
            raise TypeError(f"expected frames by view, got {type(frames).__name__}")
        if not np.isfinite(seconds):
            raise ValueError(f"the time of a frame is in seconds, got {seconds}")
        for name, image in frames.items():
            view = self._decoder.view(name)
            check_image(self._decoder, image, name)
            canvas = None
            if self._images:
                canvas = np.zeros((*canvas_of(view).img_shape, 3), np.uint8)
            letterboxed = self._frames[view.name]
            shown = letterboxed.tracked(image, canvas)
            content = letterboxed.content(image, shown) if self._meters else None
            self._clock.push(view.name, float(seconds), (shown, canvas, content))
        return [sample for tick in self._clock.settled() for sample in self._feed(tick)]

    def finish(self) -> list[Sample]:
        """Return the windows that waited for a later frame; call it where an episode ends."""
        return [sample for tick in self._clock.settled(end=True) for sample in self._feed(tick)]

    def decode(
        self, prediction: Points, view: str | None = None, order: Literal["rc", "xy"] = "rc"
    ) -> Points:
        """Map normalized points to (x, y) source pixels; see ``Decoder.decode``."""
        return self._decoder.decode(prediction, view, order)

    def _begin(self) -> None:
        """Start tracking anew; the next frame is the first that windows may start at."""
        threshold = self._part.skip_still
        self._meters = {
            view.name: StillMeter(threshold, self.horizon, self.stride)
            for view in self.meta.views
            if threshold is not None
        }
        self._views = {view.name: self._view_tracker(view) for view in self.meta.views}
        self._frames = {
            view.name: ViewFrames(self._views[view.name], view.orientation)
            for view in self.meta.views
        }
        self._operations = [map_operations([_normalization(view)]) for view in self.meta.views]
        boxed = ((view.box, view.queries_xy) for view in self._views.values())
        # What all samples have alike, each in a copy of its own.
        self._alike: dict[str, np.ndarray] = {
            "valid": np.ones(self.horizon, bool),
            "in_content": np.stack([np.asarray(box.inside(queries)) for box, queries in boxed]),
            "decode": np.stack([affine_matrix(_decode(view)) for view in self.meta.views]),
            "view_mask": np.ones(len(self._views), bool),
        }
        self._origin, self._next_start = self._fed, 0
        self._open: dict[int, dict[str, Window]] = {}
        self._ticks: dict[int, Tick] = {}

    def _view_tracker(self, view: InferenceView) -> ViewTracker:
        key = ViewKey("live", "live", view.name)
        box = canvas_of(view)
        keeps = self._moves if self._meters else None
        return ViewTracker(self._tracker, box, self.meta.queries, self._part, None, key, keeps)

    def _moves(self, start: int) -> bool:
        """Tell whether something moves in a window whose frames were all pushed, in any view."""
        return any(start in meter.moved for meter in self._meters.values())

    def _feed(self, tick: Tick) -> Iterator[Sample]:
        if tick.items is None:
            self._clock.counts.gaps += 1
            self._begin()
            return
        self._ticks[self._fed - self._origin] = tick
        self._fed += 1
        for name, meter in self._meters.items():
            meter.push(tick.items[name][2])
        for name, view in self._views.items():
            for window in view.push(tick.items[name][0]):
                self._open.setdefault(window.start, {})[name] = window
        while (ready := self._ready(self._next_start)) is not None:
            if ready:
                yield self._sample(self._next_start, ready)
            self._clock.counts.still += not ready
            self._next_start += self.stride
            for number in [n for n in self._ticks if n < self._next_start]:
                del self._ticks[number]
            for meter in self._meters.values():
                meter.forget(self._next_start)

    def _ready(self, start: int) -> dict[str, Window] | None:
        """Take a window of all views; none of them where it stands still, None: it is to come."""
        over = self._origin + start + self.horizon <= self._fed
        if over and self._meters and not self._moves(start):
            return {}
        if len(self._open.get(start, ())) < len(self._views):
            return None
        return self._open.pop(start)

    def _sample(self, start: int, windows: Mapping[str, Window]) -> Sample:
        self._clock.counts.windows += 1
        vis = np.stack([windows[name].vis for name in self._views]).astype(np.float32)
        traj = np.empty((*vis.shape, 2), np.float32)
        for at, (name, operations) in enumerate(zip(self._views, self._operations, strict=True)):
            write_points(windows[name].tracks_xy, operations, traj[at])
        ticks = [self._ticks[start + step] for step in range(self.horizon)]
        arrays: dict[str, np.ndarray] = {
            "traj": traj,
            "vis": vis,
            **{name: each.copy() for name, each in self._alike.items()},
            "seconds": np.array([tick.seconds for tick in ticks]),
        }
        if self._velocities:
            arrays["velocity"] = traj[:, 1:] - traj[:, :-1]
        if self._images:
            items = ticks[0].items or {}
            arrays["images"] = np.stack(
                [on_img_shape(items[view.name][1], view) for view in self.meta.views]
            )
        return {**self._placed(arrays), "t": self._origin + start}

    def _placed(self, arrays: dict[str, np.ndarray]) -> Sample:
        if self._device is None:
            return dict(arrays)
        import torch

        return {name: torch.from_numpy(each).to(self._device) for name, each in arrays.items()}


def _normalization(view: InferenceView) -> AxisAffine:
    """Return the map from where a view is tracked to [-1, 1]; its bits are those of training."""
    norm = AxisAffine.normalization(view.geometry.img_shape)
    if view.tracked in (None, view.geometry):
        return norm
    return (norm @ view.geometry.affine) @ ~canvas_of(view).affine


def _decode(view: InferenceView) -> AxisAffine:
    return ~(AxisAffine.normalization(view.geometry.img_shape) @ view.geometry.affine)


def _recorded(meta: InferenceMeta) -> LiveTracking:
    """Return how the tracks were made; raises ValueError where no camera could be tracked so."""
    live = meta.live
    if live is None:
        raise ValueError(
            "this file does not tell how its tracks were made, so a camera's cannot be made alike: "
            "export it again from a dataset that letterset built, with letterset export DATASET "
            "FILE --to inference (Preprocessor and Decoder work with it as it is)"
        )
    if live.settings.mode == "episode":
        raise ValueError(
            "its tracks go through whole episodes (tracker.mode: episode): a live window cannot "
            "know them; train on tracks of mode reinit, letterset track DATASET --name NAME"
        )
    if meta.queries.region == "stored" or live.tracker.kind == "none":
        raise ValueError(
            f"tracker {live.tracker.kind!r} follows no points of a camera: train on tracks that "
            "letterset track made"
        )
    return live


def _open_tracker(
    live: LiveTracking, given: Mapping[str, Any], device: str | None, any_tracker: bool
) -> Tracker:
    """Open the tracker of training.  Raises ConfigError for one that differs."""
    part = live.settings.model_copy(update=dict(given))
    make_tracker, own = TRACKERS.configure(part)
    code = getattr(make_tracker, "code_setting", None)
    if code and code not in given:
        name = getattr(own, code)
        raise ConfigError(
            f"the tracker of training is a function of its makers, {name}, and a record never has "
            f"code run: to run the one of this name that is here, give tracker={{{code!r}: "
            f"{name!r}}}, or --call {name} to letterset parity"
        )
    if device is not None and "device" in type(own).model_fields:
        part = part.model_copy(update={"device": device.partition(":")[0]})
        make_tracker, own = TRACKERS.configure(part)
    tracker = make_tracker(own)
    differing = _differences(live.tracker, tracker.info)
    if differing and not any_tracker:
        raise ConfigError(
            f"the tracker here is not the one of training: {'; '.join(differing)}. Its tracks "
            "would differ from those the model knows; any_tracker=True takes it nevertheless"
        )
    return tracker


def _differences(wanted: TrackerInfo, got: TrackerInfo) -> list[str]:
    """Say what of a tracker is not as in training, as far as it decides where points go."""
    parts = ("kind", "name", "weights_sha256")
    old = {**{key: getattr(wanted, key) for key in parts}, **wanted.settings}
    new = {**{key: getattr(got, key) for key in parts}, **got.settings}
    return [
        f"{key} {new.get(key)!r}, in training {old.get(key)!r}"
        for key in sorted({*old, *new} - {"note", "device", "batch"})
        if old.get(key) != new.get(key)
    ]
