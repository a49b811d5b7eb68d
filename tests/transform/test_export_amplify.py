"""AMPLIFY's layouts, read back the way its public loader reads them."""

import json
import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import yaml
from legacy_fixtures import write_amplify, write_atm, write_video
from real_writers import TEXT_EMB_SHAPE
from source_fixtures import write_libero

from builder.cli import main
from builder.core.errors import ConfigError, DatasetError
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.legacy.dataset import open_legacy
from builder.dataset.opening import open_dataset
from builder.dataset.splits import Splits, write_splits
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing import samples
from builder.testing.samples import QUERIES, Sample, sample_dataset, sample_meta
from builder.training.normalize import clip_traj, normalize_traj
from builder.transform.embed import embed
from builder.transform.export.amplify import WEIGHTED, export_amplify
from builder.transform.export.amplify_plan import DEMOS_PER_TASK, plan_demos
from builder.transform.migrate import migrate
from schemas import QuerySpec, swap_xy

IMG = (120, 160)
SUITE = "libero_letterset"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """Two demos of one task and one of another, two views, 4 x 4 points, 16 steps."""
    folder = tmp_path_factory.mktemp("migrated")
    rng = np.random.default_rng(0)
    for name in (
        "open_the_drawer_demo/demo_0",
        "open_the_drawer_demo/demo_1",
        "KITCHEN_SCENE10_close_the_lid_demo/demo_0",
    ):
        views = {"front": (480, 853), "wrist": (480, 640)}
        write_amplify(folder / "old" / f"{name}.hdf5", views)
        with h5py.File(folder / "old" / f"{name}.hdf5", "r+") as file:
            for array, width in (("actions", 7), ("joint_states", 7), ("gripper_states", 2)):
                file[f"root/{array}"] = rng.normal(size=(24, width))
        write_video(folder / "films" / name / "front.mp4")
        write_video(folder / "films" / name / "wrist.mp4", (120, 160))
    report = migrate(folder / "old", folder / "new", img_shape=IMG, videos=folder / "films")
    assert report.failures == {}
    return open_dataset(folder / "new")


class PublicLoader:
    """Reads a tree by the rules of AMPLIFY's public LiberoDataset, and by nothing else.

    It is told what is in the Hydra override.  ``touched`` are the files it found by itself.
    """

    def __init__(self, root):
        self.root, self.touched = root, set()
        path = root / "cfg" / "letterset" / "dataset.yaml"
        assert path.read_text().startswith("# @package _global_\n")
        self.config = yaml.safe_load(path.read_text())
        self.entries = [
            entry for named in self.config["train_datasets"] for entry in self.entries_of(named)
        ]
        task_file, demo, *_ = self.entries[0]
        with h5py.File(task_file) as file:
            self.size = file[f"data/demo_{demo}/obs/agentview_rgb"].shape[-3:-1]

    def entries_of(self, named):
        suite, *modalities = named.split(":")
        assert "libero" in suite
        (fraction,) = (float(part.split("traj")[1]) for part in modalities)
        last = int(50 * abs(fraction))
        demos = range(last) if fraction >= 0 else range(50 - last, 50)
        tasks = list((self.root / "LIBERO/libero/datasets" / suite).glob("*.hdf5"))
        assert tasks
        tracks = self.root / "preprocessed_data" / suite / self.config["track_method"]
        for task_file in tasks:
            for demo in demos:
                track_file = tracks / task_file.stem / f"demo_{demo}.hdf5"
                if track_file.exists():
                    with h5py.File(task_file) as file:
                        length = file[f"data/demo_{demo}"]["actions"].shape[0]
                    self.touched |= {task_file, track_file}
                    yield from ((task_file, demo, track_file, t, length) for t in range(length))

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        task_file, demo, track_file, start, length = self.entries[index]
        end = min(start + self.config["true_horizon"], length)
        views, horizon = self.config["cond_cameraviews"], self.config["true_horizon"]
        with h5py.File(task_file) as file:
            group = file[f"data/demo_{demo}"]
            images = np.stack([group[f"obs/{view}_rgb"][start] for view in views])
            actions = group["actions"][start:end].astype(np.float32)
            states = [group[f"obs/{name}_states"][start] for name in ("joint", "gripper")]
        assert images.ndim == 4
        assert actions.ndim == 2
        assert "reinit" in self.config["track_method"]
        with h5py.File(track_file) as file:
            tracks, vis = (
                np.concatenate([file[f"root/{view}/{key}"][[start]] for view in views])
                for key in ("tracks", "vis")
            )
        rc = tracks[:, :horizon][..., [1, 0]].astype(np.float32)
        assert np.isfinite(rc).all()
        for axis in (0, 1):
            rc[..., axis] = (rc[..., axis] - self.size[axis] / 2) / (self.size[axis] / 2)
        return {
            "images": np.flip(images.astype(np.float32) / 255.0, axis=-3),
            "actions": np.pad(actions, ((0, horizon - len(actions)), (0, 0))),
            "proprioception": np.concatenate(states).astype(np.float32),
            "traj": np.clip(rc, -1, 1),
            "vis": vis[..., None],
            "text": self.language(task_file.stem.replace("_demo", ".bddl")),
            "text_emb": self.embedding(task_file),
            "at": (track_file.relative_to(self.root / "preprocessed_data"), start),
        }

    def language(self, name):
        if name[0].isupper():
            name = name[name.find("SCENE") + (8 if "SCENE10" in name else 7) :]
        words = " ".join(name.split("_"))
        return words[: words.find(".bddl")]

    def embedding(self, task_file):
        task = task_file.stem.replace("_demo", "")
        folder = self.root / "preprocessed_data" / task_file.parent.name / "text"
        self.touched.add(folder / f"{task}.hdf5")
        with h5py.File(folder / f"{task}.hdf5") as file:
            return file["text_emb"][()]


