"""AMPLIFY's layouts, read back the way its public loader reads them."""

import json

import h5py
import numpy as np
import pytest
import yaml
from legacy_fixtures import write_amplify, write_atm
from test_migrate import write_video

from builder.catalog import Catalog, index_line
from builder.dataset import open_dataset
from builder.errors import ConfigError, DatasetError
from builder.export.amplify import DEMOS_PER_TASK, export_amplify
from builder.legacy.dataset import open_legacy
from builder.legacy.migrate import migrate
from builder.stores.hdf5 import Hdf5Store
from builder.testing.samples import QUERIES, Sample, sample_dataset, sample_meta
from builder.training.normalize import clip_traj, normalize_traj
from schemas import QuerySpec, swap_xy

IMG = (120, 160)
SUITE = "libero_letterset"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """Two demos of one task with two views and frames, 4 x 4 points, 16 steps."""
    folder = tmp_path_factory.mktemp("migrated")
    for index in (0, 1):
        name = f"open_the_drawer_demo/demo_{index}"
        views = {"front": (480, 853), "wrist": (480, 640)}
        write_amplify(folder / "old" / f"{name}.hdf5", views)
        write_video(folder / "films" / name / "front.mp4")
        write_video(folder / "films" / name / "wrist.mp4", (120, 160))
    report = migrate(folder / "old", folder / "new", img_shape=IMG, videos=folder / "films")
    assert report.failures == {}
    return open_dataset(folder / "new")


def libero_sample(root, suite, method, task, demo, views, start, horizon):
    """What the public LiberoDataset makes of one index, step by step, by its own paths."""
    task_file = root / "LIBERO" / "libero" / "datasets" / suite / f"{task}_demo.hdf5"
    tracks_file = root / "preprocessed_data" / suite / method / task_file.stem / f"demo_{demo}.hdf5"
    with h5py.File(task_file) as file:
        group = file[f"data/demo_{demo}"]
        size = group["obs/agentview_rgb"].shape[-3:-1]
        length = group["actions"].shape[0]
        images = np.stack([group[f"obs/{view}_rgb"][start] for view in views])
        actions = group["actions"][start : start + horizon]
    with h5py.File(tracks_file) as file:
        read = (lambda d: d[[start]]) if "reinit" in method else (lambda d: d[:, start : start + 4])
        tracks = np.concatenate([read(file[f"root/{view}/tracks"]) for view in views])
        vis = np.concatenate([read(file[f"root/{view}/vis"]) for view in views])
    images = np.flip(images.astype(np.float32) / 255.0, axis=-3)
    rc = tracks[:, :horizon][..., [1, 0]].astype(np.float32)
    for axis in (0, 1):
        rc[..., axis] = (rc[..., axis] - size[axis] / 2) / (size[axis] / 2)
    return size, length, images, actions, np.clip(rc, -1, 1), vis


def test_upstream_loads_as_the_public_loader_reads_it(migrated, tmp_path):
    demos = export_amplify(
        migrated, tmp_path / "out", text_embeddings={"open the drawer": np.arange(5.0)}
    )
    assert [(d.suite, d.task, d.number) for d in demos] == [
        (SUITE, "open_the_drawer", 0),
        (SUITE, "open_the_drawer", 1),
    ]
    views = ("front", "wrist")
    size, length, images, actions, traj, vis = libero_sample(
        tmp_path / "out", SUITE, "uniform_16_reinit_16", "open_the_drawer", 1, views, 7, 16
    )
    episode = migrated[demos[1].episode]
    assert (size, length, actions.shape) == (IMG, 24, (16, 0))
    for index, name in enumerate(views):
        view = episode.views[name]
        np.testing.assert_array_equal(images[index], view.frames[7] / np.float32(255.0))
        want = clip_traj(normalize_traj(swap_xy(np.asarray(view.tracks[7])), IMG))
        np.testing.assert_array_equal(traj[index], want)
        np.testing.assert_array_equal(vis[index], view.vis[7])
    with h5py.File(
        tmp_path / "out" / "preprocessed_data" / SUITE / "text" / "open_the_drawer.hdf5"
    ) as file:
        np.testing.assert_array_equal(file["text_emb"], np.arange(5, dtype=np.float32))
        assert file["text"][()] == b"open the drawer"
    listing = json.loads((tmp_path / "out" / "letterset.json").read_text())
    assert listing["episodes"][f"{SUITE}/open_the_drawer_demo/demo_1"] == demos[1].episode


