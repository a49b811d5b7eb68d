"""The cost model: its arithmetic, its fit, and what it says before a build against the build."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from media import encode
from source_fixtures import write_video

from builder.build import estimate
from builder.build.config_file import load_config
from builder.build.estimate import Costs, measure, refuse_if_full
from builder.build.probe import probes
from builder.cli import main
from builder.core.errors import OutputError
from builder.core.spacing import spread
from builder.sources.base import EpisodeRef
from builder.sources.clips import clip_of, clip_refs
from builder.sources.selection import Clips
from builder.stores.base import ENVELOPE_BYTES
from schemas.config import FrameStorage

SETTINGS = ["queries.grid=[3, 4]", "tracker.horizon=4", "img_shape=[48, 100]"]

COSTS = Costs(
    episodes=10,
    probed=5,
    frames=3000,
    frames_error=0.1,
    fps=30,
    frame_seconds={"decode": 0.001, "track": 0.009},
    episode_seconds=0.5,
    frame_bytes=1000,
    episode_bytes=50_000,
    source_frame_bytes=100,
    cpu_share=1.0,
    device="cpu",
    disk_bytes_per_second=1e6,
    syncs_per_second=100,
)


def test_estimates_are_linear():
    own, double = COSTS.estimate(), COSTS.estimate(episodes=20)
    assert (own.episodes, own.frames, own.files) == (10, 3000, 10)
    assert own.worker_hours == pytest.approx((3000 * 0.01 + 10 * 0.5) / 3600)
    assert own.stage_hours["track"] == pytest.approx(27 / 3600)
    assert own.bytes == 3000 * 1000 + 10 * 50_000
    assert own.read_bytes == 300_000
    assert double.worker_hours == pytest.approx(2 * own.worker_hours)
    assert own.gpu_hours == 0
    # 35 s of work write 3.5 MB, one worker 0.1 MB/s; the disk takes ten times that.
    assert own.workers_until["writing to the output disk"] == pytest.approx(10)
    assert own.workers_until["listing episodes (one writer)"] == pytest.approx(350)
    assert own.first_bottleneck == "writing to the output disk"
    assert double.workers_until == pytest.approx(own.workers_until)


def test_hours_of_video():
    million = COSTS.estimate(hours=1e6)
    assert million.frames == 30 * 3600 * 10**6
    assert million.episodes == million.frames / 300
    assert million.video_hours == pytest.approx(1e6)


def test_a_gpu_is_counted_apart():

    estimate = replace(COSTS, device="cuda").estimate()
    assert estimate.gpu_hours == pytest.approx(27 / 3600)


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(10, 1, [5]), (10, 2, [2, 7]), (10, 3, [1, 5, 8]), (3, 20, [0, 1, 2]), (0, 4, []), (4, 0, [])],
)
def test_a_few_of_many_are_spread(length, count, expected):
    assert spread(length, count) == expected


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costs") / "videos"
    for index, count in enumerate((60, 100, 140)):
        write_video(folder / f"clip {index}.mp4", count=count, shape=(48, 90))
    (folder / "broken.mp4").touch()
    return folder


def test_the_plan_fits_the_build(videos, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["plan", str(videos), *SETTINGS, f"store.path={out}"]
    assert main([*argv, "--episodes", "40000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == [], "the probe left something"
    assert (found["costs"]["episodes"], found["costs"]["probed"]) == (4, 3)
    argv = ["build", *SETTINGS, f"source.path={videos}", f"store.path={out}"]
    assert main([*argv, "executor.workers=1", "--quiet"]) == 1
    (kept,) = (out / "runs").glob("*.json")
    summary = json.loads(kept.read_text())
    own, large = found["estimates"]
    assert summary["frames"] == 300
    # Bytes are exact up to what headers and the broken file add.
    size = sum(path.stat().st_size for path in (out / "episodes").iterdir())
    assert own["bytes"] / own["frames"] == pytest.approx(size / 300, rel=0.1)
    assert own["frames"] == 300
    assert set(own["stage_hours"]) == {*summary["stage_seconds"], "per episode"}
    assert large["episodes"] == 40_000
    assert large["first_bottleneck"] in large["workers_until"]


def test_beginnings_do_not_stand_for_all(tmp_path, capsys):
    """Videos that begin dark: planned from their beginnings, JPEG took a third of its bytes."""
    (tmp_path / "videos").mkdir()
    for number in range(2):
        images = [np.zeros((96, 180, 3), np.uint8)] * 100
        noise = np.random.default_rng(number)
        images += [noise.integers(0, 255, (96, 180, 3), np.uint8) for _ in range(260)]
        encode(tmp_path / "videos" / f"{number}.mp4", images)
    out = tmp_path / "out"
    settings = [*SETTINGS, "store.frames.codec=jpeg", "tracker.kind=none", f"store.path={out}"]
    assert main(["plan", str(tmp_path / "videos"), *settings, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    costs, planned = found["costs"], found["estimates"][0]["bytes"]
    assert (costs["probed"], costs["places"]) == (2, 8)
    least, most = costs["frame_bytes_range"]
    assert most > 3 * least
    assert main(["build", f"source.path={tmp_path / 'videos'}", *settings, "--quiet"]) == 0
    size = sum(path.stat().st_size for path in (out / "episodes").iterdir())
    assert 0 < costs["frame_bytes_error"] < 0.5
    assert abs(planned / size - 1) < 2 * costs["frame_bytes_error"]


@pytest.mark.parametrize(
    ("lengths", "each"), [([800], 8), ([500, 400], 4), ([500] * 5, 2), ([500] * 20, 1), ([90], 1)]
)
def test_places_are_spread_over_each_episode(lengths, each):
    found = probes([(EpisodeRef.at(f"{n}.mp4", n), length) for n, length in enumerate(lengths)])
    for number, length in enumerate(lengths):
        firsts = [place.first for place in found if place.ref.locator == number]
        # In each of as many equal parts there is one, and all are whole.
        room = length - 80 + 1
        assert [first * each // room for first in firsts] == list(range(each))
    parts = {place.id for place in found}
    assert len(parts) == len(found)
    assert len({place.first for place in found}) > len(lengths) // 2


def test_a_clip_is_probed_within_itself(tmp_path):
    clip = list(clip_refs(EpisodeRef.at("a.mp4", "a"), Clips(frames=100), np.arange(300.0), 1))[1]
    (place,) = probes([(clip, 100)])
    part = clip_of(place.part(16))
    assert (part.first, part.last - part.first, part.length) == (100 + place.first, 16, 300)
    assert part.whole.path == "a.mp4"


def test_plans_of_clips(videos, tmp_path, capsys):
    settings = [*SETTINGS, f"store.path={tmp_path / 'out'}", "source.clip.frames=40"]
    planned = frames_of(capsys, ["plan", str(videos)], *settings)
    # 60, 100 and 140 frames, and 3 more behind each of 4 seams, and no clip of 4 frames or fewer.
    assert planned["estimates"][0]["frames"] == 300 + 3 * (1 + 2 + 3)
    assert planned["estimates"][0]["episodes"] == 2 + 3 + 4 + 1
    assert planned["costs"]["frames_error"] == 0
    # Each clip reads its part of the file.
    size = sum(path.stat().st_size for path in videos.iterdir())
    assert planned["costs"]["source_frame_bytes"] == pytest.approx(size / 300, rel=0.1)


def test_an_episode_that_takes_long_is_told(videos, tmp_path, capsys, monkeypatch):
    settings = [*SETTINGS, f"store.path={tmp_path / 'out'}"]
    assert not frames_of(capsys, ["plan", str(videos)], *settings)["costs"]["notes"]
    monkeypatch.setattr(estimate, "LONG_SECONDS", 1e-3)
    (note,) = frames_of(capsys, ["plan", str(videos)], *settings)["costs"]["notes"]
    assert "source.clip cuts it" in note


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Lengths and sizes that mislead whoever takes a few for all: detail costs bytes, not time."""
    folder = tmp_path_factory.mktemp("mixed") / "videos"
    for index, count in enumerate((20, 90, 24, 150, 18, 21, 200, 40)):
        shape = ((48, 90), (96, 180))[index % 2]
        write_video(folder / f"clip {index}.mp4", count=count, shape=shape)
    return folder


