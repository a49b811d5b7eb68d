"""TAP-Vid pickles, and what pickles of others may not do."""

import os
import pickle

import numpy as np
import pytest
from source_fixtures import SHAPE, numbers, pictures, write_tapvid

from builder.core.errors import DecodeError, SourceError
from builder.inputs.pickled import load_pickle
from builder.sources.kinds.tapvid import TapVid
from schemas.config import Limits


def test_tracks_come_in_source_pixels_one_row_per_frame(tmp_path):
    source = TapVid(write_tapvid(tmp_path))
    assert [ref.path for ref in source.refs()] == [
        "kinetics.pkl/video_0", "tapvid_davis.pkl/cow", "tapvid_davis.pkl/dog",
    ]  # fmt: skip
    truth = pickle.loads((tmp_path / "tapvid_davis.pkl").read_bytes())["cow"]
    ref = list(source.refs())[1]
    with source.open(ref) as episode:
        assert numbers(episode.views["main"]) == list(range(9))
        xy, visible = episode.arrays["points_xy"], episode.arrays["visible"]
        assert xy.shape == (9, 5, 2)
        assert xy[3, 2] == pytest.approx(truth["points"][2, 3] * (SHAPE[1], SHAPE[0]), rel=1e-6)
        assert np.array_equal(visible, (~truth["occluded"]).T)


def test_jpeg_frames_are_decoded(tmp_path):
    source = TapVid(write_tapvid(tmp_path))
    with source.open(next(source.refs())) as episode:
        assert numbers(episode.views["main"]) == list(range(7))
        assert episode.views["main"].info.codec == "mjpeg"


def write(tmp_path, value):
    (tmp_path / "x.pkl").write_bytes(value if isinstance(value, bytes) else pickle.dumps(value))
    return tmp_path / "x.pkl"


GOOD = {"video": pictures(4), "points": np.zeros((5, 4, 2)), "occluded": np.zeros((5, 4), bool)}


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": {**GOOD, "video": pictures(4)[..., :2]}}, r"expected pictures \(T, H, W, 3\)"),
        ({"a": {**GOOD, "video": [1, 2]}}, "list of JPEG files"),
        ({"a": {**GOOD, "points": np.zeros((5, 3, 2))}}, r"expected points \(N, 4, 2\)"),
        ({"a": {**GOOD, "occluded": np.zeros((5, 9), bool)}}, "expected points"),
        ({"a": {**GOOD, "points": [[1], [2, 3]]}}, "not arrays"),
        ({"a": {"video": 1}}, "dict of video, points and occluded"),
        ({"a": 3}, "dict of video, points and occluded"),
        (7, "dict or list of videos, got int"),
        ({}, "dict or list of videos"),
    ],
)
def test_other_contents_are_refused(tmp_path, value, match):
    source = TapVid(write(tmp_path, value))
    [ref] = source.refs()
    with pytest.raises(SourceError, match=match):
        source.open(ref).__enter__()


class Evil:
    def __reduce__(self):
        return os.system, ("echo gotcha > " + os.environ["EVIL"],)


class Persistent(pickle.Pickler):
    def persistent_id(self, value):
        return "x" if value == 42 else None


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_never_run(tmp_path, protocol, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "gotcha"))
    path = write(tmp_path, pickle.dumps({"a": [Evil()]}, protocol))
    with pytest.raises(SourceError, match=r"asks for (posix|nt|os)\.system, which is refused"):
        load_pickle(path, Limits())
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.parametrize(
    "value",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.data\x93.",
        b"cbuilder.errors\nSourceError\n.",
        b"Px\n.",
    ],
)
def test_names_outside_the_list_are_refused(tmp_path, value):
    with pytest.raises(SourceError, match="which is refused"):
        load_pickle(write(tmp_path, value), Limits())


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_come_back(tmp_path, protocol):
    value = {
        "u1": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "f8": np.linspace(0, 1, 7),
        "big": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "bool": np.array([True, False]),
        "scalar": np.float32(1.5),
        "objects": np.array([b"ab", "c", np.arange(2)], object),
        "nested": [1, (2.5, None), {"x": b"bytes", 3: "\u00e9"}],
    }
    found = load_pickle(write(tmp_path, pickle.dumps(value, protocol)), Limits())
    assert list(found) == list(value)
    for key in ("u1", "f8", "big", "fortran", "bool", "scalar"):
        assert np.array_equal(found[key], value[key])
        assert found[key].dtype == value[key].dtype
    assert found["nested"] == value["nested"]
    assert found["objects"][0] == b"ab"
    assert found["objects"][2].tolist() == [0, 1]
    # Shared dtypes of NumPy must not be touched by a pickle that swaps bytes.
    assert np.dtype("i4").byteorder == "="


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x80\x04",
        b"\x8e" + (1 << 40).to_bytes(8, "little") + b"x",
        b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little"),
        b"K\x01r\xff\xff\xff\x7f0.",
        pickle.dumps(GOOD)[:-40],
        pickle.dumps(np.arange(9.0)).replace(b"\x85", b"\x86"),
        b"cnumpy\ndtype\n(S'V99'\ntR.",
        b"(lp0\ng0\na.",
    ],
)
def test_broken_and_swollen_pickles_end_soon(tmp_path, value):
    with pytest.raises(SourceError, match=r"x\.pkl"):
        load_pickle(write(tmp_path, value), Limits())


def test_a_list_that_is_there_many_times_is_read_once(tmp_path):
    value: list = []
    for _ in range(100):
        value = [value, value]  # 2**100 lists, for whoever takes them one by one
    found = load_pickle(write(tmp_path, pickle.dumps(value)), Limits())
    assert found[0] is found[1]


def test_pickles_beyond_the_limit_are_refused(tmp_path):
    with pytest.raises(SourceError, match="exceed the limit of 100"):
        load_pickle(write(tmp_path, GOOD), Limits(max_array_bytes=100))


def test_a_damaged_pickle_is_one_failure(tmp_path):
    write(tmp_path, b"nonsense")
    source = TapVid(write_tapvid(tmp_path))
    refs = list(source.refs())
    assert len(refs) == 4
    bad = [ref for ref in refs if ref.locator[1] is None]
    with pytest.raises(DecodeError, match=r"x\.pkl: not a whole pickle"):
        source.open(bad[0]).__enter__()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (
            {"a": {**GOOD, "points": np.full((5, 4, 2), 20.0)}},
            "x.pkl: a: points must be normalized",
        ),
        ({5: GOOD, "5": GOOD}, "2 videos have 1 names"),
        ({}, "got an empty one"),
    ],
)
def test_pixels_and_names_that_read_alike_are_refused(tmp_path, value, match):
    source = TapVid(write(tmp_path, value))
    with pytest.raises(SourceError, match=match), source.open(next(source.refs())):
        pass


def test_points_may_leave_the_picture_and_hidden_ones_be_anywhere(tmp_path):
    points, occluded = np.zeros((5, 4, 2)), np.zeros((5, 4), bool)
    points[0], points[1:], occluded[1:4] = 1.7, 0.5, True
    points[1:4] = -1000.0
    source = TapVid(write(tmp_path, {"a": {**GOOD, "points": points, "occluded": occluded}}))
    with source.open(next(source.refs())) as episode:
        assert episode.arrays["points_xy"][0, 0].tolist() == pytest.approx(
            [1.7 * SHAPE[1], 1.7 * SHAPE[0]]
        )
