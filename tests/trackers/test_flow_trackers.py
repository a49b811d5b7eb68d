"""The embedded trackers: conformance, known motion, small pictures; and the suite itself."""

import os

import cv2
import numpy as np
import pytest
from synthetic import mean_speed, random_scene, random_texture

from builder.core.errors import TrackingError
from builder.testing import check_tracker
from builder.testing import trackers as suite
from builder.trackers.base import TRACKERS as KINDS
from builder.trackers.base import Tracker, Window
from builder.trackers.kinds.dis import NOTICE, PRESETS, DisConfig, DisTracker, _Dis
from builder.trackers.kinds.lk import LkTracker
from builder.trackers.kinds.none import NoTracker
from builder.trackers.sampling import sample, sample_fast
from schemas.config import TrackerPart


def make(kind, **settings):
    backend, config = KINDS.configure(TrackerPart(kind=kind, **settings))
    return backend(config)


TRACKERS = {
    "dis": lambda: make("dis"),
    "dis-fast": lambda: make("dis", preset="fast"),
    "dis-plain": lambda: make("dis", anchored=False),
    "lk": lambda: make("lk"),
}


@pytest.fixture(scope="module")
def scene():
    """A non-square video with two occluders and noise, at 1.2 px per frame on average."""
    rng = np.random.default_rng(5)
    textures = [random_texture(rng, (300, 420)) for _ in range(3)]
    return random_scene(rng, textures, shape=(144, 208), length=20, speed=1.2)


@pytest.mark.parametrize("name", TRACKERS)
def test_conforms(name):
    check_tracker(TRACKERS[name])


def track(tracker, frames, queries, horizon=16, start_every=4):
    session = tracker.open(frames[0].shape[:2], queries, horizon, start_every)
    return [w for frame in frames for w in session.push(frame)] + session.finish()


def grid(shape, rows=12, columns=16):
    y = (np.arange(rows) + 0.5) * shape[0] / rows
    x = (np.arange(columns) + 0.5) * shape[1] / columns
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "limit_px"), [("dis", 1.0), ("dis-fast", 1.5), ("dis-plain", 0.5)]
)
def test_known_motion_of_a_non_square_video(scene, name, limit_px):
    frames, queries = scene.frames(), grid(scene.shape)
    errors = []
    for window in track(TRACKERS[name](), frames, queries):
        truth, visible = scene.truth(window.start, queries, 16)
        steps = np.linalg.norm(np.diff(truth, axis=0), axis=-1).max(axis=0)
        keep = visible & (window.vis == 1) & (steps < 2)
        errors.append(np.linalg.norm(window.tracks_xy - truth, axis=-1)[keep])
    errors = np.concatenate(errors)
    assert errors.size > 5000
    assert np.percentile(errors, 95) < limit_px


def test_occluded_and_departed_points_are_mostly_found_lost(scene):
    frames, queries = scene.frames(), grid(scene.shape)
    said, true = [], []
    for window in track(TRACKERS["dis"](), frames, queries):
        _, visible = scene.truth(window.start, queries, 16)
        said.append(window.vis == 1)
        true.append(visible)
    said, true = np.concatenate(said), np.concatenate(true)
    assert (~true).mean() > 0.02
    assert said[true].mean() > 0.9
    assert said[~true].mean() < 0.65


@pytest.mark.parametrize("name", TRACKERS)
def test_points_that_leave_the_frame_are_lost(name):
    """And stay lost, but by what knows their picture: it sees them come back to the query."""
    texture = random_texture(np.random.default_rng(2), (80, 400))
    frames = [np.ascontiguousarray(texture[:, 4 * t : 4 * t + 120]) for t in range(20)]
    frames += frames[::-1]  # and everything comes back
    queries = np.array([(10, 40), (100, 40)], np.float32)
    (window,) = track(TRACKERS[name](), frames, queries, horizon=40, start_every=40)
    stays_lost = name in ("dis-plain", "lk")
    np.testing.assert_array_equal(window.vis[6 : None if stays_lost else 34, 0], 0)
    assert np.isfinite(window.tracks_xy).all()
    assert window.vis[:19, 1].all()
    # At step 19 the second point has moved 76 px to the left and nothing up or down.
    np.testing.assert_allclose(window.tracks_xy[19, 1], (24, 40), atol=1)


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (7, 9), (8, 300), (16, 16), (17, 15), (3, 2000)]
)
def test_small_pictures_give_finite_tracks(name, shape):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*shape, 3), np.uint8) for _ in range(4)]
    queries = np.array([(shape[1] / 2, shape[0] / 2), (shape[1], shape[0])], np.float32)
    windows = track(TRACKERS[name](), frames, queries, horizon=3, start_every=1)
    assert [window.start for window in windows] == [0, 1, 2, 3]
    assert all(np.isfinite(window.tracks_xy).all() for window in windows)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_still_picture_stands_still(name):
    picture = random_texture(np.random.default_rng(1), (50, 70))
    queries = grid((50, 70), 5, 7)
    (window, *_) = track(TRACKERS[name](), [picture] * 6, queries, horizon=6)
    np.testing.assert_allclose(window.tracks_xy, np.broadcast_to(queries, (6, 35, 2)), atol=1e-3)
    assert window.vis.all()


