"""TFRecord files of ``tf.train.Example``, read without TensorFlow: checked, and as data alone.

A file is records one after another: the length (uint64, little endian), its checksum, the data,
their checksum; checksums are CRC-32C, masked (TensorFlow's page on the TFRecord format).  Data are
a protocol buffer (``tensorflow/core/example/feature.proto``): a map from names to lists of bytes,
floats or integers, all that is read here; fields of other numbers are skipped.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from builder.core.errors import DecodeError, SourceError
from builder.inputs.foreign import foreign
from builder.inputs.listing import regular_file
from schemas.config import Limits

_HEAD = struct.Struct("<QI")
_FOOT = struct.Struct("<I")
Values = list[bytes] | np.ndarray
"""What a feature holds: bytes, or numbers (N,) float32 or int64."""


class Place(NamedTuple):
    """Where the data of a record begin in its file, and how many bytes they are."""

    start: int
    size: int


def record_places(path: Path) -> list[Place]:
    """List the records of a file, reading their lengths alone.  Raises SourceError."""
    size, at = regular_file(path), 0
    places: list[Place] = []
    with foreign(path), open(path, "rb", buffering=0) as file:
        while at < size:
            head = os.pread(file.fileno(), _HEAD.size, at)
            if len(head) < _HEAD.size:
                raise _cut_off(path, len(places))
            length, checksum = _HEAD.unpack(head)
            if _masked(head[:8]) != checksum:
                if not places and (packed := _packing(head)):
                    raise SourceError.at(
                        path, f"it is compressed with {packed}: decompress it, as TFDS writes it"
                    )
                raise DecodeError.at(
                    path, f"no TFRecord file, or damaged: record {len(places)} has a wrong length"
                )
            at += _HEAD.size
            places.append(Place(at, length))
            at += length + _FOOT.size
    if at > size:
        raise _cut_off(path, len(places) - 1)
    return places


def _packing(head: bytes) -> str | None:
    """Name what a whole file is compressed with, as TFRecordOptions may ask for."""
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    zlib = head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31 == 0
    return "zlib" if zlib else None


def read_example(path: Path, place: Place, limits: Limits) -> dict[str, Values]:
    """Read one record: its features by name.  Raises SourceError."""
    if place.size > limits.max_array_bytes:
        raise SourceError.at(
            path,
            f"a record of {place.size} bytes exceeds the limit of {limits.max_array_bytes} "
            f"(limits.max_array_bytes)",
        )
    regular_file(path)
    with foreign(path), open(path, "rb", buffering=0) as file:
        file.seek(place.start)
        data = file.read(place.size + _FOOT.size)
        if len(data) < place.size + _FOOT.size:
            raise DecodeError.at(path, "the file was cut off since it was listed")
        record = data[: place.size]
        if _masked(record) != _FOOT.unpack(data[place.size :])[0]:
            raise DecodeError.at(
                path, f"the record at byte {place.start} is damaged (checksum); get the file again"
            )
        return _example(memoryview(record))


def _cut_off(path: Path, record: int) -> SourceError:
    return DecodeError.at(path, f"it is cut off in record {record}; get the file again")


def _masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _example(data: memoryview) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for features in _parts(data, 1):
        for entry in _parts(features, 1):
            names = [bytes(name) for name in _parts(entry, 1)]
            for feature in _parts(entry, 2):
                found[(names or [b""])[-1].decode("utf-8", "replace")] = _values(feature)
    return found


def _values(feature: memoryview) -> Values:
    for number, _, value in _fields(feature):
        if isinstance(value, memoryview) and number == 1:
            return [bytes(each) for each in _parts(value, 1)]
        if isinstance(value, memoryview) and number == 2:
            return _floats(value)
        if isinstance(value, memoryview) and number == 3:
            return _integers(value)
    return []


def _floats(data: memoryview) -> np.ndarray:
    # One packed list, or a value each: four bytes of either lie in ``value``.
    parts = [value for number, _, value in _fields(data) if number == 1]
    return np.frombuffer(
        b"".join(bytes(each) for each in parts if not isinstance(each, int)), "<f4"
    )


def _integers(data: memoryview) -> np.ndarray:
    values: list[int] = []
    for number, _, value in _fields(data):
        if number == 1 and isinstance(value, int):
            values.append(value)
        elif number == 1 and not isinstance(value, int):
            at = 0
            while at < len(value):
                each, at = _varint(value, at)
                values.append(each)
    return np.array(values, np.uint64).astype(np.int64)


def _parts(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield what lies in the fields of a number that have a length."""
    for number, wire, value in _fields(data):
        if number == wanted and wire == 2 and not isinstance(value, int):
            yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Yield number, wire type and value of each field.  Raises ValueError for damage."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError(f"a field of wire type {wire} leaves the message")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a place, of at most 64 bits, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number of more than 64 bits")
