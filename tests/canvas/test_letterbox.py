"""Pixels and coordinates agree: judged by what is drawn, never by metadata."""

import importlib.util

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st
from media import BT709, FULL, as_frame, blob, centroid, encode, moving
from places import SHARED

from builder.canvas.letterbox import Letterboxer, letterbox_frame, orient_frame, unletterbox_frame
from builder.inputs.video import VideoStream
from schemas.geometry import AxisAffine, Letterbox

JUDGE = SHARED / "judges" / "judge_geometry.py"
ORIENTATIONS = (
    "none",
    "hflip",
    "vflip",
    "rot90",
    "rot180",
    "rot270",
    "transpose",
    "antitranspose",
)


class Judged:
    """What the independent judge wants: fit, apply, forward, inverse."""

    DTYPE = "float32"

    def fit(self, source_shape, img_shape):
        return Letterbox.fit(source_shape, img_shape)

    def apply(self, box, image):
        return letterbox_frame(image, box)

    def forward(self, box, points):
        return box.to_img(points)

    def inverse(self, box, points):
        return box.to_source(points)

    def unapply(self, box, image):
        return unletterbox_frame(image, box)


class JudgedBytes(Judged):
    DTYPE = "uint8"


@pytest.mark.skipif(not JUDGE.exists(), reason="the independent judge is not here")
@pytest.mark.parametrize(
    ("adapter", "count", "blob_limit"),
    # Centroids of blobs rounded to whole grey levels scatter more.
    [(Judged, 400, 0.02), (JudgedBytes, 60, 0.04)],
)
def test_the_independent_judge_is_satisfied(adapter, count, blob_limit):
    pytest.importorskip("scipy")  # with which the judge draws its blobs
    spec = importlib.util.spec_from_file_location("judge_geometry", JUDGE)
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    for name in ("blob_vs_theory.max", "blob_vs_forward.max", "blob_inverse_tpx.max"):
        judge.GOALS[name] = blob_limit
    result = judge.judge(adapter(), n=count, max_seconds=600)
    assert result["shapes_done"] == count
    assert judge.gate(result) == []


def _placed(box, orientation="none", source=None):
    """Where a blob drawn at a coded place must come out, and its picture."""
    shape = source or box.source_shape
    centre = (0.42 * shape[1], 0.57 * shape[0])
    upright = AxisAffine.orient(orientation, shape)(centre)
    return centre, box.to_img(upright)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turned_pixels_agree_with_turned_coordinates(orientation):
    shape = (60, 110)
    image = blob(shape, (30.0, 40.0), 4)
    turned = orient_frame(image, orientation)
    expected = AxisAffine.orient(orientation, shape)((30.0, 40.0))
    assert centroid(turned) == pytest.approx(expected, abs=0.01)
    assert turned.base is not None  # A view: turning costs nothing.


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("pix_fmt", ["rgb24", "yuv420p"])
def test_letterboxer_turns_and_places(orientation, pix_fmt):
    coded = (90, 160)
    upright = orient_frame(np.empty(coded), orientation).shape
    box = Letterbox.fit(upright, (96, 128), sample_aspect_ratio=(4, 3))
    boxer = Letterboxer(box, orientation, fill=7)
    centre, expected = _placed(box, orientation, coded)
    image = blob(coded, centre, 9)
    frame = image
    if pix_fmt != "rgb24":
        frame = as_frame(image, pix_fmt)
    canvas = np.full((96, 128, 3), 99, np.uint8)
    assert boxer.canvas(frame, canvas) is canvas
    np.testing.assert_array_equal(boxer.canvas(frame), canvas)
    left, top, right, bottom = box.content_box
    bars = np.ones((96, 128), bool)
    bars[top:bottom, left:right] = False
    assert (canvas[bars] == 7).all()
    canvas[bars] = 0
    assert centroid(canvas) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("shape", "img_shape"),
    [
        ((270, 480), (64, 64)),
        ((121, 213), (96, 128)),
        ((75, 101), (190, 256)),
        ((64, 300), (128, 100)),
        ((300, 66), (101, 127)),
        ((100, 100), (256, 100)),
    ],
)
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "yuvj420p", "nv12", "gbrp"]
)
def test_scaled_frames_keep_their_place(shape, img_shape, pix_fmt):
    box = Letterbox.fit(shape, img_shape)
    centre, expected = _placed(box)
    # Wide enough on both grids that the kernel's own scatter averages out.
    sigma = [
        max(side / 14, 2.5 / min(1, scale))
        for side, scale in zip(shape[::-1], box.scale_xy, strict=True)
    ]
    image = blob(shape, centre, sigma)
    frame = as_frame(image, pix_fmt)
    canvas = np.zeros((*img_shape, 3), np.uint8)
    boxer = Letterboxer(box)
    boxer.paste(boxer.content(frame), canvas)
    assert centroid(canvas) == pytest.approx(expected, abs=0.06)


