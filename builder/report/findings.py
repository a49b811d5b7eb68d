"""What the doctor found, in numbers and in words, and from which number on it hurts."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from builder.core.messages import count
from builder.dataset.episodes import SizeOrigin
from schemas.base import Record, Shape

SCALE_TOLERANCE = 0.05
"""Normalizing by a size off by more than this changes every velocity by as much: it hurts."""

ZERO_CLASS_HURTS = 0.95
"""Above this share of zero displacements, always answering "no motion" is nearly optimal."""

ZERO_CLASS_NOTE = 0.80
"""Above this share a larger frame step is worth a look."""

SATURATED_HURTS = 0.05
"""Share of displacements beyond the loss window's +-7 px: they are learned too short."""

CLIPPED_HURTS = 0.01
"""Share of coordinates beyond [-1, 1]: they are frozen at the picture's edge."""

PADDING_HURTS = 0.25
"""Share of query points in the bars: they never move."""

TAIL_NOTE = 0.25
"""Share of steps in the frozen tail; leave it out, as WindowDataset does."""

VISIBLE_NOTE = 0.50
"""Below this share of visible points the tracks themselves are doubtful."""

STEP_GAIN = 0.05
"""A frame step is suggested when it lowers the zero class by at least this much."""


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
        usable = [step for step in shares if shares[step].saturated_share <= SATURATED_HURTS]
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


class Report(Record):
    """A diagnosis."""

    dataset: str
    img_shape: Shape
    episodes: int
    views: tuple[ViewReport, ...]
    problems: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1 when training as it is would hurt, else 0."""
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
            f"{'HURTS' if f.hurts else 'note'}: {f.view + ': ' if f.view else ''}{f.text}"
            for f in self.findings
        ]
        lines.append(
            f"Normalization, loss (cls_img_size) and decoder must all use img_shape {shown}."
        )
        lines.append(
            "Verdict: training on it as it is would hurt."
            if self.exit_code
            else "Verdict: it suits this img_shape."
        )
        return "\n".join(lines)


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
            yield True, f"{episodes} without a recorded tracked size, and it cannot be told"
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
                effects = " and ".join([*_effect("rows", row), *_effect("columns", col)])
                yield True, f"{effects}: {where}; {remedy}"
            else:
                yield False, f"no recorded size, but img_shape fits: {where}"
        elif off:
            yield (
                False,
                (
                    f"{where}: a loader must remap; one that ignores height and width sees "
                    f"{row:.3g} x {col:.3g} of the motion"
                ),
            )
    if len(view.aspects) > 1:
        shown = ", ".join(f"{aspect:g}" for aspect in view.aspects[:8])
        yield False, f"pictures of different aspects ({shown}): a point's index means other places"


def _effect(axis: str, scale: float) -> list[str]:
    if abs(scale - 1) <= SCALE_TOLERANCE:
        return []
    how = "shrunk" if scale < 1 else "magnified and clipped"
    return [f"{axis} are {how}, {scale:.3g} times their size"]


def _motion_findings(view: ViewReport) -> Iterator[tuple[bool, str]]:
    now = view.now
    if now.clipped_share > CLIPPED_HURTS:
        cure = f"leave out windows that points move out of: where='clipped < {CLIPPED_HURTS}'"
        yield True, f"{now.clipped_share:.1%} of all coordinates are clipped at the edge; {cure}"
    if now.saturated_share > SATURATED_HURTS:
        cure = f"use a smaller frame step or img_shape, or where='saturated < {SATURATED_HURTS}'"
        share = f"{now.saturated_share:.1%} of all steps"
        yield True, f"{share} exceed the loss window of +-7 px; {cure}"
    if now.zero_class_share > ZERO_CLASS_NOTE:
        hurts = now.zero_class_share > ZERO_CLASS_HURTS
        yield hurts, f"{now.zero_class_share:.1%} of all steps are zero displacement in the loss"
    if view.frame_step > 1:
        better = view.by_frame_step[str(view.frame_step)].zero_class_share
        yield False, f"frame step {view.frame_step} would lower the zero class to {better:.1%}"
    if view.padding_share > PADDING_HURTS:
        yield True, f"{view.padding_share:.1%} of the points lie in the bars; use region: content"
    if view.tail_windows_share == 1.0:
        lack = "every window ends in frozen tail: no episode has as many frames as the horizon"
        yield False, f"{lack}; build with a smaller one"
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
