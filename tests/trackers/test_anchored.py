"""The built-in tracker held to the picture each window began with: what stands, hides, breaks."""

import json
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from synthetic import random_texture

from builder.core.errors import ConfigError
from builder.testing import check_tracker
from builder.trackers.base import TRACKERS
from builder.trackers.evidence import Evidence, Relief, quiet_variance
from builder.trackers.kinds.dis import PRESETS, DisConfig, DisTracker
from builder.trackers.patches import difference, mismatch, patches, structure
from builder.trackers.second_look import QUANTITIES, inputs, second_look
from builder.trackers.still_head import FEATURES, MARGIN, Verdict, still_head
from schemas.config import TrackerPart

SHAPE = (96, 144)


def grid(shape=SHAPE, rows=6, columns=9):
    y = (np.arange(rows) + 0.5) * shape[0] / rows
    x = (np.arange(columns) + 0.5) * shape[1] / columns
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)


def noisy(picture, sigma, seed):
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def follow(frames, queries, tracker=None, horizon=16, start_every=16):
    session = (tracker or DisTracker()).open(frames[0].shape[:2], queries, horizon, start_every)
    return [w for frame in frames for w in session.push(frame)] + session.finish()


def desk(shape=SHAPE):
    """Texture on the left, a plain wall on the right."""
    picture = random_texture(np.random.default_rng(4), shape).astype(np.float64)
    picture[:, shape[1] // 2 :] = (170, 168, 160)
    return picture


def whole_steps(window):
    return (np.diff(np.rint(window.tracks_xy), axis=0) != 0).any(axis=-1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.5, 3.0])
def test_what_stands_still_stays_exactly_where_it_was(preset, sigma):
    frames, queries = [noisy(desk(), sigma, seed) for seed in range(16)], grid()
    (window,) = follow(frames, queries, DisTracker(DisConfig(preset=preset)))
    assert whole_steps(window).mean() < 0.04
    assert (window.tracks_xy == queries).all(axis=-1).mean() > 0.93
    assert window.vis.mean() > 0.93
    (before,) = follow(frames, queries, DisTracker(DisConfig(preset=preset, anchored=False)))
    if sigma >= 1.5:
        assert whole_steps(before).mean() > 0.05  # so there was something to mend


def test_a_point_that_is_covered_waits_in_its_place():
    picture, frames = desk(), []
    cover = random_texture(np.random.default_rng(8), (40, 40)) // 2
    for step in range(16):
        frame = picture.copy()
        left = 8 * step - 40
        low, high = max(left, 0), min(left + 40, SHAPE[1])
        if low < high:
            frame[30:70, low:high] = cover[:, low - left : high - left]
        frames.append(noisy(frame, 1.0, step))
    queries = np.array([(40, 50), (56, 46), (20, 15), (120, 85)], np.float32)
    (window,) = follow(frames, queries)
    covered = np.zeros((16, 4), bool)
    for step in range(16):
        covered[step] = (
            (queries[:, 1] > 30) & (queries[:, 1] < 70)
            & (queries[:, 0] > 8 * step - 40) & (queries[:, 0] < 8 * step)
        )  # fmt: skip
    inside = covered & np.roll(covered, 1, 0) & np.roll(covered, -1, 0)
    assert inside.sum() >= 4
    assert window.vis[inside].mean() < 0.3
    assert window.vis[:, 2:].mean() > 0.8
    np.testing.assert_allclose(window.tracks_xy[-1], queries, atol=0.5)
    assert window.vis[-1].all()


def test_what_moves_is_followed_while_the_rest_stands():
    background, thing = desk(), random_texture(np.random.default_rng(9), (36, 36)) // 1.5
    frames = []
    for step in range(16):
        frame = background.copy()
        frame[30:66, 6 + 2 * step : 42 + 2 * step] = thing
        frames.append(noisy(frame, 1.0, step))
    queries = np.array([(18, 42), (24, 48), (30, 54), (20, 15), (60, 85), (130, 15)], np.float32)
    (window,) = follow(frames, queries)
    np.testing.assert_allclose(window.tracks_xy[-1, :3], queries[:3] + np.array((30, 0)), atol=1)
    assert window.vis[:, :3].all()
    np.testing.assert_array_equal(window.tracks_xy[-1, 3:], queries[3:])


