"""The same videos five ways: older files at several sizes, and two letterboxed datasets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from builder.build.pipeline import build
from builder.canvas.letterbox import Letterboxer
from builder.canvas.query_grid import query_points
from builder.dataset.episodes import Dataset, ViewData
from builder.dataset.opening import open_dataset
from builder.inputs.video import VideoStream
from builder.trackers.base import TRACKERS
from builder.training import WindowDataset
from builder.training.normalize import clip_traj
from schemas import BuildConfig, Letterbox, QuerySpec, Stretch
from schemas.config import SourcePart, StorePart

IMG_SHAPE = (477, 470)
HORIZON = 16
SMALL_SIDE, OLDER_SIDE = 180, 480


@dataclass
class Condition:
    """One way to make training data of the videos."""

    key: str
    label: str
    windows: torch.Tensor
    """(W, HORIZON, N, 2) float32, normalized (row, col), clipped: what a trainer sees."""
    true_scale_rc: torch.Tensor
    """(W, 2): source heights per loss pixel (row, col), to compare errors between conditions."""
    unclipped: torch.Tensor


def conditions(videos: Path, work: Path, grid: int) -> Iterator[Condition]:
    """Build all five, or read what an earlier run built."""
    queries = QuerySpec(grid=(grid, grid))
    small = older_files(videos, work / "short180", SMALL_SIDE, queries)
    plain = older_files(videos, work / "short480", OLDER_SIDE, queries)
    sized = with_sizes(work / "short480", work / "short480_attrs")
    yield _condition("a", "older, tracked small, no size", small)
    yield _condition("b", "older default, no size", plain)
    yield _condition("c", "older default, remapped", sized)
    canvas = QuerySpec(grid=(grid, grid), region="canvas")
    for key, spec in (("d", queries), ("e", canvas)):
        dataset = letterboxed(videos, work / f"letterbox_{spec.region}", spec)
        yield _condition(key, f"letterbox, {spec.region} queries", dataset)


def older_files(videos: Path, folder: Path, short_side: int, queries: QuerySpec) -> Dataset:
    """Track frames scaled to a short side, as the older route does, and keep its layout."""
    for path in sorted(videos.glob("*.mp4")):
        target = folder / f"{path.stem}.hdf5"
        if target.exists():
            continue
        stream = VideoStream(path)
        height, width = stream.info.source_shape  # the older route knows no pixel aspect
        ratio = short_side / min(height, width)
        shape = (round(height * ratio), round(width * ratio))
        box = Letterbox.fit((height, width), shape)
        points = query_points(queries, Stretch(source_shape=shape, img_shape=shape))
        tracks, vis = track(stream, Letterboxer(box), points, shape)
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(target, "w") as file:
            group = file.create_group("root/main")
            group["tracks"], group["vis"] = tracks, vis
            file.attrs["shape"] = shape  # for with_sizes; no loader looks here
    return open_dataset(folder, IMG_SHAPE)


def with_sizes(folder: Path, target: Path) -> Dataset:
    """Copy older files and add the attributes that say what size they were tracked in."""
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.hdf5"):
        shutil.copy(path, target / path.name)
        with h5py.File(target / path.name, "r+") as file:
            view = file["root/main"]
            view.attrs["height"], view.attrs["width"] = (int(n) for n in file.attrs["shape"])
    return open_dataset(target, IMG_SHAPE)


def track(
    stream: VideoStream, boxer: Letterboxer, points: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return tracks (T, HORIZON, N, 2) and vis (T, HORIZON, N) of the embedded tracker."""
    session = TRACKERS.load("dis")().open(shape, points, HORIZON, 1)
    windows = []
    for frame in stream:
        content = boxer.content(frame.image)
        if content.shape[:2] != shape:  # a pixel of rounding
            raise SystemExit(f"{stream.path}: scaled to {content.shape[:2]}, expected {shape}")
        windows += session.push(content)
    windows += session.finish()
    return (
        np.stack([window.tracks_xy for window in windows]),
        np.stack([window.vis for window in windows]).astype(np.float32),
    )


def letterboxed(videos: Path, folder: Path, queries: QuerySpec) -> Dataset:
    """Build with this project's own pipeline."""
    config = BuildConfig(
        img_shape=IMG_SHAPE,
        source=SourcePart(path=str(videos)),
        queries=queries,
        store=StorePart.model_validate(
            {"path": str(folder), "frames": {"codec": "none"}}, strict=False
        ),
    )
    summary = build(config)
    if summary.failures:
        raise SystemExit(str(summary.failures))
    return open_dataset(folder)


def _condition(key: str, label: str, dataset: Dataset) -> Condition:
    samples = WindowDataset(dataset, images="none", tail="exclude")
    windows = torch.stack([samples[index]["traj"][0] for index in range(len(samples))])
    raw = windows if next(iter(dataset)).sealed else _unclipped(dataset)
    return Condition(key, label, clip_traj(windows), _true_scale(samples), raw)


def _unclipped(dataset: Dataset) -> torch.Tensor:
    """Return older tracks without the clipping, which the samples have had already."""
    rows = []
    for episode in dataset:
        tracks = np.asarray(episode.views["main"].tracks[: episode.meta.length - HORIZON + 1])
        size = np.array(IMG_SHAPE[::-1])
        rows.append(((tracks - size / 2) / (size / 2))[..., ::-1].astype(np.float32))
    return torch.from_numpy(np.concatenate(rows))


def _true_scale(samples: WindowDataset) -> torch.Tensor:
    """Return what one pixel of img_shape is worth, in heights of the source picture.

    Older files without a size decode wrongly by nature, so here their true size is used: the
    points of step 0 span the picture, all but a cell.
    """
    found = []
    for episode in samples.dataset:
        windows = max(0, episode.meta.length - HORIZON + 1)
        found += [_pixel_worth(episode.views["main"])] * windows
    return torch.tensor(found)


def _pixel_worth(view: ViewData) -> tuple[float, float]:
    box = view.geometry
    if isinstance(box, Letterbox):
        return (1 / box.content_shape[0], 1 / box.content_shape[0])
    queries = np.asarray(view.queries, np.float64)
    width, height = queries.min(axis=0) + queries.max(axis=0)
    if box.source_shape == IMG_SHAPE:  # no size recorded: these pixels are square
        return (1 / height, 1 / height)
    return (1 / height, box.source_shape[1] / box.source_shape[0] / width)
