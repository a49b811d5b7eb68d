"""HDF5 files of others, read as data: nothing outside the file, nothing beyond the limits.

h5py follows external links, reads external raw files and virtual datasets, and inflates chunks
without a bound.  Here every link on the way to a dataset is looked at, and every dataset is
checked, before it is read.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.core.errors import SourceError
from builder.core.paths import printable_path, safe_names
from builder.inputs.foreign import foreign
from builder.inputs.inflate import MAX_RATIO, check_inflated
from builder.inputs.listing import natural_key, regular_file
from schemas.config import Limits

_MAX_HOPS = 16
_MAX_STRINGS = 1_000_000
# HDF5 filter number to a codec of `inflate`; None: a filter that keeps the size.
_FILTERS: dict[int, str | None] = {
    h5py.h5z.FILTER_SHUFFLE: None,
    h5py.h5z.FILTER_FLETCHER32: None,
    h5py.h5z.FILTER_DEFLATE: "deflate",
    h5py.h5z.FILTER_LZF: "lzf",
    32001: "blosc",
    32004: "lz4_hdf5",
    32015: "zstd",
}
_CACHE_BYTES = 32 << 20


class SafeHdf5:
    """An open HDF5 file.  Paths are absolute inside the file, like ``data/demo_0/actions``."""

    def __init__(self, file: Any, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._nodes: dict[str, Any] = {"": file}

    def keys(self, group: str) -> list[str]:
        """List the names in a group in natural order; [] when there is no such group."""
        node = self._follow(group)
        with self._named(group):
            return sorted(node, key=natural_key) if isinstance(node, h5py.Group) else []

    def is_group(self, path: str) -> bool:
        """Tell whether there is a group at a path."""
        return isinstance(self._follow(path), h5py.Group)

    def attr(self, path: str, name: str) -> Any:
        """Return a text or number attribute, or None."""
        node = self._follow(path)
        with self._named(f"{path}@{name}"):
            value = None if node is None or name not in node.attrs else node.attrs[name]
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value.item() if isinstance(value, np.generic) else value

    def strings(self, path: str) -> list[str]:
        """Read a list of texts; [] when there is none."""
        data = self._follow(path)
        if not isinstance(data, h5py.Dataset):
            return []
        with self._named(path):
            if h5py.check_string_dtype(data.dtype) is None or data.size > _MAX_STRINGS:
                raise self.error(path, f"expected a list of texts, got {data.dtype} {data.shape}")
            self._check_storage(path, data)
            values = np.atleast_1d(data.asstr(errors="replace")[()]).ravel()
        return [str(value) for value in values]

    def array(self, path: str) -> np.ndarray:
        """Read a whole numeric array, little endian.

        Raises SourceError for other types and for more than ``limits.max_array_bytes``.
        """
        data = self.dataset(path)
        if data.size * data.dtype.itemsize > self._limits.max_array_bytes:
            raise self.error(
                path,
                f"its declared shape {data.shape} exceeds the limit of "
                f"{self._limits.max_array_bytes} bytes (limits.max_array_bytes)",
            )
        with self._named(path):
            values = data[()]
        return np.asarray(values, values.dtype.newbyteorder("<"))

    def dataset(self, path: str, kinds: str = "biuf") -> Any:
        """Return a checked dataset, to be read in pieces with :meth:`part`.

        ``kinds`` are NumPy's letters for the types that are taken: plain numbers, S for bytes of
        one length, and O for bytes of any length: uint8 in rows that differ.
        """
        data = self._follow(path)
        if not isinstance(data, h5py.Dataset):
            raise self.error(path, "there is no such dataset")
        with self._named(path):
            rows = data.dtype.kind != "O" or h5py.check_vlen_dtype(data.dtype) == np.uint8
            if data.dtype.kind not in kinds or not rows:
                message = f"its type {data.dtype} is refused; only plain numbers are read"
                raise self.error(path, message)
            self._check_storage(path, data)
        return data

    def arrays(self, paths: Mapping[str, str]) -> dict[str, Callable[[], np.ndarray]]:
        """Return what reads whole numeric arrays, by the names given for their paths, made safe."""
        names = safe_names(paths.values()).values()
        return {name: partial(self.array, at) for at, name in zip(paths, names, strict=True)}

    def datasets(self, group: str, depth: int = 4) -> list[str]:
        """List the paths of datasets below a group, relative to it, and of what is no group."""
        found = []
        for key in self.keys(group):
            with suppress(SourceError):  # a link that is refused is told where it is read
                if depth and self.is_group(f"{group}/{key}"):
                    inner = self.datasets(f"{group}/{key}", depth - 1)
                    found += [f"{key}/{each}" for each in inner]
                    continue
            found.append(key)
        return found

    def described(self, path: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Return shape and type of a dataset, nothing of it read; None when there is none."""
        with suppress(SourceError), self._named(path):
            data = self._follow(path)
            if isinstance(data, h5py.Dataset) and data.shape is not None:
                return data.shape, data.dtype
        return None

    def part(self, data: Any, key: Any) -> np.ndarray:
        """Read any part of a checked dataset.  Raises DecodeError for damage."""
        with self._named(str(data.name)):
            return np.asarray(data[key])

    def error(self, path: str, message: str) -> SourceError:
        """Return an error that names the file and the place in it."""
        return SourceError.at(self._path, f"{printable_path(path)}: {message}")

    def place(self, path: str) -> Path:
        """Return what names a place in the file in errors of others."""
        return self._path / path

    def _follow(self, path: str, hops: int = 0) -> Any:
        """Walk to a path link by link; None when it is not there."""
        path = "/".join(part for part in path.split("/") if part)
        if path not in self._nodes:
            self._nodes[path] = self._step(path, hops)
        return self._nodes[path]

    def _step(self, path: str, hops: int) -> Any:
        folder, _, name = path.rpartition("/")
        node = self._follow(folder, hops)
        if not isinstance(node, h5py.Group):
            return None
        with self._named(path):
            link = node.get(name, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise self.error(path, "it is an external link; links to other files are refused")
        if isinstance(link, h5py.SoftLink):
            if hops >= _MAX_HOPS:
                raise self.error(folder, f"its links go round in circles, or over {_MAX_HOPS} hops")
            target = link.path if link.path.startswith("/") else f"{folder}/{link.path}"
            return self._follow(target, hops + 1)
        with self._named(path):
            return node[name]

    def _check_storage(self, path: str, data: Any) -> None:
        if data.is_virtual:
            raise self.error(
                path, "it is a virtual dataset; those read other files and are refused"
            )
        if data.external:
            raise self.error(path, "it keeps its data in external files, which is refused")
        if data.size is None:
            raise self.error(path, "it is empty (a null dataspace)")
        codec = self._codec(path, data)
        if data.chunks is None:
            stored = data.id.get_storage_size()
            if stored < data.size * data.dtype.itemsize:
                raise self.error(path, f"shape {data.shape} is declared, but {stored} bytes stored")
            return
        self._check_chunks(path, data, codec)

    def _codec(self, path: str, data: Any) -> str:
        plist = data.id.get_create_plist()
        codecs = []
        for index in range(plist.get_nfilters()):
            number, _, _, name = plist.get_filter(index)
            label = f"{name.decode('ascii', 'replace')!r} (number {number})"
            if number not in _FILTERS:
                known = "gzip, lzf, blosc, lz4, zstd, shuffle and fletcher32"
                raise self.error(
                    path, f"the filter {label} is refused; supported are {known}; use h5repack"
                )
            if number > h5py.h5z.FILTER_LZF and importlib.util.find_spec("hdf5plugin"):
                # Importing it registers its filters.
                import hdf5plugin  # noqa: F401
            if not h5py.h5z.filter_avail(number):
                raise self.error(path, f"the filter {label} needs: pip install 'letterset[build]'")
            if _FILTERS[number]:
                codecs.append(str(_FILTERS[number]))
        if len(codecs) > 1:
            raise self.error(path, f"it is compressed more than once, by {codecs}: refused")
        return codecs[0] if codecs else "raw"

    def _check_chunks(self, path: str, data: Any, codec: str) -> None:
        limit = self._limits.max_chunk_bytes
        declared = math.prod(data.chunks) * data.dtype.itemsize
        if declared > limit:
            raise self.error(
                path,
                f"its chunks {data.chunks} of {declared} bytes exceed the limit of {limit} "
                f"(limits.max_chunk_bytes); use h5repack with smaller chunks",
            )
        chunks: list[tuple[tuple[int, ...], int]] = []
        # Asking for them one by one takes time quadratic in their number.
        data.id.chunk_iter(lambda info: chunks.append((info.chunk_offset, info.size)))
        expected = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
        if len(chunks) != expected:
            raise self.error(
                path,
                f"shape {data.shape} is declared, but {len(chunks)} of {expected} chunks exist",
            )
        for offset, size in chunks:
            # Small chunks cannot become large: their bytes need not be looked at.
            if codec == "raw" or (codec in ("deflate", "lzf") and size * MAX_RATIO <= limit):
                continue
            _, raw = data.id.read_direct_chunk(offset)
            try:
                check_inflated(codec, raw, limit)
            except ValueError as error:
                raise self.error(path, str(error)) from None

    def _named(self, path: str) -> AbstractContextManager[None]:
        return foreign(self._path, path)


@contextmanager
def open_hdf5(path: Path, limits: Limits) -> Iterator[SafeHdf5]:
    """Open a file of others for reading.  Raises SourceError naming what is wrong."""
    regular_file(path)
    with foreign(path, what="not a whole HDF5 file; get the file again"):
        file = h5py.File(os.fsencode(path), "r", rdcc_nbytes=_CACHE_BYTES, rdcc_nslots=10_007)
    with file:
        yield SafeHdf5(file, path, limits)
