"""DROID, Bridge, Something-Something v2 and ATM: what each layout means."""

import json
import pickle
import re

import h5py
import numpy as np
import pytest
from robot_fixtures import write_atm, write_bridge, write_droid, write_something
from source_fixtures import SHAPE, first, numbers, selected, write_images, write_video

from builder.core.errors import SourceError
from builder.sources.kinds.atm import Atm
from builder.sources.kinds.bridge import Bridge
from builder.sources.kinds.droid import Droid, DroidConfig
from builder.sources.kinds.something_something import SomethingSomething
from builder.sources.selected import select


def test_droid_views_are_called_by_role_and_keep_the_control_clock(tmp_path):
    source = Droid(write_droid(tmp_path))
    assert [ref.path.split("/")[-1] for ref in source.refs()] == [
        "Fri_Jul__7_09:42:23_2023",
        "Fri_Jul__7_10:01:00_2023",
    ]
    with first(source) as episode:
        assert set(episode.views) == {"wrist", "ext1", "ext2"}
        assert episode.views["wrist"].info.coded_shape == (24, 40)
        assert episode.text == "Move object into container"
        assert np.diff(episode.clock) == pytest.approx([0.067] * 8, abs=0.005)
        assert episode.views["ext1"].info.fps == pytest.approx(15, abs=0.5)
        assert [frame.seconds for frame in episode.views["ext1"]] == list(episode.clock[:8])
        assert {name: array.shape for name, array in episode.arrays.items()} == {
            "action.cartesian_position": (9, 6),
            "action.gripper_position": (9,),
            "action.joint_velocity": (9, 7),
            "robot_state.joint_positions": (9, 7),
            "camera_extrinsics.18026681_left": (9, 6),
        }


def test_a_droid_recording_a_frame_short_is_accepted_and_noted(tmp_path):
    source = Droid(write_droid(tmp_path))
    with first(source) as episode:
        chosen = select(episode, DroidConfig())
        assert numbers(chosen.views["ext1"]) == [0, 1, 2, 3, 4, 5, 6, 7, 7]
        assert "1 repeated" in chosen.views["ext1"].info.notes[-1]
        with pytest.raises(SourceError, match="set tolerance_seconds"):
            select(episode, DroidConfig(tolerance_seconds=None))


@pytest.mark.parametrize(("short_by", "match"), [(4, "no frame within"), (-1, "10 frames for 9")])
def test_a_droid_recording_of_another_length_is_refused(tmp_path, short_by, match):
    source = Droid(write_droid(tmp_path, short_by))
    with pytest.raises(SourceError, match=match), first(source) as episode:
        select(episode, DroidConfig())


def test_droid_without_metadata_or_recordings(tmp_path):
    root = write_droid(tmp_path)
    [one, *_] = sorted(root.rglob("metadata*.json"))
    one.unlink()
    with first(Droid(root)) as episode:
        assert set(episode.views) == {"18026681", "22008760", "24400334"}
    for path in (one.parent / "recordings" / "MP4").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="there is no recording"), first(Droid(root)):
        pass


def test_bridge_reads_cameras_words_states_and_actions(tmp_path):
    source = Bridge(write_bridge(tmp_path))
    assert [ref.path.split("/")[-1] for ref in source.refs()] == ["traj0", "traj10"]
    with first(source) as episode:
        assert list(episode.views) == ["images0", "images1"]
        assert numbers(episode.views["images1"]) == list(range(9))
        assert episode.text == "put the pot on the stove"
        assert set(episode.arrays) == {"state", "qpos", "env_done", "high_bound", "actions"}
        assert len(episode.constants) == 0
        actions = episode.arrays["actions"]
        assert actions[:-1, 0].tolist() == [*range(8)]
        assert np.isnan(actions[-1]).all()


