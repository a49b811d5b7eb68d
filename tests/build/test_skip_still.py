"""``tracker.skip_still``: what stands still is not tracked, and nothing else changes."""

import json

import numpy as np
import pytest
from media import encode, moving

from builder.canvas.windows import episode_starts
from builder.cli import main
from builder.core.errors import ConfigError
from builder.dataset.opening import open_dataset
from builder.report.render import tracked_frames

pytest.importorskip("torch")
from builder.transform.parity import parity

SHAPE = (96, 160)
HORIZON, EVERY = 8, 2
MOVING, STILL = 20, 30
LENGTH = MOVING + STILL + 12
# Of windows that start where the picture stands, and end before it moves again.
WANTED = [s for s in range(0, LENGTH, EVERY) if not MOVING - 1 <= s <= MOVING + STILL - HORIZON]


def half_still(seed=0):
    first = moving(MOVING, SHAPE, seed)
    return [*first, *first[-1:] * STILL, *moving(12, SHAPE, seed + 7)]


def build(folder, out, *settings):
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / out), "--quiet"]
    own = [f"tracker.horizon={HORIZON}", f"tracker.start_every={EVERY}", "tracker.preset=fast"]
    assert main([*argv, "--img-shape", "64", "72", "queries.grid=[3,4]", *own, *settings]) == 0
    return folder / out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of which one is still in its middle, one throughout, one never."""
    folder = tmp_path_factory.mktemp("still")
    (folder / "videos").mkdir()
    encode(folder / "videos" / "half.mp4", half_still(), rate=10)
    encode(folder / "videos" / "moves.mp4", moving(25, SHAPE, 2), rate=10)
    encode(folder / "videos" / "stands.mp4", moving(1, SHAPE, 3) * 24, rate=10)
    return folder


@pytest.fixture(scope="module")
def skipped(folder):
    return build(folder, "skipped", "tracker.skip_still=6")


@pytest.fixture(scope="module")
def every(folder):
    return build(folder, "every")


def by_stem(path):
    return {each.meta.source.path.partition(".")[0]: each for each in open_dataset(path)}


def test_windows_that_are_kept_have_the_bits_they_had(skipped, every):
    some, all_ = by_stem(skipped), by_stem(every)
    starts = {stem: np.asarray(each.views["main"].starts).tolist() for stem, each in some.items()}
    assert starts["half"] == WANTED
    # The window of its last frame alone has one picture, over and over.
    assert starts["moves"] == list(range(0, 24, EVERY))
    assert starts["stands"] == []
    for stem, each in some.items():
        ours, theirs = each.views["main"], all_[stem].views["main"]
        rows = np.isin(theirs.starts, ours.starts)
        for name in ("tracks", "vis"):
            np.testing.assert_array_equal(ours.array(name), np.asarray(theirs.array(name))[rows])
        for name in ("frames", "queries", "timestamps"):
            np.testing.assert_array_equal(ours.array(name), theirs.array(name))
        meta = each.meta
        assert meta.still.threshold == 6
        assert meta.still.count == int((~rows).sum())
        np.testing.assert_array_equal(episode_starts(meta), ours.starts)
        assert all_[stem].meta.still is None


def test_it_is_told_by_every_command(skipped, capsys, tmp_path):
    left_out = LENGTH // EVERY - len(WANTED) + 12 + 1
    assert main(["validate", str(skipped), "--deep"]) == 0
    capsys.readouterr()
    assert main(["stats", str(skipped), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["windows"], told["still"]) == (len(WANTED) + 12, left_out)
    assert main(["inspect", str(skipped)]) == 0
    assert f"{left_out} windows not tracked" in capsys.readouterr().out
    assert main(["doctor", str(skipped)]) in (0, 1)
    assert f"{left_out} windows stand still and were not tracked" in capsys.readouterr().out
    assert main(["report", str(skipped), "--out", str(tmp_path / "report.html")]) == 0
    assert f"{left_out} that stand still" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_pictures_are_drawn_of_what_moves(skipped, tmp_path, capsys):
    ids = {stem: each.meta.id for stem, each in by_stem(skipped).items()}
    assert main(["render", str(skipped), str(tmp_path / "a.png"), "--to", "contact-sheet"]) == 0
    argv = ["render", str(skipped), str(tmp_path / "a.mp4"), "--to", "video", "--episode"]
    assert main([*argv, ids["half"]]) == 0
    assert f"{LENGTH} frames" in capsys.readouterr().out
    assert main([*argv, ids["stands"]]) == 1
    assert "all its windows stand still" in capsys.readouterr().err
    episode = by_stem(skipped)["half"]
    frames = list(tracked_frames(episode, episode.views["main"]))
    assert [each.frame for each in frames] == list(range(LENGTH))
    unseen = [each.frame for each in frames if each.window < 0]
    covered = {frame for start in WANTED for frame in range(start, start + HORIZON)}
    assert unseen == [frame for frame in range(LENGTH) if frame not in covered]
    assert len(unseen) > 10
    for each in frames:
        if each.window >= 0:
            assert each.frame - WANTED[each.window] == len(each.tracks_xy) - 1


def test_the_build_says_how_many(folder, tmp_path, capsys):
    argv = ["build", "--source", str(folder / "videos" / "half.mp4"), "--out", str(tmp_path / "a")]
    own = ["tracker.skip_still=6", "tracker.preset=fast", f"tracker.horizon={HORIZON}"]
    capsys.readouterr()
    assert main([*argv, "--img-shape", "64", "72", *own]) == 0
    assert "25 windows stood still and were not tracked" in capsys.readouterr().out


def test_a_window_counts_as_still_only_where_no_view_moves(folder, tmp_path):
    for stem, images in (("front", half_still()), ("wrist", moving(1, (60, 44), 4) * LENGTH)):
        (tmp_path / "videos" / "e").mkdir(parents=True, exist_ok=True)
        encode(tmp_path / "videos" / "e" / f"{stem}.mp4", images, rate=10)
    out = build(tmp_path, "out", "source.kind=episodes", "tracker.skip_still=6")
    [episode] = open_dataset(out)
    for view in episode.views.values():
        assert np.asarray(view.starts).tolist() == WANTED
    result = parity(out)
    assert result.equal == result.windows
    assert (result.missing, result.extra) == (0, 0)


@pytest.mark.parametrize(
    "how", ["store.kind=zarr", "executor.trackers=1", "store.tracks.dtype=u16"]
)
def test_it_goes_with_every_store_and_with_trackers_of_their_own(folder, skipped, tmp_path, how):
    if "zarr" in how:
        pytest.importorskip("zarr")
    (tmp_path / "videos").symlink_to(folder / "videos")
    out = build(tmp_path, "out", "tracker.skip_still=6", how)
    assert main(["validate", str(out)]) == 0
    for mine, other in zip(open_dataset(out), open_dataset(skipped), strict=True):
        assert mine.meta.still == other.meta.still
        ours, theirs = (np.asarray(each.views["main"].tracks) for each in (mine, other))
        np.testing.assert_allclose(ours, theirs, atol=1 / 64 if "u16" in how else 0)


def test_the_live_path_leaves_out_the_same_windows(skipped, folder):
    for episode in open_dataset(skipped):
        if len(episode.views["main"].starts):
            result = parity(skipped, episode.meta.id)
            assert result.equal == result.windows > 0
            assert (result.missing, result.extra) == (0, 0)


def test_memory_stays_while_nothing_moves(skipped, tmp_path):
    from builder.inference import LiveWindows

    record = tmp_path / "i.json"
    assert main(["export", str(skipped), str(record), "--to", "inference"]) == 0
    live = LiveWindows.load(record)
    samples = []
    for at, image in enumerate(moving(12, SHAPE) + moving(1, SHAPE, 5) * 300 + moving(12, SHAPE)):
        samples += live.push({"main": image}, at / 10)
        assert len(live._ticks) <= HORIZON + EVERY
        [meter] = live._meters.values()
        assert len(meter.moved) + len(meter._open) <= 2 * HORIZON
    assert live.counts.still > 140
    assert live.counts.windows == len(samples) < 20
    assert samples[-1]["t"] > 300


def test_training_reads_the_windows_there_are(skipped, every):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    whole = [start for start in WANTED if start + HORIZON <= LENGTH]
    options = {"images": "none"}
    some, all_ = WindowDataset(skipped, **options), WindowDataset(every, **options)
    known = {(each["episode"], each["t"]): each for each in all_}
    got = [(each["episode"], each["t"]) for each in some]
    assert [t for episode, t in got if "half" in episode] == whole
    assert len(got) == len(some) == len(whole) + 9
    for each in some:
        same = known[each["episode"], each["t"]]
        assert all(np.array_equal(each[key], same[key]) for key in ("traj", "vis", "valid"))
    strided = [each["t"] for each in WindowDataset(skipped, stride=3, **options)]
    assert strided[: len(whole[::3])] == whole[::3]
    tails = [each["t"] for each in WindowDataset(skipped, tail="mask", **options)]
    assert tails[: len(WANTED)] == WANTED
    # A filter over the window table meets its own rows.
    moves = WindowDataset(skipped, where="motion > 0.01", **options)
    kept = WindowDataset(every, where="motion > 0.01", **options)
    there = {key for key in got}
    assert [(e["episode"], e["t"]) for e in moves] == [
        (e["episode"], e["t"]) for e in kept if (e["episode"], e["t"]) in there
    ]


def test_what_needs_the_window_of_every_frame_is_refused(folder, tmp_path, capsys):
    out = folder / "dense"
    if not out.exists():
        build(folder, "dense", "tracker.skip_still=6", "tracker.start_every=1")
    for target in ("segments", "amplify"):
        capsys.readouterr()
        assert main(["export", str(out), str(tmp_path / target), "--to", target]) == 2
        assert "windows that stand still are left out" in capsys.readouterr().err
    assert main(["export", str(out), str(tmp_path / "clips.pkl"), "--to", "tapvid"]) == 0


def test_a_layer_has_all_windows(folder, skipped, capsys):
    argv = ["track", str(skipped), "--name", "again", "tracker.kind=lk"]
    own = [f"tracker.horizon={HORIZON}", f"tracker.start_every={EVERY}"]
    assert main([*argv, *own, "tracker.skip_still=6"]) == 2
    assert "skip_still is for letterset build" in capsys.readouterr().err
    assert main([*argv, *own]) == 0
    layered = open_dataset(skipped, tracks="again")
    assert layered.still_windows == 0
    for episode in layered:
        starts = np.arange(0, episode.meta.length, EVERY)
        np.testing.assert_array_equal(episode.views["main"].starts, starts)
        np.testing.assert_array_equal(episode_starts(episode.meta), starts)
    assert main(["validate", str(skipped)]) == 0


def test_whole_episodes_and_senseless_thresholds_are_refused(folder, capsys):
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "never")]
    for own, told in (
        (["tracker.skip_still=6", "tracker.mode=episode"], "skip_still"),
        (["tracker.skip_still=0"], "skip_still"),
        (["tracker.skip_still=true"], "skip_still"),
    ):
        assert main([*argv, "--img-shape", "64", "72", *own]) == 2
        assert told in capsys.readouterr().err
    assert not (folder / "never").exists()


def test_nothing_to_train_on_is_told(folder, tmp_path):
    pytest.importorskip("torch")
    from builder.core.errors import DatasetError
    from builder.training import WindowDataset

    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").symlink_to(folder / "videos" / "stands.mp4")
    out = build(tmp_path, "out", "tracker.skip_still=6")
    with pytest.raises(DatasetError, match="in which anything moves"):
        WindowDataset(out)
    with pytest.raises((DatasetError, ConfigError), match="in which anything moves"):
        parity(out)
