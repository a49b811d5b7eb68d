"""Large episodes at a URL: read by ranges of bytes, as many as samples hold."""

import pickle
import shutil

import numpy as np
import pytest
from far_datasets import Fetched, upload

from builder import open_dataset
from builder.core.errors import DatasetError
from builder.dataset import remote
from builder.dataset.layers import LayerWriter
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.stores.ranged import Head, RangedReader
from builder.stores.remote_folder import RemoteFolder
from builder.testing.samples import Sample, sample_dataset
from schemas.dataset import EpisodeMeta

fsspec = pytest.importorskip("fsspec")

URL = "memory://bucket/far"
LENGTH = 400  # so that a file is larger than what is fetched whole


def make(folder, store=Hdf5Store, keys=("a", "b", "c"), **how):
    samples = [Sample(key, seed=at, length=LENGTH, **how) for at, key in enumerate(keys)]
    sample_dataset(folder, store(folder), samples)
    return folder


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return make(tmp_path_factory.mktemp("far"))


@pytest.fixture
def at_url():
    """Put a dataset into memory."""
    files, root = fsspec.core.url_to_fs(URL)

    def put(folder):
        if files.exists(root):
            files.rm(root, recursive=True)
        upload(folder, files, root)
        return files, root

    yield put
    files.rm("/bucket", recursive=True)


@pytest.fixture
def fetched(monkeypatch):
    return Fetched(monkeypatch)


def test_packed_arrays_are_read_from_the_whole_file(tmp_path):
    pytest.importorskip("hdf5plugin")
    make(tmp_path, keys=["a"], codec="lz4")
    whole = Hdf5Store(tmp_path).open("a")
    head = Head(whole._text, whole.path.stat().st_size, {}, {})
    (tmp_path / "head").write_bytes(head.to_bytes())

    class Far:
        def whole(self):
            return whole

    ranged = RangedReader(tmp_path / "head", "a", EpisodeMeta, Far())
    ranged._head.offsets["front", "frames"] = None
    found, wanted = (each.array("front", "frames") for each in (ranged, whole))
    np.testing.assert_array_equal(found[3], wanted[3])


def cached(dataset):
    return sorted(dataset.store.ids())


def assert_samples(got, expected):
    torch = pytest.importorskip("torch")
    for sample, other in zip(got, expected, strict=True):
        assert sample.keys() == other.keys()
        for key, value in other.items():
            same = torch.equal if torch.is_tensor(value) else lambda a, b: a == b
            assert same(sample[key], value), key


@pytest.mark.parametrize(
    "how", [{}, {"track_codec": "u16"}, {"codec": "jpeg"}], ids=["raw", "u16", "jpeg"]
)
def test_samples_are_those_of_the_local_one(how, at_url, tmp_path, monkeypatch, fetched):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    monkeypatch.setattr(remote, "_SMALL_BYTES", 0)  # JPEGs are small
    origin = make(tmp_path / "origin", **how)
    at_url(origin)
    options = {"arrays": ["actions", "done", "conf"], "tail": "mask", "history": 2, "conf": True}
    local = WindowDataset(open_dataset(origin), **options)
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    windows = WindowDataset(dataset, **options)
    picks = np.random.default_rng(0).integers(0, len(windows), 40).tolist()
    picks += [0, len(windows) - 1]
    fetched.clear()
    assert_samples(windows.__getitems__(picks), (local[pick] for pick in picks))
    # Two or three calls for each head, the first one on opening, then one for all samples.
    assert len(fetched.calls) <= 2 * 3 + 1
    fetched.clear()
    assert_samples([windows[7], windows[-1]], [local[7], local[-1]])
    assert len(fetched.calls) == 2
    assert (cached(dataset), fetched.episodes) == ([], [])


