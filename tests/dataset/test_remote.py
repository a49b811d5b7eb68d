"""Datasets at a URL: whole episodes in a local cache, then read like any other."""

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from far_datasets import upload
from places import ROOT

from builder import open_dataset
from builder.cli import main
from builder.core.errors import (
    ConfigError,
    DatasetError,
    LettersetError,
    MissingExtraError,
    OutputError,
    UnreadableError,
)
from builder.dataset import fetched_files
from builder.dataset.fetched_files import FetchedFiles
from builder.dataset.folder import META_NAME as META
from builder.dataset.layers import LayerWriter
from builder.dataset.remote import RemoteDataset, fetch_lists
from builder.dataset.splits import hash_splits, read_splits, write_splits
from builder.dataset.window_table import write_window_stats
from builder.stores.atomic import stage
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.stores.remote_folder import Listed, RemoteFolder
from builder.testing.samples import Sample, sample_dataset, sample_meta

fsspec = pytest.importorskip("fsspec")

IDS = ("a/1", "b", "with space/é")


@pytest.fixture(params=[Hdf5Store, ZarrStore])
def origin(request, tmp_path):
    folder = tmp_path / "origin"
    samples = [Sample(key, seed=seed, length=5) for seed, key in enumerate(IDS)]
    sample_dataset(folder, request.param(folder), samples)
    return folder


@pytest.fixture(params=["memory", "file", "s3"])
def place(request, origin):
    """A URL to which ``origin`` was copied, and the options to reach it."""
    if request.param == "file":
        yield origin.as_uri(), {}
        return
    options = {}
    if request.param == "s3":
        options = request.getfixturevalue("s3_server")
    url = f"{request.param}://bucket/some/dataset"
    files, root = fsspec.core.url_to_fs(url, **options)
    files.makedirs("bucket", exist_ok=True)
    upload(origin, files, root)
    yield url, options
    files.rm("bucket", recursive=True)


def cached(dataset):
    """Names of the episodes in the cache."""
    return sorted(dataset.store.ids())


def assert_same(remote, local):
    assert remote.ids == local.ids
    assert dict(remote.index) == dict(local.index)
    for key in local.ids:
        mine, other = remote[key], local[key]
        assert mine.meta == other.meta
        for name, view in other.views.items():
            for array in view.meta.arrays:
                assert np.array_equal(mine.views[name].array(array), view.array(array))
        for name, array in other.arrays.items():
            assert np.array_equal(mine.arrays[name], array)


def test_it_reads_like_the_local_one(place, origin, tmp_path):
    write_splits(origin, "default", hash_splits({"b": "b"}, {"train": 1.0}))
    url, options = place
    files, root = fsspec.core.url_to_fs(url, **options)
    files.pipe_file(f"{root}/splits/default.json", (origin / "splits/default.json").read_bytes())
    dataset = open_dataset(url, cache=tmp_path / "cache", storage_options=options)
    assert isinstance(dataset, RemoteDataset)
    assert dataset.path.parent == tmp_path / "cache"
    assert cached(dataset) == []
    dataset["b"]
    assert cached(dataset) == ["b"]
    assert_same(dataset, open_dataset(origin))
    assert read_splits(dataset.path, "default").splits["train"] == ("b",)
    assert not list((dataset.path / "tmp").iterdir())
    # What is cached needs no network, and another process starts from it.
    again = pickle.loads(pickle.dumps(dataset))
    again._remote = RemoteFolder("memory://gone")
    assert_same(again, open_dataset(origin))


def test_a_missing_bucket_or_dataset_is_named(s3_server, tmp_path):
    for url in ("s3://no-such-bucket/ds", "memory://nothing/here"):
        options = s3_server if url.startswith("s3") else {}
        with pytest.raises(DatasetError, match=rf"{url} is no letterset dataset, or there is no"):
            open_dataset(url, cache=tmp_path, storage_options=options)


def test_a_server_that_does_not_answer_is_named(s3_server, tmp_path):
    client = {"region_name": "eu-west-1"}
    down = {**s3_server, "endpoint_url": "http://127.0.0.1:9", "client_kwargs": client}
    down["config_kwargs"] = {"retries": {"max_attempts": 0}}
    with pytest.raises(DatasetError, match=r"cannot read s3://bucket/ds/dataset\.json: .*check"):
        open_dataset("s3://bucket/ds", cache=tmp_path, storage_options=down)


@pytest.fixture
def in_memory(origin):
    """The dataset in memory; fsspec's own names of it."""
    files, root = fsspec.core.url_to_fs("memory://bucket/ds")
    upload(origin, files, root)
    yield files, root
    files.rm("/bucket", recursive=True)


