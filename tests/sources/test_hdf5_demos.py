"""HDF5 demonstrations: what they hold, and what is refused in files of others."""

import gzip
import json
import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import source_fixtures as fixtures
from source_fixtures import episodes, first, is_upright, numbers, rgb, selected

from builder.canvas.letterbox import orient_frame
from builder.core.errors import SourceError
from builder.inputs.hdf5 import open_hdf5
from builder.inputs.inflate import check_inflated
from builder.sources.kinds.libero import Libero, LiberoConfig
from builder.sources.kinds.robomimic import Robomimic
from builder.sources.selected import select
from schemas.config import Limits

LIMITS = Limits(max_chunk_bytes=1 << 20, max_array_bytes=1 << 20)


@pytest.fixture(scope="module")
def libero(tmp_path_factory):
    return fixtures.write_libero(tmp_path_factory.mktemp("libero"))


def test_libero_is_listed_in_natural_order_with_task_suite_and_words(libero):
    refs = list(Libero(libero).refs())
    assert [ref.locator[1] for ref in refs] == ["demo_0", "demo_1", "demo_10"] * 2
    assert refs[0].path == "libero_90/KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5/demo_0"
    assert {ref.group for ref in refs} == {"libero_90"}
    assert [ref.task for ref in refs[::3]] == [
        "KITCHEN_SCENE3_turn_on_the_stove",
        "pick_up_the_black_bowl",
    ]
    texts = [episode.text for _, episode in episodes(Libero(libero))]
    assert texts[::3] == ["turn on the stove", "pick up the black bowl"]


def test_libero_pictures_come_upright_by_their_metadata(libero):
    for _, episode in episodes(Libero(libero)):
        assert set(episode.views) == {"agentview", "eye_in_hand"}
        for stream in episode.views.values():
            assert stream.info.orientation == "vflip"
            assert stream.info.fps == 20
            assert numbers(stream) == list(range(stream.info.num_frames))
            for frame in stream:
                assert not is_upright(rgb(frame))
                assert is_upright(orient_frame(rgb(frame), stream.info.orientation))


def test_the_other_convention_is_one_setting_away(libero):
    config = LiberoConfig(orientation="rot180")
    with first(Libero(libero, config)) as episode:
        info = select(episode, config).views["agentview"].info
    assert (info.orientation, info.orientation_from) == ("rot180", "source.orientation")


def test_libero_arrays_pass_through_bit_exactly(libero):
    path = libero / "libero_90" / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5"
    with first(Libero(libero)) as episode, h5py.File(path) as file:
        demo = file["data/demo_0"]
        for name in ("actions", "states", "rewards", "dones", "robot_states"):
            assert episode.arrays[name].tobytes() == demo[name][()].tobytes()
        for name in ("ee_pos", "ee_ori", "ee_states", "gripper_states", "joint_states"):
            assert episode.arrays[name].tobytes() == demo["obs"][name][()].tobytes()
    assert len(episode.arrays) == 10


def test_arrays_can_be_chosen(libero):
    found = selected(Libero(libero), arrays=("actions", "obs/ee_pos"))
    assert list(found.arrays) == ["actions", "ee_pos"]
    with pytest.raises(SourceError, match=r"no arrays \['obs/nothing'\] among \['actions'"):
        selected(Libero(libero), arrays=("obs/nothing",))


def test_robomimic_is_upright_with_depth_and_splits(tmp_path):
    source = Robomimic(fixtures.write_robomimic(tmp_path))
    assert [ref.splits for ref in source.refs()] == [("train",), ("valid",), ("train",)]
    for _, episode in episodes(source):
        stream = episode.views["agentview"]
        assert stream.info.orientation == "none"
        assert stream.info.fps == 10
        assert all(is_upright(rgb(frame)) for frame in stream)
        depth = [frame.image for frame in episode.maps["agentview"]["depth"]]
        assert depth[0].dtype == np.float32
        assert depth[0].shape == fixtures.SHAPE
        assert (np.diff([image.mean() for image in depth]) > 0).all()
        assert "robot0_eef_pos" in episode.arrays


