"""Pictures kept as arrays: channels first or last, floats of several ranges, and what is none."""

import h5py
import numpy as np
import pytest
from robot_fixtures import write_atm
from source_fixtures import SHAPE, is_upright, number_of, pictures, selected

from builder.core.errors import SourceError
from builder.inputs.picture_arrays import channels_axis, picture_stream
from builder.sources.base import SOURCES
from builder.sources.kinds.robomimic import Robomimic
from schemas.config import Limits

T = 6
FIRST = (0, 3, 1, 2)  # (T, 3, H, W) of (T, H, W, 3)


def stream(array, **how):
    read = lambda a, b: array[a:b]  # noqa: E731
    return picture_stream(read, array.shape, array.dtype, 10.0, Limits(), SourceError, **how)


def shown(array, **how):
    return np.stack([frame.image for frame in stream(array, **how)])


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((T, *SHAPE, 3), 3), ((T, 3, *SHAPE), 1), ((T, 3, 9, 3), 3), ((T, *SHAPE), None),
        ((T, *SHAPE, 4), None), ((T, *SHAPE, 1), None), ((0, *SHAPE, 3), None), ((3,), None),
    ],
)  # fmt: skip
def test_three_channels_are_last_or_first(shape, axis):
    assert channels_axis(shape) == axis


