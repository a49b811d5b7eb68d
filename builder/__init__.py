"""Builds, reads and checks letterbox-standardized datasets.

Names load when used, so that reading a dataset needs the core install alone.
"""

import sys
from typing import TYPE_CHECKING

import letterset  # noqa: F401  (makes sure that `schemas` is ours)
from builder.core.lazy import MovedModules, lazy_names

if TYPE_CHECKING:
    from builder.canvas.letterbox import letterbox_frame as letterbox_frame
    from builder.canvas.letterbox import unletterbox_frame as unletterbox_frame
    from builder.dataset.opening import open_dataset as open_dataset

# What the docs of 0.1 imported; these names go with 0.3.
_MOVED = {
    "builder.errors": "builder.core.errors",
    "builder.records": "builder.core.records",
    "builder.sources.listing": "builder.inputs.listing",
    "builder.sources.provenance": "builder.inputs.fingerprint",
    "builder.sources.select": "builder.sources.selection",
    "builder.sources.sidecars": "builder.inputs.sidecars",
    "builder.sources.streams": "builder.inputs.streams",
    "builder.splits": "builder.dataset.splits",
    "builder.stores.layout": "builder.stores.codecs",
    "builder.stores.trees": "builder.stores.atomic",
    "builder.video": "builder.inputs.video",
    "builder.windows": "builder.trackers.windowed",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
sys.meta_path.append(MovedModules(_MOVED))
