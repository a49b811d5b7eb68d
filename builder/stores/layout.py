"""What is stored of an episode, whatever the format of the files."""

from __future__ import annotations

from typing import Any

import numpy as np

from builder.stores.codecs import U16_OFFSET, U16_SCALE
from schemas.dataset import ArrayMeta, ViewMeta

METADATA = "metadata"
STORED_DTYPES = {"u16": "<u2", "jpeg": "|u1"}
U16_ATTRS = {"scale": U16_SCALE, "offset": U16_OFFSET}


def array_path(view: str | None, name: str) -> str:
    """Return where an array lies in an episode."""
    return f"root/{name}" if view is None else f"root/{view}/{name}"


def view_attrs(view: Any) -> dict[str, Any]:
    """Copy a view's geometry for people who look into the file; it is never the truth.

    A layer's views have none: theirs is the base's.
    """
    if not isinstance(view, ViewMeta):
        return {}
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
