"""Letterbox and Stretch: the fit, what is refused, and the way there and back."""

import copy
import math
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas import AxisAffine, Letterbox, Stretch, normalize, swap_xy
from schemas.affine import oriented_shape
from schemas.geometry import Geometry, Pad

pytestmark = pytest.mark.core

# Thin, tiny, odd, video-like and huge.
SIDES = (1, 2, 3, 7, 64, 255, 256, 480, 1000, 1280, 4000)
sides = st.one_of(st.sampled_from(SIDES), st.integers(1, 4000))
shapes = st.tuples(sides, sides)
ratios = st.one_of(
    st.just((1, 1)),
    st.sampled_from([(128, 117), (117, 128), (4, 3), (40, 33), (1, 2)]),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
boxes = st.builds(Letterbox.fit, shapes, shapes, ratios)
stretches = st.builds(lambda a, b: Stretch(source_shape=a, img_shape=b), shapes, shapes)
geometries = st.one_of(boxes, stretches)
unit = st.floats(-0.5, 1.5)


# The fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "img", "sar", "content", "pad"),
    [
        ((720, 1280), (256, 256), (1, 1), (144, 256), (56, 56, 0, 0)),
        ((272, 640), (256, 256), (1, 1), (109, 256), (73, 74, 0, 0)),  # 108.8 up, odd at bottom
        ((144, 176), (256, 256), (128, 117), (191, 256), (32, 33, 0, 0)),
        ((1080, 1920), (477, 470), (1, 1), (264, 470), (106, 107, 0, 0)),
        ((640, 480), (240, 320), (1, 1), (240, 180), (0, 0, 70, 70)),
        ((4, 3), (2, 6), (1, 1), (2, 2), (0, 0, 2, 2)),  # 1.5 is rounded half up
        ((8, 5), (4, 6), (1, 1), (4, 3), (0, 0, 1, 2)),  # 2.5 too (not to even), odd at right
        ((1, 1000), (256, 256), (1, 1), (1, 256), (127, 128, 0, 0)),
        ((4000, 3), (256, 256), (1, 1), (256, 1), (0, 0, 127, 128)),
        ((100, 200), (100, 200), (1, 1), (100, 200), (0, 0, 0, 0)),
        ((1, 1), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    ],
)
def test_known_fits(source, img, sar, content, pad):
    box = Letterbox.fit(source, img, sar)
    assert box.content_shape == content
    assert (box.pad.top, box.pad.bottom, box.pad.left, box.pad.right) == pad
    assert box.pad_xy == (pad[2], pad[0])
    assert box.scale_xy == (content[1] / source[1], content[0] / source[0])
    left, top, right, bottom = box.content_box
    assert (right - left, bottom - top) == (content[1], content[0])


@given(source=shapes, img=shapes, sar=ratios)
def test_the_content_is_the_ideal_size_rounded_half_up(source, img, sar):
    box = Letterbox.fit(source, img, sar)
    displayed = (Fraction(source[0]), Fraction(source[1]) * Fraction(*sar))
    scale = min(img[0] / displayed[0], img[1] / displayed[1])
    ideal = [scale * side for side in displayed]
    rounded = [max(1, math.floor(side + Fraction(1, 2))) for side in ideal]
    assert list(box.content_shape) == rounded
    for side, exact in zip(box.content_shape, ideal, strict=True):
        assert abs(side - exact) <= Fraction(1, 2) or side == 1


@given(box=boxes)
def test_the_content_touches_two_sides_and_is_centred(box):
    (height, width), (img_height, img_width) = box.content_shape, box.img_shape
    assert height == img_height or width == img_width
    assert height >= 1
    assert width >= 1
    pad = box.pad
    assert (pad.top + height + pad.bottom, pad.left + width + pad.right) == box.img_shape
    assert pad.bottom - pad.top in (0, 1)
    assert pad.right - pad.left in (0, 1)


@given(box=boxes)
def test_a_quarter_turn_turns_the_whole_fit(box):
    sar = swap_xy(box.sample_aspect_ratio)
    turned = Letterbox.fit(swap_xy(box.source_shape), swap_xy(box.img_shape), sar)
    assert turned.content_shape == swap_xy(box.content_shape)
    assert turned.pad_xy == swap_xy(box.pad_xy)
    assert turned.scale_xy == swap_xy(box.scale_xy)


@given(source=shapes, img=shapes, factor=st.integers(2, 50), sar=ratios)
def test_a_ratio_counts_by_its_value(source, img, factor, sar):
    scaled = (sar[0] * factor, sar[1] * factor)
    box, same = Letterbox.fit(source, img, sar), Letterbox.fit(source, img, scaled)
    assert (box.content_shape, box.pad) == (same.content_shape, same.pad)


# What is refused --------------------------------------------------------------------------

BAD_SHAPES = [
    (0, 4), (4, 0), (-1, 4), (4.0, 4), (4, 4.5), ("4", 4), (True, 4), (4,), (4, 4, 3), (),
    (math.nan, 4), (math.inf, 4), (None, 4), None, 4, "44", {4, 5}, {"h": 4, "w": 4},
    (1_000_001, 4), (np.float64(4), 4), (np.bool_(True), 4), (np.array([4, 4]), 4),
    np.array([4, 4]),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_SHAPES, ids=repr)
@pytest.mark.parametrize("name", ["source_shape", "img_shape", "sample_aspect_ratio"])
def test_a_bad_shape_is_refused_by_name_at_construction(name, bad):
    good = {"source_shape": (30, 40), "img_shape": (20, 50), "sample_aspect_ratio": (1, 1)}
    with pytest.raises(ValueError, match=f"^Letterbox.fit: {name} is .* whole .*; got "):
        Letterbox.fit(**{**good, name: bad})
    if name != "sample_aspect_ratio":
        shapes = {key: good[key] for key in ("source_shape", "img_shape")}
        with pytest.raises(ValidationError, match=name):
            Stretch(**{**shapes, name: bad})


def test_honest_integers_and_lists_are_taken():
    expected = Letterbox.fit((720, 1280), (256, 300))
    assert Letterbox.fit([720, 1280], [256, 300]) == expected
    assert Letterbox.fit(np.zeros((720, 1280)).shape, (np.int32(256), np.uint16(300))) == expected
    assert type(Letterbox.fit((np.int64(720), 1280), (256, 300)).source_shape[0]) is int


def test_torch_sizes_are_taken_as_shapes():
    torch = pytest.importorskip("torch")
    size = torch.zeros(720, 1280).shape
    assert Letterbox.fit(size, (256, 300)) == Letterbox.fit((720, 1280), (256, 300))


@given(
    box=boxes,
    change=st.sampled_from(
        ["source_shape", "img_shape", "sample_aspect_ratio", "content_shape", "pad"]
    ),
    data=st.data(),
)
def test_a_tampered_record_is_refused_and_the_numbers_are_named(box, change, data):
    record = box.model_dump(mode="json")
    if change == "pad":
        side = data.draw(st.sampled_from(["top", "bottom", "left", "right"]))
        record["pad"][side] += data.draw(st.integers(1, 9))
    else:
        axis = data.draw(st.integers(0, 1))
        record[change][axis] += data.draw(st.integers(1, 9))
    source, img = tuple(record["source_shape"]), tuple(record["img_shape"])
    fitted = Letterbox.fit(source, img, tuple(record["sample_aspect_ratio"]))
    says = (record["content_shape"], record["pad"])
    if (list(fitted.content_shape), fitted.pad.model_dump()) == says:
        # The change happens to describe another picture with the same content: consistent.
        assert Letterbox.model_validate(record) == fitted
        return
    with pytest.raises(ValidationError) as caught:
        Letterbox.model_validate(record)
    message = str(caught.value)
    for numbers in (source, img, fitted.content_shape, tuple(record["content_shape"])):
        assert str(numbers) in message
    assert f"top={record['pad']['top']} bottom={record['pad']['bottom']}" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("pixel_origin", "center"), ("kind", "stretch"), ("scale", 0.2), ("content_shape", None)],
)
def test_a_record_with_foreign_keys_or_values_is_refused(key, value):
    record = Letterbox.fit((720, 1280), (256, 256)).model_dump()
    with pytest.raises(ValidationError, match=key):
        Letterbox.model_validate({**record, key: value})


