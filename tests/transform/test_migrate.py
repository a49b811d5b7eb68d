"""Older files into format 1: nothing lost, nothing touched, everything said."""

import hashlib
import json

import h5py
import numpy as np
import pytest
from legacy_fixtures import amplify_folder, grid_queries, write_amplify, write_atm, write_video

from builder.cli import main
from builder.core.errors import ConfigError, DatasetError, OutputError
from builder.dataset.folder import read_failures
from builder.dataset.legacy.dataset import open_legacy
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.transform.migrate import migrate
from schemas import Letterbox, Stretch
from schemas.config import FrameStorage

IMG = (120, 160)


def digests(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_without_videos_a_stretch_that_decodes_to_where_it_was_tracked(tmp_path):
    stored = amplify_folder(tmp_path / "old")
    before = digests(tmp_path / "old")
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, pixel_origin="corner")
    assert (report.exit_code, len(report.moves), report.failures) == (0, 3, {})
    assert "stretch of 480 x 853, no frames" in report.moves[0].views["agentview"]
    assert digests(tmp_path / "old") == before
    assert [str(p) for p in validate(tmp_path / "new", deep=True)] == []
    dataset = open_dataset(tmp_path / "new")
    assert dataset.meta.queries.region == "content"
    assert dataset.meta.tracker.settings["pixel_origin"] == "corner"
    old = open_legacy(tmp_path / "old", IMG)
    assert {*dataset.ids} == {*old.ids}
    for episode_id, tracks in zip(old.ids, stored, strict=True):
        episode = dataset[episode_id]
        assert episode.meta.task == "put_the_bowl_on_the_plate"
        for name, shape in (("agentview", (480, 853)), ("eye_in_hand", (480, 640))):
            view = episode.views[name]
            assert view.geometry == Stretch(source_shape=shape, img_shape=IMG)
            assert view.frames is None
            back = view.geometry.to_source(np.asarray(view.tracks))
            np.testing.assert_allclose(back, tracks[name], atol=1e-3)
            np.testing.assert_array_equal(view.tracks[:], old[episode_id].views[name].tracks[:])
            np.testing.assert_array_equal(view.vis[..., 0], 0)
            np.testing.assert_array_equal(view.vis[..., 1:], 1)


def test_resumes_and_repeats_to_the_same_bytes(tmp_path):
    amplify_folder(tmp_path / "old", demos=2)
    for name in ("a", "b"):
        migrate(tmp_path / "old", tmp_path / name, img_shape=IMG)
    amplify_folder(tmp_path / "old", demos=3)
    counts = []
    report = migrate(
        tmp_path / "old",
        tmp_path / "a",
        img_shape=IMG,
        on_progress=lambda *count: counts.append(count),
    )
    assert counts == [(0, 1), (1, 1)]
    assert [move.done for move in report.moves] == [True, True, False]
    assert "migrated 1 episode to" in report.text()
    assert "2 were there" in report.text()
    first, second = (sorted((tmp_path / n / "episodes").rglob("*.hdf5")) for n in "ab")
    for one, other in zip(first[:2], second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert validate(tmp_path / "a") == []


def test_dry_run_lists_and_writes_nothing(tmp_path):
    amplify_folder(tmp_path / "old", demos=2)
    write_amplify(tmp_path / "old" / "none.hdf5", {"front": (48, 64)}, attrs=False)
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, dry_run=True)
    assert not (tmp_path / "new").exists()
    assert "demo_1.hdf5 ->" in report.text()
    assert "stretch of 480 x 853" in report.text()
    assert "would migrate 2 episodes" in report.text()
    assert "FAILED none.hdf5" in report.text()


def test_the_canvas_defaults_to_the_only_tracked_size(tmp_path):
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": (48, 64)})
    assert migrate(tmp_path / "old", tmp_path / "new").img_shape == (48, 64)
    write_amplify(tmp_path / "old" / "b.hdf5", {"front": (48, 60)})
    with pytest.raises(ConfigError, match="give img_shape"):
        migrate(tmp_path / "old", tmp_path / "newer")


