"""Conformance of stores: what every one of them must do, whatever it writes to.

Call :func:`check_store` in a backend's tests, or run the single ``CHECKS`` as cases.
"""

import hashlib
import importlib.util
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from builder.core.errors import DatasetError, OutputError
from builder.stores.base import Store, arrays_by_view
from builder.testing.checks import refused, require
from builder.testing.samples import Sample

MakeStore = Callable[[Path], Store]
"""``make_store(folder)`` gives a store on that folder."""


def check_store(make_store: MakeStore, tmp_path: Path) -> None:
    """Run all checks, each in a folder of its own.  Raises AssertionError that says what is wrong.

    Codecs whose package is not installed are left out.
    """
    for check in CHECKS:
        check(make_store, tmp_path / check.__name__)


def what_was_written_comes_back(make_store: MakeStore, folder: Path) -> None:
    """Check metadata and arrays of every codec, whole and sliced."""
    for sample, store in _samples(make_store, folder):
        meta = sample.build(store)
        with closing(store.open(sample.id)) as reader:
            require(reader.meta == meta, "the metadata came back different")
            require(not reader.problems(), f"a fresh episode has problems: {reader.problems()}")
            for (view, name), array in sample.arrays.items():
                _compare(sample, reader.array(view, name), array, name)


def _compare(sample: Sample, got: Any, array: np.ndarray, name: str) -> None:
    what = f"{name} ({sample.codec}, {sample.track_codec})"
    require(got.shape == array.shape, f"{what}: shape {got.shape}, expected {array.shape}")
    require(got.dtype == array.dtype, f"{what}: dtype {got.dtype}, expected {array.dtype}")
    error = sample.tolerance(name)
    keys: list[Any] = [(), Ellipsis]
    if array.ndim and len(array):
        keys += [0, -1, slice(1, 3), slice(None, None, 2), [0, len(array) - 1], (slice(1, 2), ...)]
    for key in keys:
        want = array[key]
        have = np.asarray(got[key])
        require(have.shape == want.shape, f"{what}[{key}]: {have.shape}, expected {want.shape}")
        off = np.abs(have.astype(np.float64) - want.astype(np.float64)).max(initial=0)
        require(off <= error, f"{what}[{key}] is off by {off}")


def digests_are_of_the_stored_bytes(make_store: MakeStore, folder: Path) -> None:
    """Check that writer, reader and an outsider agree on every digest."""
    for sample, store in _samples(make_store, folder):
        meta = sample.build(store)
        with closing(store.open(sample.id)) as reader:
            for view, arrays in arrays_by_view(meta).items():
                for name, array in arrays.items():
                    digest = hashlib.sha256(b"".join(reader.stored_bytes(view, name))).hexdigest()
                    require(digest == array.sha256, f"{name}: stored bytes and digest differ")
                    if array.codec in ("raw", "lz4") and not name.endswith("_offsets"):
                        own = hashlib.sha256(sample.arrays[view, name].tobytes()).hexdigest()
                        require(own == array.sha256, f"{name}: the digest is not of its bytes")


def blocks_come_in_order(make_store: MakeStore, folder: Path) -> None:
    """Check that gaps, repetitions, overruns and misfits are refused."""
    sample, store = Sample("order"), make_store(folder)
    frames = sample.arrays["front", "frames"]
    with store.begin(sample.id, sample.layout()) as writer:
        writer.write("front", "frames", 0, frames[:2])
        misfits = {
            "a gap": (3, frames[3:4]),
            "a repetition": (1, frames[1:2]),
            "too many rows": (2, np.concatenate([frames, frames])),
            "another dtype": (2, frames[2:3].astype(np.float32)),
            "another shape": (2, frames[2:3, 1:]),
            "a missing axis": (2, frames[2]),
        }
        for what, (at, block) in misfits.items():
            with refused(ValueError, what):
                writer.write("front", "frames", at, block)
        with refused(ValueError, "digests of an incomplete episode"):
            writer.digests()
    require(not store.has(sample.id), "an incomplete episode exists")


def an_episode_is_whole_or_absent(make_store: MakeStore, folder: Path) -> None:
    """Check that leaving without commit, by any way, leaves nothing."""
    sample, store = Sample("absent/deep"), make_store(folder)
    with store.begin(sample.id, sample.layout()) as writer:
        sample.write(writer)
        require(not store.has(sample.id), "an episode exists before it is committed")
        require(not list(store.ids()), "an episode is listed before it is committed")
        require(not store.leftovers(), "the temporary of a live writer counts as a leftover")
    _nothing(store, sample, folder, "leaving without commit")
    with refused(KeyboardInterrupt, "an exception"):
        with store.begin(sample.id, sample.layout()) as writer:
            sample.write(writer)
            raise KeyboardInterrupt
    _nothing(store, sample, folder, "an exception")
    with store.begin(sample.id, sample.layout()) as writer:
        sample.write(writer)
        other = Sample("other", seed=1).meta(writer.digests())
        with refused(ValueError, "metadata of another episode"):
            writer.commit(other)
    _nothing(store, sample, folder, "a refused commit")


def _nothing(store: Store, sample: Sample, folder: Path, what: str) -> None:
    require(not store.has(sample.id), f"{what} left an episode")
    files = [path for path in folder.rglob("*") if path.is_file()]
    require(not files, f"{what} left {files}")


