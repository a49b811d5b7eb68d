"""The HDF5 store: the conformance suite, proof that it can fail, and what lies on the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import closing

import h5py
import numpy as np
import pytest
from conftest import mount

from builder.core.errors import (
    DatasetError,
    MissingExtraError,
    NewerFormatError,
    OutputError,
    StoreError,
)
from builder.dataset.opening import open_dataset
from builder.dataset.window_table import write_window_stats
from builder.stores import codecs
from builder.stores.base import ArraySpec
from builder.stores.kinds.hdf5 import ALIGNMENT, Hdf5Reader, Hdf5Store, Hdf5Writer
from builder.stores.writing import ArrayWriter
from builder.testing import stores as conformance
from builder.testing.samples import Sample, sample_dataset
from schemas.base import canonical_json


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, tmp_path):
    check(Hdf5Store, tmp_path / "store")


def test_check_store_runs_every_check(tmp_path, monkeypatch):
    seen = []
    checks = tuple(
        lambda store, folder, n=name: seen.append((n, store, folder)) for name in ("one", "two")
    )
    monkeypatch.setattr(conformance, "CHECKS", checks)
    conformance.check_store(Hdf5Store, tmp_path)
    assert [(name, store) for name, store, _ in seen] == [("one", Hdf5Store), ("two", Hdf5Store)]


# Every check must be able to fail: stores that get one thing wrong each.


class Fake(Hdf5Store):
    """A store with its own reader and writer classes."""

    reader: type = Hdf5Reader
    writer: type = Hdf5Writer

    def open(self, episode_id):
        return self.reader(self.path(episode_id), episode_id)

    def begin(self, episode_id, layout, *, replace=False):
        return self.writer(self, episode_id, layout, replace)


class SwapsAxes(Fake):
    class reader(Hdf5Reader):
        def array(self, view, name):
            array = super().array(view, name)
            return array[..., ::-1] if name == "queries" else array


class LosesPrecision(Fake):
    class reader(Hdf5Reader):
        def array(self, view, name):
            array = super().array(view, name)
            return np.asarray(array).astype("f2").astype("f4") if name == "tracks" else array


class HashesPackedBytes(Fake):
    class reader(Hdf5Reader):
        def stored_bytes(self, view, name):
            yield from super().stored_bytes(view, name)
            yield b"\0" if name == "vis" else b""


class AllowsGaps(Fake):
    class writer(Hdf5Writer):
        def write(self, view, name, at, block):
            array = self._array_writers[view, name]
            super().write(view, name, min(at, array._written), block)


class AcceptsMisfits(Fake):
    class writer(Hdf5Writer):
        def write(self, view, name, at, block):
            super().write(view, name, at, block.astype(self._array_writers[view, name].dtype))


class CommitsAlways(Fake):
    class writer(Hdf5Writer):
        def __exit__(self, *exc):
            super().__exit__(*exc)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()


class WritesInPlace(Fake):
    class writer(Hdf5Writer):
        def __enter__(self):
            super().__enter__()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            return self

        def commit(self, meta):
            self._replace = True
            super().commit(meta)


class CleansLiveWriters(Fake):
    def leftovers(self, *, remove=False):
        found = sorted((self.folder / "tmp").glob("*"))
        for path in found if remove else ():
            path.unlink()
        return found


class Overwrites(Fake):
    def begin(self, episode_id, layout, *, replace=False):
        return super().begin(episode_id, layout, replace=True)


class NeverReplaces(Fake):
    def begin(self, episode_id, layout, *, replace=False):
        return super().begin(episode_id, layout)


class ForgetsFolders(Fake):
    def ids(self):
        yield from (path.stem for path in (self.folder / "episodes").glob("*.hdf5"))


class LeavesTheFolder(Fake):
    def path(self, episode_id):
        return self.folder / "episodes" / f"{episode_id}.hdf5"


class RaisesOsError(Fake):
    def open(self, episode_id):
        (self.path(episode_id)).stat()
        return super().open(episode_id)


class ReturnsNothing(Fake):
    class reader(Hdf5Reader):
        def array(self, view, name):
            try:
                return super().array(view, name)
            except KeyError:
                return None


class PicklesArrays(Fake):
    class reader(Hdf5Reader):
        def __reduce__(self):
            return _unpickle, (
                self.path,
                self.episode_id,
                np.asarray(self.array("front", "frames")),
            )


def _unpickle(path, episode_id, _):
    return Hdf5Reader(path, episode_id)


class Timestamps(Fake):
    class writer(Hdf5Writer):
        def _create(self):
            super()._create()
            self._file.attrs["when"] = time.time_ns()


class KeepsDamaged(Fake):
    def set_aside(self, episode_id):
        return self.path(episode_id)


BROKEN = {
    "what_was_written_comes_back": [SwapsAxes, LosesPrecision],
    "digests_are_of_the_stored_bytes": [HashesPackedBytes],
    "blocks_come_in_order": [AllowsGaps, AcceptsMisfits],
    "an_episode_is_whole_or_absent": [CommitsAlways, WritesInPlace, CleansLiveWriters],
    "a_killed_writer_leaves_no_episode": [WritesInPlace, CleansLiveWriters],
    "nothing_is_overwritten_silently": [Overwrites, NeverReplaces],
    "ids_are_listed_and_safe": [ForgetsFolders, LeavesTheFolder],
    "what_is_missing_is_named": [RaisesOsError, ReturnsNothing],
    "readers_and_stores_travel": [PicklesArrays],
    "the_same_bytes_again": [Timestamps],
    "damaged_episodes_are_set_aside": [KeepsDamaged],
}
CASES = [(name, fake) for name, fakes in BROKEN.items() for fake in fakes]


def test_every_check_is_proven():
    assert set(BROKEN) == {check.__name__ for check in conformance.CHECKS}


@pytest.mark.parametrize(("name", "fake"), CASES)
def test_a_broken_store_fails_its_check(name, fake, tmp_path):
    with pytest.raises((AssertionError, OSError, TypeError, OutputError)):
        getattr(conformance, name)(fake, tmp_path)


# What lies on the disk.


def test_arrays_are_plain_bytes_at_aligned_offsets(tmp_path):
    store, sample = Hdf5Store(tmp_path), Sample("a/b")
    sample.build(store)
    path = tmp_path / "episodes" / "a" / "b.hdf5"
    data = path.read_bytes()
    with h5py.File(path) as file:
        offsets = {name: file[f"root/front/{name}"].id.get_offset() for name in file["root/front"]}
    assert sorted(offsets) == sorted(name for view, name in sample.arrays if view == "front")
    for name, offset in offsets.items():
        raw = sample.arrays["front", name].tobytes()
        assert offset % ALIGNMENT == 0
        assert data[offset : offset + len(raw)] == raw


def test_arrays_are_mapped_not_read(tmp_path):
    store, sample = Hdf5Store(tmp_path), Sample("a")
    sample.build(store)
    with closing(store.open("a")) as reader:
        frames = reader.array("front", "frames")
        assert not frames.flags.writeable
        assert not frames.flags.owndata
        with h5py.File(store.path("a")) as file:  # users may look into it at the same time
            offset = file["root/front/frames"].id.get_offset()
        with open(store.path("a"), "r+b") as file:
            file.seek(offset)
            file.write(bytes([frames[0, 0, 0, 0] ^ 1]))
        assert frames[0, 0, 0, 0] == sample.frames[0, 0, 0, 0] ^ 1


def test_informational_attributes(tmp_path):
    store = Hdf5Store(tmp_path)
    meta = Sample("a").build(store)
    with h5py.File(store.path("a")) as file:
        attrs = dict(file["root/wrist"].attrs)
        box = meta.view("wrist").geometry
        assert (attrs["height"], attrs["width"]) == (24, 40)
        assert (attrs["source_height"], attrs["source_width"]) == (17, 51)
        assert tuple(attrs["scale_xy"]) == box.scale_xy
        assert tuple(attrs["pad_xy"]) == box.pad_xy
        assert file.attrs["metadata"] == canonical_json(meta.model_dump(mode="json"))


def test_metadata_may_be_long(tmp_path):
    store, sample = Hdf5Store(tmp_path), Sample("a")
    with store.begin("a", sample.layout()) as writer:
        sample.write(writer)
        meta = sample.meta(writer.digests())
        long = type(meta).seal(**{**dict(meta), "digest": None, "text": "é" * 300_000} | {})
        writer.commit(long)
    with closing(store.open("a")) as reader:
        assert reader.meta.text == "é" * 300_000


def test_u16_needs_its_range():
    at_edges = np.array([codecs.U16_OFFSET, 0, 831.98], np.float32)
    assert np.abs(codecs.decode_u16(codecs.encode_u16(at_edges, "t")) - at_edges).max() <= 1 / 128
    for bad in (-193.0, 832.5, np.nan, np.inf):
        with pytest.raises(StoreError, match=r"front/tracks: codec u16 holds -192 to 831.984 px"):
            codecs.encode_u16(np.array([0, bad], np.float32), "front/tracks")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ArraySpec((3, 2), "object"), "only numbers"),
        (ArraySpec((3, 2), "<U4"), "only numbers"),
        (ArraySpec((3, 2), "uint8", "zip"), "unknown codec 'zip'"),
        (ArraySpec((3, 2), "uint8", "none"), "unknown codec 'none'"),
        (ArraySpec((3, 5, 7), "uint8", "jpeg"), "frames"),
    ],
)
def test_layouts_that_cannot_be_stored(tmp_path, spec, says):
    with pytest.raises(ValueError, match=says), Hdf5Store(tmp_path).begin("a", {"v": {"x": spec}}):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("view", "name"), [("a/b", "x"), ("..", "x"), ("v", "x/y"), (None, "/")])
def test_names_are_names(tmp_path, view, name):
    layout = {view: {name: ArraySpec((1,), "uint8")}}
    with pytest.raises(ValueError, match="match pattern"), Hdf5Store(tmp_path).begin("a", layout):
        pass


def test_views_and_root_arrays_do_not_meet(tmp_path):
    spec = ArraySpec((1,), "uint8")
    with pytest.raises(ValueError, match="share a name"):
        Hdf5Store(tmp_path).begin("a", {"front": {"x": spec}, None: {"front": spec}})


# Files that are not to be trusted.


@pytest.fixture
def episode(tmp_path):
    store = Hdf5Store(tmp_path)
    Sample("a").build(store)
    return store


def _retouch(store: Hdf5Store, change) -> None:
    with h5py.File(store.path("a"), "r+") as file:
        change(file)


def _soft(file):
    file["root/front/elsewhere"] = file["root/front/vis"]
    del file["root/front/vis"]
    file["root/front/vis"] = h5py.SoftLink("/root/front/elsewhere")


def _external_link(file):
    del file["root/front/vis"]
    file["root/front/vis"] = h5py.ExternalLink("/etc/other.hdf5", "/x")


def _external_storage(file):
    shape = file["root/front/vis"].shape
    del file["root/front/vis"]
    place = [("/etc/hostname", 0, 10_000)]
    file["root/front"].create_dataset("vis", shape, "u1", external=place)


def _virtual(file):
    shape = file["root/front/vis"].shape
    del file["root/front/vis"]
    layout = h5py.VirtualLayout(shape, "u1")
    layout[:] = h5py.VirtualSource("/etc/other.hdf5", "x", shape)
    file["root/front"].create_virtual_dataset("vis", layout)


def _chunked(file):
    values = file["root/front/vis"][()]
    del file["root/front/vis"]
    file["root/front"].create_dataset("vis", data=values, compression="gzip")


def _strings(file):
    shape = file["root/front/vis"].shape
    del file["root/front/vis"]
    file["root/front"].create_dataset("vis", shape, h5py.string_dtype())


def _shorter(file):
    values = file["root/front/vis"][1:]
    del file["root/front/vis"]
    file["root/front"].create_dataset("vis", data=values)


def _missing(file):
    del file["root/front/vis"]


def _group(file):
    del file["root/front/vis"]
    file["root/front"].create_group("vis")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_soft, "links to other places are refused"),
        (_external_link, "links to other places are refused"),
        (_external_storage, "external storage are refused"),
        (_virtual, "virtual datasets"),
        (_chunked, "expected contiguous"),
        (_strings, "expected uint8"),
        (_shorter, r"expected uint8 \(7, 4, 6\), got uint8 \(6, 4, 6\)"),
        (_missing, "listed in the metadata but missing"),
        (_group, "expected a dataset, got a GroupID"),
    ],
)
def test_arrays_that_are_not_what_they_should_be(episode, change, says):
    _retouch(episode, change)
    with closing(episode.open("a")) as reader:
        with pytest.raises(DatasetError, match=rf"a\.hdf5 is damaged .*: root/front/vis: .*{says}"):
            reader.array("front", "vis")
        assert any("root/front/vis" in message for message in reader.problems())
        # The others can still be had.
        assert reader.array("front", "tracks").shape == (7, 4, 6, 2)


def test_a_whole_view_behind_a_link(episode):
    def change(file):
        file.move("root/front", "moved")
        file["root/front"] = h5py.SoftLink("/moved")

    _retouch(episode, change)
    with closing(episode.open("a")) as reader, pytest.raises(DatasetError, match="links to"):
        reader.array("front", "frames")


def test_what_should_not_be_there_is_a_problem(episode):
    def change(file):
        file["root/front/depth"] = np.zeros(3)
        file["extra"] = np.zeros(3)
        file["root/front"].attrs["scale_xy"] = (1.0, 1.0)
        del file["root/wrist"].attrs["height"]

    _retouch(episode, change)
    with closing(episode.open("a")) as reader:
        text = "\n".join(reader.problems())
    assert "root/front/depth is in the file but not in its metadata" in text
    assert "/extra is in the file" in text
    assert "attribute scale_xy is [1. 1.], expected" in text
    assert "/root/wrist: attribute height is None, expected 24" in text
    assert text.count("\n") == 3


def test_edited_metadata_is_refused(episode):
    def change(file):
        file.attrs["metadata"] = file.attrs["metadata"].replace('"length":7', '"length":8')

    _retouch(episode, change)
    with pytest.raises(DatasetError, match=r"a\.hdf5 is damaged: .*changed after it was written"):
        episode.open("a")


def test_a_newer_format_says_what_to_do(episode):
    def change(file):
        text = file.attrs["metadata"].replace('"format_version":1', '"format_version":2')
        file.attrs["metadata"] = text

    _retouch(episode, change)
    with pytest.raises(NewerFormatError, match=r"a\.hdf5 was made by a newer letterset .*upgrade"):
        episode.open("a")


def test_a_moved_file_is_noticed(episode):
    os.rename(episode.path("a"), episode.path("b"))
    with pytest.raises(DatasetError, match=r"b\.hdf5 holds episode 'a', expected 'b'"):
        episode.open("b")


@pytest.mark.parametrize("keep", [0, 7, 100, 2048, 0.5, 0.999])
def test_cut_files_are_refused(episode, keep):
    path = episode.path("a")
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(DatasetError, match=r"a\.hdf5 is damaged"):
        _read_all(episode)


def _read_all(store):
    with closing(store.open("a")) as reader:
        for view, name in Sample("a").arrays:
            np.asarray(reader.array(view, name))


@pytest.mark.parametrize("text", [b"", b"not hdf5 at all" * 100])
def test_other_files_are_refused(episode, text):
    episode.path("a").write_bytes(text)
    with pytest.raises(DatasetError, match=r"a\.hdf5 is damaged or no episode file"):
        episode.open("a")


def test_hdf5_files_of_others_are_refused(episode):
    with h5py.File(episode.path("b"), "w") as file:
        file["x"] = 1
    with pytest.raises(DatasetError, match="no attribute 'metadata'"):
        episode.open("b")


# Codecs.


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    pytest.importorskip("hdf5plugin")
    pytest.importorskip("cv2")
    for codec, module in (("lz4", "hdf5plugin"), ("jpeg", "cv2")):
        store = Hdf5Store(tmp_path / codec)
        Sample("a", codec=codec).build(store)
        with monkeypatch.context() as patch, closing(store.open("a")) as reader:
            patch.setitem(sys.modules, module, None)
            assert reader.array("front", "tracks").shape == (7, 4, 6, 2)
            with pytest.raises(MissingExtraError, match=rf"{module}.*letterset\[build\]"):
                reader.array("front", "frames")[0]


def test_jpeg_frames_that_are_no_jpeg(tmp_path):
    pytest.importorskip("cv2")
    store = Hdf5Store(tmp_path)
    Sample("a", codec="jpeg").build(store)
    with h5py.File(store.path("a"), "r+") as file:
        first, second = file["root/front/frames_offsets"][:2]
        file["root/front/frames"][first:second] = 0
    with closing(store.open("a")) as reader:
        frames = reader.array("front", "frames")
        with pytest.raises(DatasetError, match=r"frames\[0\] is damaged: expected a JPEG"):
            frames[0]
        assert frames[1].shape == (24, 40, 3)


def test_forked_readers_have_their_own_handle(tmp_path):
    pytest.importorskip("hdf5plugin")
    store, sample = Hdf5Store(tmp_path), Sample("a", codec="lz4")
    sample.build(store)
    # In a process of its own: forking a process that has threads is not what is tested.
    script = """
