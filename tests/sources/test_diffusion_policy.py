"""Replay buffers in Zarr format 2, in folders and zip files, and what is refused in them."""

import json
import re
import zipfile
import zlib

import numpy as np
import pytest
from source_fixtures import episodes, first, numbers, pictures, rgb, selected

pytest.importorskip("zarr")
import zarr
from zarr_fixtures import ENDS, write_pusht, write_umi

from builder.core.errors import SourceError
from builder.inputs.zarr import open_zarr
from builder.sources.kinds.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from builder.sources.recognize import recognize
from schemas.config import Limits

STARTS = (0, *ENDS[:-1])


def check(source, view):
    spans = list(zip(STARTS, ENDS, strict=True))
    found = list(episodes(source))
    assert len(found) == len(spans)
    for span, (_, episode) in zip(spans, episodes(source), strict=True):
        assert numbers(episode.views[view]) == list(range(*span))
    return found


def test_a_replay_buffer_is_cut_into_its_episodes(tmp_path):
    found = check(DiffusionPolicy(write_pusht(tmp_path)), "img")
    assert [ref.path for ref, _ in found] == [f"pusht.zarr/episode_{k}" for k in range(3)]
    [first, *_] = [episode for _, episode in found]
    assert list(first.views) == ["img"]
    assert {name: array.shape for name, array in first.arrays.items()} == {
        "action": (9, 2), "keypoint": (9, 9, 2), "state": (9, 5),
    }  # fmt: skip


def test_rows_are_those_zarr_reads(tmp_path):
    import zarr

    root = write_pusht(tmp_path)
    group = zarr.open_group(root / "pusht.zarr", mode="r")
    with open_zarr(root / "pusht.zarr", Limits()) as store:
        for name in store.arrays("data"):
            array = store.array(f"data/{name}")
            for first, last in ((0, 28), (3, 4), (4, 17), (27, 28), (5, 5)):
                want = group[f"data/{name}"][first:last]
                assert np.array_equal(array.rows(first, last), want)


@pytest.mark.parametrize("codec", ["zlib", "none", "jpegxl"])
def test_a_zip_file_is_read_in_place(tmp_path, codec):
    if codec == "jpegxl":
        pytest.importorskip("imagecodecs")
    root = write_umi(tmp_path, codec)
    for path in (root, root / "cup.zarr.zip"):
        check(DiffusionPolicy(path), "camera0_rgb")
        with first(DiffusionPolicy(path)) as episode:
            assert episode.views["camera1_rgb"].info.coded_shape == (24, 40)


def test_the_group_itself_can_be_the_source(tmp_path):
    root = write_pusht(tmp_path)
    found = check(DiffusionPolicy(root / "pusht.zarr"), "img")
    assert found[0][0].id == next(DiffusionPolicy(root).refs()).id


def test_floats_are_scaled_as_the_config_says(tmp_path):
    root = write_pusht(tmp_path)
    small = DiffusionPolicyConfig(float_pictures="0..1")
    with (
        pytest.raises(SourceError, match=r"its values leave 0\.\.1"),
        first(DiffusionPolicy(root, small)) as episode,
    ):
        list(episode.views["img"])


def edit(root, name, change):
    path = root / "pusht.zarr" / name / ".zarray"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, "only plain numbers"),
        ({"dtype": [["a", "<i4"]]}, "zarray is refused"),
        ({"filters": [{"id": "pickle"}]}, "none are supported"),
        ({"compressor": {"id": "pickle"}}, r"the codec 'pickle'; supported are zlib"),
        ({"compressor": {"id": "lzma"}}, "the codec 'lzma'"),
        ({"zarr_format": 4}, "only 2 and 3 are read"),
        ({"chunks": [1 << 20, 1 << 20]}, "exceed"),
        ({"chunks": [0, 2]}, "do not fit"),
        ({"chunks": [5]}, "do not fit"),
        ({"shape": [-1, 2]}, "do not fit"),
        ({"shape": "x"}, "zarray is refused"),
    ],
)
def test_metadata_that_is_refused(tmp_path, change, match):
    root = write_pusht(tmp_path)
    edit(root, "data/action", lambda meta: meta.update(change))
    with pytest.raises(SourceError, match=match):
        selected(DiffusionPolicy(root), arrays=("action",))
    found = selected(DiffusionPolicy(root))
    assert "action" not in found.arrays
    assert re.search(f"array action is left out: .*{match}", found.notes[0])


def test_a_huge_declared_shape_is_not_allocated(tmp_path):
    root = write_pusht(tmp_path)
    edit(root, "data/action", lambda meta: meta.update(shape=[10**12, 2]))
    with open_zarr(root / "pusht.zarr", Limits()) as store:
        array = store.array("data/action")
        with pytest.raises(SourceError, match=r"exceed limits\.max_array_bytes"):
            array.rows(0, 10**12)
        with pytest.raises(SourceError, match="never written"):
            array.rows(10**11, 10**11 + 1)