@pytest.mark.parametrize("name", TRACKERS)
def test_blank_frames_are_tracked_without_nan(name):
    blank = np.zeros((50, 70, 3), np.uint8)
    queries = grid((50, 70), 3, 3)
    (window, *_) = track(TRACKERS[name](), [blank] * 4, queries, horizon=4)
    np.testing.assert_allclose(window.tracks_xy[-1], queries, atol=1e-3)


def test_synthetic_truth_is_what_the_pictures_show(scene):
    """A small patch of the picture goes along with its true track."""
    frames, queries = scene.frames(), grid(scene.shape)
    truth, visible = scene.truth(3, queries, 10)
    assert 0.9 < mean_speed(scene) < 1.5
    assert not visible.all()
    smooth = [cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in frames]
    start = sample(smooth[3], queries)
    for step in range(1, 10):
        change = np.abs(sample(smooth[3 + step], truth[step]) - start).mean(axis=1)
        assert np.median(change[visible[step]]) < 3
        assert np.median(change[~visible[step]]) > 10


@pytest.mark.parametrize("name", TRACKERS)
def test_sharing_work_between_windows_changes_nothing(scene, name):
    frames, queries = scene.frames()[:9], grid(scene.shape, 4, 5)
    for window in track(TRACKERS[name](), frames, queries, horizon=6, start_every=2):
        alone, *_ = track(TRACKERS[name](), frames[window.start :], queries, horizon=6)
        np.testing.assert_array_equal(window.tracks_xy, alone.tracks_xy)
        np.testing.assert_array_equal(window.vis, alone.vis)


def test_flow_of_two_frames_does_not_depend_on_those_before():
    """Of small pictures, OpenCV's DIS remembers that it was given a flow to start from."""
    rng = np.random.default_rng(0)
    pictures = [
        cv2.GaussianBlur(rng.integers(0, 256, (24, 40)).astype(np.uint8), (0, 0), 2)
        for _ in range(4)
    ]
    start = np.full((24, 40, 2), 3, np.float32)
    used, fresh = (_Dis(PRESETS["best"][1][0]) for _ in range(2))
    used(*pictures[2:], start)
    np.testing.assert_array_equal(used(*pictures[:2], None), fresh(*pictures[:2], None))
    np.testing.assert_array_equal(used(*pictures[:2], start), fresh(*pictures[:2], start))


def test_a_change_of_light_is_no_occlusion(scene):
    frames, queries = scene.frames(), grid(scene.shape)
    gains = np.linspace(1, 0.5, len(frames))[:, None, None, None]
    dimmed = (frames * gains).astype(np.uint8)
    kept = [
        np.mean([window.vis.mean() for window in track(DisTracker(), video, queries)])
        for video in (frames, dimmed)
    ]
    assert abs(kept[0] - kept[1]) < 0.03


def test_a_point_is_found_again_behind_something_that_passes():
    """Hidden for two frames: its patch is seen again; a plain chain needs a link across."""
    picture = random_texture(np.random.default_rng(9), (80, 120)) // 2
    frames = [picture.copy() for _ in range(10)]
    for frame in frames[4:6]:
        frame[25:55, 40:80] = 255
    queries = np.concatenate([[(60, 40)], grid((80, 120), 8, 8)]).astype(np.float32)
    trackers = {**TRACKERS, "dis-plain-fast": lambda: make("dis", preset="fast", anchored=False)}
    for name, again in (("dis", 1), ("dis-fast", 1), ("dis-plain", 1), ("dis-plain-fast", 0)):
        (window,) = track(trackers[name](), frames, queries, horizon=10, start_every=10)
        hidden = window.vis[:, 0]
        # What is held to its picture may take a step to see that it is covered.
        first = hidden[4] if name in ("dis", "dis-fast") else 0
        np.testing.assert_array_equal(hidden, [1, 1, 1, 1, first, 0, again, again, again, again])
        assert window.vis[:, 1].all()


