"""Per-axis affine maps: what they do to points, and that numpy and torch agree."""

import math
from functools import partial
from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import AffineBatch, AxisAffine, normalize, swap_xy, unnormalize
from schemas.affine import Orientation, oriented_shape

pytestmark = pytest.mark.core

ORIENTATIONS = get_args(Orientation)
# The same turns on pictures, written without the maps: the oracle for them.
TURN_IMAGE = {
    "none": lambda image: image,
    "hflip": lambda image: image[:, ::-1],
    "vflip": lambda image: image[::-1],
    "rot90": lambda image: np.rot90(image, -1),
    "rot180": lambda image: image[::-1, ::-1],
    "rot270": lambda image: np.rot90(image, 1),
    "transpose": lambda image: image.T,
    "antitranspose": lambda image: image[::-1, ::-1].T,
}
SHAPE = (3, 5)

sizes = st.floats(0.01, 100.0)
scales = st.one_of(sizes, sizes.map(lambda size: -size))
offsets = st.floats(-4000.0, 4000.0)
maps = st.builds(
    AxisAffine,
    scale_xy=st.tuples(scales, scales),
    offset_xy=st.tuples(offsets, offsets),
    transpose=st.booleans(),
)
coordinates = st.floats(-4000.0, 4000.0, width=32)
points = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8)


def _same(first, second):
    return np.asarray(first).tobytes() == np.asarray(second).tobytes()


# Turns ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turn_takes_every_pixel_centre_where_the_picture_takes_its_pixel(orientation):
    image = np.arange(math.prod(SHAPE)).reshape(SHAPE)
    turned = TURN_IMAGE[orientation](image)
    assert turned.shape == oriented_shape(orientation, SHAPE)
    turn = AxisAffine.orient(orientation, SHAPE)
    for row, column in np.ndindex(SHAPE):
        x, y = turn((column + 0.5, row + 0.5))
        assert turned[int(y - 0.5), int(x - 0.5)] == image[row, column]
        assert (x % 1, y % 1) == (0.5, 0.5)


@pytest.mark.parametrize(("first", "second"), [*product(ORIENTATIONS, ORIENTATIONS)])
def test_two_turns_are_one_turn_exactly(first, second):
    image = np.arange(math.prod(SHAPE)).reshape(SHAPE)
    both = TURN_IMAGE[second](TURN_IMAGE[first](image))
    names = [name for name in ORIENTATIONS if np.array_equal(TURN_IMAGE[name](image), both)]
    assert len(names) == 1
    middle = oriented_shape(first, SHAPE)
    composed = AxisAffine.orient(second, middle) @ AxisAffine.orient(first, SHAPE)
    assert composed == AxisAffine.orient(names[0], SHAPE)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_inverse_of_a_turn_is_a_turn_exactly(orientation):
    inverse = {"rot90": "rot270", "rot270": "rot90"}.get(orientation, orientation)
    turned = oriented_shape(orientation, SHAPE)
    undone = ~AxisAffine.orient(orientation, SHAPE)
    assert undone == AxisAffine.orient(inverse, turned)
    assert undone @ AxisAffine.orient(orientation, SHAPE) == AxisAffine()


def test_zeros_are_never_negative():
    made = [~AxisAffine(), AxisAffine.crop(top=0, left=0), ~AxisAffine.orient("rot180", SHAPE)]
    for each in made:
        assert "-0.0" not in each.model_dump_json()


def test_an_unknown_turn_is_refused():
    with pytest.raises(KeyError, match="rot45"):
        AxisAffine.orient("rot45", SHAPE)


# Composition and inversion ----------------------------------------------------------------


@given(first=maps, second=maps, at=st.tuples(coordinates, coordinates))
def test_composition_applies_the_right_hand_map_first(first, second, at):
    assert (second @ first)(at) == pytest.approx(second(first(at)), rel=1e-9, abs=1e-6)