def test_upstream_says_how_to_train_on_it(migrated, tmp_path):
    export_amplify(migrated, tmp_path / "out", views=["wrist"])
    text = (tmp_path / "out" / "cfg" / "letterset" / "dataset.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    config = yaml.safe_load(text)
    assert config["img_shape"] == config["loss"]["cls_img_size"] == [120, 160]
    assert config["loss"]["loss_weights"] == {"wrist": 1.0}
    assert config["cond_cameraviews"] == ["wrist"]
    assert (config["num_tracks"], config["true_horizon"]) == (16, 16)
    assert config["track_method"] == "uniform_16_reinit_16"
    assert config["train_datasets"] == [f"{SUITE}:traj1.0"]


def test_whole_episodes_with_actions(tmp_path):
    write_atm(tmp_path / "old" / "a.hdf5", shape=(96, 160))
    migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    dataset = open_dataset(tmp_path / "new")
    (demo,) = export_amplify(dataset, tmp_path / "out")
    _, length, _, actions, traj, _ = libero_sample(
        tmp_path / "out", SUITE, "uniform_16", demo.task, 0, ("agentview",), 3, 4
    )
    episode = dataset[demo.episode]
    assert length == 20
    np.testing.assert_array_equal(actions, episode.arrays["actions"][3:7])
    tracks = np.asarray(episode.views["agentview"].tracks)[:, 3:7]
    np.testing.assert_array_equal(traj, clip_traj(normalize_traj(swap_xy(tracks), IMG)))


def test_attrs_read_back_as_older_files(tmp_path):
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), [Sample("a/b-1"), Sample("a/b-2")])
    dataset = open_dataset(tmp_path / "ds")
    demos = export_amplify(dataset, tmp_path / "out", "attrs")
    older = open_legacy(tmp_path / "out", dataset.meta.img_shape)
    assert older.notes == ()
    assert len(older) == 2
    for demo, episode in zip(demos, older, strict=True):
        for name, view in episode.views.items():
            mine = dataset[demo.episode].views[name]
            np.testing.assert_array_equal(view.tracks[:], mine.tracks[:])
            np.testing.assert_array_equal(view.vis, mine.vis)
            assert view.geometry.source_shape == dataset.meta.img_shape
    assert not (tmp_path / "out" / "LIBERO").exists()


def test_other_point_orders_are_brought_to_amplifys(tmp_path):
    queries = QuerySpec(grid=QUERIES.grid, order="columns_fastest")
    sample, store = Sample("a-1"), Hdf5Store(tmp_path / "ds")
    with Catalog.create(tmp_path / "ds", sample_meta(queries=queries)) as catalog:
        catalog.add(index_line(sample.build(store)))
    dataset = open_dataset(tmp_path / "ds")
    export_amplify(dataset, tmp_path / "out", "attrs")
    (episode,) = open_legacy(tmp_path / "out", dataset.meta.img_shape)
    mine = np.asarray(dataset["a-1"].views["front"].tracks)
    got = episode.views["front"].tracks[:]
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(got[:, :, column * 2 + row], mine[:, :, row * 3 + column])


def test_more_than_fifty_demos_go_on_in_another_suite(tmp_path):
    samples = [Sample(f"e-{i:03}") for i in range(DEMOS_PER_TASK + 2)]
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), samples)
    demos = export_amplify(open_dataset(tmp_path / "ds"), tmp_path / "out", "attrs")
    assert [(d.suite, d.number) for d in demos[-3:]] == [
        (SUITE, 49),
        (f"{SUITE}_2", 0),
        (f"{SUITE}_2", 1),
    ]
    assert {d.task for d in demos} == {"pick_up_the_bowl"}
    listed = yaml.safe_load((tmp_path / "out" / "cfg" / "letterset" / "dataset.yaml").read_text())
    assert listed["train_datasets"] == [f"{SUITE}:traj1.0", f"{SUITE}_2:traj1.0"]


def test_what_it_cannot_hold_is_refused_by_name_and_nothing_is_left(migrated, tmp_path):
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), [Sample("a-1")])
    with pytest.raises(ConfigError, match=r"query grid of \(2, 3\)"):
        export_amplify(open_dataset(tmp_path / "ds"), tmp_path / "out")
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": IMG})
    migrate(tmp_path / "old", tmp_path / "new")
    with pytest.raises(ConfigError, match="view front: no frames are stored"):
        export_amplify(open_dataset(tmp_path / "new"), tmp_path / "out")
    with pytest.raises(ConfigError, match="without view 'top'"):
        export_amplify(migrated, tmp_path / "out", views=["front", "top"])
    with pytest.raises(ConfigError, match="contains 'libero'"):
        export_amplify(migrated, tmp_path / "out", suite="mine")
    sparse = sample_meta(start_every=2)
    with Catalog.create(tmp_path / "sparse", sparse) as catalog:
        catalog.add(index_line(Sample("a-1").build(Hdf5Store(tmp_path / "sparse"))))
    with pytest.raises(ConfigError, match="start_every 2"):
        export_amplify(open_dataset(tmp_path / "sparse"), tmp_path / "out", "attrs")
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_amplify(migrated, tmp_path / "there")
    path = next((tmp_path / "ds" / "episodes").rglob("*.hdf5"))
    dataset = open_dataset(tmp_path / "ds", max_open=1)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DatasetError):
        export_amplify(dataset, tmp_path / "out", "attrs")
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"ds", "old", "new", "sparse", "there"}
