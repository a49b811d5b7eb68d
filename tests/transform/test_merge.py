"""Convert, merge and subset: nothing is lost, nothing is computed again."""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from builder.build.config_file import read_overrides
from builder.cli import main
from builder.core.errors import ConfigError, OutputError
from builder.dataset.folder import DatasetWriter, read_failures, read_index
from builder.dataset.opening import open_dataset
from builder.dataset.splits import Splits, read_splits, write_splits
from builder.dataset.validate import validate
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.testing.samples import Sample, sample_dataset, sample_meta
from builder.transform.convert import convert
from builder.transform.merge import carry_along, merge, select, subset
from schemas.dataset import FailureLine, QuerySpec

IDS = ("a/1", "b")


def make(folder: Path, store=Hdf5Store, ids=IDS, **options) -> Path:
    samples = [Sample(key, seed=len(key), length=4 + i, **options) for i, key in enumerate(ids)]
    sample_dataset(folder, store(folder), samples)
    return folder


def digests(folder):
    return {key: line.digest for key, line in open_dataset(folder).index.items()}


def arrays(folder):
    for episode in open_dataset(folder):
        for name, array in episode.arrays.items():
            yield (episode.id, name), np.asarray(array)
        for view in episode.views.values():
            for name in view.meta.arrays:
                yield (episode.id, view.name, name), np.asarray(view.array(name))


def same_arrays(one, other):
    first, second = dict(arrays(one)), dict(arrays(other))
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key], err_msg=str(key))


@pytest.mark.parametrize(("codec", "module"), [("raw", "numpy"), ("jpeg", "cv2")])
def test_there_and_back_between_stores_is_the_same_dataset(tmp_path, codec, module):
    pytest.importorskip(module)
    start = make(tmp_path / "hdf5", codec=codec, track_codec="u16")
    assert main(["convert", str(start), str(tmp_path / "zarr"), "kind=zarr"]) == 0
    assert isinstance(open_dataset(tmp_path / "zarr").store, ZarrStore)
    assert digests(tmp_path / "zarr") == digests(start)
    assert validate(tmp_path / "zarr", deep=True) == []
    assert main(["convert", str(tmp_path / "zarr"), str(tmp_path / "back"), "store.kind=hdf5"]) == 0
    assert (tmp_path / "back/dataset.json").read_bytes() == (start / "dataset.json").read_bytes()
    assert digests(tmp_path / "back") == digests(start)
    assert validate(tmp_path / "back", deep=True) == []


def test_lossless_codecs_keep_every_number(tmp_path):
    pytest.importorskip("hdf5plugin")
    start = make(tmp_path / "raw")
    done = convert(start, tmp_path / "lz4", {"frames": {"codec": "lz4"}})
    assert (done.episodes, done.errors, done.failures) == (2, {}, {})
    same_arrays(start, tmp_path / "lz4")
    meta = open_dataset(tmp_path / "lz4").meta
    assert meta.config["store"]["frames"]["codec"] == "lz4"
    assert validate(tmp_path / "lz4", deep=True) == []
    assert convert(start, tmp_path / "lz4", {"frames": {"codec": "lz4"}}).there == 2