def test_center_origin_adds_half_a_tracked_pixel_and_unknown_says_so(tmp_path):
    tracks = amplify_folder(tmp_path / "old", demos=1)[0]["agentview"]
    migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, pixel_origin="center")
    assert validate(tmp_path / "new") == []
    dataset = open_dataset(tmp_path / "new")
    assert (dataset.meta.queries.region, dataset.meta.queries.grid) == ("stored", (4, 4))
    view = dataset[dataset.ids[0]].views["agentview"]
    back = view.geometry.to_source(np.asarray(view.tracks))
    np.testing.assert_allclose(back, tracks + 0.5, atol=1e-3)
    migrate(tmp_path / "old", tmp_path / "unknown", img_shape=IMG)
    dataset = open_dataset(tmp_path / "unknown")
    notes = dataset[dataset.ids[0]].meta.views[0].notes
    assert any("pixel origin: unknown" in note for note in notes)


def test_with_the_video_geometry_and_frames_are_complete(tmp_path):
    tracks = write_amplify(tmp_path / "old" / "sub" / "clip.hdf5", {"front": (480, 853)})["front"]
    write_video(tmp_path / "films" / "sub" / "clip.mp4")
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, videos=tmp_path / "films")
    assert report.failures == {}
    assert report.moves[0].frames
    assert validate(tmp_path / "new", deep=True) == []
    dataset = open_dataset(tmp_path / "new")
    episode = dataset[dataset.ids[0]]
    view = episode.views["front"]
    assert view.geometry == Letterbox.fit((90, 160), IMG)
    assert view.frames.shape == (24, *IMG, 3)
    assert view.frames[20, 60, 80, 0] == pytest.approx(140, abs=6)
    assert view.frames[20, 2, 80, 0] == 0
    np.testing.assert_allclose(view.timestamps, np.arange(24) / 10, atol=1e-6)
    source = np.asarray(tracks, np.float64) * [160 / 853, 90 / 480]
    np.testing.assert_allclose(view.geometry.to_source(np.asarray(view.tracks)), source, atol=1e-3)
    assert len(episode.meta.source.files) == 2


def test_every_second_frame_and_views_in_their_folder(tmp_path):
    views = {"front": (480, 853), "side": (480, 640)}
    write_amplify(tmp_path / "old" / "clip.hdf5", views, length=12)
    write_video(tmp_path / "films" / "clip" / "front.mp4")
    write_video(tmp_path / "films" / "clip" / "side.mp4", (120, 160), length=23)
    options = {"img_shape": IMG, "videos": tmp_path / "films"}
    bad = migrate(tmp_path / "old", tmp_path / "bad", **options)
    assert bad.exit_code == 3
    assert "24 frames at frame_step 1" in bad.text()
    report = migrate(
        tmp_path / "old",
        tmp_path / "new",
        **options,
        frame_step=2,
        frames=FrameStorage(codec="none"),
    )
    assert report.failures == {}
    dataset = open_dataset(tmp_path / "new")
    view = dataset[dataset.ids[0]].views["side"]
    assert view.frames is None
    assert view.meta.geometry.kind == "letterbox"
    np.testing.assert_allclose(view.timestamps, np.arange(12) / 5, atol=1e-6)
    assert view.meta.fps == pytest.approx(5)


def test_the_wrong_video_is_refused_by_name(tmp_path):
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": (480, 853)})
    write_amplify(tmp_path / "old" / "b.hdf5", {"front": (480, 853)})
    write_amplify(tmp_path / "old" / "c.hdf5", {"front": (480, 853)}, attrs=False)
    write_video(tmp_path / "films" / "a.mp4", (120, 160))
    write_video(tmp_path / "films" / "c.mp4")
    options = {"img_shape": IMG, "videos": tmp_path / "films"}
    report = migrate(tmp_path / "old", tmp_path / "new", **options)
    assert "the aspects differ" in report.failures["a.hdf5"]
    assert "expected one video" in report.failures["b.hdf5"]
    assert {*report.failures} == {"a.hdf5", "b.hdf5"}
    assert report.exit_code == 1
    (episode,) = open_dataset(tmp_path / "new")
    assert "pixels of 480 x 853 (H x W): its video is 90 x 160" in episode.meta.views[0].notes[0]


