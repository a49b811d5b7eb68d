"""From a tracker's points to the canvas: what becomes of points it is not asked for."""

from __future__ import annotations

import numpy as np
import pytest

from builder.build.view import TrackWriter
from builder.canvas.letterbox import Letterboxer
from builder.core.errors import TrackingError
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.trackers import moving_frames
from builder.trackers.base import TRACKERS, ViewKey, Window
from builder.trackers.motion import MotionMeter
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from builder.trackers.windowed import WindowedTracker
from schemas.config import BuildConfig, TrackerPart
from schemas.dataset import QuerySpec, TrackerInfo, VisibilityRule
from schemas.geometry import Letterbox

KEY = ViewKey("a-01234567", "a.mp4", "main")
THIN = Letterbox.fit((10, 1000), (64, 48))  # the picture is one row of the canvas
QUERIES = QuerySpec(grid=(2, 3), region="canvas")  # none of these lies in it


class Sure(WindowedTracker):
    """Points stand still, seen with certainty."""

    gives_conf, notice = True, None

    @property
    def info(self):
        rule = VisibilityRule(rule="always", sticky=False)
        return TrackerInfo(kind="sure", name="sure", version="1", licence="MIT", visibility=rule)

    def track(self, clips, queries_xy):
        shape = (len(clips[0]), len(queries_xy))
        tracks = np.broadcast_to(queries_xy, (*shape, 2))
        return [(tracks, np.ones(shape), np.ones(shape)) for _ in clips]


class Forgetful(Sure):
    def track(self, clips, queries_xy):
        return [(tracks, vis, None) for tracks, vis, _ in super().track(clips, queries_xy)]


def follow(box, tracker, length=5, spec=QUERIES):
    part = TrackerPart(horizon=4)
    view = ViewTracker(tracker, box, spec, part, length, KEY)
    frame = np.zeros((*view.input_box.content_shape, 3), np.uint8)
    return view, [w for _ in range(length) for w in view.push(frame)] + view.finish()


def test_confidence_is_there_when_no_point_lies_in_the_picture(tmp_path):
    view, windows = follow(THIN, Sure())
    assert not THIN.inside(view.queries_xy).any()
    output = TrackWriter("main", view, 5, has_conf=True)
    with Hdf5Store(tmp_path).begin("a-01234567", {"main": output.layout()}) as writer:
        output.begin(writer)
        output.write(writer, windows)
        arrays = writer.digests()["main"]  # refuses arrays that are not complete
    assert arrays["conf"].shape == (5, 4, 6)
    assert not any(window.conf.any() or window.vis.any() for window in windows)


def test_only_points_in_the_picture_are_tracked():
    box = Letterbox.fit((24, 48), (48, 48))
    view, windows = follow(box, Sure(), spec=QuerySpec(grid=(4, 3), region="canvas"))
    inside = box.inside(view.queries_xy)
    assert 0 < inside.sum() < len(inside)
    for window in windows:
        assert (window.conf == inside).all()
        assert (window.vis == inside).all()


def test_a_tracker_that_forgets_its_confidence_is_named():
    with pytest.raises(TrackingError, match=r"view main: .* no conf in the window .* frame 0"):
        follow(Letterbox.fit((24, 48), (48, 48)), Forgetful())


class Odd(Sure):
    """Changes what another tracker gives, window by window."""

    def __init__(self, change):
        self.change = change

    def open(self, *args):
        session, change = super().open(*args), self.change

        class Changed:
            def push(self, frame):
                return [new for window in session.push(frame) for new in change(window)]

            def finish(self):
                return [new for window in session.finish() for new in change(window)]

        return Changed()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: [w] * (w.start != 2), "starts at frame 3, expected frame 2"),
        (lambda w: [w] * (w.start != 4), "gave 4 windows of 5 frames, expected 5"),
        (lambda w: [w] * (1 + (w.start == 4)), "starts at frame 4, expected no more"),
        (lambda w: [w._replace(tracks_xy=w.tracks_xy[:, :1])], r"tracks_xy \(4, 1, 2\), expected"),
        (lambda w: [w._replace(vis=w.vis[:, :1])], r"vis \(4, 1\), expected \(4, 6\)"),
        (lambda w: [w._replace(vis=w.vis * 0.7)], "vis other than 0 and 1, in .* frame 0"),
        (lambda w: [w._replace(conf=w.conf * np.nan)], "conf outside 0 to 1"),
        (lambda w: [w._replace(conf=w.conf[:1])], r"conf \(1, 6\), expected"),
    ],
)
def test_windows_that_are_none_are_named(change, says):
    spec = QuerySpec(grid=(2, 3), region="content")
    with pytest.raises(TrackingError, match=f"view main: .*{says}"):
        follow(Letterbox.fit((24, 48), (48, 48)), Odd(change), spec=spec)


@pytest.mark.parametrize("shown", ["content", "source", {"short_side": 100}])
def test_what_a_tracker_is_shown_does_not_move_its_points(shown):
    # Wide pixels, 2:1: the tracker must see them as they are displayed, whatever its size.
    shape, step_xy = (160, 120), (1.2, -0.9)
    box = Letterbox.fit(shape, (96, 128), (2, 1))
    part = TrackerPart(horizon=6, input=shown)
    backend, config = TRACKERS.configure(part)
    view = ViewTracker(backend(config), box, QuerySpec(grid=(3, 4)), part, 6, KEY)
    raw, canvas = ViewFrames(view, "none"), np.empty((96, 128, 3), np.uint8)
    seen = []
    for frame in moving_frames(6, shape, step_xy):
        seen.append(raw.tracked(frame, canvas))
        np.testing.assert_array_equal(canvas, Letterboxer(box).canvas(frame))
        np.testing.assert_array_equal(raw.tracked(frame), seen[-1])
    height, width = seen[0].shape[:2]
    assert width / height == pytest.approx(2 * 120 / 160, abs=0.02)
    windows = [window for frame in seen for window in view.push(frame)] + view.finish()
    moved = box.to_source(windows[0].tracks_xy.astype(np.float64))
    truth = moved[0] + np.arange(6)[:, None, None] * np.array(step_xy)
    np.testing.assert_allclose(moved, truth, atol=1.0)
    settings = {"img_shape": (96, 128), "source": {"path": "s"}, "store": {"path": "o"}}
    recorded = BuildConfig.model_validate({**settings, "tracker": part.model_dump()}).content()
    assert recorded["tracker"]["input"] == shown


def test_a_point_put_far_away_has_a_finite_motion():
    tracks_xy = np.zeros((3, 2, 2), np.float32)
    tracks_xy[1, 1] = 1e38
    meter = MotionMeter(3)
    meter.add(Window(0, tracks_xy, np.ones((3, 2), np.uint8)))
    summary = meter.summary()
    assert summary is not None
    assert summary.max_px == pytest.approx(np.hypot(1e38, 1e38), rel=1e-6)


def test_points_that_are_not_numbers_are_never_stored(tmp_path):
    view, windows = follow(Letterbox.fit((24, 48), (48, 48)), Sure())
    windows[2].tracks_xy[1, 3] = np.nan
    output = TrackWriter("main", view, 5, has_conf=True)
    with (
        Hdf5Store(tmp_path).begin("a-01234567", {"main": output.layout()}) as writer,
        pytest.raises(TrackingError, match=r"view main: .* NaN .* starts at frame 2; .* never"),
    ):
        output.write(writer, windows)
    assert not Hdf5Store(tmp_path).has("a-01234567")
