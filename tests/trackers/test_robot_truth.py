"""Scores against exact truth: of perfect tracks, and of tracks whose faults are known.

``robot`` holds a short scene, drawn and recorded by ``scripts/robot_scenes.py`` and
``scripts/robot_views.py`` (kind belt, seed 501, noise 2.0, H.264).
"""

from pathlib import Path

import numpy as np
import pytest
from robot_truth import by_group, error_by_speed, error_by_step, scores
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
