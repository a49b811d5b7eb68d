"""Scores against exact truth: of perfect tracks, and of tracks whose faults are known.

``robot`` holds a short scene, drawn and recorded by ``scripts/robot_scenes.py`` and
``scripts/robot_views.py`` (kind belt, seed 501, noise 2.0, H.264).
"""

from pathlib import Path

import numpy as np
import pytest
from robot_truth import (
    CAMERAS,
    Bin,
    by_group,
    calibration_error,
    error_by_speed,
    error_by_step,
    joined,
    reliability,
    scores,
)
from robot_views import RobotView

ROBOT = Path(__file__).parent / "robot"


def test_perfect_tracks_score_perfectly():
    truth = RobotView(ROBOT / "agent").truth
    for steps in by_group(truth, truth.tracks_xy, truth.visible).values():
        found = scores(steps)
        assert found["AJ"] == found["d_avg"] == found["OA"] == 1
        assert found["error"] == 0
        assert not found["false_motion"] > 0
        assert not found["ghosts"] > 0


def test_scores_say_what_is_wrong():
    view = RobotView(ROBOT / "agent")
    truth = view.truth
    still = np.repeat(truth.tracks_xy[:, :1], truth.tracks_xy.shape[1], axis=1)
    seen = np.ones(truth.visible.shape)
    held = {name: scores(steps) for name, steps in by_group(truth, still, seen).items()}
    assert held["still"]["false_motion"] == 0
    assert held["moving"]["false_still"] == 1
    shaken = truth.tracks_xy + 3 * (np.arange(16) % 2)[:, None, None]
    groups = by_group(truth, shaken.astype(np.float32), seen)
    assert scores(groups["still"])["false_motion"] == 1
    assert scores(groups["still"])["error"] == pytest.approx(3 * 2**0.5 * 8 / 15, abs=0.01)
    by_step = error_by_step(groups["still"])
    assert by_step[0] == pytest.approx(3 * 2**0.5, abs=0.01)
    assert by_step[1] == pytest.approx(0, abs=0.01)
    assert "0 to 0.02" in error_by_speed(groups["still"])


def test_confidence_is_compared_with_the_truth_by_camera():
    view = RobotView(ROBOT / "agent")
    truth = view.truth
    rng = np.random.default_rng(0)
    sure = rng.choice([0.25, 0.9], truth.visible.shape)
    right = rng.random(sure.shape) < sure
    tracks = truth.tracks_xy + np.where(right, 0, 5 * max(truth.shape) / 256)[..., None]
    groups = by_group(truth, tracks.astype(np.float32), right, sure)
    (camera, bins), *others = reliability(groups).items()
    assert camera == "fixed"
    assert not others
    assert [at for at, each in enumerate(bins) if each.points] == [2, 9]
    counted = truth.visible[:, 1:] & truth.known[:, None]
    seen = counted.sum() / (truth.known.sum() * (truth.visible.shape[1] - 1))
    for at, conf in ((2, 0.25), (9, 0.9)):
        assert bins[at].conf == pytest.approx(conf)
        assert bins[at].right == pytest.approx(conf * seen, abs=0.02)
    total = sum(each.points for each in bins)
    assert total == truth.known.sum() * (truth.visible.shape[1] - 1)
    off = sum(each.points * abs(each.conf - each.right) for each in bins) / total
    assert calibration_error(bins) == pytest.approx(off)
    assert calibration_error([Bin(10, 0.5, 0.5), Bin(30, 0.9, 0.7)]) == pytest.approx(0.15)


def test_points_of_a_moving_camera_are_apart_and_without_confidence_nothing_is_said():
    parts = []
    for camera in ("agent", "wrist"):
        truth = RobotView(ROBOT / camera).truth
        seen = np.ones(truth.visible.shape)
        assert reliability(by_group(truth, truth.tracks_xy, seen)) == {}
        parts.append(by_group(truth, truth.tracks_xy, seen, 0.5 * seen))
    groups = joined(parts)
    assert set(groups) == {name for names in CAMERAS.values() for name in names}
    bins = reliability(groups)
    assert set(bins) == set(CAMERAS)
    assert sum(each.points for each in bins["moving"]) == sum(
        groups[name].visible.size for name in CAMERAS["moving"]
    )
