"""Splits: pure functions of ids, stored so that people can edit them."""

import json
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import main
from builder.core.errors import ConfigError, DatasetError, OutputError
from builder.dataset.opening import open_dataset
from builder.dataset.splits import (
    Splits,
    hash_splits,
    read_splits,
    source_splits,
    split_keys,
    write_splits,
)
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset

IDS = [f"suite/demo_{k}-0{k:07d}" for k in range(2000)]
SHARES = {"train": 0.8, "val": 0.15, "test": 0.05}


def by_id(ids):
    return {each: each for each in ids}


def test_every_episode_lands_in_one_split_near_the_shares():
    found = hash_splits(by_id(IDS), SHARES).splits
    assert sorted(chain.from_iterable(found.values())) == sorted(IDS)
    for name, share in SHARES.items():
        assert len(found[name]) == pytest.approx(share * len(IDS), rel=0.2)


def test_a_known_split_never_changes():
    found = hash_splits(by_id(["a", "b", "c", "d", "e", "f"]), {"train": 0.5, "val": 0.5}).splits
    assert found == {"train": ("a", "b", "c", "e"), "val": ("d", "f")}


@given(st.sets(st.sampled_from(IDS)), st.sets(st.sampled_from(IDS)))
def test_more_episodes_move_no_other(some, more):
    few = hash_splits(by_id(some), SHARES).splits
    many = hash_splits(by_id(some | more), SHARES).splits
    assert all(set(few[name]) == set(many[name]) & some for name in SHARES)


def test_tasks_stay_together():
    keys = {each: f"task {k % 7}" for k, each in enumerate(IDS)}
    found = hash_splits(keys, {"train": 0.5, "val": 0.5}, by="task").splits
    tasks = [{keys[each] for each in ids} for ids in found.values()]
    assert not set.intersection(*tasks)
    assert all(tasks)


def test_salt_and_leftover():
    first = hash_splits(by_id(IDS), {"train": 0.5})
    assert 800 < len(first.splits["train"]) < 1200
    assert hash_splits(by_id(IDS), {"train": 0.5}, salt="1").splits != first.splits


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": -0.1, "b": 0.5}, {"a": 0.7, "b": 0.4}])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ConfigError, match="shares are above 0 and at most 1"):
        hash_splits(by_id(IDS), shares)


def test_an_episode_without_a_task_is_named():
    with pytest.raises(ConfigError, match="b has no task"):
        hash_splits({"a": "x", "b": None}, SHARES, by="task")


def test_names_that_leave_the_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be stored"):
        hash_splits(by_id(IDS), {"../x": 0.5})
    for name in ("../x", "", "a/b", ".x"):
        with pytest.raises(ConfigError, match="letters, digits"):
            read_splits(tmp_path, name)


def test_a_sources_own_splits():
    given_ = [("b", ("train", "small")), ("a", ("train",)), ("c", ())]
    assert source_splits(given_).splits == {"train": ("a", "b"), "small": ("b",)}
    with pytest.raises(ConfigError, match="no split"):
        source_splits([("a", ())])


def test_splits_are_files_for_people(tmp_path):
    splits = hash_splits(by_id(IDS[:9]), SHARES, salt="x")
    path = write_splits(tmp_path, "default", splits)
    assert path == tmp_path / "splits" / "default.json"
    assert read_splits(tmp_path, "default") == splits
    assert [each.name for each in path.parent.iterdir()] == ["default.json"]
    path.write_text(json.dumps({"splits": {"mine": ["a", "b"]}}))
    assert read_splits(tmp_path, "default") == Splits(splits={"mine": ("a", "b")})


def test_wrong_files_are_named(tmp_path):
    write_splits(tmp_path, "good", Splits(splits={"a": ("x",)}))
    with pytest.raises(DatasetError, match=r"no splits called 'bad'; it has \['good'\]"):
        read_splits(tmp_path, "bad")
    for text in (
        "{",
        '{"splits": {"a": ["x", "x"]}}',
        '{"splits": {"a": ["../x"]}}',
        '{"splits": {"a": [], "a": ["x"]}}',
        "[" * 9000,
    ):
        (tmp_path / "splits" / "good.json").write_text(text)
        with pytest.raises(DatasetError, match=r"good\.json: not a file of splits"):
            read_splits(tmp_path, "good")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "splits").write_text("in the way")
    with pytest.raises(OutputError, match=r"default\.json"):
        write_splits(tmp_path, "default", Splits(splits={"a": ("x",)}))
    assert not list((tmp_path / "tmp").iterdir())


def test_episodes_are_opened_in_other_processes_to_split_by_task(tmp_path, monkeypatch):
    def described(self, digests, episode_id=None):
        return meta(self, digests, episode_id).resealed(task=f"task {self.id[0]}")

    meta = Sample.meta
    monkeypatch.setattr(Sample, "meta", described)
    made = [Sample(f"{task}/{at}", seed=at) for task in "abc" for at in range(3)]
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    shares = ["--shares", "train=0.5", "val=0.5", "--by", "task"]
    for workers in ("1", "2"):
        given = ["--name", f"by{workers}", "--workers", workers]
        assert main(["split", str(tmp_path), *shares, *given]) == 0
    one, two = (read_splits(tmp_path, f"by{workers}") for workers in ("1", "2"))
    assert one == two
    keys = {each.id: f"task {each.id[0]}" for each in made}
    assert split_keys(open_dataset(tmp_path), "task") == keys
    assert sorted(chain.from_iterable(one.splits.values())) == sorted(keys)
