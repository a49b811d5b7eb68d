"""The layout of an episode file, and the check that a file really has it."""

from __future__ import annotations

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


def _member(group: Any, name: str) -> Any:
    """Return a child that is really there: no soft, external or missing link."""
    link = group.get(name, getlink=True)
    if link is None:
        raise ValueError("it is listed in the metadata but missing")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"links are refused, got a {type(link).__name__}")
    return group[name]


def locate(file: Any, view: str | None, name: str, array: ArrayMeta, file_size: int) -> int | None:
    """Check a dataset against the metadata; return its offset, None if chunked or empty."""
    found = file
    for part in array_path(view, name).split("/"):
        if not isinstance(found, h5py.Group):
            raise ValueError(f"expected a group, got a {type(found).__name__}")
        found = _member(found, part)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"expected a dataset, got a {type(found).__name__}")
    if found.is_virtual or found.external:
        raise ValueError("virtual datasets and external storage are refused")
    shape: tuple[int, ...] = array.shape
    if array.codec == "jpeg":
        shape = found.shape if found.ndim == 1 else (-1,)
        offsets = _member(found.parent, f"{name}_offsets")
        if offsets.shape != (array.shape[0] + 1,) or int(offsets[-1]) != found.size:
            raise ValueError(f"its size does not agree with {name}_offsets")
    dtype = stored_dtype(array)
    if (found.dtype, found.shape) != (dtype, shape):
        raise ValueError(f"expected {dtype} {shape}, got {found.dtype} {found.shape}")
    plist = found.id.get_create_plist()
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if array.codec == "lz4":
        if found.chunks != (1, *shape[1:]) or filters != [LZ4_FILTER, FLETCHER32_FILTER]:
            raise ValueError(f"expected one LZ4 chunk per row, got {found.chunks}, {filters}")
        return None
    if array.codec not in ("raw", "u16", "jpeg"):
        raise ValueError(f"unknown codec {array.codec!r}")
    if array.codec == "u16" and any(found.attrs.get(key) != U16_ATTRS[key] for key in U16_ATTRS):
        raise ValueError(f"expected attributes {U16_ATTRS}, got {dict(found.attrs)}")
    offset = found.id.get_offset()
    if found.chunks is not None or filters or (offset is None and found.size):
        raise ValueError("expected contiguous storage")
    if offset is not None and offset + found.nbytes > file_size:
        raise ValueError(f"it ends at byte {offset + found.nbytes}, the file at {file_size}")
    return offset


def disagreements(file: Any, meta: EpisodeMeta, text: str) -> Iterator[str]:
    """Compare what is stored twice, and look for what should not be there."""
    if text != stored_form(meta):
        yield f"attribute {METADATA} is not in its stored form: it was edited or damaged"
    expected = {"root": {view.name for view in meta.views} | set(meta.arrays)}
    expected |= {f"root/{view.name}": set(view.arrays) for view in meta.views}
    for place, names in {"": {"root"}, **expected}.items():
        group = _group(file, place)
        if group is not None:
            for extra in sorted(set(group) - names):
                yield f"{place}/{extra} is in the file but not in its metadata"
    for view in meta.views:
        group = _group(file, f"root/{view.name}")
        found = {} if group is None else dict(group.attrs)
        for key, value in view_attrs(view).items():
            if key not in found or not np.array_equal(found[key], value):
                yield f"root/{view.name}: attribute {key} is {found.get(key)}, expected {value}"


def _group(file: Any, place: str) -> Any:
    """Return a group without following links; None when there is none."""
    found = file
    for part in filter(None, place.split("/")):
        link = found.get(part, getlink=True)
        found = found[part] if isinstance(link, h5py.HardLink) else None
        if not isinstance(found, h5py.Group):
            return None
    return found