def test_lossy_codecs_tell_their_error(tmp_path, capsys):
    pytest.importorskip("cv2")
    start = make(tmp_path / "raw")
    argv = ["convert", str(start), str(tmp_path / "out"), "frames.codec=jpeg", "tracks.dtype=u16"]
    assert main([*argv, "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert 0 < errors["tracks"] <= 1 / 128
    assert 0 < errors["frames"] <= 16
    assert validate(tmp_path / "out", deep=True) == []
    # Encoding anew is done only when another quality is asked for.
    for settings, kept in (({"codec": "jpeg"}, True), ({"codec": "jpeg", "quality": 40}, False)):
        again = tmp_path / f"again{kept}"
        convert(tmp_path / "out", again, {"frames": settings})
        assert (digests(again) == digests(tmp_path / "out")) == kept


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_fixed_point_tracks_can_be_unpacked(tmp_path, kind):
    start = make(tmp_path / "u16", track_codec="u16")
    done = convert(start, tmp_path / "f32", {"kind": kind, "tracks": {"dtype": "f32"}})
    assert (done.episodes, done.errors, done.failures) == (2, {}, {})
    assert validate(tmp_path / "f32", deep=True) == []
    for (key, old), (_, new) in zip(arrays(start), arrays(tmp_path / "f32"), strict=True):
        steps = np.s_[:, 1:] if key[-1] == "tracks" else np.s_[...]
        np.testing.assert_array_equal(new[steps], old[steps], err_msg=str(key))
    convert(tmp_path / "f32", tmp_path / "again", {"kind": "hdf5", "tracks": {"dtype": "u16"}})
    assert digests(tmp_path / "again") == digests(start)


def test_damage_is_not_given_a_new_digest(tmp_path):
    start = make(tmp_path / "in", ids=("a",))
    path = Hdf5Store(start).path("a")
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        data[file["root/front/vis"].id.get_offset()] ^= 1
    path.write_bytes(data)
    done = convert(start, tmp_path / "out", {"kind": "zarr"})
    assert done.episodes == 0
    assert done.failures["a"].startswith(f"{path} is damaged: front/vis: its bytes changed")
    assert not ZarrStore(tmp_path / "out").has("a")


def test_frames_can_be_left_out_but_not_made_up(tmp_path):
    start = make(tmp_path / "raw")
    done = convert(start, tmp_path / "bare", {"frames": {"codec": "none"}})
    assert done.episodes == 2
    assert open_dataset(tmp_path / "bare")["b"].views["front"].frames is None
    assert validate(tmp_path / "bare") == []
    done = convert(tmp_path / "bare", tmp_path / "full", {"frames": {"codec": "raw"}})
    assert done.episodes == 0
    assert "no frames of ['front', 'wrist']" in done.failures["b"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["frames.codec=zip"], "store.frames.codec"),
        (["frames=3"], "store.frames"),
        (["kind=tape"], "unknown store kind 'tape'"),
        (["colour=blue"], "store.colour: unknown key"),
        (["kind"], "key=value"),
    ],
)
def test_impossible_conversions(tmp_path, settings, says):
    start = make(tmp_path / "in")
    with pytest.raises(ConfigError, match=says):
        convert(start, tmp_path / "out", read_overrides(settings))
    with pytest.raises(ConfigError, match="another folder"):
        convert(start, start, {"kind": "zarr"})


def test_conversion_goes_on_where_it_was_killed(tmp_path):
    start = make(tmp_path / "in")
    convert(start, tmp_path / "out", {"kind": "zarr"})
    listed = tmp_path / "out" / "index" / "main.jsonl"
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:1]))
    done = convert(start, tmp_path / "out", {"kind": "zarr"})
    assert (done.episodes, done.there) == (1, 1)
    assert validate(tmp_path / "out") == []


def with_belongings(folder: Path, names: dict[str, list[str]], failed: str) -> None:
    write_splits(folder, "mine", Splits(splits=names))
    with DatasetWriter.create(folder, open_dataset(folder).meta) as catalog:
        catalog.fail(FailureLine(id=failed, path=f"{failed}.mp4", stage="open", reason="cut"))


