"""The layout of an episode file, and the check that a file really has it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from builder.records import stored_form
from builder.stores.codecs import U16_OFFSET, U16_SCALE
from schemas.dataset import ArrayMeta, EpisodeMeta, ViewMeta

METADATA = "metadata"
LZ4_FILTER, FLETCHER32_FILTER = 32004, 3
STORED_DTYPES = {"u16": "<u2", "jpeg": "|u1"}
U16_ATTRS = {"scale": U16_SCALE, "offset": U16_OFFSET}


def array_path(view: str | None, name: str) -> str:
    """Return where an array lies in the file."""
    return f"root/{name}" if view is None else f"root/{view}/{name}"


def view_attrs(view: ViewMeta) -> dict[str, Any]:
    """Copy a view's geometry for people who look into the file; it is never the truth."""
    geometry = view.geometry
    (height, width), (source_height, source_width) = geometry.img_shape, geometry.source_shape
    return {
        "height": height,
        "width": width,
        "source_height": source_height,
        "source_width": source_width,
        "scale_xy": np.asarray(geometry.affine.scale_xy, "<f8"),
        "pad_xy": np.asarray(geometry.content_box[:2], "<i8"),
    }


def stored_dtype(array: ArrayMeta) -> np.dtype:
    """Return the dtype of an array's bytes in the file."""
    return np.dtype(STORED_DTYPES.get(array.codec, array.dtype)).newbyteorder("<")


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
    if text != stored_form(meta):
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
