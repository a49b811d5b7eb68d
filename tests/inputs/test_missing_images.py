"""Names of images are numbers: what is missing is refused, or filled where it is asked for."""

import pickle

import numpy as np
import pytest
from robot_fixtures import write_bridge
from source_fixtures import number_of, selected, write_images

from builder.core.errors import SourceError
from builder.inputs.image_names import image_names
from builder.sources.kinds.bridge import Bridge
from builder.sources.kinds.image_folders import ImageFolders
from schemas.config import Limits

LIMITS = Limits(max_frames=1000)


def named(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "lost", "shown"),
    [
        ("im_0 im_1 im_3 im_4", 2, "im_0 im_1 im_1 im_3 im_4"),
        ("im_08 im_09 im_11", 10, "im_08 im_09 im_09 im_11"),
        ("0 10 30 60", 20, "0 10 10 30 30 30 60"),
        ("a1b a2b a4b", 3, "a1b a2b a2b a4b"),
        ("-2 -1 1", 0, "-2 -1 -1 1"),
    ],
)
def test_a_number_that_is_not_there_is_an_image_that_is_missing(tmp_path, names, lost, shown):
    folder = named(tmp_path, *(f"{name}.png" for name in names.split()))
    with pytest.raises(SourceError, match=rf"missing by the numbers .* number {lost} is the first"):
        image_names(folder, LIMITS)
    filled, [note] = image_names(folder, LIMITS, "repeat")
    assert filled == [f"{name}.png" for name in shown.split()]
    assert "the one before is shown" in note
    closed, [note] = image_names(folder, LIMITS, "close")
    assert closed == [f"{name}.png" for name in names.split()]
    assert "the others close up" in note


@pytest.mark.parametrize(
    "names",
    [
        "im_0 im_1 im_2", "im_1 im_2 im_3", "im_8 im_9 im_10 im_11", "0 5 10 15", "7", "a b d",
        "left_1 right_2 right_4", "33 66 100 133", "1.25 1.50 2.00", "0.1 0.2 0.4",
    ],
)  # fmt: skip
def test_other_names_are_taken_as_they_are(tmp_path, names):
    folder = named(tmp_path, *(f"{name}.jpg" for name in names.split()))
    assert image_names(folder, LIMITS) == ([f"{name}.jpg" for name in names.split()], ())


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["1.png", "01.png", "2.png"], "two images have the number of 1"),
        (["1.png", "1.jpg"], r"2 sequences of images \(jpg, png\)"),
    ],
)
def test_two_images_of_one_number_are_refused(tmp_path, names, match):
    with pytest.raises(SourceError, match=match):
        image_names(named(tmp_path, *names), LIMITS)


def test_a_number_far_away_is_not_filled_up_to(tmp_path):
    folder = named(tmp_path, "0.png", "1.png", f"{10**17}.png")
    with pytest.raises(SourceError, match="99999999999999998 images missing"):
        image_names(folder, LIMITS, "repeat")


def test_where_the_first_number_is_known_it_must_be_there(tmp_path):
    folder = named(tmp_path, "im_1.jpg", "im_2.jpg")
    with pytest.raises(SourceError, match=r"1 image missing .* number 0 is the first"):
        image_names(folder, LIMITS, first=0)
    assert image_names(folder, LIMITS, "repeat", first=0)[0] == ["im_1.jpg", "im_1.jpg", "im_2.jpg"]


@pytest.mark.parametrize("lost", [0, 3])
def test_actions_of_bridge_stay_with_their_images(tmp_path, lost):
    write_bridge(tmp_path)
    for path in tmp_path.rglob(f"im_{lost}.jpg"):
        path.unlink()
    with pytest.raises(
        SourceError, match=rf"images0: 1 image missing .* number {lost} is the first"
    ):
        selected(Bridge(tmp_path))
    found = selected(Bridge(tmp_path), missing_images="repeat")
    numbers = [
        max(1, k - (k == lost)) if lost == 0 and k == 0 else k - (k == lost) for k in range(9)
    ]
    assert [number_of(image) for image in found.views["images0"]] == numbers
    assert found.arrays["actions"][:-1, 0].tolist() == [*range(8)]


def test_rows_of_bridge_beyond_the_last_image_are_left_out(tmp_path):
    write_bridge(tmp_path)
    for path in tmp_path.rglob("traj0/images*/im_8.jpg"):
        path.unlink()
    found = selected(Bridge(tmp_path))
    # Action t belongs to image t, whether or not there is a last image without one.
    assert found.arrays["actions"][:, 0].tolist() == [*range(8)]
    assert set(found.arrays) == {"actions"}
    assert len(found.constants) == 0
    assert [note.split()[1] for note in found.notes] == ["state", "qpos", "env_done", "high_bound"]


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ({"state": np.zeros((9, 2)), "words": ["go"] * 9}, {"words"}),
        ({"state": [np.zeros(2)] * 8 + [np.zeros(3)]}, {"state"}),
        (["no dict"], {"obs_dict"}),
        ({"when": np.datetime64("2020-01-01")}, {"obs_dict"}),
    ],
)
def test_odd_states_of_bridge_are_left_out(tmp_path, value, left):
    write_bridge(tmp_path)
    [path, *_] = sorted(tmp_path.rglob("obs_dict.pkl"))
    path.write_bytes(pickle.dumps(value))
    found = selected(Bridge(tmp_path))
    assert "actions" in found.arrays
    assert {note.split()[1] for note in found.notes} == left


def test_a_gap_in_a_folder_of_images_is_refused(tmp_path):
    write_images(tmp_path, 6)
    (tmp_path / "im_4.png").unlink()
    with pytest.raises(SourceError, match="number 4 is the first"):
        selected(ImageFolders(tmp_path))
    found = selected(ImageFolders(tmp_path), missing_images="close")
    assert [number_of(image) for image in found.views["main"]] == [0, 1, 2, 3, 5]
