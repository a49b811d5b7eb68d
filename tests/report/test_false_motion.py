"""Points that stand still, found without truth, and the share of them that tracks move."""

from __future__ import annotations

import numpy as np
import pytest

from builder.cli import main
from builder.dataset.opening import open_dataset
from builder.report import false_motion
from builder.report.diagnosis import diagnose
from builder.report.false_motion import (
    StillTally,
    facts,
    measured_preset,
    still_findings,
    still_line,
)
from builder.report.false_motion_rates import MEASURED
from builder.report.still_points import (
    EDGES,
    PATCH,
    TELLING,
    look,
    luma,
    moved_steps,
    noise_level,
    texture_ratio,
    unchanged,
)
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from builder.trackers.kinds.dis import PRESETS, DisConfig, DisTracker
from schemas.dataset import TrackerInfo, VisibilityRule

SHAPE = (72, 112)
WAVE = 2 * np.pi / PATCH  # one wave fills a patch, so that its mean is that of the wave
POINTS = np.array([(20.5, 30.5), (60.0, 40.25), (90.9, 20.1)], np.float32)


def waves(amplitude, shape=SHAPE, shift_xy=(0.0, 0.0)):
    rows, columns = np.indices(shape) + 0.5
    across = np.sin(WAVE * (columns - shift_xy[0]))
    down = np.sin(WAVE * (rows - shift_xy[1]))
    return 128 + amplitude * (across + down)


def video(picture, noise, count=8, seed=0):
    """The frames (K, H, W, 3) of a picture that stands, with noise in grey levels."""
    noises = np.random.default_rng(seed).normal(0, noise, (count, *picture.shape))
    return np.repeat(np.clip(np.rint(picture + noises), 0, 255).astype(np.uint8)[..., None], 3, -1)


def test_texture_is_the_change_by_a_pixel_in_units_of_noise():
    slope = 20 * np.sin(WAVE) / np.sqrt(2)  # root of the mean square of central differences
    for noise in (0.5, 2.0):
        expected = np.sqrt(slope**2 - noise**2 / 2) / noise
        np.testing.assert_allclose(texture_ratio(waves(20), POINTS, noise), expected, rtol=1e-5)
    stripes = 128 + 20 * np.sin(WAVE * np.indices(SHAPE)[1])
    assert (texture_ratio(stripes, POINTS, 1.0) == 0).all()  # along them nothing changes


@pytest.mark.parametrize("noise", [0.7, 2.0, 4.0])
def test_noise_and_a_standing_camera_are_found(noise):
    for picture in (waves(20), np.full(SHAPE, 100.0)):
        found, fixed = noise_level(luma(video(picture, noise)))
        assert found == pytest.approx(np.hypot(noise, np.sqrt(1 / 12)), rel=0.1)
        assert fixed


def test_a_moving_camera_shows_and_its_plain_parts_tell_the_noise():
    frames = []
    for step in range(8):
        picture = waves(20, shift_xy=(1.5 * step, 0))
        picture[:, :40] = 90
        frames.append(video(picture, 2.0, count=1, seed=step)[0])
    found, fixed = noise_level(luma(np.stack(frames)))
    assert found == pytest.approx(2.0, rel=0.15)
    assert not fixed


def test_pictures_without_noise_have_that_of_rounding():
    found, fixed = noise_level(luma(video(waves(20), 0.0)))
    assert found == pytest.approx(np.sqrt(1 / 12))
    assert fixed


def grid(shape=SHAPE, step=6):
    y, x = np.meshgrid(np.arange(8, shape[0] - 8, step), np.arange(8, shape[1] - 8, step))
    return np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)


def test_noise_alone_is_no_change_and_half_a_pixel_is_where_there_is_texture():
    noise, points = 2.0, grid()
    still = luma(video(waves(12), noise, count=16))
    assert unchanged(still, points, noise).mean() > 0.95
    # The least texture that is said to tell.
    amplitude = TELLING * noise * np.sqrt(2) / np.sin(WAVE)
    assert np.median(texture_ratio(waves(amplitude), points, noise)) == pytest.approx(3, rel=0.05)
    moved = [video(waves(amplitude), noise, count=1, seed=1)[0]]
    for seed in range(2, 17):
        shifted = waves(amplitude, shift_xy=(0.5, 0.5))
        moved.append(video(shifted, noise, count=1, seed=seed)[0])
    assert unchanged(luma(np.stack(moved)), points, noise).mean() < 0.05