def test_dis_does_not_depend_on_the_thread_count(scene):
    frames, queries = scene.frames()[:6], grid(scene.shape)
    before, results = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, max(4, os.cpu_count() or 1)):
            cv2.setNumThreads(threads)
            results.append(track(TRACKERS["dis"](), frames, queries, horizon=6))
    finally:
        cv2.setNumThreads(before)
    for windows in results[1:]:
        for left, right in zip(results[0], windows, strict=True):
            np.testing.assert_array_equal(left.tracks_xy, right.tracks_xy)
            np.testing.assert_array_equal(left.vis, right.vis)


def test_dis_says_that_it_is_not_cotracker():
    info = DisTracker().info
    assert "not CoTracker quality" in NOTICE
    assert info.settings["note"] == NOTICE
    assert not info.visibility.sticky
    assert make("dis", preset="fast", anchored=False).info.visibility.sticky
    assert LkTracker().info.kind == "lk"


def test_sample_belongs_to_pixel_centres():
    field = np.arange(12, dtype=np.float32).reshape(3, 4, 1)  # value = 4 * row + column
    points = np.array([(0.5, 0.5), (1.5, 0.5), (0.5, 1.5), (1.0, 1.0), (-9, -9), (99, 99)])
    np.testing.assert_allclose(sample(field, points)[:, 0], [0, 1, 4, 2.5, 0, 11])
    np.testing.assert_allclose(sample_fast(field, points)[:, 0], [0, 1, 4, 2.5, 0, 11])
    many = np.random.default_rng(0).uniform(0, 4, (40_000, 2))
    np.testing.assert_allclose(sample_fast(field, many), sample(field, many), atol=5 / 32)


def test_no_tracking_gives_no_windows():
    assert track(NoTracker(), [np.zeros((6, 9, 3), np.uint8)] * 5, grid((6, 9), 2, 2)) == []
    assert make("none").info.kind == "none"
    with pytest.raises(TrackingError, match="outside"):
        NoTracker().open((6, 9), np.array([(10.0, 2.0)]), 4, 1)


# The conformance suite must notice every one of these.


class Broken(Tracker):
    """A good tracker that misbehaves as ``fault`` says."""

    made = 0
    frames_seen = 0

    def __init__(self, fault):
        self.fault = fault
        self.good = DisTracker(DisConfig(preset="fast"))
        Broken.made += 1
        self.number = Broken.made
        self.gives_conf = fault.startswith("conf ") and fault != "conf without saying so"
        if fault == "not picklable":
            self.hook = lambda: None

    @property
    def info(self):
        return {"kind": "broken"} if self.fault == "info is a dict" else self.good.info

    def open(self, shape, queries_xy, horizon, start_every):
        if self.fault == "accepts outside queries":
            queries_xy = np.minimum(np.clip(np.nan_to_num(queries_xy), 0, None), shape[::-1])
        if self.fault == "checks x against the height" and (queries_xy > shape[0]).any():
            raise TrackingError("outside")
        if self.fault == "never more than one start":
            start_every = 10**6
        if self.fault == "restarts at the horizon":
            start_every = min(start_every, horizon - 1) or 1
        return BrokenSession(self, queries_xy, shape, horizon, start_every)