def test_bridge_actions_that_do_not_fit_are_refused(tmp_path):
    root = write_bridge(tmp_path)
    [path, *_] = sorted(root.rglob("policy_out.pkl"))
    path.write_bytes(pickle.dumps([{"actions": np.zeros(7)}] * 3))
    said = r"actions \(3, 7\) do not fit 9 images"
    with pytest.raises(SourceError, match=said):
        selected(Bridge(root), arrays=("actions",))
    found = selected(Bridge(root))
    assert set(found.arrays) == {"state", "qpos", "env_done", "high_bound"}
    assert re.search(f"array actions is left out: .*{said}", found.notes[0])


def test_something_something_has_labels_templates_and_splits(tmp_path):
    source = SomethingSomething(write_something(tmp_path))
    found = {}
    for ref in source.refs():
        with source.open(ref) as episode:
            found[ref.path.split("/")[-1]] = (episode.text, ref.task, ref.splits)
            assert len(numbers(episode.views["main"])) == episode.views["main"].info.num_frames
    assert found == {
        "42326.webm": ("closing a door", "Closing [something]", ("validation",)),
        "78687.webm": (
            "holding potato next to vicks vaporub bottle",
            "Holding [something] next to [something]",
            ("train",),
        ),
        "100904.webm": (None, None, ("test",)),
    }


def test_labels_that_are_no_texts_are_left_out(tmp_path):
    root = write_something(tmp_path)
    entry = {"id": 78687, "label": 7, "template": ["x"]}
    (root / "labels" / "train.json").write_text(json.dumps([entry]))
    [ref] = [ref for ref in SomethingSomething(root).refs() if "78687" in ref.path]
    assert (ref.locator[1], ref.task, ref.splits) == (None, None, ("train",))


def test_labels_that_are_none_are_refused(tmp_path):
    root = write_something(tmp_path)
    (root / "labels" / "train.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(SourceError, match=r"train\.json: not a list of labels"):
        list(SomethingSomething(root).refs())


def test_atm_tracks_come_in_source_pixels(tmp_path):
    root = write_atm(tmp_path)
    source = Atm(root)
    path = root / "libero_goal" / "open_the_drawer_demo" / "demo_0.hdf5"
    with first(source) as episode, h5py.File(path) as file:
        assert numbers(episode.views["agentview"]) == list(range(9))
        assert episode.text == "open the drawer"
        truth = file["root/agentview/tracks"][0] * (SHAPE[1], SHAPE[0])
        assert episode.arrays["agentview.points_xy"] == pytest.approx(truth, rel=1e-6)
        assert episode.arrays["eye_in_hand.visible"].shape == (9, 20)
        assert episode.constants["task_emb_bert"].shape == (768,)
        assert select(episode, source.Config()).constants["task_emb_bert"].shape == (768,)


def test_image_and_episode_folders_keep_natural_order_and_extras(tmp_path):
    from builder.sources.kinds.image_folders import ImageFolders

    write_images(tmp_path / "e" / "front", 12)
    np.save(tmp_path / "e" / "actions.npy", np.arange(12))
    (tmp_path / "e" / "text.txt").write_text("hello\n", encoding="utf-8")
    source = ImageFolders(tmp_path, ImageFolders.Config(folder="view", recorded_fps=12.5))
    with first(source) as episode:
        assert numbers(episode.views["front"]) == list(range(12))
        assert [frame.seconds for frame in episode.views["front"]][2] == 0.16
        assert episode.arrays["actions"].tolist() == list(range(12))
        assert episode.text == "hello"
    with first(ImageFolders(tmp_path / "e")) as episode:
        assert list(episode.views) == ["main"]


def test_videos_of_one_stem_stay_two_views(tmp_path):
    from builder.sources.kinds.episode_folders import EpisodeFolders

    write_video(tmp_path / "e" / "cam.mp4", 5)
    write_video(tmp_path / "e" / "cam.mkv", 5)
    write_video(tmp_path / "e" / "top view.mp4", 5)
    with first(EpisodeFolders(tmp_path)) as episode:
        assert set(episode.views) == {"cam.mp4", "cam.mkv", "top_view.mp4"}
