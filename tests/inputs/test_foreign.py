"""The guard around files of others: whatever a library raises is told of the file."""

import fcntl

import h5py
import numpy as np
import pytest

from builder.core.errors import ConfigError, DecodeError, SourceError
from builder.inputs.foreign import foreign
from builder.inputs.hdf5 import open_hdf5
from builder.inputs.sidecars import read_npy
from schemas.config import Limits

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("bad\nheap"), r"x.h5: a/b: it cannot be read, .*\(RuntimeError: bad heap\)"),
        (OSError(5, "Input/output error"), r"\(Input/output error\)"),
        (KeyError("k"), r"\(KeyError: 'k'\)"),
        (RecursionError(), r"\(RecursionError\)"),
        (MemoryError(), r"x.h5: a/b: .*more memory than is allowed"),
    ],
)
def test_whatever_is_raised_names_the_file(raised, said):
    with pytest.raises(DecodeError, match=said) as caught, foreign("x.h5", "a/b"):
        raise raised
    assert caught.value.__cause__ is raised


def test_a_file_that_a_writer_has_locked_is_not_called_damaged(tmp_path):
    path = tmp_path / "a.hdf5"
    h5py.File(path, "w").close()
    with open(path, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        said = r"a\.hdf5: it cannot be read now \(.*\); nothing is known to be wrong .* close it"
        with pytest.raises(DecodeError, match=said), open_hdf5(path, Limits()):
            pass


def test_numbers_of_other_libraries_are_not_those_of_the_system():
    class Odd(OSError):
        pass

    with pytest.raises(DecodeError, match="it cannot be read, the file is damaged"), foreign("x"):
        raise Odd(11, "try again")


def test_our_own_errors_stay_what_they_are():
    with pytest.raises(ConfigError), foreign("x.h5"):
        raise ConfigError("no such setting")


def test_a_header_that_python_cannot_tokenize_is_told(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 2)))
    path.write_bytes(path.read_bytes().replace(b"'descr'", b"'''escr"))
    with pytest.raises(SourceError, match=r"a.npy: not a whole .npy of numbers \(.*Error"):
        read_npy(path, Limits())


def test_a_group_that_cannot_be_listed_is_told(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("one", "two", "three"):
            file[f"data/{name}"] = np.arange(3)
    data = path.read_bytes()
    # The nodes of the tree that lists a group's names (HDF5 format, version 1 B-trees).
    assert data.count(b"TREE") == 2
    path.write_bytes(data.replace(b"TREE", b"BUSH"))
    with open_hdf5(path, Limits()) as file:
        with pytest.raises(SourceError, match=r"a.hdf5: .*it cannot be read, the file is damaged"):
            file.keys("data")
