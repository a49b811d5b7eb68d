"""Plain surfaces do what their outlines tell, and a camera moves as the edges that change tell."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from builder.trackers.camera import CameraMotion, flow_of
from builder.trackers.outlines import Outlines, Picture

SHAPE = (192, 256)
STEP = np.array([[1.01, -0.015, 4.5], [0.015, 1.01, -2.0], [0, 0, 1]])

TABLE = [
    np.array(corners)
    for corners in (
        [(20, 92), (64, 92), (64, 130), (20, 130)],
        [(186, 88), (236, 104), (200, 140)],
        [(120, 140), (160, 136), (152, 180)],
    )
]
HAND, FINGER = (slice(0, 36), slice(60, 190)), (slice(36, 60), slice(110, 124))


def table(homography=None, hand=True, noise=0.6, seed=0):
    """Draw a plain table with three things on it, moved by a camera, and a plain hand before it."""
    homography = np.eye(3) if homography is None else homography
    large = np.full((SHAPE[0] * 4, SHAPE[1] * 4), 190, np.uint8)
    for thing, grey in zip(TABLE, (60, 120, 235), strict=True):
        x, y, scale = homography @ np.stack([*thing.T, np.ones(len(thing))])
        corners = np.stack([x / scale, y / scale], -1) * 4
        cv2.fillPoly(large, [np.rint(corners * 16).astype(np.int32)], grey, shift=4)
    picture = cv2.resize(large, SHAPE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    if hand:
        picture[HAND], picture[FINGER] = 90, 40
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(picture + rng.normal(0, noise, SHAPE)), 0, 255).astype(np.uint8)


def test_a_camera_over_a_plain_table_is_told_by_edges():
    """A shadow lies over the half of it, and goes another way."""
    frames = []
    for step in range(8):
        picture = table(np.linalg.matrix_power(STEP, step), seed=step)
        shade = np.ones(SHAPE, np.float32)
        shade[70 + 2 * step :, : 110 - 3 * step] = 0.8
        frames.append((picture * shade).astype(np.uint8))
    motion = CameraMotion()
    assert motion(None, frames[0]) is None
    errors = [
        np.linalg.norm(flow_of(motion(*pair), SHAPE) - flow_of(STEP, SHAPE), axis=-1)
        for pair in pairwise(frames)
    ]
    assert np.mean([np.median(each) for each in errors]) < 0.15


@pytest.mark.parametrize("light", [1.0, 0.9])
def test_plain_surfaces_do_what_their_outlines_tell(light):
    first, second = Picture(table()), Picture((table(STEP, seed=1) * light).astype(np.uint8))
    found = Outlines(first, second, STEP)
    assert found.camera_goes
    wrong = np.random.default_rng(2).normal(0, 0.7, (*SHAPE, 2)).astype(np.float32)
    settled = found.settled(cv2.GaussianBlur(wrong, (0, 0), 4) * 6)
    np.testing.assert_allclose(settled[4:26, 72:180], 0, atol=0.1)
    truth = flow_of(STEP, SHAPE)
    plain = (slice(84, 120), slice(84, 164))
    np.testing.assert_allclose(settled[plain], truth[plain], atol=0.05)


def test_light_and_the_frames_before_do_not_change_the_motion_of_a_camera():
    frames = [table(np.linalg.matrix_power(STEP, step), seed=step) for step in range(3)]
    motion, alone, darker = CameraMotion(), CameraMotion(), CameraMotion()
    motion(None, frames[0])
    motion(*frames[:2])
    alone(None, frames[1])
    darker(None, frames[1])
    found = motion(*frames[1:])
    np.testing.assert_array_equal(found, alone(*frames[1:]))
    dimmed = darker(frames[1], (frames[2] * 0.9).astype(np.uint8))
    apart = flow_of(dimmed, SHAPE) - flow_of(found, SHAPE)
    assert np.median(np.linalg.norm(apart, axis=-1)) < 0.15


def test_what_moves_before_a_camera_that_stands_is_no_camera():
    first, second = table(hand=False), table(hand=False, seed=1)
    first[150:180, 60:90] = 20
    second[150:180, 64:94] = 20
    step = np.array([[1, 0, 4], [0, 1, 0], [0, 0, 1.0]])
    assert not Outlines(Picture(first), Picture(second), step).camera_goes
    alone = Outlines(Picture(first), Picture(second), None)
    assert not alone.camera_goes
    flow = np.full((*SHAPE, 2), 0.4, np.float32)
    flow[142:188, 50:104] = 4, 0  # the thing, and the table around it, as flow has it
    settled = alone.settled(flow)
    np.testing.assert_allclose(settled[160:170, 72:80], flow[160:170, 72:80], atol=0.05)
    np.testing.assert_allclose(settled[106:116, 36:48], 0, atol=0.05)  # inside of another thing


@pytest.mark.parametrize("shape", [(16, 16), (16, 44), (33, 17)])
@pytest.mark.parametrize("camera", [None, np.eye(3)])
def test_pictures_without_detail_stay_as_they_are(shape, camera):
    blank = Picture(np.full(shape, 90, np.uint8))
    found = Outlines(blank, blank, camera)
    assert not found.camera_goes
    flow = np.full((*shape, 2), 0.25, np.float32)
    np.testing.assert_array_equal(found.settled(flow), flow)
