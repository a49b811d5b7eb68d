"""Codebook and motion metrics against cases worked out by hand."""

import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.errors import ConfigError
from builder.training.metrics import (
    CodeUsage,
    Monitor,
    MotionStats,
    displacement_classes,
    tensorboard_log,
)
from builder.training.normalize import normalize_traj

IMG = (48, 60)


def usage(indices, size):
    stats = CodeUsage(size)
    stats.update(np.asarray(indices))
    return stats.metrics()


def test_two_codes_in_three_to_one():
    got = usage([[5, 5], [5, 2]], 16)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # 0.5623 nats
    assert got["unique_codes"] == 2
    assert got["entropy_norm"] == pytest.approx(entropy / math.log(16))
    assert got["perplexity"] == pytest.approx(1.7547654)
    assert got["codebook_perplexity"] == pytest.approx(1.7547654 / 4)  # 4 codes in the batch
    assert got["code_usage_hist"].tolist() == [1, 3]


def test_collapse_uniform_and_nothing():
    collapsed = usage(np.full(500, 7), 240)
    assert (collapsed["unique_codes"], collapsed["perplexity"]) == (1, 1.0)
    assert collapsed["entropy_norm"] == 0.0
    assert collapsed["codebook_perplexity"] == pytest.approx(1 / 240)
    uniform = usage(np.arange(240).repeat(3), 240)
    assert uniform["entropy_norm"] == pytest.approx(1.0)
    assert uniform["codebook_perplexity"] == pytest.approx(1.0)
    empty = CodeUsage(240).metrics()
    assert [empty[name] for name in ("unique_codes", "perplexity", "entropy_norm")] == [0, 0, 0]


def test_wrong_indices_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 4\), got 0 to 4"):
        usage([0, 4], 4)
    with pytest.raises(TypeError, match="float64"):
        usage([0.0, 1.0], 4)


@given(st.lists(st.lists(st.integers(0, 9), max_size=20), max_size=5))
def test_streaming_over_batches_equals_one_batch(batches):
    stats = CodeUsage(10)
    for batch in batches:
        stats.update(np.array(batch, dtype=np.int64))
    whole = usage(np.array([*chain(*batches)], dtype=np.int64), 10)
    got = stats.metrics()
    np.testing.assert_array_equal(got.pop("code_usage_hist"), whole.pop("code_usage_hist"))
    assert got == whole


def traj(rows_cols):
    """One track through (row, col) pixels, normalized: (T, 1, 2)."""
    return normalize_traj(np.array(rows_cols, dtype=np.float64)[:, None, :], IMG)


@pytest.mark.parametrize(
    ("start", "end", "expected", "saturates"),
    [
        ((10, 10), (10, 10), 112, False),
        ((10, 10), (10.4, 10.4), 112, False),  # rounds back to the same pixel
        ((10.4, 10), (10.6, 10), 112 + 15, False),  # 0.2 px, but across a rounding edge
        ((10, 10), (10, 11), 113, False),
        ((10, 10), (17, 3), 14 * 15 + 0, False),  # the window's edge is not yet saturated
        ((10, 10), (18, 10), 14 * 15 + 7, True),
        ((10, 10), (3, 40), 0 * 15 + 14, True),
        ((46.9, 30), (60, 30), 112, False),  # clamped to row 47 before the difference
        ((10, 0), (10, -30), 112, False),
        ((2.5, 10), (3.5, 10), 112 + 2 * 15, False),  # half to even: 2 -> 4
    ],
)
def test_displacement_classes_by_hand(start, end, expected, saturates):
    classes, saturated = displacement_classes(traj([start, end]), IMG)
    assert classes.shape == (1, 1)
    assert (int(classes[0, 0]), bool(saturated[0, 0])) == (expected, saturates)


def test_motion_stats_by_hand():
    # Steps: still, 1 px in col, 9 px in col (saturated), out of the picture to the right.
    path = traj([(24, 30), (24, 30), (24, 31), (24, 40), (24, 66)])
    stats = MotionStats(IMG)
    stats.update(path[None])
    got = stats.metrics()
    assert got["zero_class_share"] == pytest.approx(1 / 4)
    assert got["saturated_share"] == pytest.approx(2 / 4)
    assert got["nonzero_velocity_share"] == pytest.approx(3 / 8)  # components, rows never move
    assert got["clipped_share"] == pytest.approx(1 / 10)
    assert (got["row_min"], got["row_max"]) == (0.0, 0.0)
    assert (got["col_min"], got["col_max"]) == pytest.approx((0.0, 1.2))


def test_invalid_steps_do_not_count():
    path = traj([(24, 30), (24, 31), (24, 31), (24, 31)])
    stats = MotionStats(IMG)
    stats.update(path, valid=np.array([True, True, False, False])[:, None])
    assert stats.steps == 1
    assert stats.metrics()["zero_class_share"] == 0.0
    stats.update(path, valid=np.zeros((4, 1), bool))
    assert stats.steps == 1
    assert MotionStats(IMG).metrics()["row_max"] == 0.0


@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_motion_streams_and_takes_torch(axes):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    batch = rng.uniform(-1.1, 1.1, (*axes, 6, 5, 2)).astype(np.float32)
    one, two = MotionStats(IMG), MotionStats(IMG)
    one.update(batch)
    one.update(batch)
    two.update(torch.from_numpy(np.stack([batch, batch])))
    assert one.metrics() == two.metrics()
    assert 0 < one.metrics()["clipped_share"] < 1


def test_a_monitor_logs_under_the_names_users_know():
    logged = []
    monitor = Monitor(16, IMG, lambda metrics, step: logged.append((step, metrics)), every=2)
    tracks = traj([(24, 30), (24, 31)])
    monitor(0, np.array([1, 1]), tracks)
    monitor(1, np.array([2, 3]), tracks)
    monitor(2, np.array([1, 1]))
    assert [step for step, _ in logged] == [0, 2]
    with pytest.raises(ConfigError, match=r"img_shape must be \(H, W\), .* got 128"):
        Monitor(16, 128, print)
    assert {
        "train_unique_codes_step",
        "train_entropy_norm_step",
        "train_perplexity_step",
        "train_code_usage_hist",
        "train_codebook_perplexity",
        "train_nonzero_velocity_share",
        "train_zero_class_share",
        "train_saturated_share",
    } <= logged[0][1].keys()
    assert logged[1][1]["train_unique_codes_step"] == 1
    assert logged[1][1]["train_unique_codes_run"] == 3
    assert "train_zero_class_share" not in logged[1][1]


def test_tensorboard_gets_scalars_and_histograms():
    class Writer:
        def __init__(self):
            self.calls = []

        def add_scalar(self, *call):
            self.calls.append(("scalar", call[0], call[2]))

        def add_histogram(self, *call):
            self.calls.append(("histogram", call[0], call[2]))

    writer = Writer()
    Monitor(4, IMG, tensorboard_log(writer))(0, np.array([1, 2]))
    assert ("histogram", "train_code_usage_hist", 0) in writer.calls
    assert ("scalar", "train_unique_codes_step", 0) in writer.calls
