"""``letterset doctor``: does a dataset suit an img_shape?  Measured on its tracks, before training.

Windows are sampled evenly, episodes are read one after another and only counters are kept, so
memory does not grow with the dataset.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from builder.canvas.windows import EPISODE_HORIZON, valid_steps
from builder.core.errors import ConfigError, DatasetError
from builder.core.messages import count
from builder.core.records import checked_shape
from builder.core.spacing import spread
from builder.dataset.episodes import Dataset, EpisodeData, SizeOrigin, ViewData
from builder.dataset.folder import META_NAME
from builder.dataset.opening import open_dataset
from builder.training.metrics import MotionStats
from builder.training.normalize import normalize_traj
from schemas.base import Record, Shape
from schemas.geometry import Letterbox, Stretch, swap_xy

WINDOWS_PER_VIEW = 8  # looked at per episode and view, spread evenly
FRAME_STEPS = (1, 2, 3, 4, 6, 8)  # tried, within the stored windows
MAX_SIZES = 50  # listed per view; a dataset of a million sizes must not fill the memory

# A size off by more than this share scales every velocity by as much.
SCALE_TOLERANCE = 0.05
# With more zero displacements, a model that always predicts "no motion" is nearly optimal.
MAX_ZERO_CLASS_SHARE = 0.95
ZERO_CLASS_NOTE = 0.80  # with more zero displacements, a larger frame step is worth trying
STEP_GAIN = 0.05  # a frame step is suggested when it lowers the zero class by at least this much
MAX_SATURATED_SHARE = 0.05  # displacements beyond the loss window's +-7 px; learned too short
# Coordinates beyond [-1, 1]; they are clipped to the picture's edge and do not move.
MAX_CLIPPED_SHARE = 0.01
MAX_PADDING_SHARE = 0.25  # query points in the bars; they never move
TAIL_NOTE = 0.25  # steps in the frozen tail; leave it out, as WindowDataset does
VISIBLE_NOTE = 0.50  # with fewer visible points the tracks themselves are doubtful


class MotionReport(Record):
    """What a trainer sees: see ``builder.training.metrics.MotionStats.metrics``."""

    nonzero_velocity_share: float
    zero_class_share: float
    saturated_share: float
    clipped_share: float
    row_min: float
    row_max: float
    col_min: float
    col_max: float


class SizeReport(Record):
    """A size that tracks of some episodes are pixels of."""

    shape: Shape | None
    origin: SizeOrigin
    episodes: int
    scale_rc: tuple[float, float] | None = Field(
        description="amplitude (row, col) when divided by img_shape without a remap; right is 1"
    )


class ViewReport(Record):
    """One view over all episodes."""

    name: str
    episodes: int
    sizes: tuple[SizeReport, ...]
    aspects: tuple[float, ...] = Field(description="width / height of the pictures, 0: unknown")
    now: MotionReport
    remapped: MotionReport
    by_frame_step: dict[str, MotionReport]
    padding_share: float
    tail_share: float
    tail_windows_share: float = Field(description="windows with a frozen tail, of all windows")
    visible_share: float

    @property
    def frame_step(self) -> int:
        """The frame step that leaves the fewest zero displacements without saturating."""
        shares = {int(step): motion for step, motion in self.by_frame_step.items()}
        usable = [step for step in shares if shares[step].saturated_share <= MAX_SATURATED_SHARE]
        if self.remapped.zero_class_share <= ZERO_CLASS_NOTE or not usable:
            return 1
        good = [step for step in usable if shares[step].zero_class_share <= ZERO_CLASS_NOTE]
        best = min(good or [min(usable, key=lambda step: shares[step].zero_class_share)])
        gain = self.remapped.zero_class_share - shares[best].zero_class_share
        return best if gain >= STEP_GAIN else 1


class Finding(Record):
    """One sentence about one view (None: the dataset)."""

    hurts: bool
    view: str | None
    text: str


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

    def text(self) -> str:
        """Return the diagnosis for people."""
        height, width = self.img_shape
        shown = f"[{height}, {width}]"
        lines = [f"{self.dataset}: {count(self.episodes, 'episode')}, for img_shape {shown}"]
        for view in self.views:
            lines += _view_lines(view)
        lines += [f"cannot be read: {name}: {why}" for name, why in self.problems.items()]
        lines += [
            f"{'PROBLEM' if f.hurts else 'note'}: {f.view + ': ' if f.view else ''}{f.text}"
            for f in self.findings
        ]
        lines.append(
            f"Normalization, loss (cls_img_size) and decoder must all use img_shape {shown}."
        )
        lines.append(
            "Verdict: training on this dataset would degrade the model."
            if self.exit_code
            else "Verdict: the dataset suits this img_shape."
        )
        return "\n".join(lines)


def diagnose_path(
    path: Path | str, img_shape: tuple[int, int], windows: int = WINDOWS_PER_VIEW, **legacy: Any
) -> Diagnosis:
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
) -> Diagnosis:
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
    return Diagnosis(
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
        self.counts: Counter[str] = Counter()

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
        boxed = isinstance(geometry, Letterbox) and origin != "estimated"
        picture = geometry.content_shape if boxed else shape
        aspect = round(picture[1] / picture[0], 2) if picture else 0.0
        if aspect in self.aspects or len(self.aspects) < MAX_SIZES:
            self.aspects[aspect] += 1
        self.counts.update(
            episodes=1,
            points=len(queries),
            padded=int((~geometry.inside(queries)).sum()) if origin == "letterbox" else 0,
            seen=vis.size,
            visible=int((vis > 0.5).sum()),
        )
        if episode.meta.mode == "reinit":
            tail = ~valid_steps(np.asarray(view.starts), episode.meta.horizon, episode.meta.length)
            self.counts.update(steps=tail.size, tail=int(tail.sum()))
            self.counts.update(windows=len(tail), tail_windows=int(tail.any(axis=1).sum()))

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
                    shape=shape,
                    origin=origin,
                    episodes=episodes,
                    scale_rc=_scale(shape, origin, self.img_shape),
                )
                for (shape, origin), episodes in self.sizes.most_common()
            ),
            aspects=tuple(sorted(self.aspects)),
            now=now,
            remapped=right.get(1, now),
            by_frame_step={str(step): report for step, report in right.items()},
            padding_share=counts["padded"] / max(1, counts["points"]),
            tail_share=counts["tail"] / max(1, counts["steps"]),
            tail_windows_share=counts["tail_windows"] / max(1, counts["windows"]),
            visible_share=counts["visible"] / max(1, counts["seen"]),
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
        ("vis holds", vis, "write 0 where a point is not visible"),
    ):
        if not np.isfinite(values).all():
            raise DatasetError(
                f"episode {episode.meta.id}, view {view.name}: {name} NaN or infinity, which "
                f"would enter training; {cure}"
            )
    return tracks_xy, vis, valid_steps(starts, horizon, length)[:, :, None]


def _scale(
    shape: tuple[int, int] | None, origin: str, img_shape: tuple[int, int]
) -> tuple[float, float] | None:
    """How much a loader that divides by img_shape shrinks (< 1) or magnifies (> 1)."""
    if shape is None:
        return None
    if origin in ("recorded", "estimated"):
        return (shape[0] / img_shape[0], shape[1] / img_shape[1])
    return (1.0, 1.0)


def findings(
    views: tuple[ViewReport, ...], img_shape: tuple[int, int], problems: int
) -> Iterator[Finding]:
    """Judge the numbers against the thresholds of this module."""
    if problems:
        yield Finding(hurts=True, view=None, text=f"{count(problems, 'file')} cannot be read")
    if not views:
        yield Finding(hurts=True, view=None, text="there is nothing to train on")
    for view in views:
        for hurts, text in (*_size_findings(view), *_motion_findings(view)):
            yield Finding(hurts=hurts, view=view.name, text=text)


def _size_findings(view: ViewReport) -> Iterator[tuple[bool, str]]:
    for size in view.sizes:
        if size.origin == "unknown":
            episodes = count(size.episodes, "episode")
            yield (
                True,
                f"{episodes} without a recorded tracked size, which cannot be inferred either",
            )
        if size.shape is None or size.scale_rc is None or size.origin == "relative":
            continue
        row, col = size.scale_rc
        off = max(abs(row - 1), abs(col - 1)) > SCALE_TOLERANCE
        where = f"tracked at {size.shape[0]} x {size.shape[1]} ({count(size.episodes, 'episode')})"
        if size.origin == "estimated":
            remedy = (
                f"write the attributes height={size.shape[0]}, width={size.shape[1]} or migrate"
            )
            if off:
                effects = " and ".join(
                    f"{axis} are {'shrunk' if scale < 1 else 'magnified and clipped'}, "
                    f"{scale:.3g} times their size"
                    for axis, scale in (("rows", row), ("columns", col))
                    if abs(scale - 1) > SCALE_TOLERANCE
                )
                yield True, f"{effects}: {where}; {remedy}"
            else:
                yield False, f"no size is recorded, but img_shape fits: {where}"
        elif off:
            scaled = f"rows of motion by {row:.3g} and columns by {col:.3g}"
            yield False, f"{where}: a loader must remap; ignoring height and width scales {scaled}"
    if len(view.aspects) > 1:
        shown = ", ".join(f"{aspect:g}" for aspect in view.aspects[:8])
        means = "a point of one index starts at different places in them"
        yield False, f"pictures of different aspects ({shown}): {means}"


def _motion_findings(view: ViewReport) -> Iterator[tuple[bool, str]]:
    now = view.now
    if now.clipped_share > MAX_CLIPPED_SHARE:
        cure = f"leave out windows that points move out of: where='clipped < {MAX_CLIPPED_SHARE}'"
        yield True, f"{now.clipped_share:.1%} of all coordinates are clipped at the edge; {cure}"
    if now.saturated_share > MAX_SATURATED_SHARE:
        cure = (
            f"use a smaller frame step or img_shape, or where='saturated < {MAX_SATURATED_SHARE}'"
        )
        share = f"{now.saturated_share:.1%} of all steps"
        yield True, f"{share} exceed the loss window of +-7 px; {cure}"
    if now.zero_class_share > ZERO_CLASS_NOTE:
        hurts = now.zero_class_share > MAX_ZERO_CLASS_SHARE
        yield hurts, f"{now.zero_class_share:.1%} of all steps are zero displacement in the loss"
    if view.frame_step > 1:
        better = view.by_frame_step[str(view.frame_step)].zero_class_share
        yield False, f"frame step {view.frame_step} would lower the zero class to {better:.1%}"
    if view.padding_share > MAX_PADDING_SHARE:
        yield True, f"{view.padding_share:.1%} of the points lie in the bars; use region: content"
    if view.tail_windows_share == 1.0:
        lack = "every window ends in frozen tail: no episode has as many frames as the horizon"
        yield False, f"{lack}; build with a smaller horizon"
    elif view.tail_share > TAIL_NOTE:
        yield False, f"{view.tail_share:.1%} of all steps are frozen tail; leave them out"
    if view.visible_share < VISIBLE_NOTE:
        yield False, f"only {view.visible_share:.1%} of the points are visible"


def _view_lines(view: ViewReport) -> Iterator[str]:
    yield f"view {view.name}: {count(view.episodes, 'episode')}"
    for size in view.sizes:
        shape = f"{size.shape[0]} x {size.shape[1]}" if size.shape else "unknown"
        scale = f", scale {size.scale_rc[0]:.3g} x {size.scale_rc[1]:.3g}" if size.scale_rc else ""
        basis = f"{size.origin}, {count(size.episodes, 'episode')}"
        yield f"  tracks in pixels of {shape} ({basis}){scale}"
    yield f"  {'':18}rows            columns         zero    saturated  clipped"
    for label, motion in (("now", view.now), ("after the remap", view.remapped)):
        yield (
            f"  {label:18}{motion.row_min:+.2f} to {motion.row_max:+.2f}  "
            f"{motion.col_min:+.2f} to {motion.col_max:+.2f}  {motion.zero_class_share:6.1%}  "
            f"{motion.saturated_share:9.1%}  {motion.clipped_share:7.1%}"
        )
    yield (
        f"  in padding {view.padding_share:.1%}, frozen tail {view.tail_share:.1%}, "
        f"visible {view.visible_share:.1%}, suggested frame step {view.frame_step}"
    )
