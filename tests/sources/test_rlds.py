"""RLDS: what its episodes hold, and what is told of shards and records that are not whole."""

import gzip
import json
import zlib

import numpy as np
import pytest
from source_fixtures import episodes, is_upright, jpeg, numbers, pictures, rgb, selected

pytest.importorskip("google_crc32c")

import rlds_fixtures as rlds

from builder.core.errors import SourceError
from builder.inputs.tfrecord import read_example, record_places
from builder.sources.kinds.rlds import Rlds
from builder.sources.recognize import recognize
from schemas.config import Limits

ORDER = (9, 5, 7, 6)
# A record made with Google's protobuf and TensorBoard's checksums.
OTHER = (
    "6300000000000000b16b13d90a610a280a0e73746570732f69735f666972737412161a140a120100f9ffffffffff"
    "ffffff018080808080200a200a0c73746570732f616374696f6e1210120e0a0c0000003f000000c0000040400a13"
    "0a05696d616765120a0a080a036162630a01646f4a7ee7"
)


@pytest.fixture
def folder(tmp_path):
    return rlds.write_rlds(tmp_path) / "toy_bridge" / "1.0.0"


def test_episodes_are_listed_by_split_and_shard(folder):
    refs = list(Rlds(folder).refs())
    assert [ref.path for ref in refs] == [
        "toy_bridge-train.tfrecord-00000-of-00002/episode_0",
        "toy_bridge-train.tfrecord-00000-of-00002/episode_1",
        "toy_bridge-train.tfrecord-00001-of-00002/episode_0",
        "toy_bridge-val.tfrecord-00000-of-00001/episode_0",
    ]
    assert [ref.splits for ref in refs] == [("train",)] * 3 + [("val",)]
    above = list(Rlds(folder.parents[1]).refs())
    assert [ref.group for ref in above] == ["toy_bridge/1.0.0"] * 4


def test_pictures_numbers_and_text(folder):
    for (_, episode), length in zip(episodes(Rlds(folder)), ORDER, strict=True):
        assert list(episode.views) == ["image", "wrist_image"]
        for stream in episode.views.values():
            assert numbers(stream) == list(range(length))
            assert all(is_upright(rgb(frame)) for frame in stream)
        assert {name: (each.dtype.str, each.shape) for name, each in episode.arrays.items()} == {
            "observation.state": ("<f4", (length, 8)),
            "action": ("<f4", (length, 7)),
            "is_first": ("|b1", (length,)),
            "reward": ("<f4", (length,)),
        }
        assert episode.arrays["action"][1, 0] == 7
        assert np.flatnonzero(episode.arrays["is_first"]).tolist() == [0]
        assert episode.text == f"pick up block {length}"
        assert episode.notes == ("left out of the steps: observation/depth (image uint16)",)


def test_it_is_recognized(folder):
    assert recognize(folder).kind == recognize(folder.parents[1]).kind == "rlds"


def edit(folder, name, change):
    path = folder / name
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def failures(source):
    said = []
    for ref in source.refs():
        try:
            with source.open(ref):
                pass
        except SourceError as error:
            said.append((ref.path, str(error)))
    return said


@pytest.mark.parametrize("said", ["3", "1"])
def test_another_number_of_episodes_than_is_told_is_a_failure(folder, said):
    edit(
        folder, "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=[said, "1"])
    )
    ((path, reason),) = failures(Rlds(folder))
    assert path == "toy_bridge-train.tfrecord-00000-of-00002"
    assert f"it holds 2 episodes, dataset_info.json says {said}" in reason


def test_a_shard_that_is_cut_off_or_gone_is_one_failure(folder):
    first, second, third = sorted(folder.glob("*.tfrecord*"))
    first.write_bytes(first.read_bytes()[:-5])
    third.unlink()
    one, two = failures(Rlds(folder))
    assert one[0] == first.name
    assert "it is cut off in record 1" in one[1]
    assert two[0] == third.name
    assert "cannot be opened: No such file" in two[1]
    assert [ref.path for ref in Rlds(folder).refs()][1] == f"{second.name}/episode_0"