URL = "memory://bucket/ds"


def test_what_changed_there_is_fetched_again(in_memory, origin, tmp_path):
    files, root = in_memory
    before = open_dataset(URL, cache=tmp_path / "cache")
    assert len(before["b"].meta.digest) == 64
    shutil.rmtree(origin)
    store = type(before.store)(origin)
    sample_dataset(origin, store, [Sample(key, seed=9, length=6) for key in ("b", "new")])
    files.rm(root, recursive=True)
    upload(origin, files, root)
    after = open_dataset(URL, cache=tmp_path / "cache")
    assert after.path == before.path
    assert after.ids == ("b", "new")
    assert_same(after, open_dataset(origin))


def test_a_damaged_cache_is_mended(in_memory, origin, tmp_path):
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    dataset["b"]
    path = dataset.store.path("b")
    path = path if path.is_file() else path / "zarr.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert_same(open_dataset(URL, cache=tmp_path / "cache"), open_dataset(origin))


def test_a_download_that_is_cut_leaves_nothing(in_memory, tmp_path, monkeypatch):
    files, _ = in_memory
    whole = type(files).get_file

    def cut(self, rpath, lpath, **options):
        whole(self, rpath, lpath, **options)
        os.truncate(lpath, os.stat(lpath).st_size - 1)

    dataset = open_dataset(URL, cache=tmp_path / "cache")
    monkeypatch.setattr(type(files), "get_file", cut)
    with pytest.raises(
        DatasetError, match=r"memory://bucket/ds/\S+ was not fetched whole: got \d+"
    ):
        dataset["b"]
    assert cached(dataset) == []
    assert not list((dataset.path / "tmp").iterdir())
    monkeypatch.undo()
    assert dataset["b"].id == "b"


def test_of_two_that_want_one_episode_one_fetches_it(in_memory, tmp_path, monkeypatch):
    """Whichever comes second waits, in this process or another, and reads what is there then."""
    datasets = [open_dataset(URL, cache=tmp_path / "cache") for _ in range(4)]
    asked, begun, fetch = [], threading.Barrier(len(datasets)), RemoteFolder.fetch

    def counted(self, relative, target, sizes):
        asked.append(relative)
        fetch(self, relative, target, sizes)

    def read(dataset):
        begun.wait(60)
        return np.asarray(dataset["b"].views["front"].tracks)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    with ThreadPoolExecutor(len(datasets)) as pool:
        first, *others = pool.map(read, datasets)
    for other in others:
        np.testing.assert_array_equal(other, first)
    assert len(asked) == 1


