r"""Fit the numbers by which ``dis`` looks at a whole window again, on rendered scenes with truth.

    MUJOCO_GL=osmesa python scripts/robot_scenes.py SCENES --seeds 9001 9002 9004 9005 \
        9006 9007 9008 9009 9010 9011
    python scripts/train_second_look.py SCENES

Writes builder/trackers/second_look.json.  Scenes are followed as ``train_still_head.py`` follows
them, by the head that is shipped: to be run again whenever that has changed.  Some are disturbed,
and some windows end early, as they do at the end of a video.  Needs torch.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
import torch
from robot_truth import Truth
from robot_views import RobotView, folders, followed
from train_still_head import FirstLook, How, Rows, fit, recorded, rows_of, stands, write

from builder.trackers.second_look import QUANTITIES, STAYED, WEIGHTS, inputs
from builder.trackers.still_head import still_head

SECOND = How(width=48, epochs=7, hidden=(4.0, 0.5), covered=5.0, leads=True)

KEPT, KEPT_STILL, KEPT_DOUBTFUL = 0.2, 0.02, 0.5
"""Shares of points that move, that stand, and that stand but get hidden or once seemed to go."""

SHORTER = 0.4
"""Share of the windows that end early."""


@dataclass
class Disturbed(RobotView):
    """A recording in which the light changes, something passes before the camera, or it fails."""

    @cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(self.folder.name.encode()))

    @cached_property
    def _disturbance(self) -> tuple[str, int, int, tuple[int, int, int, int]]:
        """Return what it is, from which frame to which, and its rows and columns."""
        rng, (height, width) = self._rng, self.box.content_shape
        kind = ("light", "cover", "noise")[rng.integers(3)]
        first = int(rng.integers(2, 30))
        top, left = int(rng.integers(0, height * 3 // 4)), int(rng.integers(0, width * 3 // 4))
        low, right = (int(rng.integers(at + 10, at + 80)) for at in (top, left))
        return kind, first, first + int(rng.integers(1, 8)), (top, low, left, right)

    @cached_property
    def truth(self) -> Truth:
        """Truth, with what is covered hidden; what a window begins with in front is not known."""
        truth = super().truth
        kind, first, last, (top, low, left, right) = self._disturbance
        if kind == "light":
            return truth
        frame = np.array(self.starts)[:, None] + np.arange(truth.tracks_xy.shape[1])
        if kind == "noise":
            covered = np.broadcast_to((frame >= first)[..., None], truth.visible.shape).copy()
            covered[:, 0] = False
            return truth._replace(visible=truth.visible & ~covered)
        inside = (truth.tracks_xy >= (left, top)) & (truth.tracks_xy <= (right, low))
        covered = inside.all(axis=-1) & ((frame >= first) & (frame < last))[..., None]
        return truth._replace(visible=truth.visible & ~covered, known=truth.known & ~covered[:, 0])

    def frames(self, cache: Path) -> np.ndarray:
        """Return the frames, disturbed."""
        frames = super().frames(cache).copy()
        kind, first, last, (top, low, left, right) = self._disturbance
        if kind == "light":
            begin, end = self._rng.permutation([1.0, self._rng.uniform(0.4, 0.8)])
            gains = np.linspace(begin, end, len(frames))[:, None, None, None]
            return (frames * gains).astype(np.uint8)
        if kind == "noise":
            frames[first:] = self._rng.integers(0, 256, frames[first:].shape, np.uint8)
        else:
            frames[first:last, top:low, left:right] = self._rng.integers(0, 256, 3)
        return frames


def disturbed(scenes: list[Path]) -> Iterator[RobotView]:
    """Yield half of the cameras, disturbed."""
    for folder in scenes:
        if zlib.crc32(f"{folder.name} disturbed".encode()) % 2:
            yield Disturbed(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("robot_frames"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    scenes = folders(arguments.scenes)
    views = [*recorded(scenes), *disturbed(scenes)]
    found = []
    with ProcessPoolExecutor(arguments.workers) as pool:
        tasks = pool.map(follow, views, repeat(arguments.cache), range(len(views)))
        for done, row in enumerate(tasks):
            found.append(row)
            if done % 20 == 0:
                print(f"  {done} of {len(views)} followed", flush=True)
    every = Rows(*(np.concatenate(each) for each in zip(*found, strict=True)))
    print(f"{len(every.features)} rows of {len(views)} recordings", flush=True)
    fitted = fit(every, SECOND)
    write(fitted, QUANTITIES, arguments.scenes, len(every.features), arguments.out)


def follow(view: RobotView, cache: Path, seed: int) -> Rows:
    """Track one recording and keep some points of its windows."""
    cv2.setNumThreads(1)
    rng, found = np.random.default_rng(seed), []
    for at, anchor in followed(view, FirstLook(still_head()), cache):
        still, covered = stands(view, at)
        went = (anchor.kept[1:, :, STAYED] == 0).any(axis=0)
        share = np.where(still, np.where(covered | went, KEPT_DOUBTFUL, KEPT_STILL), KEPT)
        last = len(anchor.kept) - 1
        if rng.random() < SHORTER:
            last = int(rng.integers(1, last))
        found.append(rows_of(view, at, anchor, shown(anchor.kept[1 : last + 1]), share, KEPT, rng))
    return Rows(*(np.concatenate(each) for each in zip(*found, strict=True)))


def shown(kept: np.ndarray) -> np.ndarray:
    """Return what the network is shown, in one array (T, N, F)."""
    parts = inputs(kept)
    return np.concatenate([np.broadcast_to(part, parts[0].shape) for part in parts], axis=-1)


if __name__ == "__main__":
    main()