def test_a_still_video_gives_still_points_and_no_nan():
    frames, queries = [desk().astype(np.uint8)] * 16, grid()
    (window,) = follow(frames, queries)
    np.testing.assert_array_equal(window.tracks_xy, np.broadcast_to(queries, (16, 54, 2)))
    assert window.vis.all()


def test_pure_noise_gives_finite_tracks_that_stay_near_the_picture():
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (*SHAPE, 3), np.uint8) for _ in range(20)]
    for window in follow(frames, grid(), start_every=4):
        assert np.isfinite(window.tracks_xy).all()
        assert window.vis[2:].mean() < 0.4


def test_black_frames_stand_still():
    frames, queries = [np.zeros((*SHAPE, 3), np.uint8)] * 16, grid()
    (window,) = follow(frames, queries)
    np.testing.assert_array_equal(window.tracks_xy, np.broadcast_to(queries, (16, 54, 2)))


def test_after_a_cut_points_are_lost_and_not_wild():
    other = random_texture(np.random.default_rng(20), SHAPE)
    frames = [noisy(desk(), 1.0, seed) for seed in range(8)]
    frames += [noisy(other, 1.0, seed) for seed in range(8, 16)]
    queries = grid()
    (window,) = follow(frames, queries)
    assert window.vis[:8].mean() > 0.98
    assert window.vis[8:].mean() < 0.05
    away = np.linalg.norm(window.tracks_xy[8:] - queries, axis=-1)
    assert np.quantile(away, 0.9) < 30


def test_after_a_flash_everything_is_there_again():
    frames = [noisy(desk(), 1.0, seed) for seed in range(16)]
    frames[6] = np.full((*SHAPE, 3), 255, np.uint8)
    queries = grid()
    (window,) = follow(frames, queries)
    assert (window.tracks_xy[8:] == queries).all(axis=-1).mean() > 0.98
    assert window.vis[8:].mean() > 0.95


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16), (1, 1), (5, 9)])
def test_small_content(shape):
    rng = np.random.default_rng(2)
    picture = rng.integers(60, 200, (*shape, 3)).astype(np.float64)
    frames = [noisy(picture, 1.0, seed) for seed in range(6)]
    queries = grid(shape, 2, 2)
    (window,) = follow(frames, queries, horizon=6)
    assert np.isfinite(window.tracks_xy).all()


def test_confidence_is_given_when_asked_for_and_is_a_probability():
    backend, config = TRACKERS.configure(TrackerPart(kind="dis", conf=True))
    check_tracker(lambda: backend(config))
    frames, queries = [noisy(desk(), 1.0, seed) for seed in range(16)], grid()
    (window,) = follow(frames, queries, backend(config))
    assert ((window.conf >= 0) & (window.conf <= 1)).all()
    assert window.conf[window.vis == 1].mean() > 0.9
    (plain,) = follow(frames, queries)
    np.testing.assert_array_equal(plain.tracks_xy, window.tracks_xy)
    with pytest.raises((ConfigError, ValueError), match="conf needs anchored"):
        DisConfig(conf=True, anchored=False)


def test_the_record_tells_it_from_the_tracker_before():
    now, before = DisTracker().info, DisTracker(DisConfig(anchored=False)).info
    assert now.settings["anchored"] is True
    # What datasets of the tracker before have, to the letter: they can be continued.
    assert before.name == "DIS optical flow, chained"
    assert sorted(before.settings) == ["colour_threshold", "fb_threshold", "note", "preset"]
    assert now.name != before.name


@pytest.mark.parametrize(
    ("weights", "features", "most"),
    [(still_head, FEATURES, 64_000), (second_look, QUANTITIES, 160_000)],
)
def test_the_networks_are_what_was_recorded(weights, features, most):
    path = sys.modules[weights.__module__].WEIGHTS
    kept = json.loads(path.read_text())
    assert kept["features"] == list(features)
    assert kept["scenes"]
    assert path.stat().st_size < most