def test_colours_follow_matrix_and_range(tmp_path):
    palette = np.array(
        [[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40]],
        np.uint8,
    )
    image = palette.reshape(2, 3, 3).repeat(48, 0).repeat(48, 1)
    box = Letterbox.fit(image.shape[:2], (48, 72))
    for name, tags in {
        "untagged": {},
        "709": {"colorspace": BT709, "color_range": 1},
        "full": {"colorspace": BT709, "color_range": FULL},
        "601 full": {"colorspace": 6, "color_range": FULL},
        "2020": {"colorspace": 9, "color_range": 1},
    }.items():
        if name == "2020" and not hasattr(Colorspace, "BT2020"):
            continue  # This PyAV cannot make such a clip.
        for pix_fmt in ("yuv420p", "yuv444p10le"):
            path = encode(tmp_path / "c.mp4", [image], pix_fmt=pix_fmt, options={"qp": "1"}, **tags)
            frame = next(iter(VideoStream(path)))
            patches = Letterboxer(box).content(frame.image)[12::24, 12::24].reshape(-1, 3)
            assert np.abs(patches.astype(int) - palette).max() <= 3, (name, pix_fmt)


def test_fields_of_interlaced_frames_are_blended_not_combed(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 1), np.uint8).repeat(3, 2)
    lossless = {"qp": "0", "x264-params": "tff=1"}
    frame = next(iter(VideoStream(encode(tmp_path / "i.mp4", [image], options=lossless)))).image
    assert frame.interlaced_frame
    progressive = av.VideoFrame.from_ndarray(frame.to_ndarray(), "yuv420p")
    for img_shape in ((48, 64), (33, 80), (150, 200)):
        boxer = Letterboxer(Letterbox.fit((96, 128), img_shape))
        assert np.array_equal(boxer.content(frame), boxer.content(progressive))


def test_packed_and_planar_scaling_agree():
    image = moving(1, (90, 161))[0]
    frame = as_frame(image, "yuv420p")
    ours = Letterboxer(Letterbox.fit((90, 161), (64, 64))).content(frame)
    packed = frame.reformat(64, 36, "rgb24", interpolation=0x42020, dst_color_range=2).to_ndarray()
    assert np.array_equal(ours, packed)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuva420p", "nv12"])
@pytest.mark.parametrize("width", [8, 18, 33, 51, 70])
def test_every_pixel_is_written(pix_fmt, width):
    """A flat picture stays flat, also where nothing is scaled (swscale has shortcuts there)."""
    image = np.full((34, width, 3), (200, 120, 40), np.uint8)
    for img_shape in ((34, width), (20, 20), (90, 50)):
        boxer = Letterboxer(Letterbox.fit((34, width), img_shape))
        seen = boxer.content(as_frame(image, pix_fmt))
        assert np.abs(seen.astype(int) - (200, 120, 40)).max() <= 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_dtype_and_number_of_channels(dtype, channels):
    for source, target in (((40, 61), (30, 31)), ((40, 61), (80, 200)), ((1, 40), (40, 3))):
        box = Letterbox.fit(source, target)
        img = letterbox_frame(np.full((*source, channels), 7, dtype), box, fill=7)
        assert (img.shape, img.dtype) == ((*target, channels), np.dtype(dtype))
        assert np.abs(img.astype(float) - 7).max() < 1e-12
        back = unletterbox_frame(img, box)
        assert (back.shape, back.dtype) == ((*source, channels), np.dtype(dtype))


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_exact_and_fast_resizing_agree(source, target):
    image = np.random.default_rng(1).integers(0, 255, (*source, 3), np.uint8)
    box = Letterbox.fit(source, target)
    fast, exact = letterbox_frame(image, box), letterbox_frame(image.astype(np.float64), box)
    # Whole grey levels, rounded once per pass.
    assert np.abs(fast - exact).max() <= 1.6


def test_nan_stays_where_it_is():
    frame = np.ones((40, 60, 1))
    frame[10, 10] = np.nan
    img = letterbox_frame(frame, Letterbox.fit((40, 60), (20, 30)))
    assert np.argwhere(np.isnan(img[..., 0])).tolist() == [[5, 5]]


def test_wrong_frames_are_refused():
    box = Letterbox.fit((40, 60), (20, 30))
    with pytest.raises(
        ValueError, match=r"expected a frame of \(H, W\) = \(40, 60\), got \(60, 40\)"
    ):
        letterbox_frame(np.zeros((60, 40, 3), np.uint8), box)
    with pytest.raises(ValueError, match=r"axes \(H, W, C\)"):
        letterbox_frame(np.zeros((40, 60), np.uint8), box)
    with pytest.raises(TypeError, match="uint8, uint16, float32, float64, got int64"):
        letterbox_frame(np.zeros((40, 60, 3), np.int64), box)
    with pytest.raises(ValueError, match=r"\(40, 60\), got \(20, 30\)"):
        Letterboxer(box).content(av.VideoFrame(30, 20, "yuv420p"))
    with pytest.raises(ValueError, match=r"\(20, 30\), got \(40, 60\)"):
        unletterbox_frame(np.zeros((40, 60, 3), np.uint8), box)
