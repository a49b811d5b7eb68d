"""Live cameras: frames picked by time, gaps that no window crosses, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import encode, moving

from builder.cli import main
from builder.core.errors import ConfigError, SourceError
from builder.inference import LiveWindows
from builder.inference.clock import MAX_WAITING, LiveClock
from builder.sources.clock import nearest, pick
from builder.sources.selection import Selection
from schemas.inference import Decoder

SHAPE = (48, 80)


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """The file beside a checkpoint, of one camera at 20 frames a second."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "videos").mkdir()
    encode(folder / "videos" / "a.mp4", moving(12, SHAPE), rate=20)
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    own = ["queries.grid=[3, 4]", "tracker.horizon=5", "tracker.preset=fast", "source.fps=10"]
    assert main([*argv, "--img-shape", "40", "56", *own]) == 0
    assert main(["export", str(folder / "out"), str(folder / "i.json"), "--to", "inference"]) == 0
    return folder / "i.json"


def played(live, times, images=None):
    images = images or moving(len(times), SHAPE)
    samples = []
    for image, seconds in zip(images, times, strict=True):
        samples += live.push({"main": image}, seconds)
    return samples


@pytest.mark.parametrize("rate", [10, 25, 30, 60])
def test_any_camera_gives_windows_at_the_rate_of_training(beside, rate):
    live = LiveWindows.load(beside)
    samples = played(live, np.arange(rate + 1) / rate + 100.0)
    steps = np.diff(np.stack([sample["seconds"] for sample in samples]), axis=1)
    assert abs(steps.mean() - 0.1) < 0.02
    assert abs(steps - 0.1).max() <= 0.5 / rate * 2 + 1e-9
    assert [sample["t"] for sample in samples] == list(range(len(samples)))
    assert live.counts.gaps == 0
    for sample in samples:
        assert sample["traj"].shape == (1, 5, 12, 2)
        assert sample["traj"].dtype == sample["vis"].dtype == np.float32
        assert sample["valid"].all()


@given(
    st.lists(st.floats(0.005, 0.09), min_size=8, max_size=60),
    st.floats(2.0, 9.0),
    st.integers(1, 3),
)
def test_frames_are_picked_as_a_build_picks_them(periods, fps, step):
    times = np.cumsum(periods)
    try:
        wanted = pick(times, Selection(fps=fps, frame_step=step))
    except SourceError:
        return  # too slow for a build, too
    clock = LiveClock(["a"], "a", fps, step, None, wait=True)
    for index, seconds in enumerate(times.tolist()):
        clock.push("a", seconds, index)
    got = [tick.items["a"] for tick in clock.settled(end=True) if tick.items]
    # Ticks that a build's step leaves out may meet the same frame there.
    assert got == wanted.tolist()


@given(st.lists(st.floats(0.01, 0.05), min_size=5, max_size=40), st.floats(0, 0.02))
@settings(max_examples=50)
def test_another_view_is_met_by_its_nearest_frame(periods, shift):
    times = np.cumsum(periods)
    other = times + shift
    clock = LiveClock(["a", "b"], "a", None, 1, None, wait=True)
    for index, (seconds, beside) in enumerate(zip(times.tolist(), other.tolist(), strict=True)):
        clock.push("a", seconds, index)
        clock.push("b", beside, index)
    got = [tick.items["b"] for tick in clock.settled(end=True)]
    assert got == nearest(other, times).tolist()


@given(st.lists(st.floats(0.91, 1.09), min_size=8, max_size=60), st.integers(1, 3))
def test_a_steady_camera_need_not_wait_for_the_next_frame(jitters, times_faster):
    times = np.cumsum(jitters) / (10 * times_faster)
    try:
        wanted = pick(times, Selection(fps=9.9))
    except SourceError:
        return  # too slow for a build, too
    clock = LiveClock(["a"], "a", 9.9, 1, None)
    got, behind = [], []
    for index, seconds in enumerate(times.tolist()):
        clock.push("a", seconds, index)
        now = [tick.items["a"] for tick in clock.settled()]
        behind += [index - each for each in now]
        got += now
    got += [tick.items["a"] for tick in clock.settled(end=True)]
    # A build has no tick after the last frame; here one just before its tick was taken at once.
    assert got[: len(wanted)] == wanted.tolist()
    assert len(got) <= len(wanted) + 1
    assert clock.counts.hasty == clock.counts.gaps == 0
    # Without waiting: none at all, unless it comes about half a period before its tick.
    assert behind.count(0) >= len(behind) // 2