def test_negative_pads_are_refused():
    with pytest.raises(ValidationError, match="left"):
        Pad(top=0, bottom=0, left=-1, right=1)


def test_a_geometry_cannot_be_changed():
    box = Letterbox.fit((720, 1280), (256, 256))
    for name in ("source_shape", "img_shape", "content_shape", "pad", "scale_xy"):
        with pytest.raises((ValidationError, AttributeError), match=r"frozen|no setter"):
            setattr(box, name, (1, 1))


# The way there and back -------------------------------------------------------------------


def _points_of(geometry, fractions):
    height, width = geometry.source_shape
    return np.asarray(fractions, dtype="float64") * (width, height)


@given(geometry=geometries, fractions=st.lists(st.tuples(unit, unit), min_size=1, max_size=6))
def test_there_and_back_is_exact_to_a_billionth_of_a_pixel(geometry, fractions):
    source_xy = _points_of(geometry, fractions)
    for there, back in [("to_img", "to_source"), ("encode", "decode")]:
        round_trip = getattr(geometry, back)(getattr(geometry, there)(source_xy))
        assert np.abs(round_trip - source_xy).max() <= 1e-9


@given(geometry=geometries, fractions=st.lists(st.tuples(unit, unit), min_size=1, max_size=6))
def test_the_map_is_the_formula(geometry, fractions):
    source_xy = _points_of(geometry, fractions)
    left, top, right, bottom = geometry.content_box
    height, width = geometry.source_shape
    exact = [
        (
            float(Fraction(x) * (right - left) / width + left),
            float(Fraction(y) * (bottom - top) / height + top),
        )
        for x, y in source_xy.tolist()
    ]
    img_xy = geometry.to_img(source_xy)
    np.testing.assert_allclose(img_xy, exact, rtol=1e-15, atol=1e-11)
    np.testing.assert_allclose(
        geometry.encode(source_xy), normalize(img_xy, geometry.img_shape), rtol=1e-12, atol=1e-11
    )


