"""Beside a checkpoint: one JSON, decoding without numpy, live frames like built ones."""

from __future__ import annotations

import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, VideoReformatter
from hypothesis import given
from hypothesis import strategies as st
from source_fixtures import write_video

from builder.cli import main
from builder.core.errors import ConfigError
from builder.dataset.opening import open_dataset
from builder.inference import LiveWindows, Preprocessor
from builder.transform.export.inference import inference_meta
from schemas import Letterbox, QuerySpec, swap_xy
from schemas.dataset import ViewMeta
from schemas.inference import Decoder, InferenceMeta, InferenceView

IMG_SHAPE = (96, 150)
SOURCE_SHAPE = (120, 212)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robot")
    (folder / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / "videos" / name, shape=SOURCE_SHAPE, count=4)
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    shape = ["--img-shape", *map(str, IMG_SHAPE)]
    assert main([argv[0], "queries.grid=[3, 4]", *argv[1:], *shape]) == 0
    beside = folder / "inference.json"
    assert main(["export", str(folder / "out"), str(beside), "--to", "inference"]) == 0
    return folder


def test_the_file_holds_what_a_robot_needs(folder):
    decoder = Decoder.load(folder / "inference.json")
    dataset = open_dataset(folder / "out")
    view = dataset[dataset.ids[0]].views["main"]
    assert decoder.meta.img_shape == IMG_SHAPE
    assert decoder.view().geometry == view.geometry
    queries_rc = np.array(decoder.view().queries_rc)
    source_xy = decoder.decode(queries_rc)
    np.testing.assert_allclose(source_xy, view.geometry.to_source(view.queries[:]), atol=1e-4)


def test_a_prediction_decodes_alike_in_every_form(folder):
    decoder = Decoder.load(folder / "inference.json")
    point_rc = (0.25, -0.5)
    as_tuple = decoder.decode(point_rc)
    assert isinstance(as_tuple, tuple)
    as_array = decoder.decode(np.array([point_rc]))
    as_tensor = decoder.decode(torch.tensor([point_rc], dtype=torch.float64))
    np.testing.assert_array_equal(as_array[0], as_tuple)
    np.testing.assert_array_equal(as_tensor[0], as_tuple)
    assert decoder.decode(swap_xy(point_rc), order="xy") == as_tuple


def test_the_command_line_decodes_by_the_same_file(folder, tmp_path):
    meta = Decoder.load(folder / "inference.json").meta
    turned = {"coded_shape": SOURCE_SHAPE[::-1], "orientation": "rot90"}
    view = meta.views[0].model_copy(update=turned)
    beside, points, out = (tmp_path / name for name in ("turned.json", "points.json", "out.npy"))
    beside.write_text(meta.resealed(views=[view]).model_dump_json())
    points.write_text("[[0.25, -0.5], [1.5, 0.0]]")
    argv = ["decode", str(points), "--geometry", str(beside), "--order", "rc", "--space", "norm"]
    source_xy = Decoder.load(beside).decode(np.array([[0.25, -0.5], [1.5, 0.0]]))
    for pixels, expected in (("oriented", source_xy), ("coded", view.to_coded(source_xy))):
        assert main([*argv, "--pixels", pixels, "--out", str(out)]) == 0
        np.testing.assert_array_equal(np.load(out), expected)
    assert main([*argv, "--view", "wrist"]) == 2


def test_a_model_of_added_tracks_gets_their_queries_and_horizon(folder, tmp_path):
    out, beside = tmp_path / "out", tmp_path / "few.json"
    shutil.copytree(folder / "out", out)
    assert (
        main(["track", str(out), "--name", "few", "queries.grid=[2, 3]", "tracker.horizon=3"]) == 0
    )
    assert main(["export", str(out), str(beside), "--to", "inference", "--tracks", "few"]) == 0
    meta = Decoder.load(beside).meta
    assert (meta.horizon, meta.queries.grid, len(meta.views[0].queries_rc)) == (3, (2, 3), 6)