def test_as_many_bytes_are_fetched_as_samples_hold(origin, at_url, tmp_path, fetched):
    """One epoch of one rank of four: a quarter of the bytes of the windows, and the heads."""
    pytest.importorskip("torch")
    from builder.training import WindowDataset, WindowSampler

    at_url(origin)
    windows = WindowDataset(open_dataset(URL, cache=tmp_path / "cache"), arrays=["actions"])
    fetched.clear()
    picks = list(WindowSampler(len(windows), rank=1, world_size=4))
    for at in range(0, len(picks), 32):
        windows.__getitems__(picks[at : at + 32])
    horizon, points, (height, width) = windows.horizon, windows.num_points, windows.img_shape
    tracks, vis, frame = horizon * points * 8, horizon * points, height * width * 3
    held = len(picks) * (len(windows.views) * (tracks + vis + frame) + horizon * 3 * 4)
    files = sum(path.stat().st_size for path in (origin / "episodes").iterdir())
    heads = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("heads/*/*"))
    # Of these tiny pictures the heads are a good part; they are fetched once.
    assert fetched.bytes - heads <= 1.15 * held
    assert heads < 0.06 * files
    assert fetched.bytes < 0.35 * files
    fetched.clear()
    windows.__getitems__(picks[:32])
    assert len(fetched.calls) == 1


def test_keys_are_those_of_numpy(origin, at_url, tmp_path, fetched):
    at_url(origin)
    reader = open_dataset(URL, cache=tmp_path)["b"].reader
    assert isinstance(reader, RangedReader)
    array = reader.array("front", "frames")
    expected = open_dataset(origin)["b"].views["front"].frames
    for key, rows in [(3, 1), (slice(5, 9), 4), (slice(20, 3, -4), 17)]:
        fetched.clear()
        array[key]
        assert fetched.bytes == rows * expected[0].nbytes
    fetched.clear()
    array[2, 3:7], array[9:2]
    assert fetched.bytes == 4 * expected[0, 0].nbytes
    assert (array.shape, array.dtype, array.ndim) == (expected.shape, expected.dtype, 4)
    keys = [
        3, -1, slice(5, 9), slice(-3, None), slice(9, 2), slice(20, 3, -4), slice(3, 20, 4),
        (2, slice(3, 7)), (2, 3, 4), (2, slice(3, 7), 1), (slice(2, 5), 3), (..., 1), np.int64(7),
        [4, 9], (2, [3, 1]), (slice(2, 4), None), np.array([1, 3]), (5, ..., 0), slice(LENGTH, 500),
    ]  # fmt: skip
    for key in keys:
        np.testing.assert_array_equal(array[key], expected[key])
    for wrong in (LENGTH, -LENGTH - 1):
        with pytest.raises(IndexError):
            array[wrong]
    np.testing.assert_array_equal(np.asarray(array, np.int64), expected)


@pytest.mark.parametrize("case", ["zarr", "lz4", "small", "whole_episodes"])
def test_what_is_fetched_whole(case, at_url, tmp_path, monkeypatch, fetched):
    if case != "small":
        monkeypatch.setattr(remote, "_SMALL_BYTES", 0)
    if case == "lz4":
        pytest.importorskip("hdf5plugin")
    store = ZarrStore if case == "zarr" else Hdf5Store
    codec = "lz4" if case == "lz4" else "raw"
    samples = [Sample(key, length=9 if case == "small" else LENGTH, codec=codec) for key in "ab"]
    sample_dataset(tmp_path / "origin", store(tmp_path / "origin"), samples)
    at_url(tmp_path / "origin")
    dataset = open_dataset(URL, cache=tmp_path / "cache", whole_episodes=case == "whole_episodes")
    for key in "ab":
        tracks = dataset[key].views["front"].tracks
        np.testing.assert_array_equal(tracks, samples[0].arrays["front", "tracks"])
    assert cached(dataset) == ["a", "b"]
    # Whether arrays are packed is asked of the first file alone.
    assert len({name for call in fetched.calls for name, _, _ in call}) == (case == "lz4")