def test_odds_decide():
    odds = np.array([(MARGIN + 1, 2, -2), (MARGIN - 1, 2, -2)], np.float32)
    stays, leads, shows = Verdict.of(odds)
    assert stays.tolist() == [True, False]
    assert not leads.any()
    assert shows.tolist() == [2, -2]
    more = np.concatenate([odds, [(3, 5), (3, 5)]], axis=1).astype(np.float32)
    assert [each.tolist() for each in Verdict.of(more)] == [[True, False], [False, True], [2, 5]]
    assert still_head()(np.zeros((3, len(FEATURES)), np.float32)).shape == (3, 3)


def test_the_record_names_the_numbers_that_decide():
    found = DisTracker().info.weights_sha256
    assert found != DisTracker(DisConfig(conf=True)).info.weights_sha256
    assert found == DisTracker(DisConfig(preset="fast")).info.weights_sha256
    assert DisTracker(DisConfig(anchored=False)).info.weights_sha256 is None


def test_a_step_is_shown_with_what_came_before_and_after():
    kept = np.array([1, 5, 3], np.float16)[:, None, None] * np.ones((3, 2, 1), np.float16)
    shown = inputs(kept)
    assert [part.shape for part in shown] == [(3, 2, 1)] * 3 + [(1, 2, 1)] * 2
    now, later, earlier, most, least = (part[:, 0, 0].tolist() for part in shown)
    assert (now, later, earlier, most, least) == ([1, 5, 3], [4, 3, 3], [1, 1, 3], [5], [1])
    assert [part.tolist() for part in inputs(kept[:1])] == [[[[1]] * 2]] * 5


def test_features_may_come_in_parts():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (4, 7, len(FEATURES))).astype(np.float32)
    features[..., 30:] = features[:1, ..., 30:]
    whole = still_head()(features)
    np.testing.assert_allclose(still_head()(features[..., :30], features[:1, ..., 30:]), whole,
                               rtol=1e-3, atol=1e-3)  # fmt: skip


class Watching(NamedTuple):
    """A second look that says the same of everything, and keeps what it was shown."""

    odds: tuple[float, float, float]
    shown: list

    def __call__(self, steps):
        self.shown.append(steps)
        odds = np.array(self.odds, np.float32)
        return Verdict.of(np.broadcast_to(odds, (*steps.shape[:2], 3)))

    def conf(self, steps, verdict):
        return np.full(verdict.odds.shape, 0.75, np.float32)


class Looking(DisTracker):
    """The tracker with another second look."""

    def __init__(self, look, **settings):
        super().__init__(DisConfig(**settings))
        self.look = look

    def judges(self):
        return super().judges()[0], self.look


def sliding(frames=20):
    """Texture that goes right on the left half; the right half is another picture, and stands."""
    texture, still = (random_texture(np.random.default_rng(seed), (96, 200)) for seed in (4, 5))
    found = []
    for at in range(frames):
        picture = still[:, :144].copy()
        picture[:, :72] = texture[:, 60 - 2 * at : 132 - 2 * at]
        found.append(noisy(picture, 0.5, at))
    return found


def test_a_second_look_changes_whole_windows_of_what_seemed_to_go():
    frames, queries = sliding(), grid()
    first = follow(frames, queries, Looking(None), start_every=4)
    assert [window.start for window in first] == [0, 4, 8, 12, 16]
    watching = Watching((9, -9, 9), [])
    again = follow(frames, queries, Looking(watching), start_every=4)
    assert [len(steps) for steps in watching.shown] == [15, 15, 11, 7, 3]
    right = queries[:, 0] > 80
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(after.tracks_xy[:, right], before.tracks_xy[:, right])
        np.testing.assert_array_equal(after.vis[:, right], before.vis[:, right])
        gone = (before.tracks_xy != queries).any(axis=(0, 2))
        assert gone.sum() > 10
        assert (after.tracks_xy[:, gone] == queries[gone]).all()
        assert not after.vis[1:, gone].any()
        assert after.vis[0].all()
    along = follow(frames, queries, Looking(Watching((-9, -9, 9), [])), start_every=4)
    moved = along[0].tracks_xy[1] - queries
    assert np.median(moved[queries[:, 0] < 60], axis=0) == pytest.approx((2, 0), abs=0.1)