EMBEDDINGS = {
    "open the drawer": np.arange(5.0),
    "KITCHEN SCENE10 close the lid": np.arange(5.0) + 1,
}


def test_upstream_is_what_the_public_loader_reads(migrated, tmp_path):
    out = tmp_path / "out"
    demos = export_amplify(migrated, out, text_embeddings=EMBEDDINGS)
    loader = PublicLoader(out)
    samples = [loader[index] for index in range(len(loader))]
    assert len(samples) == sum(episode.meta.length for episode in migrated) == 3 * 24
    batch = {key: np.stack([s[key] for s in samples]) for key in samples[0] if key != "at"}
    assert loader.size == IMG
    assert {key: value.shape[1:] for key, value in batch.items()} == {
        "images": (2, *IMG, 3),
        "actions": (16, 7),
        "proprioception": (9,),
        "traj": (2, 16, 16, 2),
        "vis": (2, 16, 16, 1),
        "text": (),
        "text_emb": (1, 5),
    }
    assert {key: str(batch[key].dtype) for key in ("traj", "vis", "text_emb")} == dict.fromkeys(
        ("traj", "vis", "text_emb"), "float32"
    )
    assert {*batch["text"]} == {"open the drawer", "close the lid"}
    episodes = {(d.suite, d.task, d.number): migrated[d.episode] for d in demos}
    for sample in samples:
        (suite, method, task, name), start = sample["at"][0].parts, sample["at"][1]
        assert method == "uniform_16_reinit_16"
        number = int(name.removeprefix("demo_").removesuffix(".hdf5"))
        episode = episodes[suite, task.removesuffix("_demo"), number]
        for index, view in enumerate(episode.views.values()):
            want = clip_traj(normalize_traj(swap_xy(np.asarray(view.tracks[start])), IMG))
            np.testing.assert_array_equal(sample["traj"][index], want)
            np.testing.assert_array_equal(sample["vis"][index, ..., 0], view.vis[start])
            picture = view.frames[start] / np.float32(255.0)
            np.testing.assert_array_equal(sample["images"][index], picture)
        left = episode.arrays["actions"][start : start + 16].astype(np.float32)
        np.testing.assert_array_equal(sample["actions"][: len(left)], left)
        assert not sample["actions"][len(left) :].any()
        states = [episode.arrays[f"{name}_states"][start] for name in ("joint", "gripper")]
        states = np.concatenate(states).astype(np.float32)
        np.testing.assert_array_equal(sample["proprioception"], states)
    beside = {out / "letterset.json", out / "cfg" / "letterset" / "dataset.yaml"}
    assert {p for p in out.rglob("*") if p.is_file()} == loader.touched | beside
    listing = json.loads((out / "letterset.json").read_text())
    first = demos[0]
    assert listing["episodes"][f"{first.suite}/{first.task}_demo/demo_{first.number}"] == (
        first.episode
    )


def letters(text):
    """An encoder."""
    return np.full(3, len(text), np.float32)