def test_one_file_is_a_source_too(libero):
    path = libero / "libero_90" / "pick_up_the_black_bowl_demo.hdf5"
    source = Libero(path)
    assert [ref.path for ref, _ in episodes(source)] == [
        f"pick_up_the_black_bowl_demo.hdf5/demo_{k}" for k in (0, 1, 10)
    ]


def test_a_damaged_file_is_one_failure_among_good_ones(tmp_path):
    root = fixtures.write_libero(tmp_path)
    good = root / "libero_90" / "pick_up_the_black_bowl_demo.hdf5"
    (root / "libero_90" / "broken_demo.hdf5").write_bytes(good.read_bytes()[:20_000])
    (root / "libero_90" / "text_demo.hdf5").write_text("not HDF5")
    refs = list(Libero(root).refs())
    assert len(refs) == 8
    failed = [ref for ref in refs if ref.locator[1] is None]
    assert len(failed) == 2
    for ref in failed:
        with pytest.raises(SourceError, match=r"(broken|text)_demo.hdf5: not a whole HDF5 file"):
            Libero(root).open(ref).__enter__()


def refused(folder, words):
    """The only file there is refused when it is opened, in these words."""
    source = Libero(folder)
    [ref] = source.refs()
    with pytest.raises(SourceError, match=words):
        source.open(ref).__enter__()


