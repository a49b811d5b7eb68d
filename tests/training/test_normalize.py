"""The older route's arithmetic, held against its formulas written out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.training.interpolate import interpolate_traj
from builder.training.normalize import clip_traj, normalize_traj, unnormalize_traj
from schemas import Stretch, normalize, swap_xy
from schemas.legacy import remap_rc, to_corner_origin

torch = pytest.importorskip("torch")

TRACKED, IMG = (480, 853), (477, 470)
SIDES = st.integers(1, 5000)
SHAPES = st.tuples(SIDES, SIDES)


def points(dtype, seed=0, shape=(3, 16, 40, 2), size=TRACKED):
    rng = np.random.default_rng(seed)
    return (rng.uniform(-0.2, 1.2, shape) * size).astype(dtype)


def libraries(array):
    return [array, torch.from_numpy(array.copy())]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_remap_then_normalize_is_the_older_formula_bit_for_bit(dtype):
    rc = points(dtype)
    by_hand = rc.copy()
    by_hand[..., 0] = by_hand[..., 0] * (477 / 480)
    by_hand[..., 1] = by_hand[..., 1] * (470 / 853)
    by_hand[..., 0] = (by_hand[..., 0] - 477 / 2) / (477 / 2)
    by_hand[..., 1] = (by_hand[..., 1] - 470 / 2) / (470 / 2)
    for given_rc in libraries(rc):
        got = normalize_traj(remap_rc(given_rc, TRACKED, IMG), IMG)
        assert str(got.dtype).endswith(dtype)
        np.testing.assert_array_equal(np.asarray(got), by_hand)
        clipped = np.asarray(clip_traj(got))
        np.testing.assert_array_equal(clipped, np.clip(by_hand, -1, 1))


@settings(deadline=None)
@given(SHAPES, SHAPES, st.sampled_from(["float32", "float64"]))
def test_formulas_hold_for_any_shapes(tracked, img, dtype):
    rc = points(dtype, shape=(7, 2), size=tracked)
    for given_rc in libraries(rc):
        remapped = np.asarray(remap_rc(given_rc, tracked, img))
        normed = np.asarray(normalize_traj(given_rc, img))
        back = np.asarray(unnormalize_traj(given_rc, img))
        for axis in (0, 1):
            p, size = rc[:, axis], img[axis]
            np.testing.assert_array_equal(remapped[:, axis], p * (size / tracked[axis]))
            np.testing.assert_array_equal(normed[:, axis], (p - size / 2) / (size / 2))
            np.testing.assert_array_equal(back[:, axis], p * float(size) / 2 + size / 2)


@given(SHAPES, SHAPES)
def test_stretch_is_the_same_map_bit_for_bit(tracked, img):
    rc = points("float32", shape=(9, 2), size=tracked)
    xy = Stretch(source_shape=tracked, img_shape=img).to_img(swap_xy(rc))
    np.testing.assert_array_equal(swap_xy(xy), remap_rc(rc, tracked, img))


def test_remapping_and_normalizing_by_img_shape_is_normalizing_by_the_tracked_size():
    rc = points("float64")
    via_img = normalize_traj(remap_rc(rc, TRACKED, IMG), IMG)
    np.testing.assert_allclose(via_img, normalize_traj(rc, TRACKED), atol=1e-12)


def test_agrees_with_the_geometry_up_to_rounding():
    rc = points("float64", size=IMG)
    np.testing.assert_allclose(
        normalize_traj(rc, IMG), swap_xy(normalize(swap_xy(rc), IMG)), atol=1e-12
    )


def test_round_trip_and_no_mutation():
    rc = points("float64", size=IMG)
    kept = rc.copy()
    np.testing.assert_allclose(unnormalize_traj(normalize_traj(rc, IMG), IMG), rc, atol=1e-9)
    np.testing.assert_array_equal(rc, kept)
    remap_rc(rc, TRACKED, IMG)
    clip_traj(rc)
    np.testing.assert_array_equal(rc, kept)


def test_integers_become_float64_nan_passes_and_lists_are_refused():
    rc = np.array([[3, 8], [0, 470]])
    assert normalize_traj(rc, IMG).dtype == np.float64
    assert np.isnan(clip_traj(normalize_traj(np.array([[np.nan, 0.0]]), IMG))[0, 0])
    with pytest.raises(TypeError, match=r"numpy\.asarray"):
        normalize_traj([[3.0, 8.0]], IMG)


def test_gradients_pass():
    rc = torch.rand(4, 2, requires_grad=True)
    normalize_traj(remap_rc(rc, TRACKED, IMG), IMG).sum().backward()
    expected = torch.tensor([477 / 480 / (477 / 2), 470 / 853 / (470 / 2)]).expand(4, 2)
    torch.testing.assert_close(rc.grad, expected)


def test_center_origin_adds_half_a_tracked_pixel():
    xy = points("float32", shape=(5, 2))
    np.testing.assert_array_equal(to_corner_origin(xy, "center"), xy + np.float32(0.5))
    assert to_corner_origin(xy, "corner") is xy


def test_linear_interpolation_by_hand():
    traj = np.array([0.0, 1.0, 3.0], dtype=np.float32).reshape(1, 3, 1, 1) * [1.0, -2.0]
    want = np.array([0.0, 0.5, 1.0, 2.0, 3.0]).reshape(1, 5, 1, 1) * [1.0, -2.0]
    np.testing.assert_allclose(interpolate_traj(traj, 5), want)
    np.testing.assert_allclose(interpolate_traj(traj, 2), want[:, [0, 4]])


@pytest.mark.parametrize("method", ["linear", "spline"])
@pytest.mark.parametrize("horizon", [2, 8, 16, 31])
def test_interpolation_keeps_ends_and_dtype_in_both_libraries(method, horizon):
    traj = points("float32")
    got, via_torch = (interpolate_traj(data, horizon, method) for data in libraries(traj))
    assert got.shape == (3, horizon, 40, 2)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[:, [0, -1]], traj[:, [0, -1]])
    np.testing.assert_allclose(np.asarray(via_torch), got, atol=1e-3)
    assert via_torch.dtype == torch.float32


def test_spline_is_exact_on_cubics_and_matches_torch_linear():
    time = np.linspace(0, 1, 16).reshape(16, 1, 1)
    new = np.linspace(0, 1, 37).reshape(37, 1, 1)
    cubic = np.concatenate([time**3 - time, 2 * time**2], axis=-1)
    want = np.concatenate([new**3 - new, 2 * new**2], axis=-1)
    np.testing.assert_allclose(interpolate_traj(cubic, 37, "spline"), want, atol=1e-12)
    flat = torch.from_numpy(cubic).permute(1, 2, 0)
    linear = torch.nn.functional.interpolate(flat, size=37, mode="linear", align_corners=True)
    np.testing.assert_allclose(
        interpolate_traj(cubic, 37), linear.permute(2, 0, 1).numpy(), atol=1e-12
    )


def test_interpolates_visibility_along_its_own_axis_and_refuses_the_impossible():
    vis = np.array([[1], [0], [0]], dtype=np.uint8)
    np.testing.assert_allclose(interpolate_traj(vis, 5, axis=-2)[:, 0], [1, 0.5, 0, 0, 0])
    with pytest.raises(ValueError, match="cannot interpolate 1 steps to 4"):
        interpolate_traj(np.zeros((1, 5, 2)), 4)
    with pytest.raises(ValueError, match="linear and spline"):
        interpolate_traj(np.zeros((3, 5, 2)), 4, "cubic")