def test_a_chunk_that_is_missing_or_damaged_is_named(tmp_path):
    root = write_pusht(tmp_path)
    chunk = root / "pusht.zarr" / "data" / "img" / "1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    [ref, *_] = DiffusionPolicy(root).refs()
    with DiffusionPolicy(root).open(ref) as episode:
        with pytest.raises(SourceError, match=r"data/img/1\.0\.0\.0: .*chunk is damaged"):
            list(episode.views["img"])
        chunk.unlink()
        with pytest.raises(SourceError, match=r"data/img/1\.0\.0\.0: the chunk was never written"):
            list(episode.views["img"])


def test_a_chunk_that_inflates_beyond_the_limit_is_refused(tmp_path):
    root = write_umi(tmp_path)
    folder = tmp_path / "unzipped"
    (folder / "data/camera0_rgb/0.0.0.0").write_bytes(zlib.compress(bytes(80 << 20), 9))
    source = DiffusionPolicy(folder, None, Limits(max_chunk_bytes=1 << 20))
    with source.open(next(source.refs())) as episode:
        with pytest.raises(SourceError, match="would inflate beyond the limit"):
            next(iter(episode.views["camera0_rgb"]))
    assert root


def test_a_zip_member_that_inflates_beyond_the_limit_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zarr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta/episode_ends/.zarray", bytes(50 << 20))
    source = DiffusionPolicy(tmp_path)
    [ref] = source.refs()
    with pytest.raises(SourceError, match="exceed the limit"):
        source.open(ref).__enter__()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a zip"])
def test_a_damaged_zip_is_one_failure(tmp_path, data):
    root = write_umi(tmp_path)
    (root / "broken.zarr.zip").write_bytes(data)
    refs = list(DiffusionPolicy(root).refs())
    assert len(refs) == 4
    with pytest.raises(SourceError, match=r"broken\.zarr\.zip: not a whole zip file"):
        DiffusionPolicy(root).open(refs[0]).__enter__()


@pytest.mark.parametrize("ends", [[9, 9, 28], [9, 5, 28], [0, 9, 28], [9, 21, 29]])
def test_episode_ends_that_make_no_sense_are_refused(tmp_path, ends):
    root = write_pusht(tmp_path)
    chunk = root / "pusht.zarr" / "meta" / "episode_ends" / "0"
    chunk.write_bytes(np.array(ends, "<i8").tobytes())
    source = DiffusionPolicy(root)
    last = list(source.refs())[-1]
    with (
        pytest.raises(SourceError, match=r"do not ascend|ends before row 29"),
        source.open(last) as episode,
    ):
        list(episode.views.values())


def test_frames_are_arrays_of_bytes(tmp_path):
    with first(DiffusionPolicy(write_pusht(tmp_path))) as episode:
        assert rgb(next(iter(episode.views["img"]))).dtype == np.uint8


def test_a_blosc_chunk_that_is_cut_off_is_refused(tmp_path):
    chunk = write_pusht(tmp_path) / "pusht.zarr" / "data" / "action" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-5])  # Blosc itself would read on behind its end
    source = DiffusionPolicy(tmp_path)
    with (
        pytest.raises(SourceError, match=r"action/0\.0: a blosc chunk is damaged: its header says"),
        source.open(next(source.refs())) as episode,
    ):
        list(episode.arrays.values())


def test_rows_behind_the_last_episode_are_a_failure(tmp_path):
    root = write_pusht(tmp_path)
    zarr = pytest.importorskip("zarr")
    ends = zarr.open_array(root / "pusht.zarr" / "meta" / "episode_ends", mode="r+")
    ends[:] = (5, 9, 21)
    source = DiffusionPolicy(root)
    refs = list(source.refs())
    assert [ref.locator[1] for ref in refs] == [0, 1, 2, None]
    with (
        pytest.raises(SourceError, match="rows 21 to 28 of the data belong to no episode"),
        source.open(refs[-1]),
    ):
        pass


def test_a_short_chunk_is_told(tmp_path):
    """A chunk stored raw, of fewer bytes than its shape takes."""
    root = write_pusht(tmp_path)
    chunk = root / "pusht.zarr" / "data" / "state" / "0.0"
    codec = json.loads((chunk.parent / ".zarray").read_text())
    (chunk.parent / ".zarray").write_text(json.dumps({**codec, "compressor": None}))
    chunk.write_bytes(bytes(24))
    with (
        first(DiffusionPolicy(root)) as episode,
        pytest.raises(SourceError, match=r"data/state/0\.0: the chunk is damaged"),
    ):
        _ = episode.arrays["state"]