def test_plain_parts_count_as_still_only_while_the_camera_stands():
    points = grid()
    plain = look(video(np.full(SHAPE, 100.0), 2.0), points)
    assert plain.fixed
    assert plain.still.mean() > 0.95
    assert (plain.ratio < 1).mean() > 0.9
    frames = []
    for step in range(8):
        picture = waves(20, shift_xy=(1.5 * step, 0))
        picture[:, :40] = 90
        frames.append(video(picture, 2.0, count=1, seed=step)[0])
    moving = look(np.stack(frames), points)
    assert not moving.fixed
    assert not moving.still.any()
    tally = StillTally(1)
    tracks = np.repeat(points[None], 8, axis=0)
    tally.add(np.stack(frames), tracks, np.ones(tracks.shape[:2]), "raw")
    line = still_line(tally.report(info(), "content", stored=True))
    assert "unknown: the camera moves in every window that was looked at" in line


def test_steps_that_move_are_those_of_whole_pixels():
    rng = np.random.default_rng(3)
    tracks = rng.uniform((-3, -3), (115, 75), (5, 9, 2)).astype(np.float32)
    tracks[1:, :4] = tracks[:1, :4] + rng.uniform(-0.6, 0.6, (4, 4, 2))
    pixels = np.rint(np.clip(tracks, 0, (111, 71)))
    expected = (np.diff(pixels, axis=0) != 0).any(axis=-1)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(moved_steps(tracks, SHAPE), expected)


CHAINED = facts(DisTracker(DisConfig(anchored=False)).info)


def info(at=0, **changes):
    """A tracker of which rates were measured."""
    known = MEASURED[at]["tracker"]
    settings = {"preset": "best", "note": "any", **known["own"]}
    kept = {"kind": known["kind"], "name": known["name"], **changes}
    rule = VisibilityRule(rule="any", sticky=False)
    return TrackerInfo(
        version="1", licence="MIT", visibility=rule, **{"settings": settings, **kept}
    )


def half_plain(seed):
    picture = waves(25)
    picture[:, 56:] = 120
    return video(picture, 1.5, count=6, seed=seed)


def test_what_is_counted_is_what_was_put_in():
    """Points on texture stay, those on a plain wall move at every second step."""
    points, tally = grid(), StillTally(1)
    plain = points[:, 0] > 56 + PATCH
    near = np.abs(points[:, 0] - 56) <= PATCH
    points, plain = points[~near], plain[~near]
    tracks = np.repeat(points[None], 6, axis=0)
    tracks[[1, 2, 5], :] += np.where(plain, 1.0, 0.0)[:, None].astype(np.float32)
    vis = np.ones(tracks.shape[:2], np.uint8)
    vis[3:, plain & (points[:, 1] < 30)] = 0
    for seed in range(6):
        tally.add(half_plain(seed), tracks, vis, "raw")
    found = tally.report(info(), "content", stored=True)
    assert (found.windows, found.fixed_share) == (6, 1.0)
    assert found.noise == pytest.approx(np.hypot(1.5, 0.29), rel=0.1)
    assert found.still_share > 0.97
    assert found.low_texture_share == pytest.approx(plain.mean(), abs=0.03)
    assert found.preset == "best"
    hidden = plain & (points[:, 1] < 30)
    steps = 5 * (~hidden).sum() + 2 * hidden.sum()
    moved = 3 * (plain & ~hidden).sum() + 1 * hidden.sum()
    assert found.moved_share == pytest.approx(moved / steps, abs=0.02)
    assert found.basis == "the stored frames of 6 windows"
    ((level, text),) = still_findings(found)
    assert level == "warn"
    assert "too little texture for their noise" in text


def measured_as(rates, of=0):
    """What was measured, had it been these rates."""
    return tuple({**each, "rates": rates} if at == of else each for at, each in enumerate(MEASURED))


def test_rates_are_shares_and_chains_alone_fail_where_there_is_no_texture():
    for each in MEASURED:
        assert {*PRESETS} == {*each["rates"]}
        for rates in each["rates"].values():
            assert len(rates) == len(EDGES) + 1
            assert all(0 <= rate <= 1 for rate in rates)
            assert each["tracker"] != CHAINED or rates[0] > 5 * rates[-1]


def test_rates_are_of_trackers_that_are_shipped_the_default_first():
    ways = [facts(DisTracker(DisConfig(anchored=way)).info) for way in (True, False)]
    measured = [each["tracker"] for each in MEASURED]
    assert measured == [way for way in ways if way in measured]
    for way in (True, False):
        for preset in PRESETS:
            told = DisTracker(DisConfig(anchored=way, preset=preset, conf=way)).info
            assert measured_preset(told) in (preset, None)


