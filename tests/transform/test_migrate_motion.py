"""A pattern that moves, tracked the older way: after migrating, motion is right on both axes."""

import av
import h5py
import numpy as np
import pytest
from legacy_fixtures import older_queries, write_amplify

from builder.dataset.opening import open_dataset
from builder.training.normalize import normalize_traj
from builder.transform.migrate import migrate
from schemas import swap_xy

IMG, LENGTH, STEP_XY = (96, 80), 24, np.array([2.0, 1.0])


def write_pattern(path, shape):
    """Write a bright square that moves by ``STEP_XY`` pixels a frame, to the right and down."""
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "6"})
        stream.height, stream.width, stream.pix_fmt = *shape, "yuv420p"
        for index in range(LENGTH):
            image = np.full((*shape, 3), 16, np.uint8)
            x, y = (np.array([8, 8]) + STEP_XY * index).astype(int)
            image[y : y + 12, x : x + 12] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def centre_xy(image):
    light = np.clip(image[..., 0].astype(np.float64) - 60, 0, None)
    rows, columns = np.indices(light.shape) + 0.5
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()


@pytest.mark.parametrize(
    ("shape", "tracked"),
    [((120, 214), (480, 856)), ((214, 120), (856, 480)), ((120, 92), (626, 480))],
)
@pytest.mark.parametrize("how", ["videos", "tracked", "both"])
def test_motion_is_that_of_the_pictures_on_both_axes(tmp_path, shape, tracked, how):
    write_pattern(tmp_path / "films" / "clip.mp4", shape)
    scale_xy = np.array(tracked[::-1]) / shape[::-1]
    path = tmp_path / "old" / "clip.hdf5"
    speed = tuple(STEP_XY * scale_xy)
    options = {"length": LENGTH, "older": True, "attrs": False, "speed_xy": speed}
    write_amplify(path, {"default": tracked}, **options)
    with h5py.File(path, "r+") as file:
        assert dict(file["root/default"].attrs) == {}
    given = {"tracked": {"tracked": tracked}, "videos": {"videos": tmp_path / "films"}}
    chosen = {**given["tracked"], **given["videos"]} if how == "both" else given[how]
    report = migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG, **chosen)
    assert report.failures == {}
    (episode,) = open_dataset(tmp_path / "new")
    view = episode.views["default"]
    box, window = view.geometry, np.asarray(view.tracks[0], np.float64)
    steps = np.diff(box.to_source(window), axis=0)
    # In source pixels: the video's own, or those that were tracked.
    expected = STEP_XY if how != "tracked" else speed
    np.testing.assert_allclose(steps, np.broadcast_to(expected, steps.shape), atol=1e-2)
    start = box.to_source(window[0])
    np.testing.assert_allclose(
        start * (1 if how == "tracked" else scale_xy), older_queries(tracked), atol=1e-2
    )
    # What a model sees: shares of the picture a step, the same on every way.
    share = STEP_XY / shape[::-1]
    content = np.array(box.content_shape[::-1])
    seen = np.diff(swap_xy(normalize_traj(swap_xy(window), IMG)), axis=0) * IMG[::-1] / 2
    np.testing.assert_allclose(seen, np.broadcast_to(share * content, seen.shape), atol=1e-2)
    if view.frames is not None:
        moved = centre_xy(view.frames[15]) - centre_xy(view.frames[0])
        np.testing.assert_allclose(moved, window[15, 0] - window[0, 0], atol=0.3)