def test_format_3_is_read_as_format_2_is(tmp_path):
    old, new = write_pusht(tmp_path / "old"), write_pusht(tmp_path / "new", zarr_format=3)
    assert recognize(new / "pusht.zarr").kind == recognize(new).kind == "diffusion_policy"
    for (one, before), (two, after) in zip(
        episodes(DiffusionPolicy(old)), episodes(DiffusionPolicy(new)), strict=True
    ):
        assert one.id == two.id
        assert numbers(before.views["img"]) == numbers(after.views["img"])
        assert before.arrays.keys() == after.arrays.keys() == {"state", "action", "keypoint"}
        assert {array.dtype.str for array in after.arrays.values()} == {"<f4"}


@pytest.mark.parametrize("compressors", ["gzip", "zstd", "none", "default"])
@pytest.mark.parametrize("keys", ["default", "v2"])
def test_the_usual_codecs_and_keys_of_format_3_are_read(tmp_path, compressors, keys):
    codecs = {"gzip": zarr.codecs.GzipCodec(), "zstd": zarr.codecs.ZstdCodec(), "none": None}
    values = np.arange(35, dtype=">i2" if keys == "v2" else "<i2").reshape(7, 5)
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    array = group.require_group("data").create_array(
        "x", shape=values.shape, chunks=(3, 4), dtype=values.dtype,
        compressors=codecs.get(compressors, "auto"), chunk_key_encoding={"name": keys},
    )  # fmt: skip
    array[:] = values
    with open_zarr(tmp_path, Limits()) as store:
        assert store.arrays("data") == ["x"]
        assert np.array_equal(store.array("data/x").rows(2, 6), values[2:6])


def test_shards_of_format_3_are_refused_by_name(tmp_path):
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    group.create_array("x", shape=(8, 4), chunks=(1, 4), shards=(4, 4), dtype="u1")
    with open_zarr(tmp_path, Limits()) as store:
        with pytest.raises(SourceError, match=r"sharding_indexed.*without shards"):
            store.array("x")


def test_a_zip_around_a_folder_is_read(tmp_path):
    root = write_pusht(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "pusht.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root))
    expected = [ref.path.rpartition("/")[2] for ref in DiffusionPolicy(root).refs()]
    source = DiffusionPolicy(tmp_path / "pusht.zip")
    assert [ref.path.rpartition("/")[2] for ref in source.refs()] == expected
    for _, episode in episodes(source):
        assert len(list(episode.views["img"])) == episode.views["img"].info.num_frames


def test_groups_in_folders_below_are_all_read(tmp_path):
    for name in ("b/two", "a"):
        write_pusht(tmp_path / name)
    assert recognize(tmp_path).kind == "diffusion_policy"
    paths = [ref.path for ref in DiffusionPolicy(tmp_path).refs()]
    assert paths == [f"{at}/pusht.zarr/episode_{k}" for at in ("a", "b/two") for k in range(3)]


def write_group(path, zarr_format=2, **arrays):
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for name, array in arrays.items():
        group.create_array(f"data/{name}", data=array)
    group.create_array("meta/episode_ends", data=np.array([5]))


def test_small_arrays_with_the_axes_of_pictures_are_numbers(tmp_path):
    """Rotations of two arms, or a few points: they refused the dataset, or became a camera."""
    rotations = np.broadcast_to(np.eye(3, dtype="f4"), (5, 2, 3, 3))
    write_group(
        tmp_path / "a.zarr",
        img=pictures(5),
        rotations=rotations,
        points=np.full((5, 1, 7, 3), 0.25, "f4"),
        gray=pictures(5)[..., 0],
    )
    found = selected(DiffusionPolicy(tmp_path))
    assert list(found.views) == ["img"]
    assert np.array_equal(found.arrays["rotations"], rotations)
    assert {*found.arrays} == {"rotations", "points", "gray"}
    [note] = found.notes
    assert "array gray: (5, 36, 48) uint8 may be pictures, and is kept as numbers" in note
    asked = selected(DiffusionPolicy(tmp_path), views=["points", "img"])
    assert {*asked.views} == {"points", "img"}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups_below_are_known_by_what_is_in_them(tmp_path, zarr_format):
    write_group(tmp_path / "task" / "replay_buffer", zarr_format, img=pictures(5))
    found = recognize(tmp_path)
    assert found.kind == "diffusion_policy"
    assert found.why == "Zarr groups with meta/episode_ends in folders below"
    [ref] = DiffusionPolicy(tmp_path).refs()
    assert ref.path == "task/replay_buffer/episode_0"
    assert len(selected(DiffusionPolicy(tmp_path)).views["img"]) == 5
