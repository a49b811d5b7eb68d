"""The layout of an episode file, and the check that a file really has it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.stores.codecs import load_lz4
from builder.stores.columns import Put
from builder.stores.layout import METADATA, U16_ATTRS, array_path, stored_dtype, view_attrs
from schemas.base import canonical_json
from schemas.dataset import ArrayMeta, EpisodeMeta

LZ4_FILTER, FLETCHER32_FILTER = 32004, 3


class Hdf5Place:
    """A group that arrays are created in."""

    def __init__(self, group: Any) -> None:
        self.group, self.name = group, group.name

    def create(self, name: str, shape: tuple[int, ...], dtype: np.dtype, codec: str) -> Put:
        """Create a dataset: contiguous, or for lz4 in one chunk per row."""
        if codec == "lz4":
            dataset = self.group.create_dataset(
                name,
                shape=shape,
                dtype=dtype,
                chunks=(1, *shape[1:]),
                # The checksum covers the packed bytes, which our own digest does not.
                fletcher32=True,
                **load_lz4().LZ4(),
            )
        else:
            dataset = _create_contiguous(self.group, name, shape, dtype)
        if codec == "u16":
            dataset.attrs.update(U16_ATTRS)

        def put(at: int, rows: np.ndarray) -> None:
            if shape:
                dataset[at : at + len(rows)] = rows
            else:
                dataset[()] = rows[0]

        return put


def _create_contiguous(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Create a dataset whose place in the file is fixed and never filled beforehand."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    kind = h5py.h5t.py_create(dtype, logical=True)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), kind, space, plist))


def locate(file: Any, view: str | None, name: str, array: ArrayMeta, size: int) -> int | None:
    """Check a dataset against the metadata; return its offset, None if chunked or empty.

    ``size`` is the file's, in bytes.  Raises ValueError saying what is wrong with it.
    """
    found = _member(file.id, array_path(view, name))
    shape: tuple[int, ...] = array.shape
    if array.codec == "jpeg":
        shape = found.shape if len(found.shape) == 1 else (-1,)
    dtype, plist = stored_dtype(array), found.get_create_plist()
    if (found.dtype, found.shape) != (dtype, shape):
        raise ValueError(f"expected {dtype} {shape}, got {found.dtype} {found.shape}")
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise ValueError("virtual datasets and external storage are refused")
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if array.codec == "lz4":
        chunks = plist.get_chunk() if plist.get_layout() == h5py.h5d.CHUNKED else None
        if chunks != (1, *shape[1:]) or filters != [LZ4_FILTER, FLETCHER32_FILTER]:
            raise ValueError(f"expected one LZ4 chunk per row, got {chunks}, {filters}")
        return None
    if array.codec not in ("raw", "u16", "jpeg"):
        raise ValueError(f"unknown codec {array.codec!r}")
    offset, length = found.get_offset(), math.prod(shape) * dtype.itemsize
    if plist.get_layout() != h5py.h5d.CONTIGUOUS or (offset is None and length):
        raise ValueError("expected contiguous storage")
    if offset is not None and offset + length > size:
        raise ValueError(f"it ends at byte {offset + length}, the file at {size}")
    return offset


def _member(place: Any, path: str) -> Any:
    """Return a dataset that is really there: no soft, external or missing link on the way."""
    for part in path.split("/"):
        if not isinstance(place, h5py.h5g.GroupID):
            raise ValueError("it is listed in the metadata but missing")
        link = _link_type(place, part)
        if link is None:
            raise ValueError("it is listed in the metadata but missing")
        if link != h5py.h5l.TYPE_HARD:
            raise ValueError("links to other places are refused")
        place = h5py.h5o.open(place, part.encode())
    if not isinstance(place, h5py.h5d.DatasetID):
        raise ValueError(f"expected a dataset, got a {type(place).__name__}")
    return place


def _link_type(group: Any, name: str) -> int | None:
    return group.links.get_info(name.encode()).type if group.links.exists(name.encode()) else None


def disagreements(file: Any, meta: EpisodeMeta, text: str) -> Iterator[str]:
    """Compare what is stored twice, and look for what should not be there."""
    if text != canonical_json(json.loads(text)):
        yield f"attribute {METADATA} is not in its stored form: it was edited or damaged"
    expected = {"root": {view.name for view in meta.views} | set(meta.arrays)}
    expected |= {f"root/{view.name}": set(view.arrays) for view in meta.views}
    for place, names in {"": {"root"}, **expected}.items():
        for extra in sorted(set(_group(file, place) or ()) - names):
            yield f"{place}/{extra} is in the file but not in its metadata"
    for view in meta.views:
        group = _group(file, f"root/{view.name}")
        yield from _attributes(group, view_attrs(view))
        for name, array in view.arrays.items():
            if array.codec == "u16" and group is not None and name in group:
                yield from _attributes(group[name], U16_ATTRS)


def surplus(path: Path) -> Iterator[str]:
    """Tell of bytes after the end that the file itself states; HDF5 does not look at them.

    The place of that number is fixed by the HDF5 file format, in superblocks of version 2 and 3:
    what follows 8 bytes of signature, 4 of versions, sizes and flags, and two addresses.
    """
    with path.open("rb") as file:
        head, size = file.read(36), os.fstat(file.fileno()).st_size
    end = int.from_bytes(head[28:36], "little")
    if head[:8] == b"\x89HDF\r\n\x1a\n" and head[8] in (2, 3) and head[9] == 8 and size > end:
        yield f"bytes were appended: the episode ends at byte {end}, its file at {size}"


def _attributes(item: Any, expected: dict[str, Any]) -> Iterator[str]:
    if item is None:
        return
    found = dict(item.attrs)
    for key, value in expected.items():
        if key not in found or not np.array_equal(found[key], value):
            yield f"{item.name}: attribute {key} is {found.get(key)}, expected {value}"


def _group(file: Any, place: str) -> Any:
    """Return a group without following links; None when there is none."""
    found = file
    for part in filter(None, place.split("/")):
        if _link_type(found.id, part) != h5py.h5l.TYPE_HARD:
            return None
        found = found[part]
        if not isinstance(found, h5py.Group):
            return None
    return found