def test_a_file_without_demonstrations_says_so(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["something"] = np.zeros(3)
    refused(tmp_path, "there are no demonstrations")


def test_a_demonstration_without_cameras_lists_what_it_has(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["data/demo_0/obs/goal"] = fixtures.pictures(3)[..., :2]
    refused(tmp_path, r"no pictures \(T, H, W, 3\) of uint8 among \['goal'\]")


@pytest.mark.parametrize(
    "args", ["{", "[]", json.dumps({"env_kwargs": {"control_freq": "x"}}), "[" * 9999]
)
def test_odd_env_args_fall_back_to_the_config(tmp_path, args):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["data/demo_0/obs/agentview_rgb"] = fixtures.pictures(3)
        file["data"].attrs["env_args"] = args
    with first(Libero(tmp_path, LiberoConfig(recorded_fps=7.5))) as episode:
        assert episode.views["agentview"].info.fps == 7.5


@pytest.mark.parametrize(
    "layout", [{}, {"chunks": True}, {"chunks": (4, 9, 48, 3), "compression": "gzip"}]
)
def test_every_layout_reads_alike(tmp_path, layout):
    frames = fixtures.pictures(45)[:, ::-1]
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("data/demo_0/obs/agentview_rgb", data=frames, **layout)
    source = Libero(tmp_path)
    with source.open(next(source.refs())) as episode:
        got = np.stack([rgb(frame) for frame in episode.views["agentview"]])
    assert np.array_equal(got, frames)


def refuse(path, match, place="x", limits=LIMITS):
    with open_hdf5(path, limits) as file, pytest.raises(SourceError, match=match) as caught:
        file.array(place)
    assert path.name in str(caught.value)


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "evil.h5", "w") as opened:
        yield opened


def closed(file):
    path = file.filename
    file.close()
    return Path(path)


def test_an_external_link_is_refused_anywhere_on_the_way(file, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["g/x"] = np.arange(3)
    file["x"] = h5py.ExternalLink("secret.h5", "/g/x")
    file["g"] = h5py.ExternalLink("secret.h5", "/g")
    file["soft"] = h5py.SoftLink("/g/x")
    path = closed(file)
    for place in ("x", "g/x", "soft"):
        refuse(path, "external link", place)


def test_external_storage_is_refused(file, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(range(64)))
    secret = str(tmp_path / "secret.bin")
    file.create_dataset("x", (8,), "f8", external=[(secret, 0, h5py.h5f.UNLIMITED)])
    refuse(closed(file), "external files")


def test_a_virtual_dataset_is_refused(file, tmp_path):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (3,))
    file.create_virtual_dataset("x", layout)
    refuse(closed(file), "virtual dataset")


def test_links_in_circles_are_refused(file):
    file["x"], file["y"] = h5py.SoftLink("/y"), h5py.SoftLink("/x")
    file["here"] = h5py.SoftLink("here/here")
    path = closed(file)
    refuse(path, "in circles")
    refuse(path, "in circles", "here")


def test_a_group_that_holds_itself_ends(file):
    group = file.create_group("data")
    group["data"] = group
    path = closed(file)
    with open_hdf5(path, LIMITS) as opened:
        assert opened.keys("data/data/data") == ["data"]


def test_inner_soft_links_are_followed(file):
    file["g/real"] = np.arange(4.0)
    file["g/x"] = h5py.SoftLink("real")
    file["x"] = h5py.SoftLink("/g/x")
    path = closed(file)
    with open_hdf5(path, LIMITS) as opened:
        assert opened.array("x").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "value",
    [
        np.array([b"ab", b"c"], "S2"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.array([1 + 2j]),
    ],
)
def test_types_other_than_numbers_are_refused(file, value):
    file["x"] = value
    refuse(closed(file), "only plain numbers")


def test_object_types_are_refused(file):
    data = file.create_dataset("x", (2,), h5py.vlen_dtype(np.uint8))
    data[0] = [1, 2, 3]
    data[1] = [4]
    file["ref"] = np.array([file["x"].ref], h5py.ref_dtype)
    path = closed(file)
    refuse(path, "only plain numbers")
    refuse(path, "only plain numbers", "ref")


def test_huge_declared_shapes_are_refused_before_they_are_allocated(file):
    file.create_dataset("x", (10**6, 10**6), "f8", chunks=(100, 100))
    file.create_dataset("null", data=h5py.Empty("f8"))
    path = closed(file)
    refuse(path, "declared")
    refuse(path, "null dataspace", "null")


def test_arrays_beyond_the_limit_are_refused(file):
    file["x"] = np.zeros((1 << 17) + 1)
    refuse(closed(file), r"exceeds the limit of 1048576 bytes \(limits.max_array_bytes\)")


def test_data_that_were_never_written_are_refused(file):
    hole = file.create_dataset("x", (8, 3), "f8", chunks=(2, 3))
    hole[:4] = 1
    file.create_dataset("flat", (8, 3), "f8")
    path = closed(file)
    refuse(path, "2 of 4 chunks exist")
    refuse(path, "0 bytes stored", "flat")


def test_large_chunks_are_refused(file):
    file.create_dataset("x", data=np.zeros((2, 1 << 18)), chunks=(1, 1 << 18))
    refuse(closed(file), r"exceed the limit of 1048576 \(limits.max_chunk_bytes\)")


def test_a_chunk_that_inflates_beyond_its_shape_is_refused(file):
    data = file.create_dataset("x", (64,), "u1", chunks=(64,), compression="gzip")
    data.id.write_direct_chunk((0,), zlib.compress(bytes(64 << 20), 9))
    refuse(closed(file), "would inflate beyond the limit")


@pytest.mark.parametrize("number", [305, 32013, 4])
def test_unknown_filters_are_refused_by_name(file, number):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    if number == 4:
        plist.set_szip(h5py.h5z.SZIP_NN_OPTION_MASK, 4)
    else:
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple((8,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT32, space, plist)
    refuse(closed(file), rf"the filter .*\(number {number}\) is refused; supported are gzip")


@pytest.mark.parametrize("name", ["gzip", "lzf", "LZ4", "Zstd", "Blosc"])
def test_common_filters_are_read(file, name):
    if name[0].isupper():
        plugin = getattr(pytest.importorskip("hdf5plugin"), name)()
        options = dict(plugin)
    else:
        options = {"compression": name, "shuffle": True, "fletcher32": True}
    values = np.arange(4000.0).reshape(400, 10)
    file.create_dataset("x", data=values, chunks=(50, 10), **options)
    path = closed(file)
    with open_hdf5(path, LIMITS) as opened:
        assert np.array_equal(opened.array("x"), values)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "x.hdf5")
    refused(tmp_path, "not a regular file")


def test_damaged_bytes_are_an_error_that_names_the_place(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        data = file.create_dataset(
            "data/demo_0/obs/agentview_rgb", data=fixtures.pictures(6), chunks=(2, 36, 48, 3),
            compression="gzip", fletcher32=True,
        )  # fmt: skip
        offset = data.id.get_chunk_info(1).byte_offset
    with open(tmp_path / "x.hdf5", "r+b") as raw:
        raw.seek(offset + 5)
        raw.write(b"\xff\xff\xff\xff")
    source = Libero(tmp_path)
    [ref] = source.refs()
    with source.open(ref) as episode, pytest.raises(SourceError, match=r"demo_0/obs/agentview_rgb"):
        list(episode.views["agentview"])


def test_pictures_beyond_the_pixel_limit_are_refused(tmp_path):
    root = fixtures.write_libero(tmp_path)
    source = Libero(root, None, Limits(max_pixels=36 * 48 - 1))
    with (
        pytest.raises(SourceError, match=r"exceeds limits\.max_pixels"),
        first(source) as episode,
    ):
        list(episode.views.values())


@pytest.mark.parametrize("codec", ["blosc", "lz4", "lz4_hdf5", "zstd"])
def test_headers_that_claim_too_much_or_are_cut_are_refused(codec):
    big = 1 << 40
    raw = {
        "blosc": bytes(4) + (0xFFFFFFFF).to_bytes(4, "little") + bytes(8),
        "lz4": (0xFFFFFFFF).to_bytes(4, "little"),
        "lz4_hdf5": big.to_bytes(8, "big"),
        "zstd": b"\x28\xb5\x2f\xfd\xe0" + big.to_bytes(8, "little"),
    }[codec]
    with pytest.raises(ValueError, match="would inflate beyond"):
        check_inflated(codec, raw, 1 << 20)
    with pytest.raises(ValueError, match="damaged"):
        check_inflated(codec, raw[:3], 1 << 20)
    with pytest.raises(ValueError, match="refused; supported are"):
        check_inflated("zfp", raw, 1 << 20)


def test_gzip_members_are_added_up():
    part = gzip.compress(bytes(600_000))
    check_inflated("gzip", part, 700_000)
    with pytest.raises(ValueError, match="would inflate"):
        check_inflated("gzip", part + part, 700_000)


def test_demonstrations_that_are_declared_but_not_there_are_a_failure(tmp_path):
    root = fixtures.write_libero(tmp_path)
    path = sorted(root.rglob("*.hdf5"))[0]
    with h5py.File(path, "r+") as file:
        del file["data/demo_1"]
    source = Libero(root)
    refs = list(source.refs())
    assert [ref.locator[1] for ref in refs[:3]] == ["demo_0", "demo_10", None]
    with (
        pytest.raises(SourceError, match=rf"{path.name}: data: 2 demonstrations of num_demos 3"),
        source.open(refs[2]),
    ):
        pass


def test_frames_that_are_declared_but_not_there_are_refused(tmp_path):
    root = fixtures.write_libero(tmp_path)
    path = sorted(root.rglob("*.hdf5"))[0]
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["num_samples"] = 99
    said = r"data/demo_0: agentview_rgb has \d+ frames of num_samples 99"
    with pytest.raises(SourceError, match=said), first(Libero(root)) as episode:
        list(episode.views.values())
