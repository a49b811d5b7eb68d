"""Still windows: the rule against its definition, and what it sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.canvas.stillness import StillMeter, still_windows


@given(
    st.lists(st.integers(100, 112), min_size=1, max_size=30),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 8),
)
@settings(max_examples=60)
def test_a_window_is_compared_with_its_own_first_frame(greys, horizon, every, threshold):
    meter = StillMeter(threshold, horizon, every)
    for grey in greys:
        meter.push(np.full((40, 24, 3), grey, np.uint8))
        assert len(meter._open) <= -(-horizon // every)
    wanted = [
        max(abs(grey - greys[start]) for grey in greys[start : start + horizon]) <= threshold
        for start in range(0, len(greys), every)
    ]
    assert still_windows([meter], len(greys), every).tolist() == wanted


@pytest.mark.parametrize("shape", [(144, 256), (30, 44), (5, 9), (1, 1)])
def test_noise_is_still_and_something_small_that_moves_is_not(shape):
    rng = np.random.default_rng(0)
    noise, moves = StillMeter(6, 8, 1), StillMeter(6, 8, 1)
    for step in range(8):
        frame = np.full((*shape, 3), 90.0)
        if min(shape) > 8:
            frame += rng.normal(0, 4, (*shape, 3))
        noise.push(frame.astype(np.uint8))
        at = min(step, min(shape) - 1)
        frame[at : at + 8, at : at + 8] = 250 if step % 2 else 90
        moves.push(frame.astype(np.uint8))
    assert still_windows([noise], 8, 1).all()
    assert not still_windows([moves], 8, 1)[0]


def test_a_slow_drift_moves_and_the_past_is_forgotten():
    meter = StillMeter(6, 16, 1)
    scene = np.zeros((40, 200, 3), np.uint8)
    scene[:, ::2] = 200
    scene[:, 60:120] = 200
    for step in range(40):
        meter.push(scene[:, step : step + 60])  # an edge comes in, a pixel at a time
    assert not still_windows([meter], 40, 1)[:20].any()
    meter.forget(30)
    assert min(meter.moved, default=30) >= 30
