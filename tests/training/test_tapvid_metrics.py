"""TAP-Vid's scores against a case worked by hand."""

import numpy as np
import pytest

from builder.training.tapvid_metrics import tapvid_scores

# Frames are 128 x 256 (H x W), so a pixel of y counts twice on the 256 x 256 raster.
SHAPE = (128, 256)
TRUTH = np.array([(50, 50), (60, 60), (70, 70), (80, 80), (90, 90)], float)
VISIBLE = np.array([True, True, True, False, True])
OFFSET = np.array([(0.5, 0), (0, 1.5), (0, 0), (0, 0), (99, 0)])
SAID = np.array([True, True, False, True, False])
COUNTED = np.array([True, True, True, True, False])  # the last is a query: left out


def test_by_hand():
    scores = tapvid_scores(TRUTH, VISIBLE, TRUTH + OFFSET, SAID, SHAPE, COUNTED)
    # Raster distances of the truly visible: 0.5, 3, 0.  Within 1 and 2: two of three; then all.
    assert scores.d_avg == pytest.approx((2 / 3 + 2 / 3 + 1 + 1 + 1) / 5)
    # Of four, the third is wrongly called hidden and the fourth wrongly visible.
    assert scores.occlusion_accuracy == pytest.approx(2 / 4)
    # At 1 and 2: one hit, three true points, two false alarms: 1 / 5.  From 4: 2 / (3 + 1).
    assert scores.average_jaccard == pytest.approx((1 / 5 + 1 / 5 + 2 / 4 + 2 / 4 + 2 / 4) / 5)


def test_perfect_and_hopeless():
    assert tapvid_scores(TRUTH, VISIBLE, TRUTH, VISIBLE, SHAPE) == (1, 1, 1)
    assert tapvid_scores(TRUTH, VISIBLE, TRUTH + 40, ~VISIBLE, SHAPE) == (0, 0, 0)


def test_a_distance_equal_to_the_threshold_is_not_within():
    scores = tapvid_scores(TRUTH, VISIBLE, TRUTH + np.array((1, 0)), VISIBLE, SHAPE)
    assert scores.d_avg == pytest.approx(4 / 5)


def test_nothing_to_count_gives_nan_not_an_error():
    scores = tapvid_scores(TRUTH, VISIBLE, TRUTH, VISIBLE, SHAPE, np.zeros(5, bool))
    assert np.isnan(scores).all()
