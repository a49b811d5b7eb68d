"""Small complete episodes and datasets for tests, made of numbers alone: no video, no tracker."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builder.canvas.query_grid import query_points
from builder.dataset.folder import DatasetWriter, index_line
from builder.stores.base import ArraySpec, EpisodeWriter, Store
from schemas.dataset import (
    ArrayMeta,
    DatasetMeta,
    EpisodeMeta,
    QuerySpec,
    SourceInfo,
    TrackerInfo,
    ViewMeta,
    VisibilityRule,
)
from schemas.geometry import Letterbox

IMG_SHAPE = (24, 40)
HORIZON = 4
QUERIES = QuerySpec(grid=(2, 3))
SOURCE_SHAPES = {"front": (30, 20), "wrist": (17, 51)}
Digests = Mapping[str | None, Mapping[str, ArrayMeta]]


class Sample:
    """A valid episode of two views and some root arrays; equal arguments give equal ones."""

    def __init__(
        self,
        episode_id: str,
        *,
        seed: int = 0,
        length: int = 7,
        codec: str = "raw",
        track_codec: str = "raw",
    ) -> None:
        self.id, self.length = episode_id, length
        self.codec, self.track_codec = codec, track_codec
        self.fps: float | None = None
        self.boxes = {view: Letterbox.fit(s, IMG_SHAPE) for view, s in SOURCE_SHAPES.items()}
        self.arrays: dict[tuple[str | None, str], np.ndarray] = {}
        random = np.random.default_rng(seed)
        for view in self.boxes:
            self._fill(view, random)
        self.arrays[None, "actions"] = random.standard_normal((length, 3)).astype("<f4")
        self.arrays[None, "done"] = np.arange(length) == length - 1
        self.arrays[None, "nothing"] = np.zeros((length, 0), "<f8")
        self.arrays[None, "success"] = np.array(1, "<i2")

    def _fill(self, view: str, random: np.random.Generator) -> None:
        length, queries = self.length, query_points(QUERIES, self.boxes[view])
        steps = random.normal(0, 1, (length, HORIZON, *queries.shape)).astype("<f4")
        steps[:, 0] = 0
        # Smooth pictures, so that a JPEG of them is close to them.
        ramp = np.add.outer(np.arange(IMG_SHAPE[0]) * 4, np.arange(IMG_SHAPE[1]) * 2)
        colours = ramp[..., None] + random.integers(0, 60, (length, 1, 1, 3))
        arrays = {
            "frames": colours.astype(np.uint8),
            "tracks": queries + np.cumsum(steps, axis=1),
            "vis": random.integers(0, 2, steps.shape[:3], dtype=np.uint8),
            "conf": random.random(steps.shape[:3], dtype=np.float32),
            "starts": np.arange(length, dtype="<i8"),
            "queries": queries,
            "timestamps": np.arange(length) / 30.0,
        }
        self.arrays |= {(view, name): array for name, array in arrays.items()}

    @property
    def frames(self) -> np.ndarray:
        """Frames of the view ``front``, (T, H, W, 3) uint8."""
        return self.arrays["front", "frames"]

    def tolerance(self, name: str) -> float:
        """Return how far a stored array may be from what was written."""
        lossy = {("frames", "jpeg"): 16.0, ("tracks", "u16"): 1 / 128}
        return lossy.get((name, self._codec(name)), 0.0)

    def _codec(self, name: str) -> str:
        return {"frames": self.codec, "tracks": self.track_codec}.get(name, "raw")

    def layout(self) -> dict[str | None, dict[str, ArraySpec]]:
        """Return what ``Store.begin`` is told."""
        layout: dict[str | None, dict[str, ArraySpec]] = {}
        for (view, name), array in self.arrays.items():
            spec = ArraySpec(array.shape, array.dtype.str, self._codec(name))
            layout.setdefault(view, {})[name] = spec
        return layout

    def write(self, writer: EpisodeWriter) -> None:
        """Write all arrays, in blocks of changing sizes."""
        for (view, name), array in self.arrays.items():
            if array.ndim == 0:
                writer.write(view, name, 0, array)
            at = 0
            for size in (1, 2, 1, sum(array.shape)):
                block = array[at : at + size] if array.ndim else ()
                if len(block):
                    writer.write(view, name, at, np.asarray(block))
                    at += len(block)

    def meta(self, digests: Digests, episode_id: str | None = None) -> EpisodeMeta:
        """Describe the episode, given the digests of what was written."""
        return EpisodeMeta.seal(
            id=episode_id or self.id,
            source=SourceInfo(kind="sample", path=f"{self.id}.mp4"),
            length=self.length,
            horizon=HORIZON,
            text="pick up the bowl",
            arrays=dict(digests[None]),
            views=tuple(self._view_meta(view, digests) for view in self.boxes),
        )

    def _view_meta(self, view: str, digests: Digests) -> ViewMeta:
        box, arrays = self.boxes[view], dict(digests[view])
        shape, fps = box.source_shape, self.fps
        return ViewMeta(name=view, geometry=box, coded_shape=shape, fps=fps, arrays=arrays)

    def build(
        self, store: Store, *, replace: bool = False, episode_id: str | None = None
    ) -> EpisodeMeta:
        """Write and commit the episode; returns its metadata."""
        where = self.id if episode_id is None else episode_id
        with store.begin(where, self.layout(), replace=replace) as writer:
            self.write(writer)
            meta = self.meta(writer.digests(), episode_id)
            writer.commit(meta)
        return meta


def sample_meta(**changes: Any) -> DatasetMeta:
    """Describe the dataset that samples make; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "created_with": "0",
        "img_shape": IMG_SHAPE,
        "horizon": HORIZON,
        "start_every": 1,
        "mode": "reinit",
        "queries": QUERIES,
        "tracker": TrackerInfo(
            kind="sample",
            name="random walk",
            version="1",
            licence="MIT",
            visibility=VisibilityRule(rule="a coin", sticky=False),
        ),
        "config": {"source": {"kind": "sample"}},
    }
    return DatasetMeta.seal(**{**fields, **changes})


def sample_dataset(folder: Path, store: Store, samples: Iterable[Sample]) -> None:
    """Write a whole valid dataset."""
    with DatasetWriter.create(folder, sample_meta()) as catalog:
        for sample in samples:
            catalog.add(index_line(sample.build(store)))