import os, sys
from builder.stores.kinds.hdf5 import Hdf5Store
reader = Hdf5Store(sys.argv[1]).open("a")
frames = reader.array("front", "frames")
before = frames[0].sum()
child = os.fork()
ok = frames[0].sum() == before and frames[3].shape == (24, 40, 3)
if child == 0:
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if ok and status == 0 else 1)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr


# The disk.


def test_the_output_cannot_be_a_file(tmp_path):
    (tmp_path / "out").write_text("here")
    with pytest.raises(OutputError, match=r"cannot write .*out.*: "):
        Sample("a").build(Hdf5Store(tmp_path / "out"))


def test_errors_of_the_disk_say_what_to_do(tmp_path, monkeypatch):
    def full(self, rows):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(ArrayWriter, "_flush", full, raising=True)
    with pytest.raises(OutputError, match=r"a\.hdf5: No space left on device; free some space"):
        Sample("a").build(Hdf5Store(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_who_opens_it_the_moment_it_gets_its_name_is_not_locked_out(tmp_path, monkeypatch):
    """HDF5 asks for a lock by default, and the writer still has files open then."""
    rename, read = os.rename, []

    def then_read(*args, **kwargs):
        rename(*args, **kwargs)
        for path in (Hdf5Store(tmp_path).path("a"), tmp_path / "stats" / "windows.hdf5"):
            if path.exists():
                with h5py.File(path, "r") as file:
                    read.append((path.name, len(file)))

    monkeypatch.setattr(os, "rename", then_read)
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a")])
    write_window_stats(open_dataset(tmp_path))
    assert {name for name, _ in read} == {"a.hdf5", "windows.hdf5"}


@pytest.mark.parametrize("codec", ["raw", "lz4", "jpeg"])
def test_a_full_disk_leaves_nothing_and_can_be_resumed(small_disk, codec):
    pytest.importorskip({"raw": "numpy", "lz4": "hdf5plugin", "jpeg": "cv2"}[codec])
    store = Hdf5Store(small_disk)
    Sample("first", codec=codec).build(store)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    for left in (0, 4096, 20_000, 60_000):
        filler.write_bytes(b"\0" * max(0, free - left))
        with pytest.raises(OutputError, match="No space left on device; free some space"):
            Sample("second", codec=codec, length=60).build(store)
        assert list(store.ids()) == ["first"]
        assert [path for path in (small_disk / "tmp").iterdir()] == []
    filler.unlink()
    Sample("second", codec=codec).build(store)
    assert list(store.ids()) == ["first", "second"]


def test_a_read_only_disk_is_refused(small_disk):
    Sample("a").build(Hdf5Store(small_disk))
    mount(small_disk, "-o", "remount,ro")
    with pytest.raises(OutputError, match="Read-only file system; it is read-only; choose another"):
        Sample("b").build(Hdf5Store(small_disk))
    assert list(Hdf5Store(small_disk).ids()) == ["a"]