def test_two_steady_cameras_do_not_wait_for_each_other():
    clock = LiveClock(["a", "b"], "a", None, 1, None)
    got = []
    for index in range(20):
        clock.push("b", index / 10 - 0.02, index)
        clock.push("a", index / 10, index)
        got += [(tick.items["a"], tick.items["b"], index) for tick in clock.settled()]
    assert got[2:] == [(index, index, index) for index in range(2, 20)]


def test_a_frame_that_was_taken_too_soon_is_counted():
    clock = LiveClock(["a"], "a", 10, 1, None)
    for index, seconds in enumerate([0.0, 0.1, 0.2, 0.27, 0.31, 0.4]):
        clock.push("a", seconds, index)
    assert [tick.items["a"] for tick in clock.settled()] == [0, 1, 2, 3, 5]
    assert clock.counts.hasty == 1


def test_windows_start_at_every_stride_and_are_those_of_stride_one(beside):
    every = {each["t"]: each for each in played(LiveWindows.load(beside), np.arange(20) / 10)}
    some = played(LiveWindows.load(beside, stride=4), np.arange(20) / 10)
    assert [each["t"] for each in some] == [0, 4, 8, 12]
    for each in some:
        np.testing.assert_array_equal(each["traj"], every[each["t"]]["traj"])
    for wrong in (0, -1, 0.5):
        with pytest.raises(ValueError, match=f"stride is a whole number .* got {wrong}"):
            LiveWindows.load(beside, stride=wrong)


def test_no_window_crosses_a_gap_and_memory_stays(beside):
    live = LiveWindows.load(beside)
    times = np.r_[np.arange(12), np.arange(40, 52)] / 10
    samples = played(live, times)
    assert live.counts.gaps == 1
    assert all(np.ptp(sample["seconds"]) < 0.45 for sample in samples)
    assert any(sample["seconds"][0] > 3.9 for sample in samples)
    assert len(live._ticks) <= live.horizon + live.stride
    assert len(live._open) <= live.horizon


def test_a_camera_that_drifts_is_followed_and_one_that_is_slow_is_refused(beside):
    live = LiveWindows.load(beside)
    played(live, np.arange(200) / 9.9, moving(1, SHAPE) * 200)
    assert (live.counts.gaps, live.counts.ticks) == (0, 200)
    with pytest.raises(ValueError, match=r"about 7 frames a second.*trained on 10.*lower source"):
        played(LiveWindows.load(beside), np.arange(20) / 7)


def test_late_frames_are_left_out_and_a_new_episode_is_told(beside):
    live = LiveWindows.load(beside)
    played(live, [5.0, 5.1, 5.1, 5.05, 5.2])
    assert live.counts.late == 2
    with pytest.raises(ValueError, match=r"went back from 5.200 to 0.000 s; call reset"):
        played(live, [0.0])
    live.reset()
    assert len(played(live, np.arange(6) / 10)) == 2
    assert live.counts.frames == 6


def test_what_waits_for_a_camera_that_died_is_dropped():
    clock = LiveClock(["a", "b"], "a", None, 1, None)
    for index in range(1000):
        clock.push("a", index / 10, index)
        assert all(tick.items is None for tick in clock.settled())
        assert len(clock._ticks) <= MAX_WAITING
    clock.push("b", 99.9, "b")
    assert list(clock.settled())[-1].items == {"a": 999, "b": "b"}
    assert clock.counts.dropped > 400


def test_what_is_no_frame_of_the_camera_is_refused(beside):
    live = LiveWindows.load(beside)
    [image] = moving(1, SHAPE)
    with pytest.raises(ValueError, match=r"frames of \(H, W\) = \(24, 80\), expected \(48, 80\)"):
        live.push({"main": image[:24]}, 0.0)
    with pytest.raises(ValueError, match="uint8 RGB"):
        live.push({"main": image / 255}, 0.0)
    with pytest.raises(KeyError, match="no view 'wrist'"):
        live.push({"wrist": image}, 0.0)
    with pytest.raises(TypeError, match="frames by view"):
        live.push(image, 0.0)
    with pytest.raises(ValueError, match="in seconds, got nan"):
        live.push({"main": image}, float("nan"))
    larger = LiveWindows(Decoder.load(beside).refit((96, 160)).meta)
    assert len(played(larger, np.arange(6) / 10, moving(6, (96, 160)))) == 2


