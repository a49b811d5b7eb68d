"""An episode knows which dataset.json it was built under, a table of windows whose it is."""

from __future__ import annotations

import shutil

import pytest
from inline_executor import build
from legacy_fixtures import write_amplify
from source_fixtures import write_video

from builder.build.status import unfinished
from builder.cli import main
from builder.core.errors import DatasetError
from builder.core.records import record_data
from builder.dataset.folder import DatasetWriter, index_line, load_meta, pretty_json, read_index
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.dataset.window_table import write_window_stats
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset, sample_meta
from builder.transform.convert import convert
from builder.transform.merge import merge, subset
from builder.transform.migrate import migrate
from builder.transform.repair import repair

pytestmark = pytest.mark.usefixtures("inline_executor")


@pytest.fixture(scope="module")
def built(inline_executor, tmp_path_factory):
    """Two datasets of two videos each, of other settings."""
    folder = tmp_path_factory.mktemp("described")
    for number, place in enumerate(("one", "two")):
        for name in ("a", "b"):
            write_video(folder / place / f"{place} {name}.mp4", count=5 + number, shape=(30, 50))
        out = folder / f"out {place}"
        assert build(folder / place, out, f"source.frame_step={1 + number}") == 0
    return folder


@pytest.fixture
def place(built, tmp_path):
    shutil.copytree(built, tmp_path / "place")
    return tmp_path / "place"


def described(folder):
    """The descriptions that episodes name, after checking that the dataset is whole."""
    assert [str(problem) for problem in validate(folder, deep=True) if not problem.note] == []
    return {episode.meta.dataset for episode in open_dataset(folder)}


def wrong(folder):
    return [str(problem) for problem in validate(folder) if not problem.note]


def rewrite(folder, **changes):
    """Put another dataset.json in place, whole and sealed."""
    meta = load_meta(folder).resealed(**changes)
    (folder / "dataset.json").write_text(pretty_json(record_data(meta)))
    return meta


def test_a_description_of_another_tracker_is_found(place):
    out = place / "out one"
    meta = load_meta(out)
    assert described(out) == {meta.digest}
    rewrite(out, tracker=meta.tracker.model_copy(update={"name": "another"}))
    found = wrong(out)
    assert sum("it was built under another dataset.json" in text for text in found) == 2
    with pytest.raises(DatasetError, match=r"no episode verifies.*another dataset\.json"):
        repair(out)
    assert not (out / "damaged").exists()
    shutil.copy(place / "out two" / "dataset.json", out / "dataset.json")
    assert sum("it was built under another dataset.json" in text for text in wrong(out)) == 2


def test_an_episode_of_another_dataset_is_found(place):
    one, two = place / "out one", place / "out two"
    stranger = next((two / "episodes").iterdir())
    shutil.copy(stranger, one / "episodes")
    key = stranger.stem
    assert any(f"{key}: it was built under another dataset.json" in text for text in wrong(one))
    assert key in repair(one).dropped
    assert wrong(one) == []


def test_a_build_goes_on_under_the_description_that_is_there(place):
    """As of another version: what created it is no setting."""
    out, videos = place / "out one", place / "one"
    shutil.rmtree(out)
    (videos / "one b.mp4").rename(place / "later.mp4")
    with DatasetWriter.create(out, _as_built_by(place, "0.0.1")) as catalog:
        meta = catalog.meta
    assert build(videos, out, "source.frame_step=1") == 0
    (place / "later.mp4").rename(videos / "one b.mp4")
    assert build(videos, out, "source.frame_step=1") == 0
    assert load_meta(out) == meta
    assert meta.created_with == "0.0.1"
    assert len(open_dataset(out)) == 2
    assert described(out) == {meta.digest}


def _as_built_by(place, version):
    other = place / "made"
    assert build(place / "one", other, "source.frame_step=1") == 0
    return load_meta(other).resealed(created_with=version)


def test_converted_episodes(place):
    one = place / "out one"
    before = {key: line.digest for key, line in read_index(one).items()}
    convert(one, place / "zarr", {"kind": "zarr"})
    assert {key: line.digest for key, line in read_index(place / "zarr").items()} == before
    assert described(place / "zarr") == {load_meta(one).digest}
    convert(one, place / "u16", {"tracks": {"dtype": "u16"}})
    assert described(place / "u16") == {load_meta(place / "u16").digest}
    assert load_meta(place / "u16").digest != load_meta(one).digest
    rewrite(one, horizon=5)
    assert "another dataset.json" in str(convert(one, place / "refused", {}).failures)


