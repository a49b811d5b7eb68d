"""Builds, reads and checks letterbox-standardized datasets.

Names load when used, so that reading a dataset needs the core install alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.dataset import open_dataset
    from builder.letterbox import letterbox_frame, unletterbox_frame

_HOME = {
    "letterbox_frame": "builder.letterbox",
    "open_dataset": "builder.dataset",
    "unletterbox_frame": "builder.letterbox",
}

__all__ = ["letterbox_frame", "open_dataset", "unletterbox_frame"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