def test_a_damaged_record_is_told_by_its_checksum(folder):
    path = min(folder.glob("*.tfrecord*"))
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    ((name, reason),) = failures(Rlds(folder))
    assert name.endswith("episode_0")
    assert "is damaged (checksum)" in reason


def test_a_record_beyond_the_limit_is_refused(folder):
    source = Rlds(folder, None, Limits(max_array_bytes=1000))
    with pytest.raises(SourceError, match=r"exceeds the limit of 1000 \(limits.max_array_bytes\)"):
        source.open(next(source.refs())).__enter__()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("dataset_info.json", {"fileFormat": "array_record"}, "only tfrecord is read"),
        ("dataset_info.json", {"splits": [{"name": "train"}]}, "no shardLengths"),
        (
            "dataset_info.json",
            {"splits": [{"name": "t", "shardLengths": ["1"], "filepathTemplate": "../../x"}]},
            "filepathTemplate",
        ),
        ("dataset_info.json", {"splits": 3}, "not the dataset_info.json"),
        ("features.json", {"featuresDict": {"features": {}}}, "these are no episodes"),
        ("features.json", {"featuresDict": 3}, "not the features.json"),
    ],
)
def test_metadata_that_is_something_else_is_named(folder, name, change, said):
    edit(folder, name, lambda described: described.update(change))
    source = Rlds(folder)
    with pytest.raises(SourceError, match=said):
        source.open(next(iter(source.refs()))).__enter__()


def test_what_another_writer_wrote_is_read(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(bytes.fromhex(OTHER))
    (place,) = record_places(path)
    found = read_example(path, place, Limits())
    assert found["image"] == [b"abc", b"d"]
    assert found["steps/action"].tolist() == [0.5, -2.0, 3.0]
    assert found["steps/is_first"].tolist() == [1, 0, -7, 1 << 40]


def write_one(folder, change, pack=None):
    """Write one episode of five steps anew, with changed values."""
    rng = np.random.default_rng(0)
    record = {
        "steps/observation/image": [jpeg(each) for each in pictures(5)],
        "steps/observation/wrist_image": [jpeg(each) for each in pictures(5, (24, 40))],
        "steps/observation/state": rng.normal(size=(5, 8)),
        "steps/language_instruction": [b"pick"] * 5,
        **change,
    }
    for each in sorted(folder.glob("*.tfrecord*"))[1:]:
        each.unlink()
    [path] = folder.glob("*.tfrecord*")
    data = rlds.tfrecord([rlds.example(record)])
    path.write_bytes(pack(data) if pack else data)
    edit(
        folder,
        "dataset_info.json",
        lambda info: info.update(splits=[{**info["splits"][0], "shardLengths": ["1"]}]),
    )
    return path.rename(folder / "toy_bridge-train.tfrecord-00000-of-00001")


def test_several_texts_stay_several_step_by_step(folder):
    texts = [b"", b"pick", b"place", b"", b"pick"]
    write_one(folder, {"steps/language_instruction": texts})
    found = selected(Rlds(folder))
    assert (found.text, found.texts) == (None, ("pick", "place"))
    assert found.arrays["text_index"].tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("images", [[], [b""] * 5, [b"?"] * 5])
def test_a_camera_that_is_not_asked_for_is_not_opened(folder, images):
    write_one(folder, {"steps/observation/wrist_image": images})
    assert list(selected(Rlds(folder), views=["image"]).views) == ["image"]
    with pytest.raises(SourceError, match="wrist_image"):
        selected(Rlds(folder))


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("zlib", zlib.compress)])
def test_compressed_records_are_named(folder, name, pack):
    write_one(folder, {}, pack)
    ((_, said),) = failures(Rlds(folder))
    assert f"it is compressed with {name}: decompress it" in said