def test_embeddings_come_from_the_layer_that_embed_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "QUERIES", QuerySpec(grid=(2, 2)))
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), [Sample("a-1")])
    embed(tmp_path / "ds", "test_export_amplify:letters")
    export_amplify(open_dataset(tmp_path / "ds"), tmp_path / "out")
    text = tmp_path / "out" / "preprocessed_data" / SUITE / "text" / "pick_up_the_bowl.hdf5"
    with h5py.File(text) as file:
        np.testing.assert_array_equal(file["text_emb"], letters("pick up the bowl")[None])
        assert file["text"][()] == b"pick up the bowl"


def test_upstream_says_how_to_train_on_it(migrated, tmp_path):
    export_amplify(migrated, tmp_path / "out", views=["wrist"])
    text = (tmp_path / "out" / "cfg" / "letterset" / "dataset.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    config = yaml.safe_load(text)
    assert config["img_shape"] == config["loss"]["cls_img_size"] == [120, 160]
    assert config["loss"]["loss_weights"] == {"wrist": 1.0}
    assert "val_datasets" not in config
    assert config["cond_cameraviews"] == ["wrist"]
    assert (config["num_tracks"], config["true_horizon"]) == (16, 16)
    assert config["track_method"] == "uniform_16_reinit_16"
    assert config["train_datasets"] == [f"{SUITE}:traj1.0"]


def test_whole_episodes_fit_into_track_files_only(tmp_path):
    write_atm(tmp_path / "old" / "a.hdf5", shape=(96, 160))
    migrate(tmp_path / "old", tmp_path / "new", img_shape=IMG)
    dataset = open_dataset(tmp_path / "new")
    with pytest.raises(ConfigError, match="whole-episode tracks: AMPLIFY cuts shorter windows"):
        export_amplify(dataset, tmp_path / "out")
    (demo,) = export_amplify(dataset, tmp_path / "out", "attrs")
    tracks = tmp_path / "out" / "preprocessed_data" / SUITE / "uniform_16" / f"{demo.task}_demo"
    with h5py.File(tracks / "demo_0.hdf5") as file:
        stored = file["root/agentview/tracks"][:, 3:7]
    mine = np.asarray(dataset[demo.episode].views["agentview"].tracks)
    np.testing.assert_array_equal(stored, mine[:, 3:7])


def test_different_tasks_stay_different_and_readable(tmp_path):
    texts = [
        "Pick up the bowl!",
        "pick up  the bowl",
        "抓住碗",
        "打开抽屉",
        "pick-up/the:bowl",
        "KITCHEN_SCENE10_close_the_lid",
        "KITCHEN_SCENE12_close_the_lid",
        "word " * 80 + "one",
        "word " * 80 + "two",
    ]
    demos = plan_demos(Named(texts), SUITE)
    assert [demo.task for demo in demos[:7]] == [
        "pick_up_the_bowl",
        "pick_up_the_bowl",
        "抓住碗",
        "打开抽屉",
        "pick_up_the_bowl",
        "KITCHEN_SCENE10_close_the_lid",
        "kitchen_scene12_close_the_lid",
    ]
    assert [demo.number for demo in demos[:7]] == [0, 1, 0, 0, 2, 0, 0]
    assert len({demo.task for demo in demos}) == 7
    with pytest.raises(ConfigError, match="AMPLIFY cuts '_demo' out of file names"):
        plan_demos(Named(["watch the demonstration"]), SUITE)
    for suite in ("mine", "libero:mine", "libero/mine"):
        with pytest.raises(ConfigError, match="contains 'libero'"):
            plan_demos(Named(["a"]), suite)


class Placed:
    """A dataset as far as planning looks: an episode per path of a source, all of one task."""

    def __init__(self, paths):
        self.ids = tuple(sorted(paths))

    def __getitem__(self, key):
        source = SimpleNamespace(path=key)
        return SimpleNamespace(meta=SimpleNamespace(task="lift", text=None, source=source))


@pytest.mark.parametrize("form", ["x_demo.hdf5/demo_{}", "s/x_demo/demo_{}.hdf5", "demo_{}.mp4"])
def test_demos_keep_their_numbers(form):
    numbers = [0, 1, 2, 3, 9, 10, 11, 20, 49]
    demos = plan_demos(Placed([form.format(number) for number in numbers]), SUITE)
    assert [(demo.episode, demo.number) for demo in demos] == [
        (form.format(number), number) for number in numbers
    ]
    assert {(demo.suite, demo.moved) for demo in demos} == {(SUITE, False)}


def test_what_has_no_number_keeps_its_order():
    paths = [f"clips/take {number}.mp4" for number in (3, 1, 20, 100, 10)]
    demos = plan_demos(Placed(paths), SUITE)
    assert [(demo.episode[11:-4], demo.number) for demo in demos] == [
        ("1", 0),
        ("3", 1),
        ("10", 2),
        ("20", 3),
        ("100", 4),
    ]
    mixed = plan_demos(Placed(["a.mp4", "b.mp4", "demo_1.mp4"]), SUITE)
    assert {demo.episode: demo.number for demo in mixed} == {
        "a.mp4": 0,
        "b.mp4": 2,
        "demo_1.mp4": 1,
    }
    assert not any(demo.moved for demo in mixed)


def test_what_cannot_keep_its_number_is_told(tmp_path):
    demos = plan_demos(Placed(["f/demo_120", "f/demo_3", "g/demo_3", "f/demo_49"]), SUITE)
    found = {demo.episode: (demo.suite, demo.number, demo.moved) for demo in demos}
    assert found == {
        "f/demo_3": (SUITE, 3, False),
        "f/demo_49": (SUITE, 49, False),
        "f/demo_120": (f"{SUITE}_3", 20, True),
        "g/demo_3": (f"{SUITE}_2", 3, True),
    }
    numbered = [Sample("demo_3"), Sample("demo_70")]
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), numbered)
    notes = []
    export_amplify(open_dataset(tmp_path / "ds"), tmp_path / "out", "attrs", notes=notes)
    (note,) = notes
    assert "1 episode could not keep the number of the source" in note
    assert f"demo_70 is {SUITE}_2/pick_up_the_bowl_demo/demo_20" in note