def test_an_episode_is_fetched_whole_once_as_much_was_read(origin, at_url, tmp_path, fetched):
    at_url(origin)
    size = (origin / "episodes" / "a.hdf5").stat().st_size
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    narrow = open_dataset(URL, cache=tmp_path / "narrow", cache_bytes=size // 2)
    expected = open_dataset(origin)["a"].views["front"].frames
    for each in (dataset, narrow):
        frames = each["a"].views["front"].frames
        rounds = 1 + size // expected.nbytes
        for _ in range(rounds):
            np.testing.assert_array_equal(frames[:], expected)
        fetched.clear()
        np.testing.assert_array_equal(frames[3:6], expected[3:6])
        # There is no room in the narrow one.
        assert cached(each) == ([] if each is narrow else ["a"])
        assert bool(fetched.calls) == (each is narrow)
    # The next to open it, in any process, reads it here.
    assert not isinstance(open_dataset(URL, cache=tmp_path / "cache")["a"].reader, RangedReader)


def test_layers_are_read_by_ranges_too(at_url, tmp_path, fetched):
    origin = make(tmp_path / "origin", keys=("a",))
    depth = np.arange(LENGTH * 1000, dtype="<i4").reshape(LENGTH, 1000)
    with LayerWriter(origin, "depth") as layer:
        for episode in open_dataset(origin):
            layer.write(episode.meta, {"front": {"depth": depth}})
    at_url(origin)
    dataset = open_dataset(URL, layers=["depth"], cache=tmp_path / "cache")
    fetched.clear()
    np.testing.assert_array_equal(dataset["a"].views["front"].array("depth")[7], depth[7])
    assert fetched.episodes == []
    assert {name for call in fetched.calls for name, _, _ in call} == {
        "episodes/a.hdf5",
        "layers/depth/a.hdf5",
    }


def test_digests_are_compared_on_request(origin, at_url, tmp_path):
    from builder.dataset.array_checks import check_digests

    folder = shutil.copytree(origin, tmp_path / "origin")
    at_url(folder)
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    assert list(check_digests(dataset["a"].reader)) == []
    assert dataset["a"].reader.problems() == []
    assert cached(dataset) == ["a"]


def test_a_small_array_that_is_damaged_is_found(origin, at_url, tmp_path):
    files, root = at_url(origin)
    queries = open_dataset(origin)["a"].views["front"].queries
    data = files.cat_file(f"{root}/episodes/a.hdf5")
    files.pipe_file(
        f"{root}/episodes/a.hdf5", data.replace(queries.tobytes(), queries[::-1].tobytes())
    )
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    with pytest.raises(
        DatasetError, match=r"far/episodes/a\.hdf5 is damaged: root/front/queries is"
    ):
        dataset["a"]
    assert dataset["b"].id == "b"


@pytest.mark.parametrize("cut", [0.5, 0.9999])
def test_a_file_that_is_cut_short_is_named(cut, origin, at_url, tmp_path):
    files, root = at_url(origin)
    data = files.cat_file(f"{root}/episodes/a.hdf5")
    files.pipe_file(f"{root}/episodes/a.hdf5", data[: int(cut * len(data))])
    with pytest.raises(
        DatasetError, match=r"memory://bucket/far/episodes/a\.hdf5 is damaged or no"
    ):
        open_dataset(URL, cache=tmp_path / "cache")["a"]


def test_an_episode_that_goes_missing_is_named(origin, at_url, tmp_path):
    files, root = at_url(origin)
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    frames = dataset["a"].views["front"].frames
    files.rm(f"{root}/episodes/a.hdf5")
    with pytest.raises(DatasetError, match=r"episodes/a\.hdf5 is missing, though the index lists"):
        frames[3]


def test_a_batch_goes_on_without_an_episode_that_is_missing(origin, at_url, tmp_path):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    files, root = at_url(origin)
    windows = WindowDataset(open_dataset(URL, cache=tmp_path / "cache"), damaged="skip")
    expected = [windows[5]["traj"], windows[len(windows) - 1]["traj"]]
    windows[LENGTH]  # the head of the second is here, and what it holds is not
    files.rm(f"{root}/episodes/b.hdf5")
    got = windows.__getitems__([5, LENGTH + 3, len(windows) - 1])
    assert [sample["episode"] for sample in got] == ["a", "c", "c"]
    np.testing.assert_array_equal(got[0]["traj"], expected[0])
    np.testing.assert_array_equal(got[2]["traj"], expected[1])
    assert [*windows.damaged] == ["b"]


def test_a_server_without_ranges_is_an_error(origin, at_url, tmp_path, monkeypatch):
    files, _ = at_url(origin)
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    frames, honest = dataset["a"].views["front"].frames, type(files).cat_file
    whole = lambda self, path, start=None, end=None: honest(self, path)  # noqa: E731
    monkeypatch.setattr(type(files), "cat_file", whole)
    with pytest.raises(DatasetError, match=r"a\.hdf5: of bytes \d+ to \d+ the server sent \d+"):
        frames[3]


def test_a_network_that_fails_is_told_from_damage(origin, at_url, tmp_path, monkeypatch):
    files, _ = at_url(origin)
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    honest, done = type(files).cat_file, []

    def fails(self, path, start=None, end=None):
        done.append(path)
        if len(done) > 2:  # both ends of the file come, what is between does not
            raise TimeoutError("too slow")
        return honest(self, path, start, end)

    monkeypatch.setattr(type(files), "cat_file", fails)
    with pytest.raises(DatasetError, match=r"cannot read memory://.*TimeoutError: too slow; check"):
        dataset["a"]
    monkeypatch.undo()
    assert dataset["a"].id == "a"


def test_what_changed_there_is_read_anew(at_url, tmp_path):
    at_url(make(tmp_path / "first"))
    before = open_dataset(URL, cache=tmp_path / "cache")
    held, other = before["a"], before["b"]
    samples = [Sample(key, seed=9, length=LENGTH) for key in "ab"]
    sample_dataset(tmp_path / "second", Hdf5Store(tmp_path / "second"), samples)
    at_url(tmp_path / "second")
    after = open_dataset(URL, cache=tmp_path / "cache")
    assert after.path == before.path
    expected = samples[0].arrays["front", "tracks"]
    np.testing.assert_array_equal(after["a"].views["front"].tracks[5], expected[5])
    with pytest.raises(DatasetError, match="was replaced since it was opened: open the dataset"):
        held.views["front"].tracks  # noqa: B018
    with pytest.raises(DatasetError, match="was replaced since it was opened: open the dataset"):
        next(other.reader.stored_bytes("front", "tracks"))


def test_a_damaged_head_is_fetched_again(origin, at_url, tmp_path):
    at_url(origin)
    open_dataset(URL, cache=tmp_path)["a"]
    (head,) = tmp_path.rglob("heads/*/a.hdf5")
    for text in (b"", b"{}\n", head.read_bytes()[:-5]):
        head.write_bytes(text)
        assert open_dataset(URL, cache=tmp_path)["a"].id == "a"


def test_readers_pickle(origin, at_url, tmp_path):
    at_url(origin)
    episode = open_dataset(URL, cache=tmp_path / "cache")["a"]
    again = pickle.loads(pickle.dumps(episode.reader))
    expected = episode.views["front"].frames[5]
    np.testing.assert_array_equal(again.array("front", "frames")[5], expected)
    assert len(pickle.dumps(episode.reader)) < 10_000


# From Python 3.12 on; the file system's own thread does not run while a worker is forked.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_read_ranges_of_an_object_store(s3_server, origin, tmp_path):
    torch = pytest.importorskip("torch")
    from builder.training import WindowDataset

    files, root = fsspec.core.url_to_fs("s3://bucket/far", **s3_server)
    files.makedirs("bucket", exist_ok=True)
    upload(origin, files, root)
    dataset = open_dataset("s3://bucket/far", cache=tmp_path / "cache", storage_options=s3_server)
    windows = WindowDataset(dataset, stride=20)
    local = WindowDataset(open_dataset(origin), stride=20)
    loader = torch.utils.data.DataLoader(windows, 8, num_workers=2, collate_fn=list)
    assert_samples((sample for batch in loader for sample in batch), local)
    assert_samples([windows[3]], [local[3]])
    assert cached(dataset) == []
    files.rm(f"{root}/episodes/b.hdf5")
    with pytest.raises(DatasetError, match=r"s3://bucket/far/episodes/b\.hdf5 is missing"):
        list(windows.__getitems__([25]))


def test_ranges_close_to_each_other_are_one_request(monkeypatch):
    files, _ = fsspec.core.url_to_fs("memory://near")
    data = np.random.default_rng(0).bytes(100_000)
    files.pipe_file("/near/x", data)
    files.pipe_file("/near/y", data[::-1])
    asked, honest = [], type(files).cat_file

    def noted(self, path, start=None, end=None):
        asked.append((path, start, end))
        return honest(self, path, start, end)

    monkeypatch.setattr(type(files), "cat_file", noted)
    spans = [("x", 10, 20), ("y", 0, 5), ("x", 90_000, 100_000), ("x", 15, 40), ("x", 10, 20)]
    found = RemoteFolder("memory://near").ranges(spans)
    wanted = {"x": data, "y": data[::-1]}
    assert found == [wanted[name][begin:end] for name, begin, end in spans]
    assert sorted(asked) == [("/near/x", 10, 40), ("/near/x", 90_000, 100_000), ("/near/y", 0, 5)]
    assert RemoteFolder("memory://near").ranges([]) == []
    files.rm("/near", recursive=True)
