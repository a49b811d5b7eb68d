"""From a tracker's points to the canvas: what becomes of points it is not asked for."""

from __future__ import annotations

import numpy as np
import pytest

from builder.errors import TrackingError
from builder.stores.hdf5 import Hdf5Store
from builder.track_writer import TrackWriter
from builder.trackers.base import ViewKey
from builder.tracking import ViewTracker
from builder.windows import WindowedTracker
from schemas.config import TrackerPart
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
    frame = np.zeros((*view.plan.input_box.content_shape, 3), np.uint8)
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