def test_points_that_are_on_no_grid_are_those_that_are_stored(folder, tmp_path):
    tracks = tmp_path / "tracks"
    tracks.mkdir()

    def build(out, shift):
        for name, by in (("a", 0.0), ("b", shift)):
            start = np.array([(30.0, 40.0), (60.5, 20.0 + by)])
            np.savez(tracks / f"{name}.npz", tracks=np.repeat(start[None], 4, axis=0))
        argv = ["build", "--source", str(folder / "videos"), "--out", str(out), "--quiet"]
        argv += ["tracker.kind=precomputed", f"tracker.folder={tracks}", "tracker.mode=episode"]
        argv += ["tracker.coordinates=pixel_edge", 'tracker.visibility=""', "queries.grid=[2,1]"]
        assert main([*argv, "queries.region=stored", "--img-shape", *map(str, IMG_SHAPE)]) == 0
        return inference_meta(open_dataset(out))

    decoder = Decoder(build(tmp_path / "same", 0.0))
    source_xy = decoder.decode(np.array(decoder.view().queries_rc))
    np.testing.assert_allclose(source_xy, [(30, 40), (60.5, 20)], atol=1e-4)
    with pytest.raises(ConfigError, match=r"view main has other query points in a-\w+ than in b-"):
        build(tmp_path / "other", 0.5)


def test_a_wrong_order_view_or_point_is_refused(folder):
    decoder = Decoder.load(folder / "inference.json")
    with pytest.raises(ValueError, match="got 'yx'"):
        decoder.decode((0.1, 0.2), order="yx")
    with pytest.raises(ValueError, match="two numbers, got 3"):
        decoder.decode((0.1, 0.2, 0.3))
    two = [decoder.view(), decoder.view().model_copy(update={"name": "other"})]
    with pytest.raises(KeyError, match="say which view; there are"):
        Decoder(decoder.meta.resealed(views=two)).decode((0.1, 0.2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace('"horizon":16', '"horizon":17'), "was changed"),
        (lambda text: "{}", "it has no digest"),
        (lambda text: text[:-9], r"it is no JSON \(Expecting"),
        (lambda text: "\n", "it is empty"),
    ],
)
def test_a_file_that_is_not_the_exported_one_is_named(folder, tmp_path, change, says):
    text = (folder / "inference.json").read_text().replace(": ", ":")
    wrong = tmp_path / "wrong.json"
    wrong.write_text(change(text))
    with pytest.raises(ValueError, match=rf"wrong\.json is not what .*{says}"):
        Decoder.load(wrong)


def test_a_file_that_is_not_there_says_what_writes_one(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"x\.json: there is no such file; letterset export"
    ):
        Decoder.load(tmp_path / "x.json")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder; expected the file"):
        LiveWindows.load(tmp_path)


RGB = np.full((*SOURCE_SHAPE, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        ((RGB / 255).astype(np.float32), ValueError),  # would be black
        (RGB.astype(np.uint16) * 257, ValueError),
        (RGB[..., :1], ValueError),
        (RGB[..., 0], ValueError),
        (np.dstack([RGB, RGB[..., 0]]), ValueError),
        (RGB.transpose(2, 0, 1), ValueError),
        (RGB.tolist(), TypeError),
        (torch.from_numpy(RGB), TypeError),
    ],
)
def test_frames_that_are_no_uint8_rgb_are_refused(folder, frame, error):
    preprocess = Preprocessor(Decoder.load(folder / "inference.json").meta)
    with pytest.raises(error, match=r"view main: expected a numpy array .* uint8 RGB"):
        preprocess.frame(frame)
    with pytest.raises(TypeError, match=r"frames by view, such as {'main': frame}, got ndarray"):
        preprocess(RGB)


