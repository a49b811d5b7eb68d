"""Pickles of others, read as data: numbers, texts, containers and NumPy arrays, nothing else.

A pickle is a program that may call anything it names.  Here it may name the few functions that
NumPy's own pickles need, replaced by versions that check their arguments, and nothing else.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from builder.core.errors import SourceError
from builder.inputs.foreign import foreign
from builder.inputs.listing import read_small
from schemas.config import Limits


def load_pickle(path: Path, limits: Limits) -> Any:
    """Load a pickle of plain data.  Raises SourceError naming what it asked for instead."""
    data = read_small(path, limits.max_array_bytes)
    with foreign(path, what="not a whole pickle"):
        try:
            return _plain(_Restricted(_Bounded(data)).load(), {})
        except _RefusedError as error:
            raise SourceError.at(
                path,
                f"the pickle asks for {error}, which is refused; pickles may "
                f"hold numbers, texts, containers and NumPy arrays",
            ) from None


def load_tapvid_videos(path: Path, limits: Limits) -> dict[str, Any]:
    """Load a TAP-Vid pickle: its videos by name; those of a list are video_0, video_1, ...

    Raises SourceError for anything else, and for names that read alike.
    """
    data = load_pickle(path, limits)
    if isinstance(data, list):
        data = {f"video_{index}": sample for index, sample in enumerate(data)}
    if not isinstance(data, dict) or not data:
        what = type(data).__name__ if data else "an empty one"
        raise SourceError.at(path, f"expected a dict or list of videos, got {what}")
    videos = {str(key): value for key, value in data.items()}
    if len(videos) != len(data):
        raise SourceError.at(
            path,
            f"{len(data)} videos have {len(videos)} names, since "
            f"a number and a text may read alike; give each a name of its own",
        )
    return videos


class _RefusedError(Exception):
    pass


class _Bounded(io.BytesIO):
    """Refuses to read more than there is, before anything is allocated for it."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = self.getbuffer().nbytes - self.tell()
        if size is not None and size > left:
            raise EOFError(f"{size} bytes are announced, {left} are left")
        return super().read(size)


# The pure Python unpickler: the C one allocates what a few bytes of a broken pickle announce.
class _Restricted(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise _RefusedError(f"{module}.{name}")
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("a persistent object")


class _Dtype:
    """Stands for ``numpy.dtype``: plain numbers, texts or objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufSUO" or self.dtype.itemsize > 1 << 20:
            raise _RefusedError(f"the dtype {code!r}")

    def __setstate__(self, state: Any) -> None:
        # The rest of the state describes types that are refused.
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for ``numpy.ndarray``: empty, until its state is set."""

    array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        if kind.dtype.kind == "O":
            flat = np.empty(len(raw), object)
            flat[:] = raw
        else:
            flat = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, kind.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _frombuffer(data: Any, kind: _Dtype, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: _Dtype, data: Any = b"") -> Any:
    return np.frombuffer(data, kind.dtype, count=1)[0]


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Put arrays in the places of what stood for them.

    ``known`` are the results by identity: a small pickle may hold one list a billion times.
    """
    if id(value) not in known:
        known[id(value)] = _replaced(value, known)
    return known[id(value)]


def _replaced(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, dict):
        return {_plain(key, known): _plain(each, known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each, known) for each in value)
    if isinstance(value, _Array):
        value = value.array
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        flat = np.empty(value.size, object)
        flat[:] = [_plain(each, known) for each in value.ravel()]
        return flat.reshape(value.shape)
    return value


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: _Array(),
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}
