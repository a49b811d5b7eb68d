"""What the shares of motion in a view mean for training, from which share on, and what to do.

``zero``, ``saturated`` and ``clipped`` are those of ``builder.training.metrics.MotionStats`` and of
the columns of the window table.  The bounds are explained in docs/collapse.md.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from builder.core.messages import count
from schemas.base import Record

Level = Literal["note", "warn", "hurts"]


class Bounds(NamedTuple):
    """Shares above which a finding is a note, a warning, or says that a model would degrade."""

    note: float
    warn: float
    hurts: float

    def level(self, share: float) -> Level | None:
        """Return how bad a share is; None for an ordinary one."""
        if share > self.hurts:
            return "hurts"
        if share > self.warn:
            return "warn"
        return "note" if share > self.note else None


# Judged; what was measured, and what it does not show, is in docs/collapse.md.
ZERO = Bounds(0.50, 0.90, 0.97)
SATURATED = Bounds(0.02, 0.10, 0.30)
CLIPPED = Bounds(0.02, 0.10, 0.30)
PADDING = Bounds(0.02, 0.10, 0.25)  # query points in the bars; they never move
STEP_ABOVE = 0.80  # of the zero class, from which on a larger frame step is worth trying
STEP_GAIN = 0.05  # another frame step is suggested when it lowers the zero class by so much
TAIL_NOTE = 0.25  # steps in the frozen tail; leave it out, as WindowDataset does
VISIBLE_NOTE = 0.50  # with fewer visible points the tracks themselves are doubtful
FEW_WINDOWS = 0.5  # a cure that leaves fewer says so

LIMITS = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Of the share of a single window, tried in this order until what remains is below ``warn``."""


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


class Cure(Record):
    """Windows left out by a filter, and what remains."""

    where: str
    windows: int = Field(description="of the windows read, how many it keeps")
    clipped_share: float
    saturated_share: float


class ViewMotion(Record):
    """The motion of one view, over the windows that were read."""

    older: bool = Field(description="files of the older route: no filter before a migration")
    size_known: bool = Field(description="of every episode; else the shares tell no motion")
    grid_notes: tuple[str, ...] = Field(description="where the older route's query points lie")
    windows: int = Field(description="that training takes: those that lie within their clip")
    windows_read: int
    now: MotionReport
    remapped: MotionReport | None = Field(description="of the episodes whose size is known")
    by_frame_step: dict[str, MotionReport]
    windows_by_frame_step: dict[str, int] = Field(description="as long, of every n-th frame")
    halved: MotionReport = Field(description="at half the img_shape")
    cures: tuple[Cure, ...] = Field(description="filters that bring a share below its warning")
    padding_share: float
    tail_share: float
    tail_windows_share: float = Field(description="windows with a frozen tail, of all windows")
    visible_share: float

    @property
    def frame_step(self) -> int:
        """The frame step that leaves the fewest zero displacements without saturating."""
        shares = {int(step): motion for step, motion in self.by_frame_step.items()}
        usable = [step for step in shares if shares[step].saturated_share <= SATURATED.warn]
        if self.remapped is None or not usable:
            return 1
        if self.remapped.zero_class_share <= STEP_ABOVE:
            return 1
        good = [step for step in usable if shares[step].zero_class_share <= STEP_ABOVE]
        best = min(good or [min(usable, key=lambda step: shares[step].zero_class_share)])
        gain = self.remapped.zero_class_share - shares[best].zero_class_share
        return best if gain >= STEP_GAIN else 1

    def kept(self, windows: int, of_read: bool = False) -> str:
        """Say how many windows remain; ``of_read``: counted in those that were read."""
        among = self.windows_read if of_read else self.windows
        told = " that were read" if of_read and among < self.windows else ""
        few = ", few" if windows < FEW_WINDOWS * among else ""
        return f"{windows} of {count(among, 'window')}{told} remain{few}"


class WindowTally:
    """Counts windows by how much of each is clipped and saturated: memory does not grow."""

    def __init__(self) -> None:
        side = len(LIMITS) + 1
        # Of every cell: windows, and the sums of their clipped and saturated shares.
        self._cells = np.zeros((3, side, side))

    def add(self, seen: np.ndarray, own: np.ndarray) -> None:
        """Count windows by their (clipped, saturated) shares (n, 2).

        ``seen`` are those that a filter compares, ``own`` those of the view.
        """
        cells = tuple((share[:, None] < np.array(LIMITS)).sum(axis=1) for share in seen.T)
        for sums, values in zip(self._cells, (np.ones(len(own)), *own.T), strict=True):
            np.add.at(sums, cells, values)

    def cures(self) -> Iterator[Cure]:
        """Yield the mildest filter for either share, and for both, where they are needed."""
        found = {
            name: self._mildest(name, bounds)
            for name, bounds in (("clipped", CLIPPED), ("saturated", SATURATED))
        }
        needed = {name: index for name, index in found.items() if index}
        for name in needed:
            yield self._cure({name: needed[name]})
        if len(needed) == 2:
            yield self._cure(needed)

    def _mildest(self, name: str, bounds: Bounds) -> int:
        """Return the number of the limit that brings a share below its warning; 0: needs none."""
        for index in range(len(LIMITS) + 1):
            cure = self._cure({name: index})
            share = cure.clipped_share if name == "clipped" else cure.saturated_share
            if share <= bounds.warn:
                return index
        return len(LIMITS)

    def _cure(self, limits: dict[str, int]) -> Cure:
        """Sum up the windows below the limits of these numbers (from 1; 0 is none)."""
        clipped, saturated = limits.get("clipped", 0), limits.get("saturated", 0)
        windows, *sums = self._cells[:, clipped:, saturated:].sum(axis=(1, 2))
        shares = [float(each / max(windows, 1)) for each in sums]
        used = [f"{name} < {LIMITS[index - 1]}" for name, index in limits.items() if index]
        return Cure(
            where=" and ".join(used),
            windows=int(windows),
            clipped_share=shares[0],
            saturated_share=shares[1],
        )


