"""The arithmetic of older tracks in training samples: the bits of AMPLIFY's formula, always."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from builder.core.errors import ConfigError, DatasetError
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset

pytest.importorskip("torch")

from builder.training import MixtureDataset, WindowDataset
from builder.training.view_windows import older_operations

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SHAPES = [(128, 256), (64, 512), (72, 100), (96, 128), (1, 2), (47, 91)]


@given(
    tracks_xy=arrays(np.float32, (3, 5, 2), elements=FINITE),
    img_shape=st.sampled_from(SHAPES),
    tracked_shape=st.none() | st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
)
def test_any_finite_point_gets_the_bits_of_the_formula(tracks_xy, img_shape, tracked_shape):
    (height, width), (rows, columns) = img_shape, tracked_shape or img_shape
    points_rc = tracks_xy[..., ::-1].copy()
    found = points_rc.copy()
    half = np.array(img_shape, np.float32) / 2
    with np.errstate(over="ignore", under="ignore"):
        if tracked_shape is not None:
            points_rc[..., 0] *= height / rows
            points_rc[..., 1] *= width / columns
        for operation, numbers_rc in older_operations((width / columns, height / rows), img_shape):
            operation(found, np.array(numbers_rc, np.float32), out=found)
        want = np.clip((points_rc - half) / half, -1, 1)
    np.testing.assert_array_equal(found.clip(-1, 1), want)


def test_only_canvases_whose_halves_are_powers_of_two_take_the_shorter_way():
    assert [len(older_operations((1.0, 1.0), shape)) for shape in SHAPES] == [2, 2, 3, 3, 2, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("img_shape", [(64, 128), (72, 100)])
def test_a_sample_with_a_point_that_is_no_number_is_refused(tmp_path, bad, axis, img_shape):
    tracks = np.full((6, 4, 9, 2), 30, np.float32)
    tracks[2, 3, 8, axis] = bad
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        group = file.create_group("root/front")
        group["tracks"], group["vis"] = tracks, np.ones(tracks.shape[:-1], np.float32)
        group.attrs["height"], group.attrs["width"] = 480, 853
    windows = WindowDataset(open_dataset(tmp_path, img_shape), tail="mask")
    assert windows[1]["traj"].isfinite().all()
    with pytest.raises(DatasetError, match=r"a.hdf5, view front: tracks hold NaN or infinity"):
        windows[2]
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["root/front/vis"][3, 2, 1] = bad
    with pytest.raises(DatasetError, match=r"a.hdf5, view front: vis hold NaN or infinity"):
        windows[3]


def test_older_files_have_nothing_to_verify(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["root/front/tracks"] = np.full((6, 4, 9, 2), 30, np.float32)
    windows = WindowDataset(open_dataset(tmp_path, (72, 100)), verify=True)
    with pytest.raises(ConfigError, match="older files have no digests to verify"):
        windows[0]


def test_a_mixture_of_parts_with_and_without_frames_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["root/front/tracks"] = np.full((6, 4, 6, 2), 10, np.float32)
    older = WindowDataset(open_dataset(tmp_path, (24, 40)))
    sample_dataset(tmp_path / "new", Hdf5Store(tmp_path / "new"), [Sample("a")])
    newer = open_dataset(tmp_path / "new")
    parts = {"older": older, "newer": WindowDataset(newer, views=["front"])}
    with pytest.raises(ConfigError, match=r"older and newer .*: images none and uint8"):
        MixtureDataset(parts)
    parts["newer"] = WindowDataset(newer, views=["front"], images="none")
    assert MixtureDataset(parts)[0]["traj"].shape == (1, 4, 6, 2)