def test_a_frame_may_lie_in_memory_as_it_likes(folder):
    preprocess = Preprocessor(Decoder.load(folder / "inference.json").meta)
    frame = np.random.default_rng(0).integers(0, 256, RGB.shape, np.uint8)
    expected = preprocess.frame(frame)
    np.testing.assert_array_equal(preprocess.frame(np.asfortranarray(frame)), expected)
    bgr = np.ascontiguousarray(frame[..., ::-1])
    np.testing.assert_array_equal(preprocess.frame(bgr[..., ::-1]), expected)


def test_decoding_needs_pydantic_alone():
    code = (
        "import sys; from schemas.inference import Decoder; "
        "heavy = {'numpy', 'torch', 'h5py', 'cv2', 'av', 'yaml'} & {*sys.modules}; "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_is_no_record(folder):
    with pytest.raises(TypeError, match=r"got PosixPath; .* Decoder.load\(path\).meta"):
        Preprocessor(folder / "inference.json")
    preprocess = Preprocessor(Decoder.load(folder / "inference.json").meta)
    assert repr(preprocess).startswith(f"Preprocessor(img_shape={IMG_SHAPE}, horizon=16; ")


def test_a_changed_camera_is_refused_until_refitted(folder):
    meta = Decoder.load(folder / "inference.json").meta
    bigger = (240, 424)
    with pytest.raises(ValueError, match=r"\(240, 424\), expected \(120, 212\).*refit"):
        Preprocessor(meta).frame(np.zeros((*bigger, 3), np.uint8))
    for wrong in (480, "480x640", (480,), (480.5, 640), (0, 640)):
        with pytest.raises(ValueError, match=r"^expected a frame, or its \(H, W\) .* got "):
            Decoder(meta).refit(wrong)
    with pytest.raises(ValueError, match=r"gives frames of \(H, W\) = \(240, 424\)"):
        Decoder(meta).check_frame(np.zeros((*bigger, 3), np.uint8))
    refitted = Decoder(meta).refit(bigger)
    assert (
        Preprocessor(refitted.meta).frame(np.zeros((*bigger, 3), np.uint8)).shape[:2] == IMG_SHAPE
    )
    assert Decoder(meta).refit(tuple(np.array(bigger))).meta == refitted.meta
    saved = folder / "refitted.json"
    refitted.save(saved)
    assert Decoder.load(saved).meta == refitted.meta
    with pytest.raises(FileExistsError, match=r"inference\.json exists already: choose another"):
        refitted.save(folder / "inference.json")
    # The same place in the picture is now at twice the pixel.
    x, y = Decoder(meta).decode((0.1, 0.2))
    assert refitted.decode((0.1, 0.2)) == pytest.approx((2 * x, 2 * y))


def test_pixels_that_were_not_square_are_asked_for():
    box = Letterbox.fit((144, 176), IMG_SHAPE, (128, 117))
    decoder = Decoder(inference_of(box, QuerySpec(grid=(2, 3))))
    with pytest.raises(ValueError, match=r"\(128, 117\).* say what they are now"):
        decoder.refit((288, 352))
    same = decoder.refit((144, 176), sample_aspect_ratio=(128, 117))
    assert same.view().geometry == box


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((640, 360), r"\(640, 360\) looks like \(W, H\).*perhaps \(360, 640\) is meant"),
        ((1280, 720), r"looks like \(W, H\)"),
        ((480, 640), r"\(480, 640\) is another aspect, 1\.333 wide to 1 high, than 1\.778 before"),
    ],
)
def test_another_aspect_is_refused_unless_it_is_meant(shape, words):
    decoder = Decoder(inference_of(Letterbox.fit((360, 640), IMG_SHAPE), QuerySpec(grid=(2, 3))))
    with pytest.raises(ValueError, match=words):
        decoder.refit(shape)
    meant = decoder.refit(shape, allow_aspect_change=True)
    assert meant.view().coded_shape == shape


@pytest.mark.parametrize("shape", [(720, 1280), (480, 854), (1088, 1920), (90, 160)])
def test_roundings_of_an_aspect_are_no_other(shape):
    decoder = Decoder(inference_of(Letterbox.fit((360, 640), IMG_SHAPE), QuerySpec(grid=(2, 3))))
    assert decoder.refit(shape).view().geometry.source_shape == shape


