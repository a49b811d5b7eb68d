"""Validation: a good dataset passes, anything else is found, and all of it is listed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from contextlib import closing, suppress

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.build.reader import each_apart
from builder.build.run_log import RunLog
from builder.cli import main
from builder.core.errors import DatasetError, NewerFormatError
from builder.core.records import stored_form
from builder.dataset.folder import DatasetWriter, index_line, read_failures, read_index
from builder.dataset.layers import LayerWriter
from builder.dataset.splits import Splits, write_splits
from builder.dataset.validate import Problem, check_episode, validate
from builder.stores.atomic import stage
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.testing.samples import HORIZON, Sample, sample_dataset, sample_meta
from builder.transform.finalize import finalize
from builder.transform.repair import repair
from schemas.dataset import DatasetMeta, EpisodeMeta, FailureLine, QuerySpec

CODECS = [("raw", "raw"), ("raw", "u16"), ("lz4", "raw"), ("jpeg", "u16")]
PACKAGES = {"raw": "numpy", "lz4": "hdf5plugin", "jpeg": "cv2"}


def _dataset(folder, codec="raw", track_codec="raw"):
    pytest.importorskip(PACKAGES[codec])
    samples = [Sample(n, codec=codec, track_codec=track_codec) for n in ("a", "b/c")]
    sample_dataset(folder, Hdf5Store(folder), samples)
    return folder


@pytest.fixture
def dataset(tmp_path):
    return _dataset(tmp_path)


def _texts(folder, **options) -> list[str]:
    return [str(problem) for problem in validate(folder, **options)]


@pytest.mark.parametrize(("codec", "track_codec"), CODECS)
@pytest.mark.parametrize("deep", [False, True])
def test_a_good_dataset_has_no_problems(tmp_path, codec, track_codec, deep):
    assert _texts(_dataset(tmp_path, codec, track_codec), deep=deep) == []


def test_problems_say_where():
    assert str(Problem("a", "front/vis", "bad")) == "a: front/vis: bad"
    assert str(Problem(None, "index", "bad", note=True)) == "note: index: bad"


def test_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no letterset dataset"):
        validate(tmp_path)


@pytest.mark.parametrize(("codec", "track_codec"), CODECS)
def test_bytes_after_the_end_of_an_episode_are_told(tmp_path, codec, track_codec):
    dataset = _dataset(tmp_path, codec, track_codec)
    path = Hdf5Store(dataset).path("b/c")
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\0")
    says = f"b/c: bytes were appended: the episode ends at byte {size}, its file at {size + 1}"
    assert _texts(dataset) == [says]


@pytest.mark.parametrize("store", [Hdf5Store, ZarrStore])
def test_files_among_the_episodes_that_are_none_are_told(tmp_path, store, capsys):
    sample_dataset(tmp_path, store(tmp_path), [Sample(n) for n in ("a", "b/c")])
    place = tmp_path / store.place
    for name in ("notes.txt", "b/a.hdf5.bak", "new/x.h5"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("mine")
    found = validate(tmp_path)
    names = [f"{store.place}/{name}" for name in ("b/a.hdf5.bak", "new/x.h5", "notes.txt")]
    assert [(problem.where, problem.note) for problem in found] == [(name, True) for name in names]
    assert main(["validate", str(tmp_path)]) == 0
    says = f"note: {names[0]}: part of no episode and not verified: move it away if not needed"
    assert says in capsys.readouterr().out


def test_a_newer_dataset_is_refused(dataset):
    path = dataset / "dataset.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(NewerFormatError, match="newer"):
        validate(dataset)


# One flipped byte anywhere in the data or the metadata.


@pytest.fixture(scope="module", params=CODECS, ids="-".join)
def flippable(request, tmp_path_factory):
    """A dataset, one of its files and all byte ranges of data and metadata in it."""
    folder = _dataset(tmp_path_factory.mktemp("flip"), *request.param)
    path = Hdf5Store(folder).path("a")
    ranges = []
    with h5py.File(path) as file:
        for view in ("front", "wrist", "."):
            for item in file["root"][view].values():
                if not isinstance(item, h5py.Dataset):
                    continue
                if item.chunks is None and item.size:
                    ranges.append((item.id.get_offset(), item.nbytes))
                for index in range(item.id.get_num_chunks() if item.chunks else 0):
                    chunk = item.id.get_chunk_info(index)
                    ranges.append((chunk.byte_offset, chunk.size))
        text = file.attrs["metadata"].encode()
    ranges.append((path.read_bytes().index(text), len(text)))
    return folder, path, ranges


@settings(max_examples=60)
@given(data=st.data())
def test_any_flipped_byte_is_found(flippable, data):
    folder, path, ranges = flippable
    begin, size = data.draw(st.sampled_from(ranges))
    at = begin + data.draw(st.integers(0, size - 1))
    mask = data.draw(st.integers(1, 255))
    whole = path.read_bytes()
    try:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([whole[at] ^ mask]))
        problems = check_episode(Hdf5Store(folder), "a")
    finally:
        path.write_bytes(whole)
    assert problems


def test_damage_to_the_structure_of_a_file_is_a_problem_like_any_other(dataset):
    path = Hdf5Store(dataset).path("a")
    whole = path.read_bytes()
    for header in re.finditer(b"OHDR", whole):
        flipped = bytearray(whole)
        flipped[header.start() + 8] ^= 0x20
        path.write_bytes(flipped)
        assert any(text.startswith("a: ") for text in _texts(dataset)), header.start()
    assert list(repair(dataset).dropped) == ["a"]


def test_the_same_metadata_in_another_form_is_found(dataset):
    with h5py.File(Hdf5Store(dataset).path("a"), "r+") as file:
        file.attrs["metadata"] += " "
    assert _texts(dataset) == [
        "a: attribute metadata is not in its stored form: it was edited or damaged"
    ]


@pytest.mark.parametrize("name", ["dataset.json", "index/main.jsonl"])
def test_any_flipped_byte_of_the_catalog_is_found(tmp_path, name):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a")] if "index" in name else [])
    path = tmp_path / name
    whole = path.read_bytes()
    for at in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[at] ^= 0x20
        path.write_bytes(flipped)
        assert validate(tmp_path), f"byte {at}: {whole[at - 5 : at + 5]!r}"
    path.write_bytes(whole)
    assert validate(tmp_path) == []


# Episodes that were written wrong: each edit is stored with honest digests.


def _rewrite(dataset, edit) -> list[str]:
    sample = Sample("a")
    edit(sample)
    sample.build(Hdf5Store(dataset), replace=True)
    return [text for text in _texts(dataset) if "not what the index lists" not in text]


def _set(name, key, value, view="front"):
    def edit(sample):
        sample.arrays[view, name][key] = value

    return edit


def _put(name, change, view="front"):
    def edit(sample):
        sample.arrays[view, name] = change(sample.arrays[view, name])

    return edit


def _drop(name):
    def edit(sample):
        del sample.arrays["front", name]

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_set("tracks", (3, 2, 1, 0), np.nan), "front/tracks: numbers are not finite.* window 3"),
        (_set("tracks", (3, 0, 1, 0), 1.0), "front/tracks: step 0 is not at the query .* window 3"),
        (_set("vis", (2, 1, 0), 2), "front/vis: expected 0 or 1, got 2 near window 2"),
        (_set("conf", (2, 1, 0), 1.5), "front/conf: expected numbers from 0 to 1.* window 2"),
        (_set("conf", (2, 1, 0), np.nan), "front/conf: expected numbers from 0 to 1.* window 2"),
        (_set("starts", 1, 2), "front/starts: expected a start at every 1 frames of 7"),
        (_set("timestamps", 3, 0.0), "front/timestamps: time goes back after frame 2"),
        (_set("timestamps", 3, np.inf), "front/timestamps: numbers are not finite"),
        (_put("frames", lambda a: a[:, :, 1:]), r"front/frames: expected uint8 \(7, 24, 40, 3\)"),
        (_put("vis", lambda a: a.astype("f4")), "front/vis: expected uint8 .* got float32"),
        (
            _put("tracks", lambda a: a[:, :3]),
            r"expected float32 \(7, 4, 6, 2\), got float32 \(7, 3",
        ),
        (_put("tracks", lambda a: a[..., ::-1]), "front/tracks: step 0"),
        (_put("timestamps", lambda a: a[:-1]), r"front/timestamps: expected float64 \(7,\)"),
        (_drop("vis"), "front/vis: it is missing"),
        (_drop("starts"), "front/starts: it is missing"),
    ],
)
def test_wrong_values_are_found(dataset, edit, says):
    problems = _rewrite(dataset, edit)
    assert len(problems) == 1
    assert re.search(rf"^a: .*{says}", problems[0]), problems


def test_queries_are_recomputed(dataset):
    def edit(sample):
        for name in ("queries", "tracks"):
            sample.arrays["front", name] = sample.arrays["front", name] + np.float32(0.5)

    assert _rewrite(dataset, edit) == [
        "a: front/queries: points are up to 0.5 px from where the dataset's grid puts them"
    ]


def test_all_problems_are_listed(dataset):
    def edit(sample):
        sample.arrays["front", "vis"][0] = 7
        sample.arrays["wrist", "timestamps"][1] = -1
        del sample.arrays["wrist", "queries"]

    problems = _rewrite(dataset, edit)
    assert [text.split(": ")[1] for text in problems] == [
        "front/vis",
        "wrist/queries",
        "wrist/timestamps",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"img_shape": (24, 42)}, r"view front: img_shape is \(24, 40\), the dataset's \(24, 42\)"),
        ({"horizon": HORIZON + 1}, "horizon is 4, the dataset says 5"),
        ({"mode": "episode"}, "mode is reinit, the dataset says episode"),
        ({"queries": QuerySpec(grid=(3, 3))}, r"front/queries: expected float32 \(9, 2\)"),
        ({"queries": QuerySpec(grid=(3, 2))}, "front/queries: points are up to"),
    ],
)
def test_episodes_of_another_dataset_are_found(dataset, change, says):
    (dataset / "dataset.json").unlink()
    DatasetWriter.create(dataset, sample_meta(**change)).close()
    assert any(re.search(rf"^a: .*{says}", text) for text in _texts(dataset))


# Index, files, leftovers.


def test_index_against_files(dataset):
    store = Hdf5Store(dataset)
    Sample("extra").build(store)
    Sample("a", seed=1).build(store, replace=True)
    store.path("b/c").unlink()
    texts = _texts(dataset)
    assert len(texts) == 3
    assert texts[0] == "a: index: the episode is not what the index lists; run letterset repair"
    assert "b/c: there is no episode 'b/c'" in texts[1]
    assert texts[2] == "extra: index: the episode is not listed in the index; run letterset repair"


@pytest.mark.parametrize("kind", [Hdf5Store, ZarrStore])
def test_episodes_behind_links_are_kept(tmp_path, kind):
    """Whoever has no space left moves a folder to another disk and links it."""
    folder, store = tmp_path / "dataset", kind(tmp_path / "dataset")
    sample_dataset(folder, store, [Sample("a"), Sample("b/c")])
    (folder / store.place / "b").rename(tmp_path / "elsewhere")
    (folder / store.place / "b").symlink_to(tmp_path / "elsewhere")
    assert _texts(folder) == []
    assert finalize(folder).problems == ()
    assert repair(folder).dropped == {}
    assert list(read_index(folder)) == ["a", "b/c"]


def test_damaged_lines_of_failures_are_dropped_by_repair(dataset):
    with DatasetWriter.create(dataset, sample_meta()) as catalog:
        for key in ("x", "y"):
            line = FailureLine(id=key, path=f"{key}.mp4", stage="decode", reason="cut")
            catalog.fail(line)
    path = dataset / "failures/main.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"x"', b'"x', 1))
    (text,) = _texts(dataset)
    assert text.endswith("run letterset repair")
    dropped = repair(dataset).dropped
    assert list(dropped) == ["failures/main.jsonl, line 1"]
    assert _texts(dataset) == []
    assert list(read_failures(dataset)) == ["y"]


def test_a_missing_dataset_json_does_not_hide_the_rest(dataset):
    (dataset / "dataset.json").unlink()
    store = Hdf5Store(dataset)
    store.path("a").write_bytes(b"")
    texts = _texts(dataset)
    assert len(texts) == 2
    assert "dataset.json" in texts[0]
    assert "a.hdf5 is damaged or no episode file" in texts[1]


def test_dataset_json_in_another_form_is_found(dataset):
    path = dataset / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert len(_texts(dataset)) == 1
    assert "not in the form" in _texts(dataset)[0]


def test_stray_files_are_found(dataset):
    shutil.copy(Hdf5Store(dataset).path("a"), dataset / "episodes" / "copy.hdf5")
    assert any("holds episode 'a', expected 'copy'" in text for text in _texts(dataset))


def test_damaged_splits_are_found(dataset):
    path = write_splits(dataset, "default", Splits(splits={"train": ("a",), "val": ("b/c",)}))
    assert _texts(dataset) == []
    whole = path.read_text()
    path.write_text(whole.replace('"a"', '"q"'))
    assert _texts(dataset) == [
        "note: splits/default.json: train lists 1 that the dataset lacks, the first is q"
    ]
    path.write_text(whole[:-5])
    (text,) = _texts(dataset)
    assert text.startswith(f"splits/default.json: {path}: not a file of splits")


def test_a_layer_without_its_metadata_is_found(dataset):
    with LayerWriter(dataset, "more") as layer, closing(Hdf5Store(dataset).open("a")) as reader:
        layer.write(reader.meta, {None: {"number": np.zeros(3)}})
    assert not [problem for problem in validate(dataset) if not problem.note]
    (dataset / "layers/more/layer.json").unlink()
    assert _texts(dataset) == [
        "layers/more: layer.json is missing: restore it, or delete the folder and make it again"
    ]


def test_parts_of_layers_are_checked_in_other_processes(dataset):
    with LayerWriter(dataset, "more") as layer:
        for key in read_index(dataset):
            with closing(Hdf5Store(dataset).open(key)) as reader:
                layer.write(reader.meta, {None: {"number": np.full(3, 7.0)}})
    (dataset / "layers/more/a.hdf5").write_bytes(b"x")
    here = validate(dataset)
    apart = validate(dataset, check_each=lambda check, ids: each_apart(check, ids, workers=2))
    assert apart == here
    (problem,) = here
    assert (problem.episode, problem.where) == ("a", "layers/more")


@pytest.mark.parametrize("damage", ["byte", "file"])
def test_repair_moves_damaged_parts_of_layers_away(dataset, damage):
    base = Hdf5Store(dataset)
    with LayerWriter(dataset, "more") as layer:
        for key in ("a", "b/c"):
            with closing(base.open(key)) as reader:
                layer.write(reader.meta, {None: {"number": np.full(3, 7.0)}})
    path = dataset / "layers/more/b/c.hdf5"
    data = path.read_bytes()
    at = data.index(np.full(3, 7.0).tobytes())
    flipped = data[:at] + b"x" + data[at + 1 :]
    path.write_bytes(b"" if damage == "file" else flipped)
    if damage == "file":
        with LayerWriter(dataset, "more") as layer, closing(base.open("b/c")) as reader:
            with pytest.raises(DatasetError, match="run letterset repair, then this again"):
                layer.has(reader.meta)
    done = repair(dataset)
    assert done.kept == ("a", "b/c")
    assert list(done.dropped) == ["layers/more/b/c.hdf5"]
    assert (dataset / "damaged/layers/more/b/c.hdf5.damaged").exists()
    assert not [problem for problem in validate(dataset) if not problem.note]
    with LayerWriter(dataset, "more") as layer, closing(base.open("b/c")) as reader:
        assert not layer.has(reader.meta)
    assert repair(dataset).dropped == {}


def test_leftovers_are_notes(dataset):
    staged = stage(dataset / "tmp", ".h5")
    assert validate(dataset) == []
    os.close(staged.descriptor)  # as the kernel does for a process that died
    (problem,) = validate(dataset)
    assert problem.note
    assert problem.where == f"tmp/{staged.path.name}"


# What the command says beyond the episodes that are listed.


def _validated(folder, capsys):
    code = main(["validate", str(folder)])
    return code, capsys.readouterr().out


def test_a_sample_says_what_was_not_looked_at(dataset, capsys):
    store = Hdf5Store(dataset)
    store.path(min(store.ids())).write_bytes(b"x")
    assert main(["validate", str(dataset), "--sample", "50%"]) == 0
    said = capsys.readouterr().out
    assert "note: 1 of 2 episodes were not looked at" in said
    assert "2 episodes, all that were looked at are valid" in said
    assert main(["validate", str(dataset), "--sample", "51"]) == 1
    assert main(["validate", str(dataset), "--sample", "0%"]) == 2
    assert "--sample takes a number above 0" in capsys.readouterr().err


def test_what_is_missing_is_noted(dataset, capsys):
    code, text = _validated(dataset, capsys)
    assert (code, text.splitlines()[0]) == (0, f"{dataset}: 2 episodes, all valid")
    failures = [FailureLine(id=n, path=f"{n}.mp4", stage="decode", reason="cut") for n in "xy"]
    with DatasetWriter.create(dataset, sample_meta(), "main") as catalog:
        for line in failures:
            catalog.fail(line)
        with suppress(KeyboardInterrupt), RunLog(dataset, "main") as log:
            log.start(todo=3)
            assert "note: a build is at work: 3 episodes to do" in _validated(dataset, capsys)[1]
            raise KeyboardInterrupt
    code, text = _validated(dataset, capsys)
    assert code == 0
    assert "note: 2 sources failed: letterset inspect lists them" in text
    assert "note: the last run stopped (interrupted) with 3 episodes to do: run it again" in text
    with RunLog(dataset, "main") as log:
        log.start(todo=0)
    assert "the last run" not in _validated(dataset, capsys)[1]


def test_what_repair_moved_away_is_noted(dataset, capsys):
    Hdf5Store(dataset).path("a").write_bytes(b"no episode")
    repair(dataset)
    code, text = _validated(dataset, capsys)
    assert (code, "note: 1 episode in damaged/: build again" in text) == (0, True)
    # What was moved away stays there when the episode is built again.
    with DatasetWriter.create(dataset, sample_meta()) as catalog:
        catalog.add(index_line(Sample("a").build(Hdf5Store(dataset))))
    assert "damaged" not in _validated(dataset, capsys)[1]


def test_an_empty_dataset_proves_nothing(tmp_path, capsys):
    DatasetWriter.create(tmp_path, sample_meta()).close()
    code, text = _validated(tmp_path, capsys)
    assert (code, text.splitlines()[0]) == (1, "0 episodes: nothing to verify")


def test_deep_decodes_every_frame(tmp_path):
    """A JPEG that was garbage when it was written has an honest digest."""
    pytest.importorskip("cv2")
    folder = _dataset(tmp_path, "jpeg")
    store = Hdf5Store(folder)
    with closing(store.open("a")) as reader:
        meta = reader.meta
    with h5py.File(store.path("a"), "r+") as file:
        offsets = file["root/front/frames_offsets"][()]
        file["root/front/frames"][offsets[2] : offsets[3]] = 0
        digest = hashlib.sha256(file["root/front/frames"][()].tobytes()).hexdigest()
        front = meta.view("front")
        arrays = {
            **front.arrays,
            "frames": front.arrays["frames"].model_copy(update={"sha256": digest}),
        }
        views = (front.model_copy(update={"arrays": arrays}), meta.view("wrist"))
        fields = {name: getattr(meta, name) for name in EpisodeMeta.model_fields}
        del fields["digest"]
        file.attrs["metadata"] = stored_form(EpisodeMeta.seal(**{**fields, "views": views}))
    assert not any("frames" in text for text in _texts(folder))
    deep = [text for text in _texts(folder, deep=True) if "frames" in text]
    assert len(deep) == 1
    assert "frames[2] is damaged: expected a JPEG" in deep[0]


def test_dataset_meta_is_what_validate_reads(dataset):
    assert DatasetMeta.model_validate_json((dataset / "dataset.json").read_text()) == sample_meta()


@pytest.mark.parametrize("store", [Hdf5Store, ZarrStore])
def test_a_second_damaged_copy_does_not_replace_the_first(tmp_path, store, capsys):
    place, sample = store(tmp_path), Sample("b/c")
    sample_dataset(tmp_path, place, [Sample("a"), sample])
    moved = [tmp_path / name / sample.id for name in ("damaged", "damaged.2", "damaged.3")]
    seen = []
    for at in range(3):
        path = place.path(sample.id)
        file = path if path.is_file() else path / "zarr.json"
        file.write_bytes(b"damage %d" % at)
        assert main(["repair", str(tmp_path)]) == 1
        seen.append(file.relative_to(path))
        sample.build(place)
        assert main(["repair", str(tmp_path)]) == 0
    for at, path in enumerate(moved):
        file = path.with_name(place.path(sample.id).name) / seen[at]
        assert file.read_bytes() == b"damage %d" % at
    capsys.readouterr()
    assert main(["validate", str(tmp_path)]) == 0
    assert "in damaged/" not in capsys.readouterr().out  # it was built again


def test_a_second_damaged_part_of_a_layer_does_not_replace_the_first(dataset):
    for at in range(2):
        with LayerWriter(dataset, "x") as layer:
            layer.write(Hdf5Store(dataset).open("a").meta, {None: {"more": np.zeros(3)}})
        path = dataset / "layers" / "x" / "a.hdf5"
        path.write_bytes(b"damage %d" % at)
        repair(dataset)
    for at, name in enumerate(("damaged", "damaged.2")):
        path = dataset / name / "layers" / "x" / "a.hdf5.damaged"
        assert path.read_bytes() == b"damage %d" % at


def test_repair_says_what_it_lists_otherwise_than_before(dataset, capsys):
    Sample("a", seed=5).build(Hdf5Store(dataset), replace=True)
    assert repair(dataset).changed == ("a",)
    Sample("a", seed=6).build(Hdf5Store(dataset), replace=True)
    assert main(["repair", str(dataset)]) == 0
    said = capsys.readouterr().out
    assert "RELISTED a: it verifies, but is not what was listed" in said
    assert "2 episodes listed, 1 of them changed, 0 dropped" in said
    assert repair(dataset).changed == ()
    assert _texts(dataset) == []


def test_a_file_that_can_be_no_episode_stops_no_repair(dataset):
    path = dataset / "episodes" / "a\nb.hdf5"
    path.write_bytes(b"")
    (dataset / "episodes" / "a.hdf5").write_bytes(b"")
    assert {*repair(dataset).dropped} == {"a", "a\nb"}
    assert path.exists()
    assert [*read_index(dataset)] == ["b/c"]
