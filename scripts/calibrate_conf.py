"""Fit what makes a probability of what the second look of ``dis`` says, on rendered scenes.

    MUJOCO_GL=osmesa python scripts/robot_scenes.py SCENES --seeds 301 302 --frames 28
    python scripts/calibrate_conf.py SCENES

Writes builder/trackers/second_look_conf.json: the share of points that are visible and within 4 of
256 pixels of the truth, by the odds that it gives them, as lines that never fall; one for points
that stay at their query and one for those that go, each for pictures that stand and that move.  To
be run again whenever second_look.json has changed.  How well ``conf`` tells the truth is measured
by scripts/bench_robot_truth.py, on scenes of other seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.optimize import isotonic_regression

sys.path.insert(0, str(Path(__file__).parents[1]))

from robot_truth import NEAR_PX
from robot_views import RECORDINGS, RobotView, folders, followed

from builder.trackers.kinds.dis import DisTracker
from builder.trackers.second_look import CALIBRATION, WEIGHTS, second_look
from builder.trackers.still_head import STANDING

STANDS = 0.45
"""Share of the picture's telling parts from which on the camera is taken to stand."""


class Told(NamedTuple):
    """Points at steps, (M,) each: what is said of them, and what is true.

    ``odds`` as a logarithm; ``stays``: at its query; ``standing``: the feature; ``right``: visible
    and within NEAR_PX.
    """

    odds: np.ndarray
    stays: np.ndarray
    standing: np.ndarray
    right: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=CALIBRATION)
    arguments = parser.parse_args()
    scenes = folders(arguments.scenes)
    views = [RobotView(path, *how) for path, how in product(scenes, RECORDINGS.values())]
    with tempfile.TemporaryDirectory() as cache, ProcessPoolExecutor(arguments.workers) as pool:
        parts = list(pool.map(follow, views, repeat(Path(cache))))
    told = Told(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    kept = {
        "fitted_by": "scripts/calibrate_conf.py",
        "second_look_sha256": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest(),
        "scenes": sorted({path.name.rsplit("-", 1)[0] for path in scenes}),
        "recordings": list(RECORDINGS.values()),
        "points": len(told.right),
        "standing": STANDS,
        "lines": list(lines(told)),
    }
    arguments.out.write_text(
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items()) + "\n}\n"
    )
    print(arguments.out.read_text())


def follow(view: RobotView, cache: Path) -> Told:
    """Track one recording by the default; keep what the head says where there is a truth."""
    cv2.setNumThreads(1)
    truth, found = view.truth, []
    for at, anchor in followed(view, DisTracker(), cache):
        kept = anchor.kept[1:]
        stays, leads, odds = second_look()(kept)
        gone_xy = np.where(leads[..., None], anchor.led_xy[1:], anchor.moved_xy[1:])
        placed_xy = np.where(stays[..., None], view.queries_xy, gone_xy)
        away = np.linalg.norm(placed_xy - truth.tracks_xy[at, 1:], axis=-1)
        right = truth.visible[at, 1:] & (away < NEAR_PX)
        inside = ((gone_xy >= 0) & (gone_xy <= truth.shape[::-1])).all(axis=-1)
        chosen = truth.known[at] & (stays | inside)
        told = Told(odds, stays, kept[..., STANDING].astype(np.float32), right)
        found.append(Told(*(each[chosen] for each in told)))
    return Told(*(np.concatenate(each) for each in zip(*found, strict=True)))


def lines(told: Told) -> Iterator[dict[str, Any]]:
    """Yield the line of each kind of points, with a knot for each whole number of ``odds``."""
    for stands, stays in product((True, False), repeat=2):
        own = (told.stays == stays) & ((told.standing >= STANDS) == stands)
        odds, right = told.odds[own], told.right[own]
        _, knots = np.unique(np.floor(odds), return_inverse=True)
        count = np.bincount(knots)
        at, share = (np.bincount(knots, each) / count for each in (odds, right))
        fitted = isotonic_regression(share, weights=count).x
        yield {
            "stands": stands,
            "stays": stays,
            "points": len(odds),
            "odds": [round(float(each), 3) for each in at],
            "share": [round(float(each), 4) for each in fitted],
        }


if __name__ == "__main__":
    main()
