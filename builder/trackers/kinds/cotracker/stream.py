"""Long windows through models that carry tracks from one stretch of frames to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from builder.canvas.query_grid import queries_in_frame
from builder.trackers.base import Window
from builder.trackers.kinds.cotracker.engine import Engine, Prediction, Prepared, Result
from builder.trackers.windowed import checked_frame, checked_window

T = TypeVar("T")


class StreamingTracker(Protocol):
    """What a session needs of the tracker it belongs to."""

    @property
    def engine(self) -> Engine:
        """The network at work."""
        ...

    def prepare(self, frame_rgb: np.ndarray) -> Prepared:
        """Compute the features of a frame (H, W, 3) uint8."""
        ...

    def results(self, prediction: Prediction, shape: tuple[int, int]) -> list[Result]:
        """Turn a prediction into tracks, vis and conf per window."""
        ...

    def within_memory(self, work: str, function: Callable[[], T]) -> T:
        """Call a function; raises TrackingError, naming ``work``, when memory is too small."""
        ...


class OnlineTrack:
    """One long track through a streaming network, in constant memory.

    The network sees ``window_len`` frames at a time and moves on by half of them.  Its state is
    kept here, so that several tracks can share one network, and is moved back in time after
    every window: the network itself would keep, and copy, all it ever predicted.
    """

    def __init__(self, engine: Engine, queries: torch.Tensor) -> None:
        self._engine, self._queries = engine, queries
        self._window = int(engine.network.window_len)
        self._step = self._window // 2
        self._features: list[torch.Tensor] = []
        self._known: Prediction | None = None  # of the frames in _features, the oldest
        engine.network.init_video_online_processing()
        self._state = self._take_state()

    def add(self, features: torch.Tensor) -> Prediction | None:
        """Take the next frame's features (C, h, w); return the steps that are final now."""
        self._features.append(features)
        if len(self._features) < self._window:
            return None
        prediction = self._run()
        self._features = self._features[self._step :]
        self._known = prediction.rows(self._step)
        return prediction.rows(0, self._step)

    def end(self) -> Prediction:
        """Return the steps not yet returned."""
        if self._known is not None and self._known.tracks.shape[1] == len(self._features):
            return self._known
        return self._run()

    def _run(self) -> Prediction:
        """Predict all frames in the window, the oldest of which were predicted before."""
        network = self._engine.network
        vars(network).update(self._state)
        answer = self._engine.forward(
            torch.stack(self._features)[None], self._queries, is_online=True
        )
        done = answer.tracks.shape[1] - len(self._features)
        if network.online_ind > self._step:
            network.online_ind = self._step
            for name in ("coords", "vis", "conf"):
                name = f"online_{name}_predicted"
                if hasattr(network, name):
                    setattr(network, name, getattr(network, name)[:, self._step :].clone())
        self._state = self._take_state()
        return answer.rows(done)

    def _take_state(self) -> dict[str, Any]:
        network = self._engine.network
        return {k: v for k, v in vars(network).items() if k.startswith("online_")}


class StreamSession:
    """Long windows, one after another: constant memory but for a window's own tracks."""

    def __init__(
        self,
        tracker: StreamingTracker,
        shape: tuple[int, int],
        queries_xy: np.ndarray,
        horizon: int,
        start_every: int,
    ) -> None:
        checked_window(horizon, start_every)
        self._tracker, self._shape = tracker, shape
        self._queries_xy = queries_in_frame(shape, queries_xy)
        self._horizon, self._start_every = horizon, start_every
        self._pushed = 0
        self._online: OnlineTrack | None = None
        self._parts: list[Result] = []

    def push(self, frame_rgb: np.ndarray) -> list[Window]:
        """Take the next frame (H, W, 3) uint8 RGB; return the window it finished, if any."""
        checked_frame(frame_rgb, self._shape)
        step = self._pushed % self._start_every
        self._pushed += 1
        if step >= self._horizon:
            return []  # it lies between two windows
        if self._online is None:
            engine = self._tracker.engine
            self._online = OnlineTrack(engine, engine.queries(self._queries_xy, self._shape))
        features = self._tracker.prepare(frame_rgb).features
        add = partial(self._online.add, features)
        self._keep(self._tracker.within_memory("a stretch of a long window", add))
        return self.finish() if step == self._horizon - 1 else []

    def finish(self) -> list[Window]:
        """Return the window still open, its tail padded by repeating the last frame's points."""
        if self._online is None:
            return []
        self._keep(self._tracker.within_memory("the end of a long window", self._online.end))
        tracks, vis, conf = zip(*self._parts, strict=True)
        self._parts, self._online = [], None
        window = Window(
            (self._pushed - 1) // self._start_every * self._start_every,
            self._padded(tracks),
            self._padded(vis).astype(np.uint8),
            None if conf[0] is None else self._padded(conf),
        )
        window.tracks_xy[0], window.vis[0] = self._queries_xy, 1
        return [window]

    def _keep(self, prediction: Prediction | None) -> None:
        if prediction is not None:
            self._parts += self._tracker.results(prediction, self._shape)

    def _padded(self, parts: Sequence[Any]) -> np.ndarray:
        """Join steps (k, ...) of a window and repeat the last up to its horizon."""
        joined = np.concatenate(parts)
        return np.concatenate([joined, joined[-1:].repeat(self._horizon - len(joined), axis=0)])
