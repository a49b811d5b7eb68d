"""Does a dataset suit an img_shape?  Told before any training, from the tracks alone.

Windows are sampled evenly, episodes are read one after another and only counters are kept, so
memory does not grow with the dataset.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from builder.canvas.windows import EPISODE_HORIZON, valid_steps
from builder.core.errors import ConfigError, DatasetError
from builder.core.records import checked_shape
from builder.core.spacing import spread
from builder.dataset.episodes import Dataset, EpisodeData, SizeOrigin, ViewData
from builder.dataset.folder import META_NAME
from builder.dataset.opening import open_dataset
from builder.report.findings import MotionReport, Report, SizeReport, ViewReport, findings
from builder.training.metrics import MotionStats
from builder.training.normalize import normalize_traj
from schemas.geometry import Geometry, Letterbox, Stretch, swap_xy

WINDOWS_PER_VIEW = 8
"""Windows looked at per episode and view, spread evenly."""

FRAME_STEPS = (1, 2, 3, 4, 6, 8)
"""Frame steps tried, within the stored windows."""

MAX_SIZES = 50
"""Different sizes listed per view; a dataset of a million sizes must not fill the memory."""


def diagnose_path(
    path: Path | str, img_shape: tuple[int, int], windows: int = WINDOWS_PER_VIEW, **legacy: Any
) -> Report:
    """Open a dataset, or a folder of older files, and diagnose it.

    Unreadable older files are listed in the report.  Raises DatasetError, ConfigError.
    """
    if (Path(path) / META_NAME).exists():
        dataset = open_dataset(path, max_open=1)
    else:
        dataset = open_dataset(path, img_shape, max_open=1, on_error="skip", **legacy)
    return diagnose(dataset, img_shape, windows)


def diagnose(
    dataset: Dataset, img_shape: tuple[int, int], windows: int = WINDOWS_PER_VIEW
) -> Report:
    """Diagnose an open dataset for training with ``img_shape`` (H, W).

    ``windows`` is the number of windows sampled per episode and view.  Raises ConfigError for
    options that make no sense.
    """
    img_shape = checked_shape(img_shape, "img_shape")
    if windows < 1:
        raise ConfigError(f"windows must be at least 1, got {windows}")
    views: dict[str, _View] = {}
    problems = dict(dataset.problems)
    for episode_id in dataset.ids:
        try:
            episode = dataset[episode_id]
            for name, view in episode.views.items():
                if not len(view.starts):  # frames alone, no tracks
                    continue
                found = views.setdefault(name, _View(img_shape))
                found.add(episode, view, windows)
        except DatasetError as error:
            problems[episode_id] = str(error)
    reports = tuple(views[name].report(name) for name in sorted(views))
    return Report(
        dataset=str(dataset.path),
        img_shape=img_shape,
        episodes=len(dataset),
        views=reports,
        problems=problems,
        findings=tuple(findings(reports, img_shape, len(problems))),
    )


class _View:
    """The counters of one view over all episodes."""

    def __init__(self, img_shape: tuple[int, int]) -> None:
        self.img_shape = img_shape
        self.now = MotionStats(img_shape)
        self.remapped = {step: MotionStats(img_shape) for step in FRAME_STEPS}
        self.sizes: Counter[tuple[tuple[int, int] | None, SizeOrigin]] = Counter()
        self.aspects: Counter[float] = Counter()
        self.episodes = self.points = self.padded = self.seen = self.visible = 0
        self.steps = self.tail = self.windows = self.tail_windows = 0

    def add(self, episode: EpisodeData, view: ViewData, windows: int) -> None:
        """Count one view of one episode."""
        tracks_xy, vis, valid = _sample(episode, view, windows)
        queries = np.asarray(view.queries)
        shape, origin = view.tracked_size()
        geometry = view.geometry
        now_xy = tracks_xy
        if geometry.img_shape != self.img_shape:
            now_xy = (geometry.onto(self.img_shape).affine @ ~geometry.affine)(tracks_xy)
        right_xy = now_xy
        if origin == "estimated" and shape is not None:
            right_xy = Stretch(source_shape=shape, img_shape=self.img_shape).to_img(tracks_xy)
        now, right = (normalize_traj(swap_xy(p), self.img_shape) for p in (now_xy, right_xy))
        self.now.update(now, valid)
        for step, stats in self.remapped.items():
            stats.update(right[:, ::step], valid[:, ::step])
        if (shape, origin) in self.sizes or len(self.sizes) < MAX_SIZES:
            self.sizes[shape, origin] += 1
        aspect = _aspect(geometry if origin != "estimated" else None, shape)
        if aspect in self.aspects or len(self.aspects) < MAX_SIZES:
            self.aspects[aspect] += 1
        self.episodes += 1
        self.points += len(queries)
        self.padded += int((~geometry.inside(queries)).sum()) if origin == "letterbox" else 0
        self.seen += vis.size
        self.visible += int((vis > 0.5).sum())
        if episode.meta.mode == "reinit":
            real = valid_steps(np.asarray(view.starts), episode.meta.horizon, episode.meta.length)
            self.steps, self.tail = self.steps + real.size, self.tail + int((~real).sum())
            self.windows += len(real)
            self.tail_windows += int((~real).any(axis=1).sum())

    def report(self, name: str) -> ViewReport:
        """Sum up."""
        right = {step: _motion(stats) for step, stats in self.remapped.items() if stats.steps}
        return ViewReport(
            name=name,
            episodes=self.episodes,
            sizes=tuple(
                SizeReport(
                    shape=shape,
                    origin=origin,
                    episodes=count,
                    scale_rc=_scale(shape, origin, self.img_shape),
                )
                for (shape, origin), count in self.sizes.most_common()
            ),
            aspects=tuple(sorted(self.aspects)),
            now=_motion(self.now),
            remapped=right.get(1, _motion(self.now)),
            by_frame_step={str(step): report for step, report in right.items()},
            padding_share=self.padded / max(1, self.points),
            tail_share=self.tail / max(1, self.steps),
            tail_windows_share=self.tail_windows / max(1, self.windows),
            visible_share=self.visible / max(1, self.seen),
        )


def _sample(
    episode: EpisodeData, view: ViewData, windows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return windows (W, horizon, N, 2) float32 xy, their vis and valid (W, horizon, 1)."""
    length, horizon = episode.meta.length, episode.meta.horizon
    if episode.meta.mode == "episode":
        horizon = min(EPISODE_HORIZON, length)
        starts = np.array(spread(length - horizon + 1, windows))
        picked = [(0, slice(start, start + horizon)) for start in starts]
    else:
        rows = spread(len(view.tracks), windows)
        starts = np.asarray(view.starts)[rows]
        picked = [(row, slice(None)) for row in rows]
    tracks_xy = np.stack([np.asarray(view.tracks[at]) for at in picked]).astype(np.float32)
    vis = np.stack([np.asarray(view.vis[at]) for at in picked])
    for name, values, cure in (
        ("tracks hold", tracks_xy, "build the episode again"),
        ("vis holds", vis, "write 0 where a point is not seen"),
    ):
        if not np.isfinite(values).all():
            raise DatasetError(
                f"episode {episode.meta.id}, view {view.name}: {name} NaN or infinity, which "
                f"training would take in; {cure}"
            )
    return tracks_xy, vis, valid_steps(starts, horizon, length)[:, :, None]


def _aspect(geometry: Geometry | None, shape: tuple[int, int] | None) -> float:
    """Return the displayed width over height, to a hundredth; 0 when unknown."""
    if isinstance(geometry, Letterbox):
        shape = geometry.content_shape
    return round(shape[1] / shape[0], 2) if shape else 0.0


def _scale(
    shape: tuple[int, int] | None, origin: str, img_shape: tuple[int, int]
) -> tuple[float, float] | None:
    """How much a loader that divides by img_shape shrinks (< 1) or magnifies (> 1)."""
    if shape is None:
        return None
    if origin in ("recorded", "estimated"):
        return (shape[0] / img_shape[0], shape[1] / img_shape[1])
    return (1.0, 1.0)


def _motion(stats: MotionStats) -> MotionReport:
    return MotionReport(**stats.metrics())