@pytest.mark.parametrize("store", [Hdf5Store, ZarrStore])
def test_merge_links_episodes_and_brings_their_belongings(tmp_path, capsys, store):
    one, two = make(tmp_path / "one", store), make(tmp_path / "two", store, ids=("b2", "c"))
    with_belongings(one, {"train": ["a/1"], "test": ["b"]}, "broken")
    with_belongings(two, {"train": ["b2"], "extra": ["c"]}, "torn")
    out = tmp_path / "out"
    for there in (0, 4):
        assert main(["merge", str(one), str(two), str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["there"] == there
    assert digests(out) == {**digests(one), **digests(two)}
    assert validate(out, deep=True) == []
    assert [*read_failures(out)] == ["broken", "torn"]
    splits = read_splits(out, "mine").splits
    assert splits == {"train": ("a/1", "b2"), "test": ("b",), "extra": ("c",)}
    linked = next(p for p in (out / store.place / "a").rglob("*") if p.is_file())
    assert linked.stat().st_nlink == 2


@pytest.mark.parametrize("store", [Hdf5Store, ZarrStore])
def test_episodes_behind_links_are_taken_over(tmp_path, store):
    start = make(tmp_path / "in", store, ids=("a", "b"))
    path = store(start).path("a")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(Path(os.path.relpath(tmp_path / "elsewhere", path.parent)))
    subset(start, tmp_path / "deeper" / "down" / "out", ["*"])
    assert validate(tmp_path / "deeper" / "down" / "out") == []
    assert not store(tmp_path / "deeper" / "down" / "out").path("a").is_symlink()


def test_merge_copies_where_links_are_unknown(tmp_path, monkeypatch):
    one, two = make(tmp_path / "one"), make(tmp_path / "two", ids=("c",))

    def refuse(*names, **folders):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    assert merge([one, two], tmp_path / "out").episodes == 3
    assert validate(tmp_path / "out") == []
    assert (tmp_path / "out/episodes/b.hdf5").stat().st_nlink == 1


def test_merge_refuses_what_does_not_fit(tmp_path):
    one = make(tmp_path / "one")
    same, other = make(tmp_path / "same"), tmp_path / "other"
    assert merge([one, same], tmp_path / "out").episodes == 2
    changed = sample_meta(queries=QuerySpec(grid=(3, 2)), start_every=2)
    DatasetWriter.create(other, changed).close()
    with pytest.raises(ConfigError, match=r"queries.grid is \[2, 3\] there and \[3, 2\] here"):
        merge([one, other], tmp_path / "no")
    different = tmp_path / "different"
    sample_dataset(different, Hdf5Store(different), [Sample("b", seed=9)])
    with pytest.raises(ConfigError, match=r"episode b is in .*one and in .*different"):
        merge([one, different], tmp_path / "no")
    with pytest.raises(ConfigError, match="convert first"):
        merge([one, make(tmp_path / "zarr", ZarrStore)], tmp_path / "no")
    with pytest.raises(ConfigError, match="two datasets"):
        merge([one], tmp_path / "no")
    with pytest.raises(ConfigError, match="one of the datasets"):
        merge([one, same], one)
    assert not (tmp_path / "no").exists()


def test_merge_keeps_both_configs(tmp_path):
    one, two = make(tmp_path / "one"), tmp_path / "two"
    DatasetWriter.create(two, sample_meta(config={"source": {"kind": "other"}})).close()
    merge([one, two], tmp_path / "out")
    kinds = [
        each["source"]["kind"] for each in open_dataset(tmp_path / "out").meta.config["merged"]
    ]
    assert sorted(kinds) == ["other", "sample"]


def test_a_damaged_episode_is_not_taken_over(tmp_path):
    one, two = make(tmp_path / "one"), make(tmp_path / "two", ids=("c",))
    Sample("b", seed=77).build(Hdf5Store(one), replace=True)
    done = merge([one, two], tmp_path / "out")
    assert (done.episodes, done.exit_code, [*done.failures]) == (2, 1, ["b"])
    assert "'b' is not the one that is listed in the index" in done.failures["b"]
    assert not Hdf5Store(tmp_path / "out").has("b")


def test_subset(tmp_path, capsys):
    start = make(tmp_path / "in", ids=("a/1", "a/2", "b"))
    with_belongings(start, {"train": ["a/1", "b"]}, "broken")
    assert main(["subset", str(start), str(tmp_path / "out"), "--id", "a/*"]) == 0
    assert "2 episodes taken" in capsys.readouterr().out
    assert [*digests(tmp_path / "out")] == ["a/1", "a/2"]
    assert validate(tmp_path / "out") == []
    assert read_splits(tmp_path / "out", "mine").splits == {"train": ("a/1",)}
    dataset = open_dataset(start)
    for where, expected in (
        ("length > 4", ["a/2", "b"]),
        ("length > 4 and id != 'b'", ["a/2"]),
        ("text == 'pick up the bowl' and views in [1, 2]", ["a/1", "a/2", "b"]),
        ("task == 'none'", []),
    ):
        assert select(dataset, (), where) == expected
    with pytest.raises(ConfigError, match="none of 3 episodes"):
        subset(start, tmp_path / "no", ["x*"])
    assert main(["subset", str(start), str(tmp_path / "no")]) == 2


def test_a_folder_of_other_episodes_is_not_added_to(tmp_path):
    start, out = make(tmp_path / "in"), tmp_path / "out"
    others = [make(tmp_path / name, ids=(name,)) for name in ("c", "d")]
    subset(start, out, ["b"])
    for again in (partial(subset, start, out, ["a/*"]), partial(merge, others, out)):
        with pytest.raises(ConfigError, match="not chosen now, such as b: choose another output"):
            again()
    assert [*digests(tmp_path / "out")] == ["b"]
    assert subset(start, tmp_path / "out", ["b"]).there == 1
    assert subset(start, tmp_path / "out").episodes == 1  # as after an interruption


def test_no_episode_gets_into_train_and_val_by_a_merge(tmp_path):
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    write_splits(one, "x", Splits(splits={"train": ("a/1", "b")}))
    write_splits(two, "x", Splits(splits={"train": ("a/1",), "val": ("b",)}))
    write_splits(one, "y", Splits(splits={"train": ("b",)}))
    write_splits(two, "y", Splits(splits={"train": ("b",), "val": ("a/1",)}))
    done = merge([one, two], tmp_path / "out")
    assert done.notes == ["splits x are left out: the datasets put b into different parts"]
    assert [path.name for path in (tmp_path / "out/splits").iterdir()] == ["y.json"]
    assert read_splits(tmp_path / "out", "y").splits == {"train": ("b",), "val": ("a/1",)}


def test_splits_that_cannot_be_read_are_told(tmp_path):
    start = make(tmp_path / "in")
    (start / "splits").mkdir()
    (start / "splits" / "bad.json").write_text("[")
    failures: dict[str, str] = {}
    assert carry_along([start], make(tmp_path / "out"), failures) == []
    assert "bad.json" in failures["splits/bad.json"]


GATHERING = {
    "convert": ("convert", "one", "out", "kind=zarr"),
    "merge": ("merge", "one", "two", "out"),
    "subset": ("subset", "one", "out", "--where", "length > 0"),
}


@pytest.mark.parametrize("verb", GATHERING)
def test_episodes_that_cannot_be_opened_stop_no_other(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    one, _ = make(Path("one"), ids=("a", "b", "c", "d")), make(Path("two"), ids=("e",))
    path, kept = Hdf5Store(one).path, Path("kept")
    path("a").rename(kept)
    path("c").write_bytes(b"no episode")
    fine = {"b", "d", "e"} if verb == "merge" else {"b", "d"}
    for _again in range(2):
        assert main([*GATHERING[verb]]) == 1
        said = capsys.readouterr().out
        assert "FAILED a: " in said
        assert "FAILED c: " in said
        assert "2 failed" in said
    assert {*open_dataset("out").ids} == fine
    assert validate(Path("out"), deep=True) == []
    assert len(Path("out/failures/main.jsonl").read_text().splitlines()) == 2
    listed = [(key, line.stage) for key, line in read_failures("out").items()]
    assert listed == [("a", "open"), ("c", "open")]
    kept.rename(path("a"))
    Sample("c", seed=1, length=6).build(Hdf5Store(one), replace=True)
    assert main([*GATHERING[verb]]) == 0
    assert {*open_dataset("out").ids} == fine | {"a", "c"}
    assert (validate(Path("out")), read_failures("out")) == ([], {})


@pytest.mark.parametrize("verb", GATHERING)
def test_when_all_episodes_fail_it_is_said(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Hdf5Store(make(Path(name), ids=(name,))).path(name).write_bytes(b"")
    assert main([*GATHERING[verb], "--json"]) == 3
    assert "one" in json.loads(capsys.readouterr().out)["failures"]
    assert validate(Path("out")) == []


def test_an_episode_of_a_newer_format_stops_no_other(tmp_path):
    start = make(tmp_path / "in")
    with h5py.File(Hdf5Store(start).path("b"), "a") as file:
        data = json.loads(file.attrs["metadata"])
        file.attrs["metadata"] = json.dumps({**data, "format_version": 99})
    done = convert(start, tmp_path / "out", {"kind": "zarr"})
    assert (done.episodes, done.exit_code) == (1, 1)
    assert "newer letterset" in done.failures["b"]


def test_a_copy_that_went_wrong_is_put_aside_and_made_again(tmp_path):
    start, out = make(tmp_path / "in"), tmp_path / "out"
    convert(start, out, {"kind": "zarr"})
    (out / "index" / "main.jsonl").unlink()  # killed before it was listed, and damaged since
    files = (path for path in ZarrStore(out).path("b").rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    done = convert(start, out, {"kind": "zarr"})
    assert (done.episodes, [*done.failures]) == (1, ["b"])
    assert f"the copy is now {out / 'damaged'}" in done.failures["b"]
    assert convert(start, out, {"kind": "zarr"}).exit_code == 0
    assert validate(out) == []


@pytest.fixture
def synced(monkeypatch):
    """What is made durable, by name, in order; and lines as they are listed."""
    seen = []
    fsync = os.fsync

    def note(descriptor):
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return seen


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of descriptors")
def test_episodes_are_made_durable_together_before_they_are_listed(tmp_path, monkeypatch, synced):
    start = make(tmp_path / "in", ids=[f"{folder}/{at}" for folder in "xy" for at in range(5)])
    monkeypatch.setattr("builder.transform.merge._BATCH", 4)
    synced.clear()
    assert subset(start, tmp_path / "out", ["*"]).episodes == 10
    listed = [name for name in synced if name in ("x", "y", "main.jsonl")]
    # The folders of a batch, then its lines: 4 episodes of x; 1 of x and 3 of y; 2 of y.
    expected = ["x", "main.jsonl", "x", "y", "main.jsonl", "y", "main.jsonl"]
    assert listed == expected
    assert validate(tmp_path / "out") == []


def test_what_was_not_made_durable_is_not_listed(tmp_path, monkeypatch):
    start = make(tmp_path / "in", ids=["a", "b", "c"])
    sync = Hdf5Store.sync

    def full(store, ids):
        raise OutputError("the disk is full")

    monkeypatch.setattr(Hdf5Store, "sync", full)
    with pytest.raises(OutputError):
        subset(start, tmp_path / "out", ["*"])
    assert not read_index(tmp_path / "out")
    monkeypatch.setattr(Hdf5Store, "sync", sync)
    assert subset(start, tmp_path / "out", ["*"]).episodes == 3
    assert digests(tmp_path / "out") == digests(start)
    assert validate(tmp_path / "out") == []


@pytest.mark.parametrize("verb", ["merge", "subset"])
def test_several_processes_take_the_same(tmp_path, verb):
    inputs = [make(tmp_path / "in", ids=["a", "b", "c"]), make(tmp_path / "more", ids=["d"])]
    inputs[0].joinpath("episodes/b.hdf5").write_bytes(b"x")
    for workers in ("1", "2"):
        out, said = tmp_path / workers, ["--workers", workers]
        given = ["--where", "length > 0"] if verb == "subset" else [str(inputs[1])]
        order = [str(out), *given] if verb == "subset" else [*given, str(out)]
        assert main([verb, str(inputs[0]), *order, *said]) == 1
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    one, two = (read_failures(tmp_path / workers) for workers in ("1", "2"))
    assert [*one] == ["b"]
    assert one == two
