"""Arrays as Zarr format 3, written so that their bytes lie in one file in row order.

An array is a folder with ``zarr.json`` and, unless it is empty, one file: the array itself, or,
for larger ones, one shard with some rows per chunk, in order, and its index at the end.  Both
can be written as a stream and memory-mapped, which no general library does; any reader of
Zarr 3 can read them.  ``zarr.json`` follows from the array's metadata alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.core.errors import MissingExtraError

ARRAY, GROUP = "array", "group"
META_FILE = "zarr.json"

# Smaller arrays are one chunk; the others are shards of chunks of about so many bytes.
_WHOLE_BYTES = 1 << 20
_CHUNK_BYTES = 256 << 10
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


@dataclass(frozen=True)
class Grid:
    """How an array of a stored ``shape`` and ``dtype`` is cut into chunks of ``rows`` rows."""

    shape: tuple[int, ...]
    dtype: np.dtype
    packed: bool
    """Whether each row is compressed by itself."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def sharded(self) -> bool:
        """Whether chunks lie in a shard with an index."""
        return self.packed or self.nbytes > _WHOLE_BYTES

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, unpacked."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Rows per chunk."""
        if self.packed:
            return 1
        if self.sharded:
            return max(1, _CHUNK_BYTES // self.row_bytes)
        return max(1, self.shape[0]) if self.shape else 1

    @property
    def chunks(self) -> int:
        """Chunks in the shard."""
        return -(-self.shape[0] // self.rows) if self.shape else 1

    @property
    def file_name(self) -> str:
        """Name of the one file beside ``zarr.json``."""
        return ".".join(["c", *"0" * len(self.shape)])

    def index(self, ends: np.ndarray) -> np.ndarray:
        """Return a shard's index, (chunks, 2) uint64: offset and size of each chunk."""
        index = np.empty((self.chunks, 2), "<u8")
        index[0, 0], index[1:, 0] = 0, ends[:-1]
        index[:, 1] = ends - index[:, 0]
        return index

    @property
    def file_bytes(self) -> int:
        """Bytes of the file of an array that is not packed."""
        if not self.sharded:
            return self.nbytes
        return self.chunks * (self.rows * self.row_bytes + 16)

    def tail(self) -> bytes:
        """Return what follows the rows of an array that is not packed: padding and index."""
        if not self.sharded:
            return b""
        size = self.rows * self.row_bytes
        index = self.index(np.arange(1, self.chunks + 1, dtype="<u8") * size)
        return bytes(self.chunks * size - self.nbytes) + index.tobytes()

    def codecs(self) -> list[dict[str, Any]]:
        """Return the codec chain of the array."""
        inner = [_BYTES]
        if self.packed:
            # The checksum covers the packed bytes, which our own digest does not.
            inner = [_BYTES, _blosc(self.dtype.itemsize), {"name": "crc32c"}]
        if not self.sharded:
            return inner
        configuration = {
            "chunk_shape": self._chunk_shape(self.rows),
            "codecs": inner,
            "index_codecs": [_BYTES],
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": configuration}]

    def _chunk_shape(self, rows: int) -> list[int]:
        return [rows, *(max(1, side) for side in self.shape[1:])] if self.shape else []

    def array_json(self, attributes: dict[str, Any]) -> str:
        """Return the text of the array's ``zarr.json``."""
        data = {
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": self._chunk_shape(self.rows * self.chunks or 1)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": self.codecs(),
            "data_type": self.dtype.name,
            "fill_value": False if self.dtype.kind == "b" else 0,
            "shape": self.shape,
        }
        return _json(ARRAY, attributes, **data)


def group_json(attributes: dict[str, Any]) -> str:
    """Return the text of a group's ``zarr.json``."""
    return _json(GROUP, attributes)


def _json(kind: str, attributes: dict[str, Any], **data: Any) -> str:
    record = {"zarr_format": 3, "node_type": kind, "attributes": attributes, **data}
    return json.dumps(record, indent=1, sort_keys=True, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return value.tolist()


def _blosc(itemsize: int) -> dict[str, Any]:
    settings = {"typesize": itemsize, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}
    return {"name": "blosc", "configuration": {**settings, "blocksize": 0}}


def pack(row: np.ndarray) -> bytes:
    """Compress one row; raises MissingExtraError."""
    blosc, crc32c = _packers()
    # The array, not its bytes: they would not tell older numcodecs the size of an item.
    data = blosc.compress(np.ascontiguousarray(row), b"lz4", 5, 0, 0)
    return data + crc32c(data).to_bytes(4, "little")


def unpack(data: bytes, row: np.ndarray) -> None:
    """Decompress into ``row``.  Raises ValueError for damage, MissingExtraError."""
    blosc, crc32c = _packers()
    body, checksum = data[:-4], data[-4:]
    if crc32c(body).to_bytes(4, "little") != checksum:
        raise ValueError("its checksum does not fit")
    blosc.decompress(body, row)


def _packers() -> tuple[Any, Any]:
    try:
        from google_crc32c import value
        from numcodecs import blosc
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "zarr", "zarr") from None
    return blosc, value