@given(each=maps, at=st.tuples(coordinates, coordinates))
def test_the_inverse_undoes(each, at):
    assert (~each)(each(at)) == pytest.approx(at, rel=1e-9, abs=1e-6)


@given(
    scale=st.tuples(*[st.sampled_from([-4, -2, -1, -0.5, 0.25, 1, 2, 8])] * 2),
    offset=st.tuples(*[st.integers(-4000, 4000)] * 2),
    crop=st.tuples(*[st.integers(0, 4000)] * 2),
    orientation=st.sampled_from(ORIENTATIONS),
    at=st.tuples(*[st.integers(-4000, 4000)] * 2),
)
def test_crops_flips_and_turns_stay_exact_in_any_company(scale, offset, crop, orientation, at):
    # Powers of two and whole numbers have no rounding: every step must be equal, not close.
    first = AxisAffine(scale_xy=scale, offset_xy=offset)
    cut = AxisAffine.crop(top=crop[0], left=crop[1])
    turn = AxisAffine.orient(orientation, (480, 640))
    chain = turn @ cut @ first
    assert chain == turn @ (cut @ first)
    assert chain(at) == turn(cut(first(at)))
    assert (~chain)(chain(at)) == at
    assert ~chain == ~first @ ~cut @ ~turn


def test_only_maps_compose():
    with pytest.raises(TypeError, match="unsupported operand"):
        AxisAffine() @ (1.0, 2.0)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (1.0, -0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_a_map_that_cannot_be_inverted_is_refused(bad):
    with pytest.raises(ValidationError, match="scale_xy"):
        AxisAffine(scale_xy=bad)


# What happens to arrays -------------------------------------------------------------------


@pytest.fixture(scope="module", params=["numpy", "torch"])
def asarray(request):
    """Make an array of nested lists, in either library; float64 unless told."""
    if request.param == "numpy":
        return lambda data, dtype="float64": np.asarray(data, dtype=dtype)
    torch = pytest.importorskip("torch")
    return lambda data, dtype="float64": torch.tensor(data, dtype=getattr(torch, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(each=maps, data=points)
def test_numpy_and_torch_give_the_same_bits(dtype, each, data):
    torch = pytest.importorskip("torch")
    array = np.asarray(data, dtype=dtype)
    for method in ("__call__", "displacements"):
        ours, theirs = (getattr(each, method)(data) for data in (array, torch.from_numpy(array)))
        assert ours.dtype == dtype == str(theirs.dtype).removeprefix("torch.")
        assert _same(ours, theirs)


@given(each=maps, data=points)
def test_a_tuple_gives_the_numbers_an_array_gives(each, data):
    mapped = each(np.asarray(data, dtype="float64"))
    assert [each(pair) for pair in data] == [tuple(row) for row in mapped.tolist()]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_integers_become_float64(asarray, dtype):
    big = 2**24 + 1 if dtype != "uint8" else 201  # float32 cannot hold 2**24 + 1
    out = AxisAffine(scale_xy=(1.0, 0.5))(asarray([[big, 3]], dtype))
    assert str(out.dtype).endswith("float64")
    assert out.tolist() == [[big, 1.5]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("transpose", [False, True])
def test_floats_keep_their_dtype_and_leading_axes(asarray, dtype, transpose):
    each = AxisAffine(scale_xy=(2.0, 4.0), offset_xy=(1.0, 0.0), transpose=transpose)
    for lead in [(), (3,), (0,), (2, 0, 4), (2, 3, 4)]:
        data = asarray(np.ones((*lead, 2)).tolist() if 0 not in lead else [], dtype)
        data = data.reshape((*lead, 2))
        out = each(data)
        assert tuple(out.shape) == (*lead, 2)
        assert out.dtype == data.dtype
        assert (np.asarray(out) == [3.0, 4.0]).all()


def test_nan_passes_and_stays_on_its_axis(asarray):
    data = asarray([[math.nan, 1.0], [2.0, math.inf]])
    upright, turned = AxisAffine(scale_xy=(2.0, 3.0)), AxisAffine(transpose=True)
    np.testing.assert_equal(np.asarray(upright(data)), [[math.nan, 3.0], [4.0, math.inf]])
    np.testing.assert_equal(np.asarray(turned(data)), [[1.0, math.nan], [math.inf, 2.0]])


@pytest.mark.parametrize("transpose", [False, True])
def test_the_input_is_never_changed(asarray, transpose):
    each = AxisAffine(scale_xy=(2.0, 3.0), offset_xy=(5.0, 7.0), transpose=transpose)
    data = asarray([[1.0, 2.0], [3.0, 4.0]])
    boxes = asarray([[1.0, 2.0, 3.0, 4.0]])
    each(data), each.displacements(data), each.boxes(boxes), swap_xy(data)
    batch = AffineBatch.stack([each, each], asarray)
    batch(data), ~batch
    assert data.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert boxes.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert batch.scale_xy.tolist() == [[2.0, 3.0]] * 2


def test_views_and_broadcast_arrays_work():
    each = AxisAffine(scale_xy=(2.0, 3.0))
    wide = np.arange(16.0).reshape(4, 4)
    assert _same(each(wide[::2, 1:3]), each(wide[::2, 1:3].copy()))
    assert each(np.broadcast_to(np.ones(2), (3, 2))).tolist() == [[2.0, 3.0]] * 3
    frozen = np.ones((1, 2))
    frozen.flags.writeable = False
    assert each(frozen).tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize("transpose", [False, True])
def test_gradients_flow_through_every_map(transpose):
    torch = pytest.importorskip("torch")
    each = AxisAffine(scale_xy=(2.0, 3.0), offset_xy=(5.0, 7.0), transpose=transpose)
    expected = [3.0, 2.0] if transpose else [2.0, 3.0]
    batch = AffineBatch.stack([each] * 4, partial(torch.tensor, dtype=torch.float64))
    for function in (each, each.displacements, batch):
        data = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
        function(data).sum().backward()
        assert data.grad.tolist() == [expected] * 4
    data = torch.ones(4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(each, data.requires_grad_())
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(each.boxes, boxes)


@pytest.mark.parametrize("transpose", [False, True])
def test_lists_and_other_things_are_refused(transpose):
    each = AxisAffine(transpose=transpose)
    for bad in ([1.0, 2.0], [[1.0, 2.0]], "xy", 3.0, None):
        with pytest.raises(TypeError, match=r"numpy array or torch tensor \(\.\.\., 2\), got"):
            each(bad)
    for dtype in ("bool", "complex128", "object", "U3"):
        with pytest.raises(TypeError, match="real numbers"):
            each(np.zeros((3, 2), dtype=dtype))
    for shape in [(), (3,), (2, 3)]:
        with pytest.raises(ValueError, match=r"shape \(\.\.\., 2\)"):
            each(np.zeros(shape))
    with pytest.raises(ValueError, match="two numbers, got 3"):
        each((1.0, 2.0, 3.0))
    with pytest.raises(TypeError):
        each(("1", "2"))


def test_torch_booleans_and_complex_numbers_are_refused():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="real numbers"):
            AxisAffine()(torch.zeros(3, 2, dtype=dtype))


def test_swap_xy_takes_pairs_and_arrays(asarray):
    assert swap_xy((720, 1280)) == (1280, 720)
    assert swap_xy(asarray([[[1, 2], [3, 4]]], "int64")).tolist() == [[[2, 1], [4, 3]]]
    with pytest.raises(TypeError, match="got list"):
        swap_xy([[1, 2]])
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        swap_xy(asarray(np.zeros((4, 3)).tolist()))


# Displacements and boxes ------------------------------------------------------------------


@given(each=maps, start=points, data=st.data())
def test_a_displacement_is_the_difference_of_mapped_ends(each, start, data):
    start = np.asarray(start)
    moves = np.asarray(
        data.draw(
            st.lists(st.tuples(coordinates, coordinates), min_size=len(start), max_size=len(start))
        )
    )
    np.testing.assert_allclose(
        each.displacements(moves), each(start + moves) - each(start), rtol=1e-9, atol=1e-6
    )


@given(each=maps, corners=st.tuples(*[coordinates] * 4))
def test_a_box_holds_exactly_the_mapped_corners(each, corners):
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    box = np.asarray([[x0, y0, x1, y1]])
    mapped = each(np.asarray([[x0, y0], [x1, y1], [x0, y1], [x1, y0]]))
    expected = [*mapped.min(axis=0), *mapped.max(axis=0)]
    assert each.boxes(box).tolist() == [expected]


def test_boxes_become_floats_and_wrong_boxes_are_refused(asarray):
    turn = AxisAffine.orient("rot90", (20, 30))
    assert turn.boxes(asarray([[1, 2, 3, 5]], "int64")).tolist() == [[15.0, 1.0, 18.0, 3.0]]
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 4\)"):
        turn.boxes(asarray([[1.0, 2.0]]))


# Normalization ----------------------------------------------------------------------------


def test_normalization_is_per_axis_and_does_not_clip(asarray):
    data = asarray([[0.0, 0.0], [320.0, 120.0], [640.0, 240.0], [960.0, -120.0]])
    expected = [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [2.0, -2.0]]
    assert normalize(data, (240, 640)).tolist() == expected
    assert unnormalize(asarray(expected), (240, 640)).tolist() == data.tolist()
    assert normalize((320, 120), (240, 640)) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (-3, 4), (math.nan, 4)])
def test_normalizing_by_a_bad_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        normalize((1.0, 2.0), shape)


# Batches ----------------------------------------------------------------------------------


@given(
    each=st.lists(maps, min_size=1, max_size=4),
    lead=st.sampled_from([(), (3,), (2, 3), (0,)]),
    transpose=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_batch_gives_what_a_loop_gives(asarray, each, lead, transpose, seed):
    each = [AxisAffine(**{**one.model_dump(), "transpose": transpose}) for one in each]
    batch = AffineBatch.stack(each, asarray)
    data = np.random.default_rng(seed).normal(size=(len(each), *lead, 2)) * 1000
    data = asarray(data.tolist()).reshape(data.shape)
    out = batch(data)
    assert _same(
        out, np.stack([one(item) for one, item in zip(each, np.asarray(data), strict=True)])
    )
    np.testing.assert_allclose(np.asarray((~batch)(out)), np.asarray(data), rtol=1e-9, atol=1e-6)
    inverse = AffineBatch.stack([~one for one in each], asarray)
    assert _same((~batch)(out), inverse(out))


def test_a_batch_of_float64_maps_serves_float32_points(asarray):
    each = [AxisAffine(scale_xy=(1 / 3, 3.0)), AxisAffine(offset_xy=(0.1, 0.0))]
    data = asarray([[[1.0, 2.0]], [[3.0, 4.0]]], "float32")
    out = AffineBatch.stack(each, asarray)(data)
    assert out.dtype == data.dtype
    np.testing.assert_allclose(np.asarray(out), [[[1 / 3, 6.0]], [[3.1, 4.0]]], rtol=1e-6)


def test_a_batch_that_does_not_fit_is_refused(asarray):
    upright, turned = AxisAffine(), AxisAffine(transpose=True)
    with pytest.raises(ValueError, match="empty"):
        AffineBatch.stack([], asarray)
    with pytest.raises(ValueError, match="transposed and upright"):
        AffineBatch.stack([upright, turned], asarray)
    with pytest.raises(ValueError, match=r"\(B, 2\), got \(1, 2\) and \(2, 2\)"):
        AffineBatch(asarray([[1.0, 1.0]]), asarray([[1.0, 1.0]] * 2))
    batch = AffineBatch.stack([upright, upright], asarray)
    for wrong in ([[1.0, 2.0]], [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"2 maps need points of shape \(2, \.\.\., 2\)"):
            batch(asarray(wrong))
