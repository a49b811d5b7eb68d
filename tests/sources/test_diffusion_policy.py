"""Replay buffers in Zarr format 2, in folders and zip files, and what is refused in them."""

import json
import zipfile
import zlib

import numpy as np
import pytest
from source_fixtures import episodes, numbers, rgb

pytest.importorskip("zarr")
from zarr_fixtures import ENDS, write_pusht, write_umi

from builder.core.errors import SourceError
from builder.inputs.zarr import open_zarr
from builder.sources.kinds.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from schemas.config import Limits

STARTS = (0, *ENDS[:-1])


def check(source, view):
    spans = list(zip(STARTS, ENDS, strict=True))
    found = list(episodes(source))
    assert len(found) == len(spans)
    for (first, last), (_, episode) in zip(spans, episodes(source), strict=True):
        assert numbers(episode.views[view]) == list(range(first, last))
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
        found = check(DiffusionPolicy(path), "camera0_rgb")
        assert found[0][1].views["camera1_rgb"].info.coded_shape == (24, 40)


def test_the_group_itself_can_be_the_source(tmp_path):
    root = write_pusht(tmp_path)
    found = check(DiffusionPolicy(root / "pusht.zarr"), "img")
    assert found[0][0].id == next(DiffusionPolicy(root).refs()).id


def test_floats_are_scaled_as_the_config_says(tmp_path):
    root = write_pusht(tmp_path)
    small = DiffusionPolicyConfig(float_pictures="0..1")
    [(_, episode), *_] = episodes(DiffusionPolicy(root, small))
    with pytest.raises(SourceError, match=r"its values leave 0\.\.1"):
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
        ({"zarr_format": 3}, "only 2 is read"),
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
    source = DiffusionPolicy(root)
    with pytest.raises(SourceError, match=match):
        source.open(next(source.refs())).__enter__()


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
    with pytest.raises(SourceError, match=r"do not ascend|ends before row 29"):
        source.open(last).__enter__()


def test_frames_are_arrays_of_bytes(tmp_path):
    [(_, episode), *_] = episodes(DiffusionPolicy(write_pusht(tmp_path)))
    assert rgb(next(iter(episode.views["img"]))).dtype == np.uint8


def test_a_blosc_chunk_that_is_cut_off_is_refused(tmp_path):
    chunk = write_pusht(tmp_path) / "pusht.zarr" / "data" / "action" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-5])  # Blosc itself would read on behind its end
    source = DiffusionPolicy(tmp_path)
    with (
        pytest.raises(SourceError, match=r"action/0\.0: a blosc chunk is damaged: its header says"),
        source.open(next(source.refs())),
    ):
        pass


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
