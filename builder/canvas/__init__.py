"""The picture a model sees: letterboxed pixels, query points on it, windows of its frames."""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.canvas.letterbox import Letterboxer as Letterboxer
    from builder.canvas.letterbox import letterbox_frame as letterbox_frame
    from builder.canvas.letterbox import unletterbox_frame as unletterbox_frame
    from builder.canvas.query_grid import query_points as query_points
    from builder.canvas.windows import valid_steps as valid_steps
    from builder.canvas.windows import window_starts as window_starts

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
