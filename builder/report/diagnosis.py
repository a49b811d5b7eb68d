"""``letterset doctor``: does a dataset suit an img_shape?  Measured on its tracks, before training.

Counted are the windows that lie within their clip, those that training takes: all of a small
dataset, of a large one so many spread evenly.  Episodes are read one after another and only
counters are kept, so memory does not grow with the dataset.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from builder.canvas.frame_rates import FrameRates
from builder.canvas.query_grid import grid_span
from builder.canvas.windows import EPISODE_HORIZON, valid_steps, whole_windows
from builder.core.errors import ConfigError, DatasetError
from builder.core.messages import count
from builder.core.records import checked_shape
from builder.dataset.episodes import Dataset, EpisodeData, SizeOrigin, TrackedSize, ViewData
from builder.dataset.folder import META_NAME
from builder.dataset.legacy.sizes import (
    HOW_TO_GIVE,
    contradiction,
    grid_note,
    grid_words,
    reach_of,
    told_size,
)
from builder.dataset.opening import open_dataset
from builder.report.false_motion import (
    StillReport,
    StillTally,
    still_findings,
    still_line,
)
from builder.report.motion_findings import (
    Level,
    MotionReport,
    ViewMotion,
    WindowTally,
    motion_findings,
)
from builder.report.windows_read import read_content, read_tracks, window_places
from builder.training.episode_selection import default_views
from builder.training.metrics import MotionStats, displacement_classes
from builder.training.normalize import normalize_traj
from schemas.base import Record, Shape
from schemas.dataset import EpisodeMeta
from schemas.geometry import Letterbox, swap_xy
from schemas.legacy import QUERY_SLACK_PX

MAX_WINDOWS = 4096  # looked at per view; in more episodes than that, at least
WINDOWS_PER_EPISODE = 8  # of each, spread evenly
FRAME_STEPS = (1, 2, 3, 4, 6, 8)  # tried, within the stored windows
MAX_SIZES = 50  # listed per view; a dataset of a million sizes must not fill the memory

# A size off by more than this share scales every velocity by as much.
SCALE_TOLERANCE = 0.05
_BLOCK = 64  # windows counted at a time
_SHOWN = {"hurts": "PROBLEM", "warn": "warning", "note": "note"}


class SizeReport(Record):
    """A size that tracks of some episodes are pixels of."""

    shape: Shape | None
    origin: SizeOrigin
    basis: str = Field(description="what it rests on, where that is no matter of course")
    told: str | None = Field(description="what tracks tell of an unknown, or against a wrong size")
    episodes: int
    scale_rc: tuple[float, float] | None = Field(
        description="amplitude (row, col) when divided by img_shape without a remap; right is 1"
    )


class ViewReport(ViewMotion):
    """One view over all episodes."""

    name: str
    episodes: int
    sizes: tuple[SizeReport, ...]
    aspects: tuple[float, ...] = Field(description="width / height of the pictures, where known")
    still: StillReport


class Finding(Record):
    """One sentence about one view (None: the dataset)."""

    level: Level
    view: str | None
    text: str

    @property
    def hurts(self) -> bool:
        """Whether a model trained on the dataset would degrade."""
        return self.level == "hurts"


class Diagnosis(Record):
    """What the doctor measured and found."""

    dataset: str
    img_shape: Shape
    episodes: int
    views: tuple[ViewReport, ...]
    problems: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1 when training on the dataset would degrade the model, else 0."""
        return int(any(finding.hurts for finding in self.findings))

    @property
    def verdict(self) -> str:
        """The diagnosis in a sentence."""
        if self.exit_code:
            return "Verdict: training on this dataset would degrade the model."
        if any(finding.level == "warn" for finding in self.findings):
            return "Verdict: the dataset can be used at this img_shape; see the warnings."
        return "Verdict: the dataset suits this img_shape."

    def text(self) -> str:
        """Return the diagnosis for people."""
        height, width = self.img_shape
        shown = f"[{height}, {width}]"
        lines = [f"{self.dataset}: {count(self.episodes, 'episode')}, for img_shape {shown}"]
        for view in self.views:
            lines += _view_lines(view)
        lines += [f"cannot be read: {name}: {why}" for name, why in self.problems.items()]
        lines += [
            f"{_SHOWN[f.level]}: {f.view + ': ' if f.view else ''}{f.text}" for f in self.findings
        ]
        lines.append(
            f"Normalization, loss (cls_img_size) and decoder must all use img_shape {shown}."
        )
        lines.append(self.verdict)
        return "\n".join(lines)


