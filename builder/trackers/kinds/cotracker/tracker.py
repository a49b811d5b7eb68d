"""The ``cotracker`` tracker: windows as clips, long windows that do not overlap as streams."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator

from builder.core.errors import TrackingError
from builder.inputs.fingerprint import file_sha256
from builder.trackers.base import BaseSession, Session, Window
from builder.trackers.kinds.cotracker.engine import Engine, Prediction, Prepared, Result
from builder.trackers.kinds.cotracker.loading import (
    HUB,
    LICENCE,
    MODELS,
    build_network,
    choose_device,
    load_weights,
    package_version,
    weights_file,
)
from builder.trackers.windowed import WindowedTracker
from schemas.base import Record, Side
from schemas.dataset import TrackerInfo, VisibilityRule

log = logging.getLogger(__name__)

T = TypeVar("T")

Share = Annotated[float, Field(ge=0, le=1)]


class CoTrackerConfig(Record):
    """Settings of the CoTracker tracker."""

    model: Literal["cotracker2", "cotracker2v1", "cotracker3_offline", "cotracker3_online"] = (
        "cotracker3_online"
    )
    weights: str | None = Field(
        default=None, description="a checkpoint file, or 'hub' to let torch.hub download it"
    )
    weights_url: str | None = Field(
        default=None, description="where a checkpoint file came from; recorded"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16 is faster, its tracks differ"
    )
    batch: Side = Field(default=1, description="windows per call of the model")
    deterministic: bool = Field(
        default=False, description="never change the batch, also when memory runs out"
    )
    iterations: Side = Field(default=6, description="refinements of a window's tracks")
    support_grid: Annotated[int, Field(ge=0, le=64)] = Field(
        default=6, description="n x n extra points that help the others; 0 for none"
    )
    visibility_of: Literal["visibility", "visibility*confidence"] | None = Field(
        default=None, description="what the threshold is for; default: as the model's authors"
    )
    visibility_threshold: Share | None = Field(
        default=None, description="default: 0.6 for cotracker3_online, else 0.9"
    )
    max_clip: Side = Field(
        default=300, description="longest window, in frames, that is held in memory as a whole"
    )

    @model_validator(mode="after")
    def _has_confidence(self) -> CoTrackerConfig:
        if MODELS[self.model].v2 and self.visibility_of == "visibility*confidence":
            raise ValueError(f"{self.model} gives no confidence; use visibility_of: visibility")
        return self

    @property
    def visibility(self) -> tuple[str, float]:
        """What is compared and with what; by default as the authors' own predictors do."""
        online = self.model == "cotracker3_online"
        of = self.visibility_of or ("visibility*confidence" if online else "visibility")
        threshold = self.visibility_threshold
        return of, (0.6 if online else 0.9) if threshold is None else threshold


class OutOfMemory(TrackingError):
    """A GPU's memory does not hold the work."""