def test_each_way_to_set_the_tracker_has_rates_of_its_own(monkeypatch):
    rates = {"best": (0.25,) * (len(EDGES) + 1), "fast": (0.5,) * (len(EDGES) + 1)}
    monkeypatch.setattr(false_motion, "MEASURED", measured_as(rates, of=len(MEASURED) - 1))
    points, tally = grid(), StillTally(1)
    tracks = np.repeat(points[None], 6, axis=0)
    tally.add(half_plain(0), tracks, np.ones(tracks.shape[:2]), "raw")
    last = tally.report(info(len(MEASURED) - 1), "content", stored=True)
    assert last.expected == {"best": pytest.approx(0.25), "fast": pytest.approx(0.5)}
    other = tally.report(info(name="another"), "content", stored=True)
    assert other.preset is None
    assert other.expected.keys() == {*PRESETS}


def test_expected_is_the_rates_weighted_by_what_was_found(monkeypatch):
    rates = {"best": tuple(np.linspace(0.4, 0.05, len(EDGES) + 1))}
    monkeypatch.setattr(false_motion, "MEASURED", measured_as(rates))
    points, tally = grid(), StillTally(1)
    tracks = np.repeat(points[None], 6, axis=0)
    frames = half_plain(0)
    tally.add(frames, tracks, np.ones(tracks.shape[:2]), "jpeg")
    found, seen = tally.report(info(), "content", stored=True), look(frames, points)
    share = np.mean(np.array(rates["best"])[seen.bins[seen.still]])
    assert found.expected == {"best": pytest.approx(share)}
    assert found.preset == "best"
    assert f"move, {share:.1%} expected; too little texture" in still_line(found)
    assert "as JPEG, which changes their noise" in found.basis
    elsewhere = tally.report(info(), "source", stored=True)
    assert elsewhere.preset is None
    assert "not measured for this tracker" in still_line(elsewhere)


def test_another_preset_is_named_where_it_was_measured_and_moves_less(monkeypatch):
    rates = {"best": (0.5,) * (len(EDGES) + 1), "fast": (0.01,) * (len(EDGES) + 1)}
    monkeypatch.setattr(false_motion, "MEASURED", measured_as(rates))
    points, tally = grid(), StillTally(1)
    tracks = np.repeat(points[None], 6, axis=0)
    tracks[1::2] += np.float32(1)
    tally.add(half_plain(0), tracks, np.ones(tracks.shape[:2]), "raw")
    ((_, text),) = still_findings(tally.report(info(), "content", stored=True))
    assert text.endswith("expected with another tracker.preset: fast 1.0%")
    ((_, text),) = still_findings(tally.report(info(kind="lk"), "content", stored=True))
    assert "expected" not in text


def test_only_what_was_measured_has_an_expectation():
    assert measured_preset(info()) == "best"
    assert measured_preset(info(kind="lk")) is None
    assert measured_preset(info(name="another")) is None
    own = MEASURED[0]["tracker"]["own"]
    assert measured_preset(info(settings={"preset": "best", **own, "fb_threshold": 0.123})) is None
    assert measured_preset(info(settings={"preset": "other", **own})) is None


def test_the_doctor_reports_it_and_says_where_it_is_unknown(tmp_path, capsys):
    sample_dataset(tmp_path / "own", Hdf5Store(tmp_path / "own"), [Sample("a", length=9)])
    report = diagnose(open_dataset(tmp_path / "own"), (24, 40))
    still = report.views[0].still
    assert still.basis == "the stored frames of 6 windows"
    assert still.moved_share is None  # six points in a small picture
    assert "too few of them" in report.text()
    made = Sample("a", length=9)
    for view in ("front", "wrist"):
        del made.arrays[view, "frames"]
    sample_dataset(tmp_path / "bare", Hdf5Store(tmp_path / "bare"), [made])
    assert main(["doctor", str(tmp_path / "bare")]) in (0, 1)
    assert "still points: unknown: the dataset stores no frames" in capsys.readouterr().out


def test_no_more_windows_are_read_of_a_large_dataset():
    tally = StillTally(1000)
    assert tally.per_episode == 1
    assert 48 <= sum(tally.wants_next() for _ in range(1000)) <= 50
    assert StillTally(3).per_episode == 16