def diagnose_path(
    path: Path | str,
    img_shape: tuple[int, int],
    windows: int | None = None,
    **legacy: Any,
) -> Diagnosis:
    """Open a dataset, or a folder of older files, and diagnose it.

    Unreadable older files are listed in the report.  Raises DatasetError, ConfigError.
    """
    if (Path(path) / META_NAME).exists():
        if legacy:
            raise ConfigError(f"{path} records its sizes: {', '.join(legacy)} are for older files")
        dataset = open_dataset(path, max_open=1)
    else:
        dataset = open_dataset(path, img_shape, max_open=1, on_error="skip", **legacy)
    return diagnose(dataset, img_shape, windows)


def diagnose(
    dataset: Dataset,
    img_shape: tuple[int, int],
    windows: int | None = None,
    *,
    ids: Sequence[str] | None = None,
    on_episode: Callable[[EpisodeMeta], None] = lambda meta: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Diagnose an open dataset for training with ``img_shape`` (H, W).

    ``windows`` is the number of windows read per episode and view, at most; by default all, in
    large datasets so many that there are about ``MAX_WINDOWS`` per view.  ``ids`` are the episodes
    that are looked at, by default all: a note says how many are not.  ``on_episode`` is handed the
    metadata of each that can be opened.  Raises ConfigError for options that make no sense.
    """
    img_shape = checked_shape(img_shape, "img_shape")
    ids = dataset.ids if ids is None else ids
    if windows is None:
        windows = max(WINDOWS_PER_EPISODE, MAX_WINDOWS // max(1, len(ids)))
    if windows < 1:
        raise ConfigError(f"windows must be at least 1, got {windows}")
    rates = FrameRates()
    views: dict[str, _View] = {}
    together = default_views(dataset, masked=False) if len(dataset) else ()
    problems = dict(dataset.problems)
    for done, episode_id in enumerate(ids):
        on_progress(done, len(ids))
        try:
            episode = dataset[episode_id]
            on_episode(episode.meta)
            for name, view in episode.views.items():
                rates.add(view.meta.fps)
                if not len(view.starts):  # frames alone, no tracks
                    continue
                if name not in views:
                    views[name] = _View(dataset, img_shape, len(ids))
                found = views[name]
                found.add(episode, view, windows)
        except DatasetError as error:
            problems[episode_id] = str(error)
        _tally([views[name] for name in together if name in views])
        for own in views.values():
            _tally([own])
    on_progress(len(ids), len(ids))
    reports = tuple(views[name].report(name) for name in sorted(views))
    return Diagnosis(
        dataset=str(dataset.path),
        img_shape=img_shape,
        episodes=len(dataset),
        views=reports,
        problems=problems,
        findings=(
            *findings(reports, dataset, rates, len(problems)),
            *_not_looked_at(len(dataset), len(ids)),
        ),
    )


def _not_looked_at(episodes: int, looked_at: int) -> Iterator[Finding]:
    if looked_at < episodes:
        left = f"{episodes - looked_at} of {count(episodes, 'episode')} were not looked at"
        rest = f"the others are spread evenly, {looked_at} in number"
        yield Finding(level="note", view=None, text=f"{left}; {rest}; letterset doctor reads all")


class _View:
    """The counters of one view over all episodes."""

    def __init__(self, dataset: Dataset, img_shape: tuple[int, int], episodes: int) -> None:
        self.img_shape = img_shape
        lengths, meta = dataset.index.lengths, dataset.meta
        # Where every clip is shorter than a window, training takes what there is.
        self.short = not (lengths >= meta.horizon).any() and meta.mode == "reinit"
        self.older = not dataset.episode_type.sealed
        # What the window table counts can be left out by a filter over it.
        alike = meta.mode == "reinit" and img_shape == meta.img_shape
        self.tally = WindowTally() if alike else None
        # Of the windows of one episode, until those of its other views are known: (n, 2).
        self.shares: list[np.ndarray] = []
        self.now = MotionStats(img_shape)
        self.remapped = {step: MotionStats(img_shape) for step in FRAME_STEPS}
        self.halved = MotionStats((max(1, img_shape[0] // 2), max(1, img_shape[1] // 2)))
        self.sizes: Counter[tuple[TrackedSize, tuple[float, float] | None]] = Counter()
        self.reach: dict[tuple[TrackedSize, tuple[float, float] | None], float] = {}
        self.grid_notes: Counter[str] = Counter()
        self.aspects: Counter[float] = Counter()
        self.counts: Counter[str] = Counter()
        self.by_step: Counter[int] = Counter()
        self.still, self.stored = StillTally(episodes), False
        layer = dataset.layers[dataset.track_layer] if dataset.track_layer else None
        made: Any = (meta.config if layer is None else layer.made_by).get("tracker") or {}
        self.tracker, self.shown = meta.tracker, made.get("input")

    def add(self, episode: EpisodeData, view: ViewData, windows: int) -> None:
        """Count one view of one episode."""
        self._count_windows(episode, view)
        queries = np.asarray(view.queries)
        size = view.tracked_size()
        shape, origin, _ = size
        geometry = view.geometry
        known = not size.is_lacking
        source_xy = np.asarray(geometry.to_source(queries))
        span = grid_span(source_xy, QUERY_SLACK_PX)
        boxed = isinstance(geometry, Letterbox)
        placed = boxed or origin == "relative"
        if known and (placed or not contradiction(span, geometry.source_shape)):
            span = None
        key = (size, span)
        if key in self.sizes or len(self.sizes) < MAX_SIZES:
            self.sizes[key] += 1
            self.reach.setdefault(key, 0.0)
        if shape and (note := grid_note(source_xy, geometry.source_shape)):
            if note in self.grid_notes or len(self.grid_notes) < MAX_SIZES:
                self.grid_notes[note] += 1
        picture = geometry.content_shape if boxed else shape
        aspect = round(picture[1] / picture[0], 2) if picture else None
        if aspect and (aspect in self.aspects or len(self.aspects) < MAX_SIZES):
            self.aspects[aspect] += 1
        self.counts.update(
            episodes=1,
            points=len(queries),
            padded=int((~geometry.inside(queries)).sum()) if known and origin != "relative" else 0,
        )
        places = window_places(episode, view, windows, self.short)
        for at in range(0, len(places), _BLOCK):
            self._add_windows(episode, view, places[at : at + _BLOCK], key)
        if self.still.wants_next():
            self._look(episode, view)

    def _look(self, episode: EpisodeData, view: ViewData) -> None:
        """Look at the pictures of some windows, where they are stored."""
        if view.frames is None or not episode.sealed:
            return
        self.stored = True
        left, top, *_ = view.geometry.content_box
        for place in window_places(episode, view, self.still.per_episode, self.short):
            (tracks_xy,), (vis,), _ = read_tracks(episode, view, [place])
            frames = read_content(view, place, len(vis))
            codec, count = view.meta.arrays["frames"].codec, len(frames)
            self.still.add(frames, tracks_xy[:count] - (left, top), vis[:count], codec)

    def _count_windows(self, episode: EpisodeData, view: ViewData) -> None:
        """Count the windows there are, and those there would be of every n-th frame."""
        meta, starts = episode.meta, np.asarray(view.starts)
        every = meta.start_every if meta.mode == "reinit" else 1
        horizon = min(EPISODE_HORIZON, meta.length) if meta.mode == "episode" else meta.horizon
        for step in FRAME_STEPS:
            self.by_step[step] += max(0, (-(-meta.length // step) - horizon) // every + 1)
        if meta.still is not None:
            whole = whole_windows(starts, horizon, meta.length).sum()
            self.by_step[1] += int(whole) - max(0, (meta.length - horizon) // every + 1)
        if meta.mode == "reinit":
            tail = ~valid_steps(starts, horizon, meta.length)
            self.counts.update(steps=tail.size, tail=int(tail.sum()))
            self.counts.update(windows=len(tail), tail_windows=int(tail.any(axis=1).sum()))

    def _add_windows(
        self,
        episode: EpisodeData,
        view: ViewData,
        places: list[tuple[int, slice, int]],
        key: tuple[TrackedSize, tuple[float, float] | None],
    ) -> None:
        """Count some windows of one view."""
        tracks_xy, vis, valid = read_tracks(episode, view, places)
        known = not key[0].is_lacking
        geometry = view.geometry
        now_xy = tracks_xy
        if geometry.img_shape != self.img_shape:
            now_xy = (geometry.onto(self.img_shape).affine @ ~geometry.affine)(tracks_xy)
        now = normalize_traj(swap_xy(now_xy), self.img_shape)
        self.now.update(now, valid)
        self.halved.update(now, valid)
        for step, stats in self.remapped.items() if known else ():
            stats.update(now[:, ::step], valid[:, ::step])
        if not known and key in self.reach:
            reach = reach_of(np.asarray(geometry.to_source(tracks_xy)), vis)
            self.reach[key] = max(reach, self.reach[key])
        own = np.broadcast_to(valid, vis.shape)
        self.counts.update(
            read=len(places), seen=int(own.sum()), visible=int(((vis > 0.5) & own).sum())
        )
        if self.tally is not None and not self.short:
            saturated = displacement_classes(now, self.img_shape)[1]
            clipped = (np.abs(now) > 1).mean(axis=(1, 2, 3))
            self.shares.append(np.stack([clipped, saturated.mean(axis=(1, 2))], axis=1))

    def report(self, name: str) -> ViewReport:
        """Sum up."""
        counts, now = self.counts, MotionReport(**self.now.metrics())
        right = {
            step: MotionReport(**stats.metrics())
            for step, stats in self.remapped.items()
            if stats.steps
        }
        return ViewReport(
            name=name,
            episodes=counts["episodes"],
            sizes=tuple(
                SizeReport(
                    shape=size.shape,
                    origin=size.origin,
                    basis=size.basis,
                    told=_told(size, span, self.reach[size, span]),
                    episodes=episodes,
                    scale_rc=_scale(size.shape, size.origin, self.img_shape),
                )
                for (size, span), episodes in self.sizes.most_common()
            ),
            aspects=tuple(sorted(self.aspects)),
            grid_notes=tuple(self.grid_notes),
            older=self.older,
            size_known=not any(size.is_lacking for size, _ in self.sizes),
            windows=counts["read"] if self.short else self.by_step[1],
            windows_read=counts["read"],
            now=now,
            remapped=right.get(1),
            halved=MotionReport(**self.halved.metrics()),
            windows_by_frame_step={str(step): self.by_step[step] for step in right},
            cures=() if self.tally is None else tuple(self.tally.cures()),
            by_frame_step={str(step): report for step, report in right.items()},
            padding_share=counts["padded"] / max(1, counts["points"]),
            tail_share=counts["tail"] / max(1, counts["steps"]),
            tail_windows_share=counts["tail_windows"] / max(1, counts["windows"]),
            visible_share=counts["visible"] / max(1, counts["seen"]),
            still=self.still.report(self.tracker, self.shown, self.stored),
        )


def _tally(views: list[_View]) -> None:
    """Hand the windows of an episode on to where the effect of filters is counted.

    A filter sees the mean over the views that are trained together, in the precision of the
    window table.
    """
    shares = {view: np.concatenate(view.shares) for view in views if view.shares}
    if len({len(own) for own in shares.values()}) != 1:
        return  # of damaged episodes: each by itself
    every = np.stack([own.astype(np.float32) for own in shares.values()])
    seen = np.asarray(np.mean(every, axis=0, dtype=np.float64))
    for view, own in shares.items():
        view.shares.clear()
        if view.tally is not None:
            view.tally.add(seen, own)


def _told(size: TrackedSize, span: tuple[float, float] | None, reach: float) -> str | None:
    if size.is_lacking:
        return told_size(span, reach)
    return grid_words(span) if span else None


def _scale(
    shape: tuple[int, int] | None, origin: str, img_shape: tuple[int, int]
) -> tuple[float, float] | None:
    """How much a loader that divides by img_shape shrinks (< 1) or magnifies (> 1)."""
    if shape is None:
        return None
    if origin in ("recorded", "given", "video"):
        return (shape[0] / img_shape[0], shape[1] / img_shape[1])
    return (1.0, 1.0)


def findings(
    views: tuple[ViewReport, ...], dataset: Dataset, rates: FrameRates, problems: int
) -> Iterator[Finding]:
    """Judge the numbers against the bounds of ``builder.report.motion_findings``."""
    if problems:
        yield Finding(level="hurts", view=None, text=f"{count(problems, 'file')} cannot be read")
    if not views:
        yield Finding(level="hurts", view=None, text="there is nothing to train on")
    if mixed := rates.mixed(dataset.meta.horizon):
        yield Finding(level="warn", view=None, text=mixed)
    if still := dataset.still_windows:
        left_out = f"{count(still, 'window')} stand still and were not tracked (tracker.skip_still)"
        yield Finding(level="note", view=None, text=left_out)
    built = dataset.meta.config.get("source")
    source: dict[str, object] = {**built} if isinstance(built, dict) else {}
    for view in views:
        for hurts, text in _size_findings(view):
            yield Finding(level="hurts" if hurts else "note", view=view.name, text=text)
        for level, text in (*motion_findings(view, source), *still_findings(view.still)):
            yield Finding(level=level, view=view.name, text=text)


def _size_findings(view: ViewReport) -> Iterator[tuple[bool, str]]:
    for size in view.sizes:
        if size.origin in ("unknown", "assumed"):
            basis = f" ({size.basis})" if size.basis else ""
            again = "migrate again, and " if size.origin == "assumed" else ""
            yield (
                True,
                f"{count(size.episodes, 'episode')} without a recorded tracked size{basis}: "
                f"{size.told}. How far points move is not known; {again}{HOW_TO_GIVE}",
            )
        if size.shape is None or size.scale_rc is None or size.origin == "relative":
            continue
        if size.basis and size.origin == "recorded":
            yield False, f"{size.basis}, where other loaders do not look for them"
        if size.told:
            what = f"{size.shape[0]} x {size.shape[1]} ({count(size.episodes, 'episode')})"
            wrong = "motion has the wrong amplitude if the size is wrong"
            yield True, f"their tracked size is given as {what}, but {size.told}: {wrong}"
        row, col = size.scale_rc
        off = max(abs(row - 1), abs(col - 1)) > SCALE_TOLERANCE
        where = f"tracked at {size.shape[0]} x {size.shape[1]} ({count(size.episodes, 'episode')})"
        if off:
            scaled = f"rows of motion by {row:.3g} and columns by {col:.3g}"
            yield False, f"{where}: a loader must remap; ignoring height and width scales {scaled}"
    if len(view.aspects) > 1:
        shown = ", ".join(f"{aspect:g}" for aspect in view.aspects[:8])
        means = "a point of one index starts at different places in them"
        yield False, f"pictures of different aspects ({shown}): {means}"


def _view_lines(view: ViewReport) -> Iterator[str]:
    yield f"view {view.name}: {count(view.episodes, 'episode')}"
    for size in view.sizes:
        shape = f"{size.shape[0]} x {size.shape[1]}" if size.shape else "an unknown size"
        scale = f", scale {size.scale_rc[0]:.3g} x {size.scale_rc[1]:.3g}" if size.scale_rc else ""
        basis = f"{size.origin}, {count(size.episodes, 'episode')}"
        yield f"  tracks in pixels of {shape} ({basis}){scale}"
    yield f"  {_counted(view)}"
    yield f"  {'':18}rows            columns         zero    saturated  clipped"
    remaps = [("after the remap", view.remapped)] if view.remapped != view.now else []
    for label, motion in (("now", view.now), *remaps):
        if motion is None:
            continue
        yield (
            f"  {label:18}{motion.row_min:+.2f} to {motion.row_max:+.2f}  "
            f"{motion.col_min:+.2f} to {motion.col_max:+.2f}  {motion.zero_class_share:6.1%}  "
            f"{motion.saturated_share:9.1%}  {motion.clipped_share:7.1%}"
        )
    yield (
        f"  in padding {view.padding_share:.1%}, frozen tail {view.tail_share:.1%}, "
        f"visible {view.visible_share:.1%}"
        + (f", suggested frame step {view.frame_step}" if view.remapped else "")
    )
    yield still_line(view.still)


def _counted(view: ViewReport) -> str:
    """Say what the shares are of."""
    read = f"{view.windows_read} of " if view.windows_read < view.windows else ""
    spread_over = ", spread evenly" if read else ""
    return f"shares of {read}{count(view.windows, 'window')} within their clip{spread_over}"