def motion_findings(view: ViewMotion, built: dict[str, object]) -> Iterator[tuple[Level, str]]:
    """Judge a view; ``built`` are the settings of the source it was built with, where known."""
    if view.size_known:
        yield from _share_findings(view, built)
    for note in view.grid_notes:
        yield PADDING.level(view.padding_share) or "note", note
    if not view.grid_notes and (level := PADDING.level(view.padding_share)):
        text = f"{view.padding_share:.1%} of the points lie in the bars"
        yield level, f"{text}; build with queries.region=content, every window remains"
    if view.tail_windows_share == 1.0:
        lack = "every window ends in frozen tail: no episode has as many frames as the horizon"
        yield "note", f"{lack}; build with a smaller horizon"
    elif view.tail_share > TAIL_NOTE:
        text = f"{view.tail_share:.1%} of all steps are frozen tail"
        kept = f"{count(view.windows, 'window')} remain"
        yield "note", f"{text}; leave them out, as WindowDataset does: {kept}"
    if view.visible_share < VISIBLE_NOTE:
        yield "note", f"only {view.visible_share:.1%} of the points are visible"


def _share_findings(view: ViewMotion, built: dict[str, object]) -> Iterator[tuple[Level, str]]:
    now = view.now
    if level := CLIPPED.level(now.clipped_share):
        text = f"{now.clipped_share:.1%} of all coordinates are clipped at the edge"
        cures = [*_without(view, "clipped", level)]
        if view.grid_notes and view.padding_share:
            cures = ["mask the points that start outside the picture (in_content)"]
        yield level, _with(text, cures)
    if level := SATURATED.level(now.saturated_share):
        text = f"{now.saturated_share:.1%} of all steps exceed the loss window of +-7 px"
        cures = [*_slower(view, built, level), *_without(view, "saturated", level)]
        yield level, _with(text, cures)
    for cure in view.cures:
        if " and " in cure.where and cure.windows:
            both = f"{'migrate, then ' * view.older}both filters, where='{cure.where}'"
            yield "note", f"{both}: {view.kept(cure.windows, True)}"
    if level := ZERO.level(now.zero_class_share):
        yield level, f"{now.zero_class_share:.1%} of all steps are zero displacement in the loss"
    if view.frame_step > 1:
        yield "note", _larger_step(view, built)


def _with(text: str, cures: Sequence[str]) -> str:
    return f"{text}. What helps: {'; or '.join(cures)}" if cures else text


def _without(view: ViewMotion, name: str, level: Level) -> Iterator[str]:
    """Say which filter leaves out the windows with most of a share; nothing for a note."""
    for cure in view.cures if level != "note" else ():
        if cure.where.startswith(f"{name} <") and " and " not in cure.where and cure.windows:
            share = cure.clipped_share if name == "clipped" else cure.saturated_share
            kept = view.kept(cure.windows, of_read=True)
            yield (
                f"{'migrate, then ' * view.older}train on windows with "
                f"where='{cure.where}' ({kept}, {share:.1%} in them)"
            )


def _slower(view: ViewMotion, built: dict[str, object], level: Level) -> Iterator[str]:
    """Say what makes steps shorter, as far as anything can; nothing for a note."""
    if level == "note":
        return
    step = built.get("frame_step")
    if isinstance(step, int) and step > 1:
        yield f"build with a smaller source.frame_step than {step}, every window remains"
    elif built.get("fps"):
        yield f"build with a larger source.fps than {built['fps']:g}, every window remains"
    half = view.halved
    if half.saturated_share < view.now.saturated_share and half.zero_class_share <= ZERO.warn:
        yield (
            f"train at half the img_shape ({half.saturated_share:.1%} saturated, "
            f"{half.zero_class_share:.1%} zero; every window remains)"
        )


def _larger_step(view: ViewMotion, built: dict[str, object]) -> str:
    better = view.by_frame_step[str(view.frame_step)].zero_class_share
    had = built.get("frame_step")
    step = view.frame_step * (had if isinstance(had, int) else 1)
    kept = view.kept(view.windows_by_frame_step[str(view.frame_step)])
    return f"frame step {step} would lower the zero class to {better:.1%}: {kept}"