def test_libero_files_and_tracks_of_a_build_are_of_the_same_demos(tmp_path, inline_executor):
    """LIBERO's own files with our tracks show the demos that were tracked."""
    write_libero(tmp_path / "libero")
    argv = ["build", "--source", str(tmp_path / "libero"), "--out", str(tmp_path / "ds")]
    argv += ["--img-shape", "24", "32", "source.kind=libero", "executor.kind=inline"]
    assert main([*argv, "tracker.kind=lk", "tracker.horizon=4", "queries.grid=[2,2]"]) == 0
    assert main(["export", str(tmp_path / "ds"), str(tmp_path / "out"), "--to", "amplify"]) == 0
    files = [*(tmp_path / "libero").rglob("*.hdf5")]
    assert len(files) == 2
    for original in files:
        (exported,) = (tmp_path / "out" / "LIBERO").rglob(original.name)
        with h5py.File(original) as theirs, h5py.File(exported) as ours:
            assert {*ours["data"]} == {*theirs["data"]} == {"demo_0", "demo_1", "demo_10"}
            for name, demo in theirs["data"].items():
                want = demo["obs/joint_states"]
                np.testing.assert_array_equal(ours[f"data/{name}/obs/joint_states"], want)


def test_a_split_becomes_two_suites(migrated, tmp_path, capsys):
    held_out = migrated.ids[1]
    parts = {"train": [migrated.ids[0], migrated.ids[2]], "val": [held_out]}
    splits = Splits.model_validate({"splits": parts})
    write_splits(migrated.path, "default", splits)
    argv = ["export", str(migrated.path), str(tmp_path / "out"), "--to", "amplify"]
    assert main([*argv, "--split", "train:val"]) == 0
    loader = PublicLoader(tmp_path / "out")
    assert loader.config["train_datasets"] == [f"{SUITE}:traj1.0"]
    assert loader.config["val_datasets"] == [f"{SUITE}_val:traj1.0"]
    shown = {entry[2] for entry in loader.entries}
    held = {entry[2] for entry in loader.entries_of(loader.config["val_datasets"][0])}
    listing = json.loads((tmp_path / "out" / "letterset.json").read_text())["episodes"]

    def episodes(files):
        root = tmp_path / "out" / "preprocessed_data"
        places = [path.relative_to(root).with_suffix("").parts for path in files]
        return {listing[f"{suite}/{task}/{demo}"] for suite, _, task, demo in places}

    assert episodes(shown) == {*parts["train"]}
    assert episodes(held) == {held_out}
    out = str(tmp_path / "other")
    for split, wrong in [
        ("train", "expected two parts of a split, such as train:val, got 'train'"),
        ("train:test", "splits 'default' have no 'test'"),
        ("train:train", "share 2 of their episodes"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(wrong)):
            export_amplify(migrated, out, split=split)
    argv = ["export", str(migrated.path), out, "--to", "tapvid", "--split", "train:val"]
    assert main(argv) == 2
    assert "--split is for amplify" in capsys.readouterr().err


def test_known_views_keep_amplifys_own_weights(tmp_path):
    """The override, merged with AMPLIFY's configuration, changes no weight of a view it knows."""
    own = {"agentview": 0.9, "eye_in_hand": 0.1, "all": 1.0, "corner": 1.0, "corner2": 1.0}
    own |= {"front": 1.0}
    assert set(own) == WEIGHTED
    write_amplify(tmp_path / "old" / "a.hdf5", {"agentview": IMG, "eye_in_hand": IMG})
    migrate(tmp_path / "old", tmp_path / "new")
    export_amplify(open_dataset(tmp_path / "new"), tmp_path / "out", "attrs")
    text = (tmp_path / "out" / "cfg" / "letterset" / "dataset.yaml").read_text()
    loss = yaml.safe_load(text)["loss"]
    assert own | loss.get("loss_weights", {}) == own


def test_a_canvas_higher_than_wide_is_noted(tmp_path, capsys):
    for name, shape in (("high", (160, 120)), ("wide", (120, 160))):
        write_amplify(tmp_path / "old" / name / "a.hdf5", {"front": shape})
        migrate(tmp_path / "old" / name, tmp_path / name)
        argv = ["export", str(tmp_path / name), str(tmp_path / f"{name}_out")]
        assert main([*argv, "--to", "amplify-attrs"]) == 0
    said = capsys.readouterr().out
    assert said.count("is higher than wide: AMPLIFY's vis_pred limits columns") == 1
    assert "note: img_shape [160, 120]" in said


@pytest.mark.parametrize("shape", [(512,), (1, 512), (32, 512), (1, 768)])
def test_text_files_are_as_amplify_writes_them(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(samples, "QUERIES", QuerySpec(grid=(2, 2)))
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), [Sample("a-1")])
    given = np.random.default_rng(0).normal(size=shape)
    notes = []
    export_amplify(
        open_dataset(tmp_path / "ds"),
        tmp_path / "out",
        text_embeddings={"pick up the bowl": given},
        notes=notes,
    )
    text = tmp_path / "out" / "preprocessed_data" / SUITE / "text" / "pick_up_the_bowl.hdf5"
    with h5py.File(text) as file:
        assert {*file} == {"text_emb", "text"}
        assert file["text_emb"].dtype == np.float32
        stored = file["text_emb"][()]
    np.testing.assert_array_equal(stored, np.atleast_2d(given).astype(np.float32))
    # As a batch it is joined with tokens of pictures, (B, tokens, width).
    assert np.stack([stored, stored]).ndim == 3
    assert (stored.shape == TEXT_EMB_SHAPE) == (notes == [])