class BrokenSession:
    def __init__(self, tracker, queries_xy, shape, horizon, start_every):
        self.fault, self.number = tracker.fault, tracker.number
        self.queries = queries_xy
        self.good = tracker.good.open(shape, queries_xy, horizon, start_every)
        self.frames, self.held = [], []

    def push(self, frame):
        self.frames.append(frame)
        Broken.frames_seen += 1
        if self.fault == "keeps the caller's frame":
            return []
        windows = [self.spoil(window) for window in self.good.push(frame)]
        if self.fault == "writes to the frame":
            frame += 1
        if self.fault == "windows in reverse":
            self.held += windows
            return []
        return windows

    def finish(self):
        if self.fault == "keeps the caller's frame":
            return [w for frame in self.frames for w in self.good.push(frame)] + self.good.finish()
        if self.fault == "forgets the tail":
            return []
        if self.fault == "forgets one-frame clips" and len(self.frames) == 1:
            return []
        windows = [self.spoil(window) for window in self.good.finish()]
        return (self.held + windows)[::-1] if self.fault == "windows in reverse" else windows

    def spoil(self, window):
        fault, (start, tracks, vis, conf) = self.fault, window
        steps = np.arange(len(tracks), dtype=np.float32)[:, None, None]
        if fault == "float64 tracks":
            tracks = tracks.astype(np.float64)
        elif fault == "boolean vis":
            vis = vis.astype(bool)
        elif fault == "vis of 255":
            vis = vis * np.uint8(255)
        elif fault == "conf without saying so":
            conf = np.ones(vis.shape, np.float32)
        elif fault == "conf with a moving tail":
            conf = np.broadcast_to(steps[..., 0] / 100, vis.shape).astype(np.float32)
        elif fault == "conf above 1":
            conf = np.full(vis.shape, 1.5, np.float32)
        elif fault == "conf without axes":
            conf = np.float32(1)
        elif fault == "points first":
            tracks = tracks.transpose(1, 0, 2)
        elif fault == "NaN":
            tracks[-1, 0] = np.nan
        elif fault == "half a pixel off":
            tracks = tracks + np.float32(0.5)
        elif fault == "starts from 1":
            start += 1
        elif fault == "moving tail":
            tracks = tracks + steps * 0.01
        elif fault == "flickering tail":
            vis = (vis * (steps[..., 0] % 2)).astype(np.uint8)
        elif fault == "random":
            tracks = tracks + np.sign(steps) * self.number * 0.001
        elif fault == "state shared between sessions":
            tracks = tracks + np.sign(steps) * Broken.frames_seen * 0.001
        elif fault == "keeps the caller's queries":
            tracks = tracks - tracks[:1] + self.queries
        elif fault == "swaps axes of motion":
            tracks = tracks[:1] + (tracks - tracks[:1])[..., ::-1]
        elif fault == "does not follow":
            tracks = np.repeat(tracks[:1], len(tracks), axis=0)
        elif fault == "nothing visible":
            vis = vis * np.uint8(0)
        if fault in ("random", "state shared between sessions"):
            tracks = tracks.astype(np.float32)
        return Window(start, tracks, vis, conf)


# fault: (the check that must notice, what it says)
FAULTS = {
    "info is a dict": (suite.check_info, "TrackerInfo"),
    "not picklable": (suite.check_info, "picklable"),
    "windows in reverse": (suite.check_windows, "in this order"),
    "starts from 1": (suite.check_windows, "windows starting at"),
    "forgets the tail": (suite.check_windows, "windows starting at"),
    "float64 tracks": (suite.check_windows, "tracks_xy must be"),
    "points first": (suite.check_windows, "tracks_xy must be"),
    "boolean vis": (suite.check_windows, "vis must be"),
    "vis of 255": (suite.check_windows, "0 and 1"),
    "conf without saying so": (suite.check_windows, "gives_conf"),
    "conf above 1": (suite.check_windows, "between 0 and 1"),
    "conf without axes": (suite.check_windows, "conf must be"),
    "NaN": (suite.check_windows, "finite"),
    "half a pixel off": (suite.check_windows, "query points themselves"),
    "forgets one-frame clips": (suite.check_short_clips, "1 frames must give 1 windows"),
    "moving tail": (suite.check_tail, "repeat the last real step"),
    "flickering tail": (suite.check_tail, "repeat the last real step"),
    "conf with a moving tail": (suite.check_tail, "conf past the last frame"),
    "never more than one start": (suite.check_windows, "windows starting at"),
    "restarts at the horizon": (suite.check_whole_episode, "one window"),
    "state shared between sessions": (suite.check_streaming, "another session"),
    "random": (suite.check_determinism, "from a fresh tracker"),
    "writes to the frame": (suite.check_leaves_inputs_alone, "changed by push"),
    "keeps the caller's frame": (suite.check_leaves_inputs_alone, "reuses"),
    "keeps the caller's queries": (suite.check_leaves_inputs_alone, "reuses"),
    "accepts outside queries": (suite.check_refuses_outside_queries, "must raise TrackingError"),
    "checks x against the height": (suite.check_refuses_outside_queries, "refused, though inside"),
    "swaps axes of motion": (suite.check_follows_motion, "must be followed"),
    "does not follow": (suite.check_follows_motion, "must be followed"),
    "nothing visible": (suite.check_follows_motion, "visible"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_notices(fault):
    check, message = FAULTS[fault]
    with pytest.raises(AssertionError, match=message):
        check(lambda: Broken(fault))


def test_every_check_has_a_fault():
    assert {check for check, _ in FAULTS.values()} == {*suite.CHECKS, suite.check_follows_motion}


def test_random_weights_may_leave_out_accuracy():
    check_tracker(lambda: Broken("does not follow"), max_error_px=None)
    with pytest.raises(AssertionError, match="must be followed"):
        check_tracker(lambda: Broken("does not follow"))