def test_merged_episodes_are_taken_as_they_are(place):
    one, two = place / "out one", place / "out two"
    own = [load_meta(each).digest for each in (one, two)]
    merge([one, two], place / "merged")
    assert load_meta(place / "merged").parts == tuple(sorted(own))
    assert described(place / "merged") == {*own}
    sample = next(iter(read_index(two)))
    subset(place / "merged", place / "some", [sample])
    assert described(place / "some") == {own[1]}
    merge([place / "merged", place / "some"], place / "again")
    assert described(place / "again") == {*own}
    convert(place / "again", place / "u16", {"tracks": {"dtype": "u16"}})
    assert described(place / "u16") == {load_meta(place / "u16").digest}
    assert load_meta(place / "u16").parts == ()
    stranger = place / "stranger"
    assert build(place / "one", stranger, "source.frame_step=3") == 0
    shutil.copytree(stranger / "episodes", place / "again" / "episodes", dirs_exist_ok=True)
    assert any("another dataset.json" in text for text in wrong(place / "again"))


def test_datasets_of_one_setting_and_two_versions(place):
    one, other = place / "out one", place / "other"
    meta = _as_built_by(place, "0.0.1")
    (place / "more").mkdir()
    (place / "two" / "two a.mp4").rename(place / "more" / "c.mp4")
    with DatasetWriter.create(other, meta):
        pass
    assert build(place / "more", other, "source.frame_step=1") == 0
    for out in (place / "merged", place / "turned round"):
        order = [one, other] if out.name == "merged" else [other, one]
        merge(order, out)
        assert described(out) == {load_meta(one).digest, meta.digest}
    assert load_meta(place / "merged") == load_meta(place / "turned round")
    # What is put together so is gone on with by a build of that setting.
    (place / "two" / "two b.mp4").rename(place / "more" / "d.mp4")
    assert build(place / "more", place / "merged", "source.frame_step=1") == 0
    assert len(described(place / "merged")) == 3


def test_layers_belong_to_the_description_too(place):
    out = place / "out one"
    argv = ["track", str(out), "--name", "lk", "tracker.kind=lk", "executor.kind=inline"]
    assert main([*argv, "--quiet"]) == 0
    assert described(out) == {load_meta(out).digest}
    rewrite(out, created_with="another")
    assert any("layers/lk: it was made for another dataset.json" in text for text in wrong(out))


def test_migrated_episodes(tmp_path):
    write_amplify(tmp_path / "old" / "a.hdf5", {"front": (30, 50)}, length=5)
    migrate(tmp_path / "old", tmp_path / "out", img_shape=(24, 40))
    assert described(tmp_path / "out") == {load_meta(tmp_path / "out").digest}


def test_episodes_that_do_not_say_so_keep_their_digests(tmp_path):
    store = Hdf5Store(tmp_path / "out")
    sample_dataset(tmp_path / "out", store, [Sample("a")])
    assert described(tmp_path / "out") == {None}
    before = read_index(tmp_path / "out")["a"].digest
    convert(tmp_path / "out", tmp_path / "zarr", {"kind": "zarr"})
    assert read_index(tmp_path / "zarr")["a"].digest == before


def test_the_table_of_another_dataset_is_found(place):
    one, two = place / "out one", place / "out two"
    shutil.copy(two / "stats" / "windows.hdf5", one / "stats" / "windows.hdf5")
    assert any("windows.hdf5: it is the table of another dataset" in text for text in wrong(one))
    assert main(["validate", str(one)]) == 1
    assert main(["stats", str(one)]) == 0
    assert wrong(one) == []


def test_the_table_of_other_episodes_of_the_same_settings_is_found(tmp_path):
    for name, key in (("one", "a"), ("two", "b")):
        folder = tmp_path / name
        sample_dataset(folder, Hdf5Store(folder), [Sample(key, seed=len(name) + ord(key))])
        write_window_stats(open_dataset(folder))
    shutil.copy(tmp_path / "two/stats/windows.hdf5", tmp_path / "one/stats/windows.hdf5")
    assert any(
        "it was made of none of the dataset's episodes" in t for t in wrong(tmp_path / "one")
    )


def test_a_table_that_lacks_an_episode_is_only_old(tmp_path):
    store = Hdf5Store(tmp_path)
    sample_dataset(tmp_path, store, [Sample("a")])
    write_window_stats(open_dataset(tmp_path))
    with DatasetWriter.create(tmp_path, sample_meta()) as catalog:
        catalog.add(index_line(Sample("b").build(store)))
    (found,) = validate(tmp_path)
    assert found.note
    assert "made of other episodes: run letterset stats again" in found.message
    assert unfinished(tmp_path) == []