def a_killed_writer_leaves_no_episode(make_store: MakeStore, folder: Path) -> None:
    """Check SIGKILL in mid-write: no episode, a leftover that is told and cleared."""
    sample, store = Sample("killed"), make_store(folder)
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_write_and_die, args=(store, sample))
    child.start()
    child.join()
    require(child.exitcode == -signal.SIGKILL, f"the writer ended with {child.exitcode}")
    require(not store.has(sample.id), "a killed writer left an episode")
    require(not list(store.ids()), "a killed writer's temporary is listed")
    with store.begin("alive", sample.layout()) as writer:
        require(len(store.leftovers()) == 1, f"leftovers are {store.leftovers()}, expected one")
        require(len(store.leftovers(remove=True)) == 1, "the leftover was not removed")
        require(not store.leftovers(), "the leftover is still there")
        sample.write(writer)
        writer.commit(Sample("alive").meta(writer.digests()))
    require(store.has("alive"), "clearing leftovers harmed a live writer")


def _write_and_die(store: Store, sample: Sample) -> None:
    with store.begin(sample.id, sample.layout()) as writer:
        sample.write(writer)
        os.kill(os.getpid(), signal.SIGKILL)


def nothing_is_overwritten_silently(make_store: MakeStore, folder: Path) -> None:
    """Check that a second episode of one id is refused, unless replacing is asked for."""
    store = make_store(folder)
    first, second = Sample("same"), Sample("same", seed=1)
    meta = first.build(store)
    with refused(OutputError, "an episode that exists"):
        second.build(store)
    with closing(store.open("same")) as reader:
        require(reader.meta == meta, "a refused episode changed the one that was there")
    replaced = second.build(store, replace=True)
    with closing(store.open("same")) as reader:
        require(reader.meta == replaced, "replace=True did not replace the episode")


def ids_are_listed_and_safe(make_store: MakeStore, folder: Path) -> None:
    """Check sorted listing, folders in ids, long ids, and ids that lead elsewhere."""
    store = make_store(folder)
    require(not list(store.ids()), "a store that is not there yet lists episodes")
    ids = ["b/2", "a", "b/10", f"long/{'n' * 200}"]
    for episode_id in ids:
        Sample(episode_id).build(store)
    require(list(store.ids()) == sorted(ids), f"ids are {list(store.ids())}")
    for bad in ("../out", "/etc/x", "a//b", "", "a/../../b", "a\0b"):
        for call in (store.has, store.open, lambda i: Sample("x").build(store, episode_id=i)):
            with refused((DatasetError, ValueError), f"the id {bad!r}"):
                call(bad)


def what_is_missing_is_named(make_store: MakeStore, folder: Path) -> None:
    """Check the errors for episodes and arrays that are not there."""
    store = make_store(folder)
    with refused(DatasetError, "an episode that is not there", says="absent"):
        store.open("absent")
    sample = Sample("there")
    sample.build(store)
    with closing(store.open("there")) as reader:
        with refused(KeyError, "an array that is not there", says="tracks"):
            reader.array("front", "depth")
        with refused(KeyError, "a view that is not there", says="front"):
            reader.array("back", "tracks")


def readers_and_stores_travel(make_store: MakeStore, folder: Path) -> None:
    """Check that both can be pickled, that a reader works after close, and stays small."""
    for sample, store in _samples(make_store, folder):
        sample.build(pickle.loads(pickle.dumps(store)))
        with closing(store.open(sample.id)) as reader:
            reader.array("front", "frames")[0]
            data = pickle.dumps(reader)
            require(len(data) < 4096, f"a pickled reader takes {len(data)} bytes")
            with closing(pickle.loads(data)) as again:
                _compare(sample, again.array("front", "frames"), sample.frames, "frames")


def the_same_bytes_again(make_store: MakeStore, folder: Path) -> None:
    """Check that building an episode twice gives equal files."""
    for sample, _ in _samples(make_store, folder):
        trees = []
        for run in ("first", "second"):
            place = folder / sample.codec / sample.track_codec / run
            sample.build(make_store(place))
            files = sorted(path for path in place.rglob("*") if path.is_file())
            trees.append({path.relative_to(place): path.read_bytes() for path in files})
        require(trees[0] == trees[1], f"two runs differ ({sample.codec}, {sample.track_codec})")


def damaged_episodes_are_set_aside(make_store: MakeStore, folder: Path) -> None:
    """Check that an episode can be moved out of the way and built again."""
    store, sample = make_store(folder), Sample("a/b")
    sample.build(store)
    moved = store.set_aside(sample.id)
    require(moved.exists(), f"nothing is at {moved}")
    require(not store.has(sample.id) and not list(store.ids()), "it is still listed")
    sample.build(store)
    second = store.set_aside(sample.id)
    require(second != moved, f"the second one took the place of the first, {moved}")
    require(moved.exists() and second.exists(), f"{moved} or {second} is gone")
    sample.build(store)


def _samples(make_store: MakeStore, folder: Path) -> Iterator[tuple[Sample, Store]]:
    """Yield a sample, and a store of its own, per combination of codecs that can be used here."""
    packages = {"raw": "numpy", "lz4": "hdf5plugin", "jpeg": "cv2"}
    for codec, package in packages.items():
        if importlib.util.find_spec(package) is not None:
            for track_codec in ("raw", "u16"):
                sample = Sample("some/episode", codec=codec, track_codec=track_codec)
                yield sample, make_store(folder / codec / track_codec)


CHECKS: tuple[Callable[[MakeStore, Path], None], ...] = (
    what_was_written_comes_back,
    digests_are_of_the_stored_bytes,
    blocks_come_in_order,
    an_episode_is_whole_or_absent,
    a_killed_writer_leaves_no_episode,
    nothing_is_overwritten_silently,
    ids_are_listed_and_safe,
    what_is_missing_is_named,
    readers_and_stores_travel,
    the_same_bytes_again,
    damaged_episodes_are_set_aside,
)
