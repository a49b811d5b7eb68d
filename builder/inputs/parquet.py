"""Parquet files of others: read by row group and column, within the limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.core.errors import DecodeError, SourceError
from builder.core.paths import printable_path
from builder.inputs.listing import regular_file
from schemas.config import Limits

_BATCH = 512


def column_names(path: Path) -> list[str]:
    """List the top-level columns of a file.  Raises SourceError."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def rows(path: Path, columns: list[str], limits: Limits) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as dicts of Python values, in bounded memory."""
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            _check(path, file, group, columns, limits)
            for batch in file.iter_batches(_BATCH, row_groups=[group], columns=columns):
                yield from batch.to_pylist()


def select_rows(path: Path, columns: list[str], key: str, value: int, limits: Limits) -> Any:
    """Return the rows in which column ``key`` has a value, as one Arrow table.

    Row groups whose statistics exclude the value are not read.  Raises SourceError.
    """
    with _opened(path) as file:
        names = file.schema_arrow.names
        missing = [name for name in (key, *columns) if name not in names]
        if missing:
            raise SourceError.at(path, f"no columns {missing} among {names}")
        tables = []
        for group in range(file.num_row_groups):
            if _excluded(file, group, key, value):
                continue
            _check(path, file, group, columns, limits)
            table = file.read_row_group(group, columns=[*columns, key])
            tables.append(table.filter(pc.equal(table[key], value)))
        return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table()


def to_array(column: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Turn an Arrow column of numbers, or of lists of numbers, into (T, *shape).

    Raises SourceError for other types, missing values and lists of another size.
    """
    length = len(column)
    values = column.combine_chunks()
    if values.null_count:
        raise SourceError(f"{what}: {values.null_count} values are missing")
    while pa.types.is_nested(values.type):
        if not hasattr(values, "flatten") or pa.types.is_struct(values.type):
            raise SourceError(f"{what}: its type {values.type} is not a list of numbers")
        values = values.flatten()
    if values.null_count or not (
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_boolean(values.type)
    ):
        raise SourceError(f"{what}: its type {values.type} is not plain numbers without gaps")
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


def _check(path: Path, file: Any, group: int, columns: list[str], limits: Limits) -> None:
    described = file.metadata.row_group(group)
    for index in range(described.num_columns):
        column = described.column(index)
        name = column.path_in_schema
        wanted = any(name == each or name.startswith(f"{each}.") for each in columns)
        if wanted and column.total_uncompressed_size > limits.max_chunk_bytes:
            raise SourceError.at(
                path,
                f"column {printable_path(name)} of row group {group} has "
                f"{column.total_uncompressed_size} bytes, beyond the limit of "
                f"{limits.max_chunk_bytes} (limits.max_chunk_bytes)",
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    regular_file(path)
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, TypeError) as error:
        raise DecodeError.at(
            path, f"not a whole Parquet file ({error}); get the file again"
        ) from None