def test_of_a_dataset_of_several_cameras_one_is_chosen_and_another_refitted(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    encode(tmp_path / "videos" / "a.mp4", moving(9, SHAPE), rate=10)
    encode(tmp_path / "videos" / "b.mp4", moving(9, (60, 44)), rate=10)
    argv = ["build", "--source", str(tmp_path / "videos"), "--out", str(tmp_path / "out")]
    own = ["queries.grid=[3,4]", "tracker.horizon=5", "tracker.preset=fast"]
    assert main([*argv, "--img-shape", "40", "56", *own]) == 0
    record = tmp_path / "i.json"
    export = ["export", str(tmp_path / "out"), str(record), "--to", "inference"]
    assert main([*export, "--coded-shape", "60", "45"]) == 2
    assert "was never of (H, W) = (60, 45)" in capsys.readouterr().err
    only = ["subset", str(tmp_path / "out"), str(tmp_path / "one"), "--where", "source == 'a.mp4'"]
    assert main(only) == 0
    assert main(["export", str(tmp_path / "one"), *export[2:], "--coded-shape", "60", "44"]) == 2
    said = capsys.readouterr().err
    assert f"was ever of (H, W) = (60, 44): there are main {SHAPE}" in said
    assert not record.exists()
    assert main([*export, "--coded-shape", "60", "44"]) == 0
    live = LiveWindows.load(record)
    assert len(played(live, np.arange(6) / 10, moving(6, (60, 44)))) == 2
    with pytest.raises(ValueError, match=r"\(48, 80\), expected \(60, 44\).*refit"):
        played(live, [0.0])
    with pytest.raises(ValueError, match="allow_aspect_change"):
        Decoder.load(record).refit(SHAPE)
    refitted = LiveWindows(Decoder.load(record).refit(SHAPE, allow_aspect_change=True).meta)
    samples = played(refitted, np.arange(6) / 10)
    assert len(samples) == 2
    # The grid lies over this camera's picture, and decodes to its pixels.
    x, y = refitted.decode(samples[0]["traj"][0], "main")[0].T
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((10, 70, 8, 40), abs=1e-3)


def test_a_record_without_its_tracker_or_with_another_is_refused(beside, tmp_path):
    data = json.loads(beside.read_text())
    meta = Decoder.load(beside).meta
    with pytest.raises(ValueError, match=r"does not tell how.*export it again"):
        LiveWindows(meta.resealed(live=None))
    older = tmp_path / "older.json"
    old = meta.resealed(live=None).model_dump(mode="json")
    assert "live" in data
    assert "live" not in old
    older.write_text(json.dumps(old))
    assert Decoder.load(older).meta.live is None
    with pytest.raises(ConfigError, match=r"preset 'best', in training 'fast'.*any_tracker"):
        LiveWindows(meta, tracker={"preset": "best"})
    assert LiveWindows(meta, tracker={"preset": "best"}, any_tracker=True).horizon == 5
    whole = meta.live.settings.model_copy(update={"mode": "episode"})
    live = meta.live.model_copy(update={"settings": whole})
    with pytest.raises(ValueError, match="mode: episode"):
        LiveWindows(meta.resealed(live=live))


def test_samples_become_tensors_where_a_device_is_named(beside):
    torch = pytest.importorskip("torch")
    live = LiveWindows.load(beside, device="cpu", images=True, velocities=True)
    sample = played(live, np.arange(6) / 10)[0]
    assert sample["velocity"].shape == (1, 4, 12, 2)
    assert sample["images"].shape == (1, 40, 56, 3)
    assert torch.equal(sample["velocity"], sample["traj"][:, 1:] - sample["traj"][:, :-1])
    source_xy = live.decode(sample["traj"][0], "main")
    assert source_xy.shape == (5, 12, 2)
    assert "horizon=5" in repr(live)
