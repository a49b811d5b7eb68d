"""Sources are read in a process of their own: crashes, loops and bombs cost their file alone."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import h5py
import pytest
import source_fixtures as fixtures
from legacy_fixtures import write_amplify
from source_fixtures import config_of

from builder.build import reader
from builder.build.pipeline import build
from builder.build.reader import apart, each_apart, listed
from builder.cli.main import main
from builder.core.errors import SourceError, WorkerError
from builder.inputs.foreign import announce
from builder.sources.kinds.tapvid import TapVid
from builder.sources.starter_config import guess
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from schemas.config import Limits

QUICK = Limits(stall_seconds=4)


@pytest.fixture(scope="module", autouse=True)
def _warm_reader(tmp_path_factory):
    """Let imports be no part of what a test measures."""
    folder = tmp_path_factory.mktemp("warm")
    fixtures.write_tapvid(folder)
    apart(guess, folder)


def read_all(folder: Path, how: str) -> list[str]:
    """A function of a source: what it made of each file of a folder."""
    said = []
    for path in sorted(folder.iterdir()):
        try:
            announce(path)
        except SourceError as error:
            said.append(str(error))
            continue
        if path.name == "bad":
            if how == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            while True:
                pass
        said.append(path.name)
    return said


@pytest.mark.parametrize(
    ("how", "reason"),
    [("crash", "was killed by SIGSEGV"), ("loop", r"took more than 4 s \(limits.stall_seconds\)")],
)
def test_what_ends_the_reader_costs_its_file_alone(tmp_path, how, reason):
    for name in ("a", "bad", "c"):
        (tmp_path / name).touch()
    first, bad, last = apart(read_all, tmp_path, how, limits=QUICK)
    assert (first, last) == ("a", "c")
    assert bad.startswith(f"{tmp_path / 'bad'}: reading it ")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad)
    assert apart(read_all, tmp_path, how, limits=QUICK)[1] == bad, "it is not read again"
    (tmp_path / "bad").unlink()
    assert apart(read_all, tmp_path, how, limits=QUICK) == ["a", "c"]


def loop() -> None:
    while True:
        pass


def test_a_loop_over_no_file_is_an_error(monkeypatch):
    monkeypatch.setattr(reader, "START_SECONDS", 4)
    with pytest.raises(WorkerError, match=r"reading took more than 4 s"):
        apart(loop, limits=QUICK)
    assert apart(len, "abc") == 3, "the next call is answered"


def test_what_a_function_raises_is_raised(tmp_path):
    with pytest.raises(SourceError, match="nowhere: there is no such file"):
        listed(TapVid(tmp_path / "nowhere"))


def allocate(size: int) -> int:
    return len(bytes(size))


def test_memory_is_limited():
    limits = Limits(max_array_bytes=64 << 20)
    assert apart(allocate, 100 << 20, limits=limits) == 100 << 20
    with pytest.raises(MemoryError):
        apart(allocate, 1 << 30, limits=limits)


def test_an_interrupted_call_leaves_no_answer_behind(monkeypatch):
    apart(len, "abc")
    with monkeypatch.context() as patch:
        patch.setattr(reader, "watch", lambda readers: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            apart(len, "abcd")
    assert apart(len, "ab") == 2


def doubled(depth: int) -> bytes:
    """A pickle of {nested: 1}, where hashing the nested tuple takes 2 ** depth steps."""
    body = b"".join(b"h" + bytes([level]) + b"\x86\x94" for level in range(depth))
    return b"\x80\x04}K\x00\x85\x94" + body + b"K\x01s."


@pytest.fixture
def bombed(tmp_path, monkeypatch):
    """A folder with three good videos, and a pickle that takes for ever."""
    (tmp_path / "in").mkdir()
    fixtures.write_tapvid(tmp_path / "in")
    (tmp_path / "in" / "bomb.pkl").write_bytes(doubled(60))
    monkeypatch.chdir(tmp_path)
    return Path("in")


def test_inspect_lists_what_never_ends_as_one_failure(bombed, capsys):
    assert main(["inspect", "in", "--json", "limits.stall_seconds=4"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert len(said["views"]) == 3
    assert [each["path"] for each in said["failures"]] == ["bomb.pkl"]


def test_init_looks_at_the_other_files(bombed):
    found = apart(guess, bombed, limits=QUICK)
    assert (found.kind, found.episodes, list(found.views)) == ("tapvid", 4, ["main"])
    assert "bomb.pkl: reading it took more than 4 s" in found.problems[0]


def test_a_build_goes_on(bombed, tmp_path):
    config = config_of(bombed, tmp_path / "out", kind="tapvid")
    summary = build(config.model_copy(update={"limits": QUICK}))
    assert summary.built == 3
    assert [each.path for each in summary.failures] == ["bomb.pkl"]


def test_a_reader_that_ended_while_idle_is_started_again():
    first = apart(os.getpid)
    reader._IDLE[-1].process.kill()
    reader._IDLE[-1].process.join()
    assert apart(os.getpid) not in (first, os.getpid())


def size_of(path: Path) -> int | str:
    """A function of one item: it tells its file, and ends over one that is called bad."""
    try:
        announce(path)
    except SourceError as error:
        return str(error)
    if path.name == "bad":
        os.kill(os.getpid(), signal.SIGSEGV)
    return path.stat().st_size


@pytest.mark.parametrize("workers", [1, 3])
def test_items_are_read_in_their_order_and_a_bad_one_costs_itself_alone(tmp_path, workers):
    paths = [tmp_path / str(number) for number in range(90)]
    paths.insert(40, tmp_path / "bad")
    for size, path in enumerate(paths):
        path.write_bytes(bytes(size))
    found = list(each_apart(size_of, paths, workers=workers))
    assert "was killed by SIGSEGV" in str(found.pop(40))
    assert found == [size for size in range(91) if size != 40]


def test_a_reader_serves_again_after_a_call_that_was_not_read_to_its_end(tmp_path):
    results = each_apart(len, [("ab",) * size for size in range(50)], workers=2)
    assert next(results) == 0
    results.close()
    assert list(each_apart(len, ["a", "bc"], workers=2)) == [1, 2]


def write_looping_hdf5(path: Path) -> None:
    """Write a file over whose attribute HDF5 loops: an object of its heap has a wrong size."""
    with h5py.File(path, "w") as file:
        file.attrs["metadata"] = "x" * 40
    damaged = bytearray(path.read_bytes())
    damaged[damaged.find(b"GCOL") + 24] = 255
    path.write_bytes(damaged)


def test_an_older_file_that_never_ends_fails_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reader, "Limits", partial(Limits, stall_seconds=10))
    older = tmp_path / "older"
    write_amplify(older / "a.hdf5", {"default": (48, 90)})
    write_looping_hdf5(older / "b.hdf5")
    write_amplify(older / "c.hdf5", {"default": (48, 90)})
    assert main(["doctor", str(older), "--img-shape", "48", "90", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 2
    [(name, why)] = found["problems"].items()
    assert name == "b.hdf5"
    assert "reading it took more than 10 s (limits.stall_seconds)" in why
    assert main(["inspect", str(older), "--json"]) == 1
    [failure] = json.loads(capsys.readouterr().out)["failures"]
    assert failure["path"] == "b.hdf5"

    out = tmp_path / "out"
    assert main(["migrate", str(older), str(out), "--img-shape", "48", "90"]) == 1
    said = capsys.readouterr().out
    assert "migrated 2 episodes" in said
    assert "FAILED b.hdf5: reading it took more than 10 s" in said


def test_an_episode_that_never_ends_costs_itself_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reader, "Limits", partial(Limits, stall_seconds=10))
    store = Hdf5Store(tmp_path / "ds")
    sample_dataset(tmp_path / "ds", store, [Sample("a"), Sample("b")])
    write_looping_hdf5(store.path("b"))
    assert main(["inspect", str(tmp_path / "ds"), "--json"]) == 1
    [failure] = json.loads(capsys.readouterr().out)["failures"]
    assert failure["path"] == "b"
    assert main(["doctor", str(tmp_path / "ds"), "--json"]) == 1
    [(name, why)] = json.loads(capsys.readouterr().out)["problems"].items()
    assert name == "b"
    assert "reading it took more than 10 s (limits.stall_seconds)" in why
