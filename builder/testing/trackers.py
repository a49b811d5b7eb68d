"""Conformance of a tracker: what every tracker must do, whoever wrote it.

Use from your own tests, with any test runner::

    from builder.testing import check_tracker

    def test_my_tracker_conforms():
        check_tracker(lambda: MyTracker(MyTracker.Config()))

Every check raises AssertionError with a sentence that says what was wrong.
"""

import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from builder.core.errors import TrackingError
from builder.testing.checks import require
from builder.trackers.base import TRACKERS, Tracker, Window
from schemas.config import TrackerPart
from schemas.dataset import TrackerInfo

MakeTracker = Callable[[], Tracker]

SHAPE = (64, 96)
QUERIES = np.array([(30.5, 24.5), (48.0, 32.0), (64.5, 40.25), (40.0, 20.0)], np.float32)
HORIZON, START_EVERY, LENGTH = 5, 2, 11
STEP_XY = (0.75, -0.4)
"""How far the test picture moves per frame, in pixels."""


def check_tracker(make_tracker: MakeTracker, max_error_px: float | None = 0.5) -> None:
    """Run every check on trackers made by ``make_tracker()``.

    ``max_error_px`` is how well a plainly moving picture must be followed; None leaves that
    out (a model with random weights follows nothing).
    """
    for check in CHECKS:
        check(make_tracker)
    if max_error_px is not None:
        check_follows_motion(make_tracker, max_error_px)


def check_call(call: str, *, max_error_px: float | None = 0.5, **settings: Any) -> None:
    """Run every check on ``tracker.kind=callable`` with the function ``call`` and ``settings``."""
    make, own = TRACKERS.configure(TrackerPart(kind="callable", call=call, **settings))
    check_tracker(lambda: make(own), max_error_px)


def moving_frames(
    length: int, shape: tuple[int, int] = SHAPE, step_xy: tuple[float, float] = STEP_XY
) -> list[np.ndarray]:
    """Draw a smooth pattern that moves by ``step_xy`` px per frame; (H, W, 3) uint8 each."""
    x, y = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    rng = np.random.default_rng(7)
    waves = [(*rng.uniform(-0.7, 0.7, 2), rng.uniform(0, 6.28), c % 3) for c in range(24)]
    frames = []
    for t in range(length):
        picture = np.full((*shape, 3), 128.0)
        for wave_x, wave_y, phase, channel in waves:
            shifted = wave_x * (x - t * step_xy[0]) + wave_y * (y - t * step_xy[1])
            picture[..., channel] += 22 * np.sin(shifted + phase)
        frames.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    return frames


def run_tracker(
    tracker: Tracker,
    frames: Iterable[np.ndarray],
    horizon: int = HORIZON,
    start_every: int = START_EVERY,
) -> list[Window]:
    """Push all frames through one session and return all windows."""
    session = tracker.open(SHAPE, QUERIES.copy(), horizon, start_every)
    windows = [window for frame in frames for window in session.push(frame)]
    return windows + session.finish()


def check_info(make_tracker: MakeTracker) -> None:
    """Require an ``info`` that can be stored and a tracker that can be sent to a worker."""
    info = make_tracker().info
    require(isinstance(info, TrackerInfo), f".info must be a TrackerInfo, got {type(info)}")
    again = TrackerInfo.model_validate_json(info.model_dump_json())
    require(again == info, ".info must survive JSON unchanged")
    try:
        again = pickle.loads(pickle.dumps(make_tracker())).info
    except Exception as error:
        raise AssertionError(
            f"a tracker must be picklable before its first use: {error}"
        ) from error
    require(again == info, ".info must survive pickling unchanged")


def check_windows(make_tracker: MakeTracker) -> None:
    """Require windows in order, from every start, each of the right form."""
    for length, horizon, start_every in ((LENGTH, HORIZON, START_EVERY), (7, 3, 4), (4, 1, 1)):
        tracker = make_tracker()
        windows = run_tracker(tracker, moving_frames(length), horizon, start_every)
        starts = [window.start for window in windows]
        expected = list(range(0, length, start_every))
        require(
            starts == expected,
            f"{length} frames with start_every {start_every} must give windows starting at "
            f"{expected}, in this order; got {starts}",
        )
        for window in windows:
            _check_form(window, horizon)
            require(
                (window.conf is not None) == tracker.gives_conf,
                "a window must carry conf if, and only if, the tracker's gives_conf is true",
            )


def check_short_clips(make_tracker: MakeTracker) -> None:
    """Require right windows from clips of one frame, or shorter than the horizon, or empty."""
    for length in (1, 3):
        windows = run_tracker(make_tracker(), moving_frames(length), horizon=8, start_every=1)
        require(
            len(windows) == length,
            f"{length} frames must give {length} windows, not {len(windows)}",
        )
        for window in windows:
            _check_form(window, 8)
            _check_tail(window, length)
    require(not run_tracker(make_tracker(), []), "without frames there must be no windows")


def check_tail(make_tracker: MakeTracker) -> None:
    """Require that steps past the last frame repeat the last real step."""
    for window in run_tracker(make_tracker(), moving_frames(LENGTH)):
        _check_tail(window, LENGTH)


def check_whole_episode(make_tracker: MakeTracker) -> None:
    """Require one window for a horizon of the whole clip and a start_every beyond it."""
    windows = run_tracker(make_tracker(), moving_frames(LENGTH), LENGTH, LENGTH + 1)
    require(
        [window.start for window in windows] == [0],
        f"horizon {LENGTH} on {LENGTH} frames must give one window, got {len(windows)}",
    )
    _check_form(windows[0], LENGTH)