def test_without_locks_the_first_of_two_that_fetch_is_kept(in_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(fetched_files, "wait_for_lock", lambda descriptor: None)
    first, second = (open_dataset(URL, cache=tmp_path / "cache") for _ in range(2))
    kept, fetch = [], RemoteFolder.fetch

    def overtaken(self, *words):
        monkeypatch.undo()
        kept.append(first["b"])
        return fetch(self, *words)

    monkeypatch.setattr(RemoteFolder, "fetch", overtaken)
    expected = np.asarray(second["b"].views["front"].tracks)
    np.testing.assert_array_equal(kept[0].views["front"].tracks, expected)
    assert not any((first.path / "tmp").iterdir())


def test_what_a_killed_process_left_is_cleared(in_memory, tmp_path):
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    left = stage(dataset.path / "tmp", ".fetch")
    left.folder.write_bytes(b"half")
    open_dataset(URL, cache=tmp_path / "cache")
    assert left.folder.exists()  # its writer lives
    os.close(left.descriptor)
    open_dataset(URL, cache=tmp_path / "cache")
    assert not list((dataset.path / "tmp").iterdir())


def test_an_episode_that_is_not_there_is_named(in_memory, tmp_path):
    files, root = in_memory
    dataset = open_dataset(URL, cache=tmp_path / "cache")
    path = dataset.store.path("b").relative_to(dataset.path).as_posix()
    files.rm(f"{root}/{path}", recursive=True)
    with pytest.raises(DatasetError, match=rf"{URL}/{path} is missing, though the index lists it"):
        dataset["b"]


def test_no_name_leads_out_of_the_cache(in_memory, tmp_path, monkeypatch):
    files, root = in_memory
    index = f"{root}/index/main.jsonl"
    text = files.cat_file(index)
    files.pipe_file(index, text.replace(b'"id":"b"', b'"id":"../../../b"'))
    with pytest.raises(DatasetError, match=r"main\.jsonl, line 2 is damaged: id: an episode id"):
        open_dataset(URL, cache=tmp_path / "cache")
    files.pipe_file(index, text)
    honest = type(files).find

    def hostile(self, path, **options):
        found = honest(self, path, **options)
        return {**found, f"{path}/../../evil": {"size": 1, "type": "file"}}

    monkeypatch.setattr(type(files), "find", hostile)
    with pytest.raises(DatasetError, match=r"lists '\.\./\.\./evil', a path that leaves it"):
        open_dataset(URL, cache=tmp_path / "cache")
    monkeypatch.undo()
    up = [{"name": f"{root}/layers/..", "type": "directory", "size": 0}]
    monkeypatch.setattr(type(files), "ls", lambda self, path, **options: up)
    with pytest.raises(DatasetError, match=r"ds/layers lists '\.\.', a path that leaves it"):
        RemoteFolder(URL).folders("layers")
    assert not list(tmp_path.rglob("*evil*"))


def test_layers_come_with_their_episodes(in_memory, origin, tmp_path):
    local = open_dataset(origin)
    with LayerWriter(origin, "mass") as layer:
        for episode in local:
            layer.write(episode.meta, {None: {"mass": np.arange(3.0) + len(episode.id)}})
    files, root = in_memory
    upload(origin / "layers", files, f"{root}/layers")
    dataset = open_dataset(URL, layers=("mass",), cache=tmp_path / "cache")
    assert_same(dataset, open_dataset(origin, layers=("mass",)))
    assert np.array_equal(dataset["b"].arrays["mass"], np.arange(3.0) + 1)
    # Those added later are fetched as well, into an empty cache.
    plain = open_dataset(URL, cache=tmp_path / "empty", cache_bytes=10**9)
    later = pickle.loads(pickle.dumps(plain.with_layers(layers=["mass"])))
    assert_same(later, dataset)
    assert (later.url, later.cache_bytes) == (URL, 10**9)


def test_the_cache_keeps_its_size_but_nothing_open_is_deleted(in_memory, tmp_path):
    one = open_dataset(URL, cache=tmp_path / "cache", cache_bytes=1, max_open=1)
    held = one["a/1"]
    one["b"]
    # Deleted only when nobody holds it.
    assert cached(one) == ["a/1", "b"]
    assert held.views["front"].tracks.shape[0] == 5
    del held
    one["with space/é"]
    assert cached(one) == ["b", "with space/é"]
    other = open_dataset(URL, cache=tmp_path / "cache", cache_bytes=10**9)
    other["a/1"]
    assert cached(one) == sorted(IDS)
    one["a/1"], one["b"]
    assert cached(one) == ["a/1", "b"]
    with pytest.raises(ConfigError, match="cache_bytes must be at least 1"):
        open_dataset(URL, cache=tmp_path / "cache", cache_bytes=0)


def test_a_fetch_costs_the_same_however_much_is_there(tmp_path, monkeypatch):
    """The folder is walked once for a tenth of what it may hold, not once for each fetch."""
    looked, size_and_use = [], fetched_files.size_and_use
    monkeypatch.setattr(
        fetched_files, "size_and_use", lambda path: looked.append(path) or size_and_use(path)
    )
    limit, size = 100_000, 1000
    files = FetchedFiles(tmp_path, limit)
    for number in range(1000):
        path = tmp_path / "episodes" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (number, number))
        files.add(path)
        files.make_room(path.parent.iterdir())
        there = {int(each.name) for each in path.parent.iterdir()}
        assert limit * 0.9 - size <= size * len(there) <= limit or number < 90
        assert there == set(range(number + 1 - len(there), number + 1))
    # Of 1000 fetches 900 needed room; each walk looks at 101 files, every eleventh fetch or so.
    assert len(looked) <= 1000 + 101 * 1000 / 10
    # A number that was lost is counted again.
    (tmp_path / "bytes").write_text("?")
    files.make_room(path.parent.iterdir())
    files.add(path)
    assert int((tmp_path / "bytes").read_text()) == size * (len(there) + 1)


def test_bad_calls_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read nosuch://x/y: Protocol not known"):
        open_dataset("nosuch://x/y", cache=tmp_path)
    with pytest.raises(ConfigError, match="older files are read from a local disk"):
        open_dataset("memory://x", (48, 64))
    with pytest.raises(ConfigError, match=r"is no URL: cache and storage_options are for URLs"):
        open_dataset(tmp_path, cache=tmp_path)