class CoTracker(WindowedTracker):
    """CoTracker 2 or 3, whose package and weights you install: see docs/guides/cotracker.md."""

    Config = CoTrackerConfig
    notice = f"CoTracker's code and weights are {LICENCE}: its tracks are for non-commercial use"

    def __init__(self, config: CoTrackerConfig | None = None, network: Any = None) -> None:
        """Keep the settings; the model is built and its weights are loaded when first needed.

        ``network`` is one already built, for example a variant of one's own, and is taken over
        (its encoder is replaced).  First use raises ConfigError for a missing package, missing
        or unfit weights, or a missing GPU.
        """
        self.config = config or CoTrackerConfig()
        self._given = network
        self.spec = MODELS[self.config.model]
        self.batch, self.min_clip = self.config.batch, self.spec.min_clip
        self.gives_conf = not self.spec.v2

    def __reduce__(self) -> tuple[type, tuple[CoTrackerConfig, Any]]:
        # A loaded model stays behind; the other process loads its own.
        return type(self), (self.config, self._given)

    @cached_property
    def info(self) -> TrackerInfo:
        """What the dataset records about it; loads the weights, so that bad ones show early."""
        device = choose_device(self.config.device)
        network, digest = self._loaded
        of, threshold = self.config.visibility
        settings = self.config.model_dump(mode="json", exclude={"weights", "weights_url"})
        settings |= {
            "device": device.type,
            "visibility_of": of,
            "visibility_threshold": threshold,
            "model_resolution": list(network.model_resolution),
        }
        return TrackerInfo(
            kind="cotracker",
            name=self.config.model,
            version=package_version(),
            licence=LICENCE,
            settings=settings,
            visibility=VisibilityRule(
                rule=f"the model's {of} is above the threshold; step 0 is always visible",
                threshold=threshold,
                unit="probability",
                sticky=False,
            ),
            weights_sha256=digest,
            weights_url=self.spec.url if self.config.weights == HUB else self.config.weights_url,
        )

    @cached_property
    def _loaded(self) -> tuple[Any, str | None]:
        """The network, on the CPU until it is used, and its weights' hash."""
        if self._given is not None:
            return self._given, None
        model = self.config.model
        network = build_network(model)
        path = weights_file(model, self.config.weights)
        load_weights(network, model, path)
        return network, file_sha256(path)

    @cached_property
    def engine(self) -> Engine:
        """The network at work, on this process's device."""
        config = self.config
        return Engine(
            self._loaded[0],
            choose_device(config.device),
            bf16=config.precision == "bf16",
            iterations=config.iterations,
            support_grid=config.support_grid,
            deterministic=config.deterministic,
        )

    def open(
        self, shape: tuple[int, int], queries_xy: np.ndarray, horizon: int, start_every: int
    ) -> Session:
        """Start a session; see ``Tracker.open``.

        Windows longer than the model's own that do not overlap (a whole episode is one) are
        streamed where the model can; others are held in memory, up to ``max_clip`` frames.
        """
        if self.spec.streams and horizon > self.spec.window_len and start_every >= horizon:
            return StreamSession(shape, queries_xy, horizon, start_every, self)
        if horizon > self.config.max_clip:
            raise TrackingError(
                f"{self.config.model} would hold a window of {horizon} frames in memory, the "
                f"limit is {self.config.max_clip}: use tracker.mode=episode with "
                "tracker.model=cotracker3_online, which streams, a shorter horizon, or raise "
                "tracker.max_clip"
            )
        return super().open(shape, queries_xy, horizon, start_every)

    def prepare(self, frame_rgb: np.ndarray) -> Prepared:
        """Compute a frame's features, once for all windows that see it."""
        features = self.within_memory("one frame", lambda: self.engine.features(frame_rgb))
        return Prepared(features, frame_rgb.shape[:2])

    def track(self, clips: list[list[Prepared]], queries_xy: np.ndarray) -> list[Result]:
        """Track clips of prepared frames; a batch that memory cannot hold is halved."""
        shape = clips[0][0].shape
        queries = self.engine.queries(queries_xy, shape)
        results: list[Result] = []
        while len(results) < len(clips):
            group = clips[len(results) : len(results) + self.batch]
            work = f"{len(group)} windows of {len(group[0])} frames, {queries.shape[1]} points"
            try:
                prediction = self.within_memory(work, partial(self._predict, group, queries))
            except OutOfMemory as error:
                if len(group) == 1 or self.config.deterministic:
                    raise
                self.batch = len(group) // 2
                log.warning("%s; going on with batches of %d", error, self.batch)
                continue
            results += self.results(prediction, shape)
        for _, vis, _ in results:
            vis[0] = True  # a query is where its point was seen
        return results

    def _predict(self, clips: list[list[Prepared]], queries: torch.Tensor) -> Prediction:
        features = torch.stack([torch.stack([f.features for f in clip]) for clip in clips])
        return self.engine.forward(features, queries.expand(len(features), -1, -1))

    def results(self, prediction: Prediction, shape: tuple[int, int]) -> list[Result]:
        """Turn a prediction into tracks, vis and conf per window; raises TrackingError."""
        tracks, score, conf = self.engine.to_pixels(prediction, shape)
        of, threshold = self.config.visibility
        if of == "visibility*confidence" and conf is not None:
            score = score * conf
        confs = [None] * len(tracks) if conf is None else conf
        return list(zip(tracks, score > threshold, confs, strict=True))

    def within_memory(self, work: str, function: Callable[[], T]) -> T:
        """Call a function; raises OutOfMemory, saying what to do, when a GPU is too small."""
        try:
            return function()
        except torch.cuda.OutOfMemoryError as error:
            device = choose_device(self.config.device)
            raise OutOfMemory(
                f"{self.config.model} ran out of memory on {device} with {work} "
                f"({str(error).partition('.')[0]}): use a smaller tracker.batch, fewer query "
                "points, a shorter horizon, fewer workers per GPU, or tracker.device=cpu"
            ) from None


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


@dataclass(eq=False)
class StreamSession(BaseSession):
    """Long windows, one after another: constant memory but for a window's own tracks."""

    tracker: CoTracker

    def __post_init__(self) -> None:
        super().__post_init__()
        self._online: OnlineTrack | None = None
        self._parts: list[Result] = []

    def _add(self, frame_rgb: np.ndarray) -> list[Window]:
        step = (self._pushed - 1) % self.start_every
        if step >= self.horizon:
            return []  # it lies between two windows
        if self._online is None:
            engine = self.tracker.engine
            self._online = OnlineTrack(engine, engine.queries(self.queries_xy, self.shape))
        add = partial(self._online.add, self.tracker.prepare(frame_rgb).features)
        self._keep(self.tracker.within_memory("a part of a long window", add))
        return self.finish() if step == self.horizon - 1 else []

    def finish(self) -> list[Window]:
        """Return the window still open, its tail padded by repeating the last frame's points."""
        if self._online is None:
            return []
        self._keep(self.tracker.within_memory("the end of a long window", self._online.end))
        tracks, vis, conf = zip(*self._parts, strict=True)
        self._parts, self._online = [], None
        window = Window(
            (self._pushed - 1) // self.start_every * self.start_every,
            self._padded(tracks),
            self._padded(vis).astype(np.uint8),
            None if conf[0] is None else self._padded(conf),
        )
        window.tracks_xy[0], window.vis[0] = self.queries_xy, 1
        return [window]

    def _keep(self, prediction: Prediction | None) -> None:
        if prediction is not None:
            self._parts += self.tracker.results(prediction, self.shape)

    def _padded(self, parts: Sequence[Any]) -> np.ndarray:
        """Join steps (k, ...) of a window and repeat the last up to its horizon."""
        joined = np.concatenate(parts)
        return np.concatenate([joined, joined[-1:].repeat(self.horizon - len(joined), axis=0)])
