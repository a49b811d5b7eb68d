"""How the camera moved, and what happens around points that go."""

import cv2
import numpy as np
import pytest
from synthetic import random_texture

from builder.trackers.camera import CameraMotion, composed, flow_of
from builder.trackers.surround import NAMES, surround

SHAPE = (120, 176)


def scene(shape=(200, 280)):
    return cv2.cvtColor(random_texture(np.random.default_rng(3), shape), cv2.COLOR_RGB2GRAY)


def seen(picture, homography):
    """Return what a camera sees of a picture, points of which it moves by a homography."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    by_centre = np.linalg.inv(half) @ homography @ half
    return cv2.warpPerspective(picture, by_centre, SHAPE[::-1], flags=cv2.INTER_LINEAR)


@pytest.mark.parametrize(
    "turn",
    [
        [[1, 0, 5.5], [0, 1, -3.25], [0, 0, 1]],
        [[0.99, -0.05, 6], [0.05, 0.99, -4], [0, 0, 1]],
        [[1.04, 0.01, -3], [0, 1.03, 2], [2e-4, -1e-4, 1]],
    ],
)
def test_the_motion_of_a_camera_is_found_beside_something_that_goes_along(turn):
    turn = np.array(turn)
    begin = np.array([[1, 0, -50], [0, 1, -40], [0, 0, 1.0]])
    first, second = seen(scene(), begin), seen(scene(), turn @ begin)
    first[:40, :60] = second[:40, :60] = scene()[100:140, 100:160]  # at the camera, as a gripper is
    motion = CameraMotion()
    assert motion(None, first) is None
    found = motion(first, second)
    truth = flow_of(turn, SHAPE)
    assert np.abs(flow_of(found, SHAPE) - truth)[50:-10, 70:-10].max() < 0.5


def test_a_camera_that_stands_has_no_motion():
    begin = np.array([[1, 0, -50], [0, 1, -40], [0, 0, 1.0]])
    first = seen(scene(), begin)
    second = first.copy()
    second[20:60, 30:60] = first[20:60, 24:54]  # a thing that moves
    motion = CameraMotion()
    motion(None, first)
    assert motion(first, second) is None
    assert motion(second, second) is None


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (16, 16)])
def test_pictures_without_corners_tell_nothing(shape):
    blank = np.full(shape, 90, np.uint8)
    motion = CameraMotion()
    assert motion(None, blank) is None
    assert motion(blank, blank) is None


def test_flow_of_a_homography_is_that_of_its_points():
    turn = np.array([[1.04, 0.01, -3], [0.02, 1.03, 2], [2e-4, -1e-4, 1]])
    flow = flow_of(turn, SHAPE)
    x, y, scale = turn @ (100.5, 30.5, 1)
    np.testing.assert_allclose(flow[30, 100], (x / scale - 100.5, y / scale - 30.5), atol=1e-4)
    assert flow_of(np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]]), SHAPE) is None
    assert flow_of(np.array([[1, 0, 900], [0, 1, 0], [0, 0, 1.0]]), SHAPE) is None


def test_flows_one_after_the_other_are_those_of_the_products():
    one = np.array([[1, 0, 4], [0, 1, -2], [0, 0, 1.0]])
    other = np.array([[0.98, -0.03, 2], [0.03, 0.98, 1], [0, 0, 1.0]])
    both = composed([flow_of(one, SHAPE), flow_of(other, SHAPE)])
    inner = (slice(10, -10), slice(10, -10))
    np.testing.assert_allclose(both[inner], flow_of(other @ one, SHAPE)[inner], atol=0.01)
    np.testing.assert_array_equal(composed([flow_of(one, SHAPE)]), flow_of(one, SHAPE))


def test_a_wall_that_is_pushed_by_flow_differs_from_a_thing_that_goes():
    """The right half of a dark thing goes right by 3 px; so does the wall ahead of it, by flow."""
    picture = np.full((*SHAPE, 3), 200, np.float32)
    picture[:, :80] = 40
    queries = np.array([(81, 60), (60, 60)], np.float32)  # on the wall, on the thing
    now = queries + np.float32(3)
    now[:, 1] = 60
    picture_now = picture.copy()
    picture_now[:, :83] = 40

    def goes_to(points):
        return points + np.where(points[:, :1] < 84, 1, 0) * np.array((3, 0), np.float32)

    def came_from(points):
        return points - np.where(points[:, :1] < 84, 1, 0) * np.array((3, 0), np.float32)

    colours = np.array([(200,) * 3, (40,) * 3], np.float32)
    found = surround(queries, queries, now, 1.0, goes_to, came_from, picture_now, colours)
    wall, thing = (dict(zip(NAMES, row, strict=True)) for row in found)
    assert wall["own speed"] == pytest.approx(np.log1p(3))
    assert wall["speed ahead"] == 0
    assert wall["speed of what came to the query"] == pytest.approx(np.log1p(3))
    assert wall["other colour ahead"] == 0
    assert wall["other colour behind"] > 3
    assert thing["speed ahead"] == pytest.approx(np.log1p(3))
    assert thing["other colour ahead"] == thing["other colour behind"] == 0


def test_nothing_is_ahead_of_what_stands():
    queries = np.array([(20, 30), (50, 40)], np.float32)
    picture = np.random.default_rng(0).uniform(0, 255, (*SHAPE, 3)).astype(np.float32)
    same = np.zeros((2, 3), np.float32)
    found = surround(queries, queries, queries, 1.0, lambda p: p, lambda p: p, picture, same)
    np.testing.assert_array_equal(found[:, :4], 0)
    assert np.isfinite(found).all()
