"""Window starts, real steps, and the clips that per-window models are given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.canvas.windows import (
    covering_rows,
    disjoint_rows,
    runs_of,
    valid_steps,
    window_counts,
    window_starts,
)
from builder.core.errors import TrackingError
from builder.testing.samples import sample_meta
from builder.trackers.windowed import WindowedTracker

SHAPE = (6, 10)
QUERIES = np.array([(1.5, 2.5), (9.0, 5.0)], np.float32)


class Numbers(WindowedTracker):
    """Prepares a frame to its number; 'tracks' to x = query + frame number."""

    info = type("Info", (), {"name": "numbers"})()

    def __init__(self, batch=1, min_clip=1, bad=False):
        self.batch, self.min_clip, self.bad = batch, min_clip, bad
        self.calls = []
        self.prepared = 0

    def prepare(self, frame_rgb):
        self.prepared += 1
        return int(frame_rgb[0, 0, 0])

    def track(self, clips, queries_xy):
        self.calls.append(clips)
        results = []
        for clip in clips:
            tracks = np.repeat(queries_xy[None], len(clip), axis=0)
            tracks[..., 0] += np.array(clip)[:, None]
            if self.bad:
                tracks[-1, 0] = np.nan
            results.append((tracks, np.ones(tracks.shape[:2], bool), None))
        return results


def run(tracker, length, horizon, start_every):
    session = tracker.open(SHAPE, QUERIES, horizon, start_every)
    windows = []
    for number in range(length):
        windows += session.push(np.full((*SHAPE, 3), number, np.uint8))
    return windows + session.finish()


@given(
    length=st.integers(1, 40),
    horizon=st.integers(1, 12),
    start_every=st.integers(1, 15),
    batch=st.integers(1, 5),
    kept=st.sets(st.integers(0, 40)),
)
def test_windows_that_are_not_wanted_cost_nothing_and_change_nothing(
    length, horizon, start_every, batch, kept
):
    tracker, all_ = Numbers(batch), Numbers(batch)
    session = tracker.open(SHAPE, QUERIES, horizon, start_every)
    session.keeps = kept.__contains__
    windows = []
    for number in range(length):
        windows += session.push(np.full((*SHAPE, 3), number, np.uint8))
    windows += session.finish()
    wanted = [each for each in run(all_, length, horizon, start_every) if each.start in kept]
    for mine, other in zip(windows, wanted, strict=True):
        assert mine.start == other.start
        np.testing.assert_array_equal(mine.tracks_xy, other.tracks_xy)
    # Batches stay whole, since a model's bits may depend on them; the others are left out.
    starts = window_starts(length, start_every).tolist()
    batches = [starts[at : at + batch] for at in range(0, len(starts), batch)]
    assert len(tracker.calls) == sum(bool(kept.intersection(each)) for each in batches)
    seen = {number for call in tracker.calls for clip in call for number in clip}
    assert tracker.prepared == len(seen)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 12))
def test_the_starts_are_those_not_left_out(left_out, start_every, horizon):
    left_out = np.array(left_out)
    length = len(left_out) * start_every
    starts = window_starts(length, start_every, runs_of(left_out))
    np.testing.assert_array_equal(starts, np.flatnonzero(~left_out) * start_every)
    meta = sample_meta(start_every=start_every)
    counts = window_counts(meta, np.array([length, 7]), {0: runs_of(left_out)})
    assert counts.tolist() == [len(starts), -(-7 // start_every)]

    def passed(rows):
        frames = {f for row in rows for f in range(starts[row], starts[row] + horizon)}
        return {frame for frame in frames if frame < length}

    apart = disjoint_rows(starts, horizon)
    assert all(np.diff(starts[apart]) >= horizon)
    assert passed(covering_rows(starts, horizon, length)) == passed(range(len(starts)))


@pytest.mark.parametrize(("start_every", "horizon"), [(1, 16), (3, 16), (16, 16), (20, 16), (5, 3)])
def test_of_regular_windows_every_so_many_are_chosen(start_every, horizon):
    starts = window_starts(100, start_every)
    rows = list(range(len(starts)))
    assert disjoint_rows(starts, horizon) == rows[:: -(-horizon // start_every)]
    assert covering_rows(starts, horizon, 100) == rows[:: max(1, horizon // start_every)]


def test_starts_and_valid_steps_by_hand():
    starts = window_starts(7, 3)
    assert starts.dtype == np.int64
    np.testing.assert_array_equal(starts, [0, 3, 6])
    np.testing.assert_array_equal(
        valid_steps(starts, 4, 7), [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    )


@given(
    length=st.integers(0, 40),
    horizon=st.integers(1, 12),
    start_every=st.integers(1, 15),
    batch=st.integers(1, 5),
    min_clip=st.integers(1, 14),
)
def test_every_window_sees_its_frames_once_prepared(length, horizon, start_every, batch, min_clip):
    tracker = Numbers(batch, min_clip)
    windows = run(tracker, length, horizon, start_every)
    assert [window.start for window in windows] == list(window_starts(length, start_every))
    assert tracker.prepared <= length
    clips = [clip for call in tracker.calls for clip in call]
    for window, clip in zip(windows, clips, strict=True):
        wanted = [
            min(window.start + step, min(window.start + horizon, length) - 1)
            for step in range(max(horizon, min_clip))
        ]
        assert clip == wanted
        assert window.tracks_xy.shape == (horizon, 2, 2)
        np.testing.assert_array_equal(window.tracks_xy[0], QUERIES)
    assert all(len(call) == batch for call in tracker.calls[:-batch])


def test_buffer_is_bounded():
    tracker = Numbers(batch=3)
    session = tracker.open(SHAPE, QUERIES, 5, 2)
    for number in range(50):
        session.push(np.full((*SHAPE, 3), number, np.uint8))
        assert len(session._frames) <= 5 + 2 * 2


def test_frames_between_windows_are_not_prepared():
    tracker = Numbers()
    run(tracker, 30, 2, 10)
    assert tracker.prepared == 6


def test_nan_from_a_model_is_refused():
    with pytest.raises(TrackingError, match=r"numbers gave NaN .* starts at frame 0"):
        run(Numbers(bad=True), 4, 4, 1)


@pytest.mark.parametrize(("horizon", "start_every"), [(0, 1), (4, 0)])
def test_window_settings_are_checked(horizon, start_every):
    with pytest.raises(TrackingError, match="at least 1"):
        Numbers().open(SHAPE, QUERIES, horizon, start_every)


@pytest.mark.parametrize(
    "frame", [np.zeros((10, 6, 3), np.uint8), np.zeros((6, 10, 3), np.float32)]
)
def test_frames_of_another_shape_or_type_are_refused(frame):
    session = Numbers().open(SHAPE, QUERIES, 4, 1)
    with pytest.raises(TrackingError, match="expected a frame"):
        session.push(frame)


@pytest.mark.parametrize("start_every", [1, 2, 5])
def test_windows_are_counted_as_they_are_made(start_every):
    lengths = np.arange(1, 13)
    counts = window_counts(sample_meta(start_every=start_every), lengths)
    assert counts.tolist() == [len(window_starts(length, start_every)) for length in lengths]
    assert set(window_counts(sample_meta(mode="episode"), lengths)) == {1}
    nothing = sample_meta().tracker.model_copy(update={"kind": "none"})
    assert not window_counts(sample_meta(tracker=nothing), lengths).any()