def check_streaming(make_tracker: MakeTracker) -> None:
    """Require windows that neither later frames nor another session can change."""
    frames, other = moving_frames(LENGTH), moving_frames(LENGTH, step_xy=(-1.0, 0.6))
    alone = run_tracker(make_tracker(), frames)
    tracker = make_tracker()
    first, second = (tracker.open(SHAPE, QUERIES, HORIZON, START_EVERY) for _ in range(2))
    windows = []
    for frame, other_frame in zip(frames, other, strict=True):
        windows += first.push(frame)
        second.push(other_frame)
    second.finish()
    _require_same(alone, windows + first.finish(), "with another session open beside it")
    short = run_tracker(make_tracker(), frames[: HORIZON + START_EVERY])
    _require_same(alone[:2], short[:2], "when the clip ends right after them")


def check_determinism(make_tracker: MakeTracker) -> None:
    """Require the same windows, bit for bit, from the same tracker again and from a fresh one."""
    tracker, frames = make_tracker(), moving_frames(LENGTH)
    first = run_tracker(tracker, frames)
    _require_same(first, run_tracker(tracker, frames), "in a second session")
    _require_same(first, run_tracker(make_tracker(), frames), "from a fresh tracker")


def check_leaves_inputs_alone(make_tracker: MakeTracker) -> None:
    """Require that frames and queries are not written to, nor used once the call is over."""
    frames = moving_frames(LENGTH)
    expected = run_tracker(make_tracker(), frames)
    buffer, queries = np.empty_like(frames[0]), QUERIES.copy()
    session = make_tracker().open(SHAPE, queries, HORIZON, START_EVERY)
    queries[:] = 0
    windows = []
    for number, frame in enumerate(frames):
        buffer[:] = frame
        windows += session.push(buffer)
        require(np.array_equal(buffer, frame), f"frame {number} was changed by push")
    _require_same(
        expected, windows + session.finish(), "when the caller reuses its frame and query arrays"
    )
    for frame in frames:
        frame.setflags(write=False)
    _require_same(expected, run_tracker(make_tracker(), frames), "from read-only frames")


def check_refuses_outside_queries(make_tracker: MakeTracker) -> None:
    """Require TrackingError for queries outside the frame; x goes with the width."""
    height, width = SHAPE
    for good in ((width - 1.0, 1.0), (1.0, height - 1.0), (0.0, 0.0)):
        try:
            make_tracker().open(SHAPE, np.array([good], np.float32), 4, 1)
        except TrackingError as error:
            raise AssertionError(
                f"a query at (x, y) = {good} was refused, though inside"
            ) from error
    for bad in ((width + 1.0, 1.0), (1.0, height + 1.0), (-1.0, 1.0), (1.0, -1.0), (np.nan, 1.0)):
        try:
            make_tracker().open(SHAPE, np.array([bad], np.float32), 4, 1)
        except TrackingError:
            continue
        raise AssertionError(
            f"a query at (x, y) = {bad} outside a frame of {height} x {width} (H x W) must "
            f"raise TrackingError"
        )


def check_follows_motion(make_tracker: MakeTracker, max_error_px: float = 0.5) -> None:
    """Require that a picture moving by parts of a pixel is followed, in x and in y."""
    for window in run_tracker(make_tracker(), moving_frames(LENGTH)):
        steps = np.minimum(np.arange(HORIZON), LENGTH - 1 - window.start)
        truth = QUERIES + steps[:, None, None] * np.array(STEP_XY)
        error = np.linalg.norm(window.tracks_xy - truth, axis=-1).max()
        require(
            error <= max_error_px,
            f"a picture that moves by {STEP_XY} px (x, y) per frame must be followed within "
            f"{max_error_px} px; the window from frame {window.start} is {error:.2f} px off",
        )
        require(window.vis.all(), "points in plain sight must be visible")


CHECKS: tuple[Callable[[MakeTracker], None], ...] = (
    check_info,
    check_windows,
    check_short_clips,
    check_tail,
    check_whole_episode,
    check_streaming,
    check_determinism,
    check_leaves_inputs_alone,
    check_refuses_outside_queries,
)


def _check_form(window: Window, horizon: int) -> None:
    count = len(QUERIES)
    _require_array("tracks_xy", window.tracks_xy, (horizon, count, 2), np.float32)
    _require_array("vis", window.vis, (horizon, count), np.uint8)
    require((window.vis <= 1).all(), "vis must hold nothing but 0 and 1")
    if window.conf is not None:
        _require_array("conf", window.conf, (horizon, count), np.float32)
        require(
            bool(((window.conf >= 0) & (window.conf <= 1)).all()), "conf must lie between 0 and 1"
        )
    require(np.isfinite(window.tracks_xy).all(), "tracks_xy must be finite")
    require(
        np.array_equal(window.tracks_xy[0], QUERIES),
        "step 0 of tracks_xy must be the query points themselves",
    )


def _check_tail(window: Window, length: int) -> None:
    last = length - window.start - 1
    for name in ("tracks_xy", "vis", "conf"):
        array = getattr(window, name)
        if array is None:
            continue
        tail = array[last:]
        require(
            bool((tail == tail[:1]).all()),
            f"{name} past the last frame must repeat the last real step (window from frame "
            f"{window.start} of {length} frames)",
        )


def _require_array(
    name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    got = (getattr(array, "shape", None), getattr(array, "dtype", None))
    require(got == (shape, dtype), f"{name} must be {shape} {dtype.__name__}, got {got}")


def _require_same(expected: list[Window], windows: list[Window], when: str) -> None:
    same = len(expected) == len(windows) and all(
        np.array_equal(a, b) if a is not None and b is not None else a is b
        for left, right in zip(expected, windows, strict=True)
        for a, b in zip(left, right, strict=True)
    )
    require(same, f"windows must come out the same {when}")