class Named:
    """A dataset as far as planning looks: an episode per text."""

    def __init__(self, texts):
        self.texts = dict(zip(map(str, range(len(texts))), texts, strict=True))
        self.ids = tuple(self.texts)

    def __getitem__(self, key):
        meta = SimpleNamespace(
            task=None, text=self.texts[key], source=SimpleNamespace(path=f"{key}.mp4")
        )
        return SimpleNamespace(meta=meta)


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
    with DatasetWriter.create(tmp_path / "ds", sample_meta(queries=queries)) as catalog:
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
    episodes = [Sample(f"e-{i:03}") for i in range(DEMOS_PER_TASK + 2)]
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), episodes)
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
    with DatasetWriter.create(tmp_path / "sparse", sparse) as catalog:
        catalog.add(index_line(Sample("a-1").build(Hdf5Store(tmp_path / "sparse"))))
    with pytest.raises(ConfigError, match="start_every 2"):
        export_amplify(open_dataset(tmp_path / "sparse"), tmp_path / "out", "attrs")
    few, store = Sample("a-1"), Hdf5Store(tmp_path / "few")
    few.arrays[None, "actions"] = few.arrays[None, "actions"][:5]
    sample_dataset(tmp_path / "few", store, [few])
    with pytest.raises(ConfigError, match="5 actions for 7 frames"):
        export_amplify(open_dataset(tmp_path / "few"), tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_amplify(migrated, tmp_path / "there")
    path = next((tmp_path / "ds" / "episodes").rglob("*.hdf5"))
    dataset = open_dataset(tmp_path / "ds", max_open=1)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DatasetError):
        export_amplify(dataset, tmp_path / "out", "attrs")
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"ds", "old", "new", "sparse", "few", "there"}