def test_atm_brings_its_own_video(tmp_path):
    tracks = write_atm(tmp_path / "old" / "a.hdf5", shape=(96, 160))
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, fps=20.0)
    assert report.failures == {}
    assert validate(tmp_path / "new", deep=True) == []
    dataset = open_dataset(tmp_path / "new")
    episode = dataset[dataset.ids[0]]
    view = episode.views["agentview"]
    assert (episode.meta.mode, episode.meta.horizon) == ("episode", 20)
    assert view.geometry == Letterbox.fit((96, 160), IMG)
    np.testing.assert_allclose(
        view.geometry.to_source(np.asarray(view.tracks)), tracks * [160, 96], atol=1e-3
    )
    with h5py.File(tmp_path / "old" / "a.hdf5") as file:
        np.testing.assert_array_equal(
            view.frames[3, 12:108], file["root/agentview/video"][0, 3].transpose(1, 2, 0)
        )
        np.testing.assert_array_equal(episode.arrays["actions"], file["root/actions"])
    per_frame = {name: array.per_frame for name, array in episode.meta.arrays.items()}
    assert per_frame == {
        "actions": True,
        "task_emb_bert": False,
        "extra_states.gripper_states": True,
    }
    np.testing.assert_allclose(view.timestamps, np.arange(20) / 20)


def test_soft_visibility_is_kept_as_confidence(tmp_path):
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": IMG})
    with h5py.File(tmp_path / "old" / "a.hdf5", "r+") as file:
        file["root/front/vis"][3, 2, 5] = 0.25
    migrate(tmp_path / "old", tmp_path / "new")
    dataset = open_dataset(tmp_path / "new")
    view = dataset[dataset.ids[0]].views["front"]
    assert (view.conf[3, 2, 5], view.vis[3, 2, 5], view.vis[3, 2, 6]) == (0.25, 0, 1)
    assert validate(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f["root/front"].attrs.__delitem__("width"), "'height' but not 'width'"),
        (lambda f: f["root/front/tracks"].__setitem__((5, 3, 2, 0), np.nan), "NaN"),
        (lambda f: f["root/front/tracks"].__setitem__((5, 0, 2, 0), 7.0), "must start from"),
        (lambda f: f["root/front/tracks"].__setitem__((slice(None), 0), 7.0), "from the grid"),
        (lambda f: f["root/front/vis"].__setitem__((5, 0, 2), 7.0), r"vis must lie in \[0, 1\]"),
    ],
)
def test_bad_files_are_listed_and_the_others_migrated(tmp_path, change, reason):
    for name in "ab":
        write_amplify(tmp_path / "old" / f"{name}.hdf5", {"front": IMG})
    with h5py.File(tmp_path / "old" / "b.hdf5", "r+") as file:
        change(file)
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    assert report.exit_code == 1
    with pytest.raises(DatasetError, match=reason):
        raise DatasetError(report.failures["b.hdf5"])
    assert len(open_dataset(tmp_path / "new")) == 1
    assert validate(tmp_path / "new") == []