def frames_of(capsys, verb, *argv):
    assert main([*verb, *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_verbs_count_the_same_frames(mixed, tmp_path, capsys):
    shown = frames_of(capsys, ["inspect", str(mixed)])
    counted = sum(row["frames"] for row in shown["views"])
    assert counted == 20 + 90 + 24 + 150 + 18 + 21 + 200 + 40
    settings = [*SETTINGS, f"store.path={tmp_path / 'out'}"]
    planned = frames_of(capsys, ["plan", str(mixed)], *settings, "--probe", "2")
    dry = frames_of(capsys, ["build", "--dry-run"], *settings, f"source.path={mixed}")
    assert planned["costs"]["frames"] == planned["estimates"][0]["frames"] == counted
    assert planned["costs"]["frames_error"] == 0
    assert dry["costs"]["frames"] == counted
    assert main(["plan", str(mixed), *settings, "--probe", "2"]) == 0
    assert f"; {counted} frames\n" in capsys.readouterr().out


def test_of_many_episodes_a_sample_stands_for_all(mixed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "COUNTED_EPISODES", 6)
    settings = [*SETTINGS, f"store.path={tmp_path / 'out'}"]
    planned = frames_of(capsys, ["plan", str(mixed)], *settings, "--probe", "2")
    dry = frames_of(capsys, ["build", "--dry-run"], *settings, f"source.path={mixed}")
    assert planned["estimates"][0]["frames"] == dry["estimates"][0]["frames"] != 563
    assert dry["costs"]["frames"] == pytest.approx(563, rel=0.5)
    assert planned["costs"]["frames_error"] > 0


def test_frames_alone_are_planned_without_tracks(videos, tmp_path, monkeypatch):
    settings = [f"source.path={videos}", f"store.path={tmp_path / 'out'}", "tracker.kind=none"]
    config = load_config(None, [*SETTINGS, *settings])
    found = measure(config)
    sizes = found.bytes_by_codec
    assert sizes["none"] >= 4 * ENVELOPE_BYTES
    assert sizes["raw"] - sizes["none"] == pytest.approx(found.frames * 48 * 100 * 3, rel=0.05)
    assert sizes["raw"] == found.estimate().bytes
    assert sizes["none"] < sizes["jpeg"] < sizes["lz4"] < sizes["raw"]
    assert [*found.unreadable] == ["broken.mp4"]
    monkeypatch.setattr("builder.build.estimate.free_bytes", lambda path: 4 * ENVELOPE_BYTES)
    frames = config.store.model_copy(update={"frames": FrameStorage(codec="jpeg")})
    refuse_if_full(config.model_copy(update={"store": frames}))
    with pytest.raises(OutputError, match="free some space"):
        refuse_if_full(config)


def test_the_text_names_the_limits(videos, tmp_path, capsys):
    argv = ["plan", str(videos), *SETTINGS, f"store.path={tmp_path / 'out'}"]
    assert main([*argv, "--hours", "1e6", "--probe", "2", "store.kind=zarr"]) == 0
    text = capsys.readouterr().out
    assert "1e+06 h" in text
    assert "limit      " in text
    assert "ms" in text


def test_a_dry_run_is_the_plan(videos, tmp_path, capsys):
    settings = [*SETTINGS, "tracker.kind=none", f"store.path={tmp_path / 'out'}"]
    shown = []
    for verb in (["plan"], ["build", "--dry-run"]):
        assert main([*verb, str(videos), *settings]) == 0
        text = capsys.readouterr().out
        assert "unreadable broken.mp4: " in text
        labels = [line.split()[:1] for line in text.splitlines()]
        # How long each probe took, and on how busy a machine, decides whether these are printed.
        shown.append([label for label in labels if label not in (["busy"], ["limit"])])
    assert shown[0] == shown[1]


def test_what_cannot_be_probed_is_said(tmp_path, capsys):
    write_video(tmp_path / "videos" / "short.mp4", count=8, shape=(48, 90))
    argv = ["plan", str(tmp_path / "videos"), *SETTINGS, f"store.path={tmp_path / 'out'}"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "probed     1 of 1 episode, at 1 place; 8 frames" in text
    assert "none is longer than 16 frames" in text
    (tmp_path / "broken.mp4").touch()
    assert main(["plan", str(tmp_path / "broken.mp4"), *argv[2:]]) == 3
    assert "nothing to probe: of 1 episode 0 can be opened" in capsys.readouterr().err
    assert main([*argv, "--probe", "0"]) == 2
    assert main([*argv, "--hours", "-1"]) == 2