def test_channels_may_come_first():
    assert (shown(pictures(T).transpose(FIRST)) == pictures(T)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_scaled_and_noted(dtype):
    floats = (pictures(T) / 255).astype(dtype)
    assert abs(shown(floats).astype(int) - pictures(T)).max() <= (1 if dtype == np.float16 else 0)
    [note] = stream(floats).info.notes
    assert note.startswith("float pictures from 0 to 0.941")
    assert note.endswith("in 6 that were looked at: read as 0..1 (float_pictures)")
    assert stream(floats, floats="0..1").info.notes == ()


def test_floats_up_to_255_are_taken_as_they_are():
    floats = pictures(T).astype(np.float32)
    assert (shown(floats) == pictures(T)).all()
    assert stream(floats).info.notes == ()


def test_all_of_an_array_is_looked_at_whatever_part_is_shown():
    floats = pictures(40).astype(np.float32)
    floats[:10] = 0.5
    assert (shown(floats, span=(0, 10)) == 0).all()


@pytest.mark.parametrize("low", [-1.0, 0.0, 300.0, np.nan])
def test_floats_of_which_nothing_can_be_told_are_asked_about(low):
    floats = np.full((T, *SHAPE, 3), low, np.float32)
    with pytest.raises(SourceError, match=r"source\.float_pictures: one of 0\.\.255, 0\.\.1, -1"):
        stream(floats)


@pytest.mark.parametrize("high", [1.0001, 1.1, 3.0, 15.9])
def test_floats_that_would_be_black_are_asked_about(high):
    """Resized pictures of 0..1 overshoot 1: as 0..255 they would be black, and nobody told."""
    floats = (pictures(T) / 255).astype(np.float32)
    floats[-1, 0, 0] = high
    with pytest.raises(SourceError, match=rf"from 0 to {high:.4g} .*source\.float_pictures: one"):
        stream(floats)
    assert (shown(floats.clip(0, 1), floats="0..1") == pictures(T).clip(0, 255))[1:-1].all()


def test_floats_that_round_to_a_level_are_that_level():
    floats = np.full((T, *SHAPE, 3), 0.5, np.float32)
    floats[1], floats[2] = 1.001, -0.001
    assert [frame[0, 0, 0] for frame in shown(floats, floats="0..1")][:3] == [128, 255, 0]
    floats[1] = 1.003
    with pytest.raises(SourceError, match=r"leave 0\.\.1"):
        shown(floats, floats="0..1")


def test_floats_around_0_are_read_where_it_is_stated():
    floats = (pictures(T) / 127.5 - 1).astype(np.float32)
    assert (shown(floats, floats="-1..1") == pictures(T)).all()
    with pytest.raises(SourceError, match=r"leave 0\.\.1; set source\.float_pictures"):
        shown(floats, floats="0..1")


def write_demo(root, attrs=(), **arrays):
    with h5py.File(root / "x.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs.update(dict(attrs))
        for name, array in arrays.items():
            data[f"demo_0/obs/{name.replace('__', '/')}"] = array
        data["demo_0/actions"] = np.zeros((T, 2))
    return root


def demos(kind, root):
    made = SOURCES.load(kind)
    return made(root, made.Config())


def test_every_picture_below_obs_is_a_camera(tmp_path):
    frames = pictures(T)
    write_demo(
        tmp_path,
        wrist_rgb=frames,
        front_image=frames,
        table=frames.transpose(FIRST),
        images__side=frames,
        scaled_image=(frames / 255).astype("f4"),
        goal=frames[:1],
        normals=np.zeros((T, *SHAPE, 3), "f4"),
        front_depth=np.ones((T, *SHAPE), "f4"),
        side_depth=np.ones((T, *SHAPE, 1), np.uint16),
    )
    found = selected(demos("robomimic", tmp_path))
    assert set(found.views) == {"wrist", "front", "table", "images.side", "scaled"}
    for name, images in found.views.items():
        assert [number_of(image) for image in images] == list(range(T)), name
        assert all(map(is_upright, images))
    assert list(found.maps) == ["front"]
    assert {"normals", "side_depth"} <= {*found.arrays}
    assert [note for note in found.notes if "goal" in note]


def test_cameras_of_one_name_keep_their_suffixes(tmp_path):
    write_demo(tmp_path, front_rgb=pictures(T), front_image=pictures(T))
    assert set(selected(demos("robomimic", tmp_path)).views) == {"front_rgb", "front_image"}


@pytest.mark.parametrize(
    ("kind", "attrs", "turn", "why"),
    [
        ("robomimic", {}, "none", None),
        ("robomimic", {"macros_image_convention": "opengl"}, "vflip", "is opengl"),
        ("robomimic", {"macros_image_convention": " OpenGL"}, "vflip", "is  OpenGL"),
        ("robomimic", {"macros_image_convention": "opencv"}, "none", "is opencv"),
        ("libero", {"problem_info": "{}"}, "vflip", "attribute problem_info is LIBERO's"),
        ("libero", {"problem_info": "{}", "macros_image_convention": "opencv"}, "none", "opencv"),
        ("libero", {}, "vflip", "source.kind says that it is LIBERO, the file does not"),
    ],
)
def test_a_flip_comes_from_what_is_known(tmp_path, kind, attrs, turn, why):
    source = demos(kind, write_demo(tmp_path, attrs, front_rgb=pictures(T)))
    with source.open(next(source.refs())) as episode:
        info = episode.views["front"].info
    assert info.orientation == turn
    assert info.orientation_from is None if why is None else why in info.orientation_from


def test_atm_keeps_floats_and_either_order(tmp_path):
    root = write_atm(tmp_path)
    [path, *_] = sorted(root.rglob("demo_0.hdf5"))
    with h5py.File(path, "r+") as file:
        del file["root/agentview/video"]
        file["root/agentview/video"] = (pictures(9) / 255).astype("f4")[None]
    images = selected(demos("atm", root)).views["agentview"]
    assert [number_of(image) for image in images] == list(range(9))


def test_floats_without_a_name_of_pictures_are_told_and_can_be_asked_for(tmp_path):
    shown = pictures(T)
    with h5py.File(tmp_path / "task.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((T, 2))
        file["data/demo_0/obs/wrist_image"] = shown
        file["data/demo_0/obs/front"] = (shown / 255).astype(np.float32)
    kept = selected(Robomimic(tmp_path))
    assert (list(kept.views), {*kept.arrays}) == (["wrist"], {"actions", "front"})
    [note] = kept.notes
    assert "array front: (6, " in note
    assert "list it among source.views to make it a camera" in note
    asked = selected(Robomimic(tmp_path), views=["front", "wrist"])
    assert (np.stack(asked.views["front"]) == shown).all()
    assert {*asked.arrays} == {"actions"}


def test_one_picture_of_the_goal_is_no_camera_whatever_its_name(tmp_path):
    with h5py.File(tmp_path / "task.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((T, 2))
        file["data/demo_0/obs/wrist_image"] = pictures(T)
        file["data/demo_0/obs/goal_image"] = pictures(1)
    found = selected(Robomimic(tmp_path))
    assert (list(found.views), {*found.arrays}) == (["wrist"], {"actions"})
    assert "array goal_image is left out" in found.notes[0]


def test_gray_pictures_kept_as_numbers_are_told(tmp_path):
    with h5py.File(tmp_path / "task.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((T, 2))
        file["data/demo_0/obs/wrist_image"] = pictures(T)
        file["data/demo_0/obs/front_image"] = pictures(T)[..., :1]
        file["data/demo_0/obs/tactile"] = np.zeros((T, 4, 4), np.uint8)
        file["data/demo_0/obs/rotations"] = np.zeros((T, 3, 3, 3), np.uint8)
    found = selected(Robomimic(tmp_path))
    assert list(found.views) == ["wrist"]
    [note] = found.notes
    assert note.startswith(f"array front_image: {(T, *SHAPE, 1)} uint8 may be pictures")