def test_refuses_mixtures_and_places_inside_the_original(tmp_path):
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": IMG})
    with pytest.raises(ConfigError, match="choose a place outside"):
        migrate(tmp_path / "old", tmp_path / "old" / "new")
    write_amplify(tmp_path / "old" / "b.hdf5", {"front": IMG}, horizon=8)
    with pytest.raises(ConfigError, match="migrate them separately"):
        migrate(tmp_path / "old", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no older track files"):
        migrate(tmp_path / "empty", tmp_path / "new", img_shape=IMG)


def test_points_off_any_grid_are_kept_where_they_are(tmp_path):
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": IMG})
    rng = np.random.default_rng(0)
    points = (rng.uniform(0, 1, grid_queries(IMG).shape) * IMG[::-1]).astype(np.float32)
    with h5py.File(tmp_path / "old" / "a.hdf5", "r+") as file:
        file["root/front/tracks"][:] = points
    migrate(tmp_path / "old", tmp_path / "new")
    dataset = open_dataset(tmp_path / "new")
    assert dataset.meta.queries.region == "stored"
    np.testing.assert_array_equal(dataset[dataset.ids[0]].views["front"].queries, points)
    assert validate(tmp_path / "new") == []


def test_an_interrupted_run_leaves_whole_episodes_and_is_finished_by_the_next(tmp_path):
    amplify_folder(tmp_path / "old", demos=5)
    migrate(tmp_path / "old", tmp_path / "whole", img_shape=IMG)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, on_progress=interrupt)
    assert list((tmp_path / "new" / "tmp").iterdir()) == []
    assert len(open_dataset(tmp_path / "new")) == 2
    assert migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG).exit_code == 0
    assert validate(tmp_path / "new", deep=True) == []
    for name in ("index/main.jsonl", *(f"episodes/{key}.hdf5" for key in listed(tmp_path / "new"))):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def listed(folder):
    """Ids in the order in which they were listed."""
    lines = (folder / "index" / "main.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def test_episodes_unlisted_or_lost_are_made_again(tmp_path):
    amplify_folder(tmp_path / "old", demos=3)
    migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    before = digests(tmp_path / "new" / "episodes")
    index = tmp_path / "new" / "index" / "main.jsonl"
    first, *_, last = index.read_text().splitlines(keepends=True)
    index.write_text(first + last)
    (tmp_path / "new" / "episodes" / f"{json.loads(last)['id']}.hdf5").unlink()
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    assert [move.done for move in report.moves] == [True, False, False]
    assert digests(tmp_path / "new" / "episodes") == before
    assert validate(tmp_path / "new") == []


def test_a_place_that_cannot_be_written_ends_the_run(tmp_path):
    amplify_folder(tmp_path / "old", demos=5)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "episodes").write_text("in the way")
    with pytest.raises(OutputError, match="episodes"):
        migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    assert list((tmp_path / "new" / "tmp").iterdir()) == []


def test_what_failed_under_an_odd_name_is_no_failure_once_it_is_mended(tmp_path):
    path = tmp_path / "old" / "50% \u00e9.hdf5"
    write_amplify(path, {"front": IMG})
    with h5py.File(path, "r+") as file:
        file["root/front/vis"][5, 0, 2] = 7.0
    assert migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG).exit_code == 3
    assert len(read_failures(tmp_path / "new")) == 1
    with h5py.File(path, "r+") as file:
        file["root/front/vis"][5, 0, 2] = 1.0
    assert migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG).exit_code == 0
    assert read_failures(tmp_path / "new") == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"img_shape": (0, 5)}, r"img_shape must be \(H, W\).*got \(0, 5\)"),
        ({"tracked": (96, -1)}, r"tracked must be \(H, W\).*got \(96, -1\)"),
        ({"pixel_origin": "centre"}, "pixel_origin must be one of .*, got 'centre'"),
        ({"videos": "", "frame_step": 0}, "frame_step must be at least 1, got 0"),
        ({"videos": "nowhere"}, "nowhere is not a folder"),
        ({"fps": 0.0}, "fps must be a number above 0, got 0"),
        ({"fps": float("nan")}, "fps must be a number above 0, got nan"),
        ({"layout": "atom"}, "layout must be one of .*, got 'atom'"),
        ({"mode": "whole"}, "mode must be one of .*, got 'whole'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_any_work(tmp_path, options, reason):
    amplify_folder(tmp_path / "old", demos=1)
    with pytest.raises(ConfigError, match=reason):
        migrate(tmp_path / "old", tmp_path / "new", **{"img_shape": IMG, **options})
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"img_shape must be \(H, W\)"):
        open_legacy(tmp_path / "old", (0, 5))