def test_confidence_changes_nothing_that_is_decided():
    frames, queries = sliding(), grid()
    for look in (second_look(), Watching((9, -9, 9), []), Watching((-9, 9, -9), [])):
        plain, told = (
            follow(frames, queries, Looking(look, conf=conf), start_every=4)
            for conf in (False, True)
        )
        for one, other in zip(plain, told, strict=True):
            np.testing.assert_array_equal(one.tracks_xy, other.tracks_xy)
            np.testing.assert_array_equal(one.vis, other.vis)
            assert one.conf is None
            assert ((other.conf >= 0) & (other.conf <= 1)).all()


def test_patches_are_cut_between_pixels():
    rows, columns = np.indices((20, 30), np.float32)
    picture = np.stack([columns + 0.5, rows + 0.5], -1)
    points = np.array([(10.25, 8.75), (5.5, 5.5)], np.float32)
    cut = patches(picture, points).reshape(2, 5, 5, 2)
    np.testing.assert_allclose(cut[:, 2, 2], points, atol=0.03)  # remap has 1/32 pixel
    np.testing.assert_allclose(cut[:, 0, 4], points + np.array((2, -2)), atol=0.03)
    many = np.repeat(points, 20_000, axis=0)
    np.testing.assert_array_equal(patches(picture, many)[-1], patches(picture, points)[-1])


def test_light_is_no_change_and_another_thing_is():
    rng = np.random.default_rng(0)
    first = rng.uniform(40, 160, (50, 75)).astype(np.float32)
    gradient = np.full(50, 100, np.float32)
    noisy_one = first + rng.normal(0, 1, first.shape).astype(np.float32)
    same, gain = mismatch(first, noisy_one, 1.0, gradient * 0)
    assert np.median(same) == pytest.approx(0.5, abs=0.1)  # only one of them has noise
    np.testing.assert_allclose(gain, 0, atol=0.02)
    darker, gain = mismatch(first, 0.6 * (first + 8) - 8, 1.0, gradient)
    assert darker.max() < 0.01
    np.testing.assert_allclose(gain, np.log(0.6), atol=1e-3)
    other, _ = mismatch(first, first[::-1].copy(), 1.0, gradient)
    assert other.min() > 20
    assert difference(first, first + 10, 1.0, gradient).min() > 20


def test_structure_is_least_along_an_edge():
    rows, columns = np.indices((20, 20), np.float32)
    edge, slope = structure(patches(np.stack([columns * 3] * 3, -1), grid((20, 20), 1, 1)), 3)
    np.testing.assert_allclose(edge, 9, rtol=1e-3)
    np.testing.assert_allclose(slope, 0, atol=1e-2)
    both = np.stack([np.sin(columns) * 20 + np.sin(rows) * 20] * 3, -1).astype(np.float32)
    assert structure(patches(both, grid((20, 20), 1, 1)), 3)[1] > 10


def test_noise_is_that_of_the_quiet_part():
    rng = np.random.default_rng(3)
    pair = [
        cv2.GaussianBlur(rng.normal(100, 4, (192, 256)).astype(np.float32), (0, 0), 1.0)
        for _ in range(2)
    ]
    expected = float(np.var(pair[0]))
    pair[1][:, 205:] += 30  # something moves
    found = quiet_variance((pair[1] - pair[0]) ** 2)
    assert found == pytest.approx(expected, rel=0.35)


def test_evidence_tells_what_stands_from_what_changes():
    def picture(shift, seed):
        frame = random_texture(np.random.default_rng(6), (96, 200)).astype(np.float64)
        frame[:, 72:144] = frame[:, 72 + shift : 144 + shift].copy()
        return noisy(frame[:, :144], 1.0, seed).astype(np.float32).mean(axis=-1)

    start = Relief.of(picture(0, 0))
    evidence = Evidence(start)
    for step in range(1, 5):
        found = evidence.at(Relief.of(picture(3 * step, step)), 0.3, grid(), SHAPE)
    left, right = grid()[:, 0] < 60, grid()[:, 0] > 84
    assert (found[left, 0] > 2 * found[left, 1]).all()
    assert (found[right, 1] > found[right, 0]).all()