def test_a_full_disk_is_the_caches_own_fault(in_memory, tmp_path, monkeypatch):
    files, _ = in_memory

    def full(self, rpath, lpath, **options):
        raise OSError(28, os.strerror(28))

    dataset = open_dataset(URL, cache=tmp_path / "cache")
    monkeypatch.setattr(type(files), "get_file", full)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left"):
        dataset["b"]


@pytest.mark.parametrize("module", ["fsspec", "s3fs"])
def test_a_missing_package_is_named(module, tmp_path):
    code = f"""
        import sys
        sys.modules["{module}"] = None
        from builder import open_dataset
        open_dataset("s3://bucket/ds", cache={str(tmp_path)!r})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert MissingExtraError(module, "remote").args[0] in done.stderr


# From Python 3.12 on; the file system's own thread does not run while a worker is forked.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_windows_are_read_by_workers(place, origin, tmp_path):
    torch = pytest.importorskip("torch")
    from builder.training import WindowDataset

    url, options = place
    dataset = open_dataset(url, cache=tmp_path / "cache", storage_options=options)
    windows = WindowDataset(dataset, tail="mask", arrays=[])
    expected = WindowDataset(open_dataset(origin), tail="mask", arrays=[])
    loader = torch.utils.data.DataLoader(windows, batch_size=None, num_workers=2)
    for sample, other in zip(loader, expected, strict=True):
        assert torch.equal(sample["traj"], other["traj"])
        assert sample["episode"] == other["episode"]
    assert cached(dataset) == sorted(IDS)


def test_the_table_of_windows_is_fetched_when_it_is_asked_for(in_memory, origin, tmp_path):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    where, options = "vis > 0.4", {"tail": "mask", "arrays": []}
    with pytest.raises(DatasetError, match="run letterset stats"):
        WindowDataset(open_dataset(URL, cache=tmp_path), where=where, **options)
    write_window_stats(open_dataset(origin))
    files, root = in_memory
    upload(origin / "stats", files, f"{root}/stats")
    found = WindowDataset(open_dataset(URL, cache=tmp_path), where=where, **options)
    assert len(found) == len(WindowDataset(open_dataset(origin), where=where, **options))


class PlainHandler(SimpleHTTPRequestHandler):
    """What most web servers do: files, but no list of what is in a folder."""

    def list_directory(self, path):
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("user", ["", "user:s3:cr@t@"])
def test_a_server_that_lists_nothing_is_an_error(tmp_path, user):
    sample_dataset(tmp_path / "data", Hdf5Store(tmp_path / "data"), [Sample("a")])
    handler = partial(PlainHandler, directory=str(tmp_path))
    pytest.importorskip("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{user}127.0.0.1:{server.server_port}/data"
        with pytest.raises(DatasetError, match="does not list what is in a folder") as caught:
            open_dataset(url, cache=tmp_path / "cache")
        server.shutdown()
    assert "cr@t" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://key:s3cr%2Ft@127.0.0.1:9/x", "nosuch://key:s3cr%2Ft@bucket/data"]
)
def test_passwords_of_urls_are_shown_nowhere(url, tmp_path, capsys):
    """Not in errors either, their causes included, nor in names of folders of the cache."""
    with pytest.raises(LettersetError) as caught:
        open_dataset(url, cache=tmp_path)
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cr" not in shown.replace(repr(url), "").replace(f'"{url}"', "")
    for verb in (["inspect"], ["validate"], ["build", "--img-shape", "3", "4", "--out", "x"]):
        where = ["--source", url] if verb[0] == "build" else [url]
        main([*verb, *where])
    main(["build", "--source", str(tmp_path), "--img-shape", "3", "4", "--out", url])
    said = capsys.readouterr()
    assert "s3cr" not in said.out + said.err
    assert "***@" in said.err


@pytest.mark.parametrize("url", ["s3://key:s3c/r+et@bucket/x", "s3://key:s3cret@bucket/x", "s3://"])
def test_a_url_of_s3_has_a_bucket_and_no_password(url, tmp_path, capsys):
    """Its secrets have slashes, with which they look like anything: they are not quoted at all."""
    shape, there = ["--img-shape", "3", "4"], str(tmp_path)
    for verb in ("inspect", "validate", "status", "finalize", "doctor"):
        assert main([verb, url]) == 2
    assert main(["build", url, str(tmp_path / "out"), *shape]) == 2
    assert main(["build", there, url, *shape, "source.kind=video", "--retry-failed"]) in (2, 3)
    said = capsys.readouterr()
    assert "a URL of S3 is s3://bucket/path, without user, password or port" in said.err
    assert "s3c" not in said.out + said.err


def test_an_error_that_quotes_a_password_alone_does_not_show_it(monkeypatch):
    remote = RemoteFolder("memory://me:hunter2@there/x")

    def quoting(files, path):
        raise ValueError(f"Invalid name:\n  {path}" + "." * 999)

    monkeypatch.setattr(type(remote.connect()[0]), "cat_file", quoting)
    with pytest.raises(UnreadableError) as caught:
        remote.read("y")
    text = str(caught.value)
    assert "hunter2" not in text
    assert "ValueError: Invalid name: /me@there/x/y" in text
    assert "\n" not in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3:/bucket/x/", "s3://bucket/x"),
        ("s3://", "s3://"),
        ("s3://bucket//", "s3://bucket"),
        ("file:/tmp/x", "file:///tmp/x"),
        ("file:///tmp/x", "file:///tmp/x"),
    ],
)
def test_a_url_that_went_through_a_path_is_no_local_folder(given, url):
    assert RemoteFolder(given).url == url


def test_a_cache_is_named_without_a_password(tmp_path, monkeypatch):
    monkeypatch.setattr(RemoteFolder, "folders", lambda self, relative: [])
    there = {META: Listed(1, "")}
    monkeypatch.setattr(RemoteFolder, "listing", lambda _, path, depth=0: {} if path else there)
    monkeypatch.setattr(RemoteFolder, "has_folder", lambda self, relative: False)
    monkeypatch.setattr(RemoteFolder, "fetch", lambda *args: None)
    text = sample_meta().model_dump_json().encode()
    monkeypatch.setattr(RemoteFolder, "read", lambda self, relative: text)
    assert "s3cr" not in str(fetch_lists(RemoteFolder("s3://key:s3cr@bucket"), tmp_path))


@pytest.mark.parametrize(
    "argv",
    [
        ["validate"],
        ["inspect"],
        ["stats"],
        ["doctor"],
        ["report", "--out", "r.html"],
        ["export", "i.json", "--to", "inference"],
        ["subset", "some", "--id", "[ab]*"],
        ["convert", "other", "kind=zarr"],
        ["render", "x.png", "--episode", "b", "--to", "contact-sheet"],
    ],
    ids=lambda argv: argv[0],
)
@pytest.mark.parametrize("origin", [Hdf5Store], indirect=True)
def test_verbs_that_read_take_urls(argv, in_memory, origin, tmp_path, monkeypatch, capsys):
    files, root = in_memory
    with LayerWriter(origin, "mass") as layer:
        for episode in open_dataset(origin):
            layer.write(episode.meta, {None: {"mass": np.arange(3.0)}})
    upload(origin, files, root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    verb, *rest = argv
    here = main([verb, str(origin), *rest])
    wanted = capsys.readouterr().out.replace("origin", "ds")
    for path in ("r.html", "i.json", "x.png"):
        (tmp_path / path).unlink(missing_ok=True)
    for path in ("some", "other"):
        shutil.rmtree(tmp_path / path, ignore_errors=True)
    assert main([verb, URL, *rest]) == here
    said = capsys.readouterr()
    assert f"{URL} was fetched to {tmp_path / 'cache'}" in said.err
    assert len(said.out.splitlines()) == len(wanted.splitlines())


def test_a_copy_follows_what_is_there(in_memory, origin, tmp_path, monkeypatch, capsys):
    files, root = in_memory
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["validate", URL]) == 0
    asked, fetch = [], RemoteFolder.fetch

    def counted(self, relative, target, sizes):
        asked.append(relative)
        fetch(self, relative, target, sizes)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    assert main(["validate", URL]) == 0
    assert not [name for name in asked if name.startswith("episodes")]
    # One is gone, one is another, one is damaged.
    shutil.rmtree(origin)
    store = (ZarrStore if files.isdir(f"{root}/episodes.zarr") else Hdf5Store)(origin)
    sample_dataset(origin, store, [Sample(key, seed=9, length=5) for key in ("b", "new")])
    files.rm(root, recursive=True)
    upload(origin, files, root)
    capsys.readouterr()
    assert main(["validate", URL]) == 0
    assert "2 episodes, all valid" in capsys.readouterr().out
    files.rm(f"{root}/{store.path('b').relative_to(origin).as_posix()}", recursive=True)
    shutil.rmtree(tmp_path / "cache")
    assert main(["validate", URL]) == 1
    assert "b" in capsys.readouterr().out
