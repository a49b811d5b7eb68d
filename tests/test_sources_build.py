"""Sources all the way into a dataset: selection, alignment, pass-through arrays, depth."""

from contextlib import closing

import h5py
import numpy as np
import pytest
import source_fixtures as fixtures
from hypothesis import given
from hypothesis import strategies as st
from test_sources import EXAMPLES

from builder.dataset import open_dataset
from builder.episode import Job, build_episode, open_source, open_store
from builder.letterbox import letterbox_labels
from builder.pipeline import build
from schemas.config import BuildConfig
from schemas.geometry import Letterbox


def config_of(root, out, kind, **source):
    return BuildConfig.model_validate(
        {
            "img_shape": [32, 40],
            "source": {"kind": kind, "path": str(root), **source},
            "queries": {"grid": [3, 4]},
            "tracker": {"kind": "dis", "horizon": 4},
            "store": {"path": str(out)},
            "executor": {"kind": "serial"},
        }
    )


def episodes(config):
    """Build every episode in this process and yield its reader."""
    for ref in open_source(config).refs():
        build_episode(Job(config, ref), lambda done, total: None)
        with closing(open_store(config).open(ref.id)) as reader:
            yield reader


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_every_source_builds_into_a_dataset(kind, tmp_path):
    write, settings = EXAMPLES[kind]
    (tmp_path / "in").mkdir()
    config = config_of(write(tmp_path / "in"), tmp_path / "out", kind, **settings)
    for reader in episodes(config):
        for view in reader.meta.views:
            assert reader.array(view.name, "frames").shape == (reader.meta.length, 32, 40, 3)
        for name, array in reader.meta.arrays.items():
            assert reader.array(None, name).shape == array.shape


def test_the_selection_reaches_the_dataset(tmp_path):
    root = fixtures.write_libero(tmp_path / "in")
    config = config_of(
        root, tmp_path / "out", "libero", views=["agentview"], frame_step=3, licence="MIT",
        episodes=["3:"], orientation="rot180",
    )  # fmt: skip
    assert build(config).built == 3
    dataset = open_dataset(tmp_path / "out")
    assert [dataset[each].meta.length for each in dataset.ids] == [3, 4, 3]
    meta = dataset[dataset.ids[1]].meta
    assert [view.name for view in meta.views] == ["agentview"]
    assert meta.views[0].orientation == "rot180"
    assert meta.views[0].fps == pytest.approx(20 / 3)
    assert meta.source.licence == "MIT"
    assert meta.arrays["actions"].shape == (4, 7)


def test_depth_is_letterboxed_without_making_up_values(tmp_path):
    root = fixtures.write_robomimic(tmp_path / "in")
    config = config_of(root, tmp_path / "out", "robomimic", frame_step=2)
    [path] = root.rglob("*.hdf5")
    with h5py.File(path) as source:
        for number, reader in enumerate(episodes(config)):
            depth = reader.array("agentview", "depth")[:]
            original = source[f"data/demo_{number}/obs/agentview_depth"][::2, ..., 0]
            assert depth.shape == (len(original), 32, 40)
            assert depth.dtype == np.float32
            for got, want in zip(depth, original, strict=True):
                assert set(np.unique(got)) <= {0.0, *np.unique(want)}
                assert (got[:1] == 0).all()
                assert (got[1:31] > 0).all()
            assert any("depth: letterboxed by" in note for note in reader.meta.views[0].notes)


@given(
    source=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    img=st.tuples(st.integers(8, 50), st.integers(8, 50)),
)
def test_labels_come_from_under_the_centre_of_each_pixel(source, img):
    box = Letterbox.fit(source, img)
    labels = np.arange(1, source[0] * source[1] + 1).reshape(source)
    out = letterbox_labels(labels, box, fill=-1)
    left, top, right, bottom = box.content_box
    rows, columns = np.mgrid[top:bottom, left:right] + 0.5
    xy = box.to_source(np.stack([columns, rows], -1))
    # Exactly on an edge between two pixels, either is right.
    for nudge in (-1e-6, 1e-6):
        j, i = np.clip(np.floor(xy + nudge).astype(int), 0, (source[1] - 1, source[0] - 1)).T
        match = out[top:bottom, left:right] == labels[i.T, j.T]
        edge = (np.abs(xy - np.round(xy)) < 1e-5).any(-1)
        assert (match | edge).all()
    assert (out == -1).sum() == out.size - (bottom - top) * (right - left)


def test_label_maps_keep_channels_and_refuse_other_shapes():
    box = Letterbox.fit((20, 30), (32, 40))
    assert letterbox_labels(np.zeros((20, 30, 2), np.uint16), box).shape == (32, 40, 2)
    with pytest.raises(ValueError, match="expected a frame"):
        letterbox_labels(np.zeros((30, 20)), box)
