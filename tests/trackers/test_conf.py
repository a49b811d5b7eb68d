"""What the second look says becomes a share of points: fitted on some, it holds for others."""

import hashlib
import json

import numpy as np
import pytest

pytest.importorskip("scipy", minversion="1.12")  # isotonic regression

from calibrate_conf import STANDS, Told, lines
from robot_truth import Bin, calibration_error

from builder.trackers.second_look import CALIBRATION, WEIGHTS, Lines
from builder.trackers.still_head import Verdict

KINDS = [(stands, stays) for stands in (True, False) for stays in (True, False)]
SLOPES = dict(zip(KINDS, [(0.5, -1), (1.5, 1), (0.3, 0.5), (1, -2)], strict=True))


def share_of(odds, kind):
    """What is true of points, of each kind in another way; no more than 0.97 of them are right."""
    slope, offset = SLOPES[kind]
    return 0.97 / (1 + np.exp(-(slope * odds + offset)))


def told(seed, count=40_000):
    rng = np.random.default_rng(seed)
    odds, stays = rng.normal(1, 3, count), rng.random(count) < 0.5
    standing = rng.random(count)
    right = np.zeros(count, bool)
    for kind in KINDS:
        own = ((standing >= STANDS) == kind[0]) & (stays == kind[1])
        right[own] = rng.random(own.sum()) < share_of(odds[own], kind)
    return Told(odds, stays, standing, right)


def off(conf, right):
    at = np.minimum((10 * conf).astype(int), 9)
    parts = [(conf[at == each], right[at == each]) for each in np.unique(at)]
    return calibration_error([Bin(len(c), c.mean(), r.mean()) for c, r in parts])


def lines_of(found):
    return Lines(
        STANDS,
        {
            (each["stands"], each["stays"]): np.array((each["odds"], each["share"]))
            for each in found
        },
    )


def test_lines_that_were_fitted_on_some_points_tell_the_truth_of_others():
    found, others = list(lines(told(0))), told(1)
    assert [(each["stands"], each["stays"]) for each in found] == KINDS
    conf = lines_of(found)(Verdict(others.stays, others.stays, others.odds), others.standing)
    assert off(1 / (1 + np.exp(-others.odds)), others.right) > 0.1
    assert off(conf, others.right) < 0.02
    for kind in KINDS:
        own = ((others.standing >= STANDS) == kind[0]) & (others.stays == kind[1])
        assert off(conf[own], others.right[own]) < 0.03
        order = np.argsort(others.odds[own])
        assert (np.diff(conf[own][order]) >= 0).all()


def test_few_points_make_a_line_too():
    few = Told(*(each[:40] for each in told(2)))
    conf = lines_of(lines(few))(Verdict(few.stays, few.stays, few.odds), few.standing)
    assert ((conf >= 0) & (conf <= 1)).all()


def test_what_is_shipped_is_of_the_second_look_that_is_shipped():
    kept = json.loads(CALIBRATION.read_text())
    now = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert kept["second_look_sha256"] == now, "it has changed: run scripts/calibrate_conf.py"
    assert not {*kept["scenes"]} & {*json.loads(WEIGHTS.read_text())["scenes"]}
    assert [(each["stands"], each["stays"]) for each in kept["lines"]] == KINDS
    for each in kept["lines"]:
        assert len(each["odds"]) == len(each["share"]) > 1
        assert (np.diff(each["odds"]) > 0).all()
        assert (np.diff(each["share"]) >= 0).all()
        assert 0 <= each["share"][0] <= each["share"][-1] <= 1
