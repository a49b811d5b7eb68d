"""From a video with known motion to source pixels, through every step, as a user runs them.

The source is not square, the canvas is not square, and the motion differs per axis.
"""

from __future__ import annotations

import json

import av
import cv2
import numpy as np
import pytest

from builder.cli import main
from builder.dataset.opening import open_dataset
from schemas import Letterbox, swap_xy

SOURCE_SHAPE = (360, 500)
IMG_SHAPE = (180, 320)
LENGTH = 40
# Per frame, in source pixels: 1.8 and -1.1 give 1.06 canvas pixels per step.
VELOCITY_XY = np.array([1.8, -1.1])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known_motion")
    videos = folder / "videos"
    videos.mkdir()
    write_moving_texture(videos / "moving.mp4")
    argv = ["build", "--source", str(videos), "--out", str(folder / "out"), "--quiet"]
    assert main([*argv, "--img-shape", *map(str, IMG_SHAPE)]) == 0
    assert main(["validate", str(folder / "out"), "--deep"]) == 0
    return open_dataset(folder / "out")


def write_moving_texture(path):
    """A smooth random texture under a pure translation; point p at frame 0 is at p + v t."""
    rng = np.random.default_rng(7)
    coarse = rng.uniform(0, 255, (60, 80, 3)).astype(np.float32)
    texture = cv2.resize(coarse, (800, 600), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.height, stream.width = SOURCE_SHAPE
        stream.pix_fmt = "yuv420p"
        rows, columns = np.mgrid[: SOURCE_SHAPE[0], : SOURCE_SHAPE[1]].astype(np.float32)
        for t in range(LENGTH):
            x, y = np.float32(100 - VELOCITY_XY * t)
            frame = cv2.remap(texture, columns + x, rows + y, cv2.INTER_CUBIC).clip(0, 255)
            picture = av.VideoFrame.from_ndarray(frame.round().astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def true_source_xy(queries_source_xy, starts, horizon):
    """Where the queries of each window really go, (S, horizon, N, 2); the tail stands still."""
    steps = np.minimum(starts[:, None] + np.arange(horizon), LENGTH - 1) - starts[:, None]
    return queries_source_xy + steps[..., None, None] * VELOCITY_XY


def test_geometry_alone_is_exact(dataset):
    view = dataset[dataset.ids[0]].views["main"]
    box = view.geometry
    assert box == Letterbox.fit(SOURCE_SHAPE, IMG_SHAPE)
    truth = true_source_xy(box.to_source(view.queries[:].astype(float)), view.starts[:], 16)
    stored = box.to_img(truth).astype(np.float32)  # what a perfect tracker would store
    assert np.abs(box.to_source(stored.astype(float)) - truth).max() < 1e-3


def test_tracked_motion_comes_back_in_source_pixels(dataset):
    view = dataset[dataset.ids[0]].views["main"]
    box, tracks, vis = view.geometry, view.tracks[:].astype(float), view.vis[:].astype(bool)
    truth = true_source_xy(box.to_source(view.queries[:].astype(float)), view.starts[:], 16)
    inside = box.inside(box.to_img(truth))
    error_img_px = np.linalg.norm(tracks - box.to_img(truth), axis=-1)
    assert vis[inside].mean() > 0.8
    assert np.percentile(error_img_px[vis & inside], 95) < 0.5
    # A prediction leaves a model normalized and in (row, col), and decodes to source pixels.
    prediction_rc = swap_xy(box.encode(box.to_source(tracks)))
    decoded = box.decode(swap_xy(prediction_rc))
    error_source_px = np.linalg.norm(decoded - truth, axis=-1)
    assert np.percentile(error_source_px[vis & inside], 95) < 0.5 / min(box.scale_xy)


def test_the_decode_command_gives_the_same_pixels(dataset, tmp_path):
    episode = dataset[dataset.ids[0]]
    view = episode.views["main"]
    points, out = tmp_path / "norm.npy", tmp_path / "source.npy"
    norm_rc = swap_xy(view.geometry.encode(view.geometry.to_source(view.tracks[:].astype(float))))
    np.save(points, norm_rc)
    argv = ["decode", str(points), "--geometry", str(dataset.path), "--episode", episode.meta.id]
    assert main([*argv, "--order", "rc", "--space", "norm", "--out", str(out)]) == 0
    expected = view.geometry.to_source(view.tracks[:].astype(float))
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)


def test_the_same_command_again_has_nothing_to_do(dataset, capsys):
    source = dataset.path.parent / "videos"
    before = (dataset.path / "dataset.json").read_bytes()
    argv = ["build", "--source", str(source), "--out", str(dataset.path), "--json"]
    assert main([*argv, "--img-shape", *map(str, IMG_SHAPE)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["built"], summary["skipped"]) == (0, 1)
    assert (dataset.path / "dataset.json").read_bytes() == before


def test_another_config_for_the_same_output_is_refused_with_the_difference(dataset, capsys):
    source = dataset.path.parent / "videos"
    argv = ["build", "--source", str(source), "--out", str(dataset.path), "tracker.horizon=8"]
    assert main([*argv, "--img-shape", *map(str, IMG_SHAPE)]) in (2, 4)
    message = capsys.readouterr().err
    assert "horizon" in message
    assert "16" in message
    assert "8" in message
