"""Parquet files of others: read by row group and column, within the limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.core.errors import SourceError
from builder.core.paths import printable_path
from builder.inputs.foreign import foreign
from builder.inputs.listing import regular_file
from schemas.config import Limits

_BATCH = 512
_DAMAGED = "not a whole Parquet file; get the file again"

# Bytes of a value, by Parquet's physical type; those of the others vary.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def column_names(path: Path) -> list[str]:
    """List the top-level columns of a file.  Raises SourceError."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def rows(path: Path, columns: list[str], limits: Limits) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as dicts of Python values, in bounded memory."""
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            for batch in _batches(path, file, group, columns, limits):
                yield from batch.to_pylist()


class SelectedRows:
    """The rows of a file in which column ``key`` has a value; a column is read when asked for.

    Row groups whose statistics exclude the value are not read.  ``len()`` counts the rows.
    """

    def __init__(self, path: Path, file: Any, key: str, value: int, limits: Limits) -> None:
        self._path, self._file, self._limits = path, file, limits
        self.names: list[str] = file.schema_arrow.names
        self._masks: dict[int, Any] = {}
        with foreign(path, what=_DAMAGED):
            for group in range(file.num_row_groups):
                if not _excluded(file, group, key, value):
                    self._masks[group] = pc.equal(self._group(key, group), value)
        self._count = sum(pc.sum(mask).as_py() or 0 for mask in self._masks.values())

    def __len__(self) -> int:
        return self._count

    def column(self, name: str) -> Any:
        """Read one column as an Arrow array.  Raises SourceError."""
        parts = [self._group(name, group).filter(mask) for group, mask in self._masks.items()]
        chunks = [chunk for part in parts for chunk in part.chunks]
        return pa.chunked_array(chunks, type=self._file.schema_arrow.field(name).type)

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read one column of numbers as (T, *shape).  Raises SourceError, as ``to_array``."""
        try:
            if name in self.names:
                _check_numbers(self._file.schema_arrow.field(name).type, name)
            return to_array(self.column(name), shape, name)
        except SourceError as error:
            raise type(error).at(self._path, error.reason) from None

    def _group(self, name: str, group: int) -> Any:
        if name not in self.names:
            raise SourceError.at(self._path, f"no column {name!r} among {self.names}")
        chunks, decoded = [], 0
        with foreign(self._path, what=_DAMAGED):
            try:
                for batch in _batches(self._path, self._file, group, [name], self._limits):
                    chunks.append(batch.column(0))
                    decoded += chunks[-1].nbytes
                    _refuse_beyond(self._path, group, name, decoded, self._limits)
            except NotImplementedError as error:
                raise SourceError.at(self._path, f"column {name} cannot be read: {error}") from None
            return pa.chunked_array(chunks, type=self._file.schema_arrow.field(name).type)


@contextmanager
def select_rows(path: Path, key: str, value: int, limits: Limits) -> Iterator[SelectedRows]:
    """Open the rows in which column ``key`` has a value.  Raises SourceError."""
    with _open(path) as file:
        yield SelectedRows(path, file, key, value, limits)


def _check_numbers(kind: Any, what: str) -> None:
    """Raise SourceError for a type other than numbers and lists of numbers."""
    while pa.types.is_nested(kind) and not pa.types.is_struct(kind) and kind.num_fields == 1:
        kind = kind.value_type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not number:
        raise SourceError(f"{what}: its type {kind} is not plain numbers, nor a list of numbers")


def to_array(column: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Turn an Arrow column of numbers, or of lists of numbers, into (T, *shape).

    Raises SourceError for other types, missing values and lists of another size.
    """
    length = len(column)
    values = column.combine_chunks()
    _check_numbers(values.type, what)
    if values.null_count:
        raise SourceError(f"{what}: {values.null_count} values are missing")
    while pa.types.is_nested(values.type):
        values = values.flatten()
    if values.null_count:
        raise SourceError(f"{what}: {values.null_count} of its numbers are missing")
    flat = values.to_numpy(zero_copy_only=False)
    if flat.size != length * int(np.prod(shape)):
        raise SourceError(f"{what}: {flat.size} numbers in {length} rows do not make {shape} each")
    return flat.reshape(length, *shape)


def _excluded(file: Any, group: int, key: str, value: int) -> bool:
    described = file.metadata.row_group(group)
    for index in range(described.num_columns):
        column = described.column(index)
        if column.path_in_schema == key:
            bounds = column.statistics
            return bool(bounds and bounds.has_min_max and not bounds.min <= value <= bounds.max)
    return False


def _batches(
    path: Path, file: Any, group: int, columns: list[str], limits: Limits
) -> Iterator[Any]:
    """Yield the rows of a group in batches of which no column decodes to more than the limit.

    Few encoded bytes may stand for many: runs and dictionaries repeat values.
    """
    described, rows = file.metadata.row_group(group), _BATCH
    for index in range(described.num_columns):
        column = described.column(index)
        name = column.path_in_schema
        if not any(name == each or name.startswith(f"{each}.") for each in columns):
            continue
        encoded, width = column.total_uncompressed_size, _WIDTHS.get(column.physical_type)
        decoded = max(encoded, column.num_values * (width or 0))
        _refuse_beyond(path, group, name, decoded, limits)
        if width is None:  # no value is longer than the chunk
            rows = max(1, min(rows, limits.max_chunk_bytes // max(1, encoded)))
    yield from file.iter_batches(rows, row_groups=[group], columns=columns)


def _refuse_beyond(path: Path, group: int, name: str, decoded: int, limits: Limits) -> None:
    if decoded > limits.max_chunk_bytes:
        raise SourceError.at(
            path,
            f"column {printable_path(name)} of row group {group} has {decoded} bytes, beyond the "
            f"limit of {limits.max_chunk_bytes} (limits.max_chunk_bytes)",
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with foreign(path, what=_DAMAGED), _open(path) as file:
        yield file


def _open(path: Path) -> Any:
    regular_file(path)
    with foreign(path, what=_DAMAGED):
        return pq.ParquetFile(path)