@given(geometry=geometries)
def test_source_corners_land_on_content_corners(geometry):
    height, width = geometry.source_shape
    left, top, right, bottom = geometry.content_box
    assert geometry.to_img((0.0, 0.0)) == (left, top)
    assert geometry.to_img((width, height)) == pytest.approx((right, bottom), rel=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(geometry=geometries, fractions=st.lists(st.tuples(unit, unit), min_size=1, max_size=6))
def test_numpy_and_torch_give_the_same_bits(dtype, geometry, fractions):
    torch = pytest.importorskip("torch")
    array = _points_of(geometry, fractions).astype(dtype)
    for method in ("to_img", "to_source", "encode", "decode"):
        ours = getattr(geometry, method)(array)
        theirs = getattr(geometry, method)(torch.from_numpy(array)).numpy()
        assert ours.dtype == theirs.dtype == dtype
        assert ours.tobytes() == theirs.tobytes()


def test_nothing_is_clipped_or_rounded():
    box = Letterbox.fit((720, 1280), (256, 256))
    assert box.to_img((-100.0, 1000.0)) == pytest.approx((-20.0, 256.0))
    assert box.decode((-3.0, 3.0)) == pytest.approx((-1280.0, 2280.0))
    assert box.to_img((1.25, 0.5)) == pytest.approx((0.25, 56.1))


def test_encode_is_what_the_contract_says():
    box = Letterbox.fit(source_shape=(720, 1280), img_shape=(256, 256))
    assert box.encode((0, 0)) == pytest.approx((-1.0, 2 * 56 / 256 - 1))
    assert box.encode((1280, 720)) == pytest.approx((1.0, 2 * 200 / 256 - 1))
    row_col = np.asarray([[0.0, 1.0]], dtype="float32")  # AMPLIFY's order: centre row, right edge
    assert box.decode(swap_xy(row_col)).tolist() == [[1280.0, 360.0]]


def test_another_img_shape_goes_through_the_source():
    old, new = Letterbox.fit((272, 640), (256, 256)), Letterbox.fit((272, 640), (477, 470))
    source_xy = np.asarray([[0.0, 0.0], [640.0, 272.0], [100.5, 200.25]])
    moved = new.to_img(old.to_source(old.to_img(source_xy)))
    np.testing.assert_allclose(moved, new.to_img(source_xy), atol=1e-9)
    composed = new.affine @ ~old.affine
    np.testing.assert_allclose(composed(old.to_img(source_xy)), moved, atol=1e-9)


@given(box=boxes, top=st.integers(0, 300), left=st.integers(0, 300))
def test_a_crop_before_or_after_only_shifts(box, top, left):
    crop = AxisAffine.crop(top=top, left=left)
    after = crop @ box.affine
    assert after.scale_xy == box.scale_xy
    assert after.offset_xy == (box.pad.left - left, box.pad.top - top)  # whole pixels: exact
    x, y = (box.affine @ ~crop)((0.0, 0.0))
    assert (x, y) == box.to_img((float(left), float(top)))


@pytest.mark.parametrize("orientation", ["hflip", "vflip", "rot180", "rot90", "antitranspose"])
@given(box=boxes)
def test_turning_the_canvas_is_turning_the_source_but_for_the_odd_pad_pixel(orientation, box):
    turned_source = oriented_shape(orientation, box.source_shape)
    turned_img = oriented_shape(orientation, box.img_shape)
    quarter = orientation in ("rot90", "antitranspose")
    sar = swap_xy(box.sample_aspect_ratio) if quarter else box.sample_aspect_ratio
    turned = Letterbox.fit(turned_source, turned_img, sar)
    after = AxisAffine.orient(orientation, box.img_shape) @ box.affine
    before = turned.affine @ AxisAffine.orient(orientation, box.source_shape)
    assert after.scale_xy == before.scale_xy
    assert after.transpose == before.transpose
    spare = max(box.pad.bottom - box.pad.top, box.pad.right - box.pad.left)
    gap = np.abs(np.subtract(after.offset_xy, before.offset_xy))
    assert np.minimum(gap, np.abs(gap - spare)).max() <= 1e-9


def test_content_pixels_are_the_canvas_less_the_bars():
    box = Letterbox.fit((144, 176), (256, 300), (128, 117))
    assert box.content_to_img((0.0, 0.0)) == box.pad_xy
    assert (~box.content_to_img @ box.affine)((176.0, 144.0)) == pytest.approx(
        swap_xy(box.content_shape)
    )


# Inside -----------------------------------------------------------------------------------


@given(box=boxes, fractions=st.lists(st.tuples(unit, unit), min_size=1, max_size=6))
def test_inside_is_what_came_from_the_picture(box, fractions):
    img_xy = box.to_img(_points_of(box, fractions))
    # A point on an edge may fall to either side of it by rounding.
    expected = [0 <= x <= 1 and 0 <= y <= 1 for x, y in fractions]
    on_edge = [min(abs(v - e) for v in pair for e in (0, 1)) < 1e-9 for pair in fractions]
    for got, want, edge in zip(box.inside(img_xy), expected, on_edge, strict=True):
        assert got == want or edge


@pytest.mark.parametrize(
    ("points", "error", "says"),
    [
        ([[0.0, 60.0]], TypeError, "got list; convert it first"),
        (np.zeros((5, 4)), ValueError, r"must have shape \(\.\.\., 2\), got \(5, 4\)"),
    ],
)
def test_inside_refuses_what_is_no_array_of_points(points, error, says):
    with pytest.raises(error, match=says):
        Letterbox.fit((720, 1280), (256, 256)).inside(points)


def test_a_short_side_below_1_is_refused():
    with pytest.raises(ValueError, match="short_side must be at least 1, got 0"):
        Stretch.shorter((480, 640), 0)


def test_inside_includes_edges_and_excludes_nan():
    box = Letterbox.fit((720, 1280), (256, 256))
    img_xy = np.asarray(
        [[[0.0, 56.0], [256.0, 200.0], [128.0, 55.999]], [[math.nan, 100], [1, math.nan], [-1, 99]]]
    )
    assert box.inside(img_xy).tolist() == [[True, True, False], [False, False, False]]
    assert box.inside((0.0, 56.0)) is True
    assert box.inside(np.zeros((0, 2))).shape == (0,)
    assert Stretch(source_shape=(720, 1280), img_shape=(256, 300)).inside((300.0, 256.0))
    torch = pytest.importorskip("torch")
    assert box.inside(torch.from_numpy(img_xy)).dtype == torch.bool
    assert box.inside(torch.from_numpy(img_xy)).tolist() == box.inside(img_xy).tolist()


# As a value -------------------------------------------------------------------------------


@given(geometry=geometries)
def test_a_geometry_is_a_value(geometry):
    text = geometry.model_dump_json()
    assert not re.search(r"\d\.\d", text)  # integers are stored, floats are derived
    again = TypeAdapter(Geometry).validate_json(text)
    assert again == geometry
    assert type(again) is type(geometry)
    geometry.decode((0.0, 0.0))  # fills the caches; they are no part of the value
    for twin in (again, pickle.loads(pickle.dumps(geometry)), copy.deepcopy(geometry)):
        assert twin == geometry
        assert hash(twin) == hash(geometry)
        assert twin.model_dump_json() == text


def test_a_stretch_is_per_axis():
    stretch = Stretch(source_shape=(480, 853), img_shape=(256, 128))
    assert stretch.to_img((853.0, 480.0)) == pytest.approx((128.0, 256.0))
    assert stretch.content_box == (0, 0, 128, 256)
    identity = Stretch(source_shape=(256, 128), img_shape=(256, 128))
    assert identity.affine == AxisAffine()