def test_what_files_do_not_tell_can_be_given_on_the_command_line(tmp_path):
    """One window of 16 steps looks like an episode of 16 frames."""
    for name in ("one", "two"):
        amplify_folder(tmp_path / name, demos=1)
        (path,) = (tmp_path / name).rglob("*.hdf5")
        with h5py.File(path, "r+") as file:
            for view in file["root"].values():
                for array in ("tracks", "vis"):
                    first = view[array][:1]
                    del view[array]
                    view[array] = first
        path.rename(tmp_path / name / "demo_0.hdf5")
    argv = ["--img-shape", *map(str, IMG), "--fps", "12.5"]
    assert main(["migrate", str(tmp_path / "one"), str(tmp_path / "new"), *argv]) == 0
    assert open_dataset(tmp_path / "new").meta.mode == "episode"
    argv += ["--mode", "reinit", "--layout", "amplify"]
    assert main(["migrate", str(tmp_path / "two"), str(tmp_path / "newer"), *argv]) == 0
    for name, mode, length in (("new", "episode", 16), ("newer", "reinit", 1)):
        dataset = open_dataset(tmp_path / name)
        assert dataset.meta.mode == mode
        view = next(iter(dataset[dataset.ids[0]].views.values()))
        np.testing.assert_allclose(view.timestamps, np.arange(length) / 12.5)


def test_atm_files_without_video_may_be_given_their_size(tmp_path):
    write_atm(tmp_path / "old" / "demo_0.hdf5", shape=(96, 128))
    with h5py.File(tmp_path / "old" / "demo_0.hdf5", "r+") as file:
        del file["root/agentview/video"]
    given = {"img_shape": IMG, "tracked": (96, 128), "pixel_origin": "center"}
    report = migrate(tmp_path / "old", tmp_path / "new", **given)
    assert report.failures == {}
    (episode,) = open_dataset(tmp_path / "new")
    half = np.array([0.5 * 160 / 128, 0.5 * 120 / 96])
    expected = grid_queries(IMG) + half
    np.testing.assert_allclose(episode.views["agentview"].queries, expected, atol=1e-4)


@pytest.mark.parametrize("width", [np.nan, 64])
def test_a_run_that_could_read_nothing_leaves_nothing_that_hinders_the_next(tmp_path, width):
    amplify_folder(tmp_path / "old", demos=1, views={"front": (96, 128)})
    (file,) = (tmp_path / "old").rglob("*.hdf5")
    with h5py.File(file, "r+") as opened:
        opened["root/front"].attrs["width"] = width
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    assert (report.exit_code, len(report.failures)) == (3, 1)
    assert not (tmp_path / "new").exists()
    with h5py.File(file, "r+") as opened:
        opened["root/front"].attrs["width"] = 128
    assert migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG).exit_code == 0
    assert open_dataset(tmp_path / "new").meta.horizon == 16


def test_a_run_with_other_settings_does_not_go_on_with_the_dataset(tmp_path):
    amplify_folder(tmp_path / "old", demos=2, views={"front": (96, 128)})
    _first, last = sorted((tmp_path / "old").rglob("*.hdf5"))
    kept = last.read_bytes()
    last.unlink()
    migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    last.write_bytes(kept)
    with pytest.raises(ConfigError, match="made with other settings"):
        migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, fps=10.0)
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    assert [move.done for move in report.moves] == [True, False]


def test_a_run_that_migrated_nothing_does_not_hold_the_next_one_to_its_options(tmp_path):
    amplify_folder(tmp_path / "old", demos=1, views={"front": (96, 128)}, attrs=False)
    arguments = {"old": tmp_path / "old", "out": tmp_path / "new"}
    first = migrate(*arguments.values(), img_shape=IMG)
    assert (first.exit_code, len(first.failures)) == (3, 1)
    assert (tmp_path / "new" / "dataset.json").exists()
    again = migrate(*arguments.values(), img_shape=IMG, fps=10.0, tracked=(96, 128))
    assert (again.exit_code, len(again.moves)) == (0, 1)