def inference_of(box, queries):
    from builder.canvas.query_grid import query_points

    norm_xy = box.encode(box.to_source(query_points(queries, box).astype(float)))
    view = InferenceView(
        name="front",
        geometry=box,
        coded_shape=box.source_shape,
        queries_rc=tuple((float(row), float(col)) for row, col in swap_xy(norm_xy)),
    )
    return InferenceMeta.seal(img_shape=box.img_shape, horizon=8, queries=queries, views=(view,))


@given(
    old=st.tuples(st.integers(8, 900), st.integers(8, 900)),
    new=st.tuples(st.integers(8, 900), st.integers(8, 900)),
    region=st.sampled_from(["content", "canvas"]),
)
def test_refitting_moves_the_grid_with_its_region(old, new, region):
    queries = QuerySpec(grid=(2, 3), region=region)
    meta = inference_of(Letterbox.fit(old, IMG_SHAPE), queries)
    refitted = Decoder(meta).refit(new, allow_aspect_change=True).view().queries_rc
    expected = inference_of(Letterbox.fit(new, IMG_SHAPE), queries).views[0].queries_rc
    np.testing.assert_allclose(refitted, expected, atol=1e-4)  # the grid is float32


def test_live_frames_look_like_built_ones(folder):
    """Against the build's own frames: the camera's YUV is exact, good RGB is within noise."""
    meta = Decoder.load(folder / "inference.json").meta
    dataset = open_dataset(folder / "out")
    built = dataset[dataset.ids[0]].views["main"].frames[0]
    with av.open(str(folder / "videos" / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    live = Preprocessor(meta)
    np.testing.assert_array_equal(live.frame(frame), built)
    # What a camera driver with interpolated chroma hands over: SWS_BICUBIC | SWS_FULL_CHR_H_INT |
    # SWS_ACCURATE_RND, for which older PyAV has no names.
    kernel = 0x4 | 0x2000 | 0x40000
    rgb = VideoReformatter().reformat(
        frame, format="rgb24", interpolation=kernel, dst_color_range=ColorRange.JPEG
    )
    error = live.frame(rgb.to_ndarray()).astype(float) - built
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 45
    assert live({"main": frame}).shape == (1, *IMG_SHAPE, 3)
    with pytest.raises(KeyError, match="main"):
        live({"wrist": frame})


def test_episodes_of_different_cameras_get_a_record_each(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for name, shape in (("a", (48, 90)), ("b", (60, 50)), ("c", (60, 50))):
        write_video(tmp_path / "videos" / f"{name}.mp4", shape=shape, count=3)
    argv = ["build", "--source", str(tmp_path / "videos"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--quiet", "--img-shape", "40", "60"]) == 0
    with pytest.raises(ConfigError, match=r"\(48, 90\).*\(60, 50\)"):
        inference_meta(open_dataset(tmp_path / "out"))
    argv = ["export", str(tmp_path / "out"), str(tmp_path / "x.json"), "--to", "inference"]
    assert main(argv) == 0
    assert "one file per set of cameras: keep" in capsys.readouterr().out
    assert not (tmp_path / "x.json").exists()
    for shape in ((60, 50), (48, 90)):
        record = Decoder.load(tmp_path / f"x-{shape[0]}x{shape[1]}.json")
        record.check_frame(shape)
        x, y = record.decode((0.0, 0.0))
        assert (x, y) == pytest.approx((shape[1] / 2, shape[0] / 2), abs=1)
    assert main(argv) == 2
    assert "x-60x50.json exists already" in capsys.readouterr().err


def test_a_view_turned_in_its_file_decodes_upright():
    box = Letterbox.fit((212, 120), IMG_SHAPE)
    view = ViewMeta(name="a", geometry=box, coded_shape=(120, 212), orientation="rot90", arrays={})
    assert view.to_coded((0.0, 0.0)) == (0.0, 120.0)
