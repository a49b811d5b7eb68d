"""On the robot: live camera frames into what the model saw in training.

The same kernel as the build.  Decoding predictions needs ``schemas`` alone: see
:class:`schemas.inference.Decoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from builder.letterbox import Letterboxer
from schemas.geometry import Letterbox
from schemas.inference import Decoder, InferenceMeta, InferenceView


class Preprocessor:
    """Letterboxes live frames of every view, in the order the model takes them.

    Frames are arrays (H, W, 3) uint8 RGB as the camera gives them, before orientation, or
    ``av.VideoFrame`` of any pixel format (a camera's own YUV comes out closest to the build:
    RGB made by a driver with coarse chroma differs by a few grey levels).  Raises ValueError
    for a view that is stretched instead of letterboxed.
    """

    def __init__(self, meta: InferenceMeta) -> None:
        self._decoder = Decoder(meta)
        self._boxers = {
            view.name: Letterboxer(_letterbox(view), view.orientation) for view in meta.views
        }

    def frame(self, image: Any, view: str | None = None) -> np.ndarray:
        """Letterbox one live frame; returns a new (H, W, 3) uint8 RGB array of ``img_shape``.

        Raises ValueError when the frame is not of the view's resolution: a changed camera is
        refitted explicitly, with ``Decoder.refit``.
        """
        name = self._decoder.view(view).name
        shape = image.shape if isinstance(image, np.ndarray) else (image.height, image.width)
        self._decoder.check_frame(shape, name)
        boxer = self._boxers[name]
        out = np.empty((*boxer.box.img_shape, 3), np.uint8)
        boxer.paste(boxer.content(image), out)
        return out

    def __call__(self, images: Mapping[str, Any]) -> np.ndarray:
        """Letterbox one frame of every view; returns (V, H, W, 3) uint8 in training order.

        Raises KeyError naming the views that are missing.
        """
        missing = [name for name in self._boxers if name not in images]
        if missing:
            raise KeyError(f"no frame for views {missing}; got {list(images)}")
        return np.stack([self.frame(images[name], name) for name in self._boxers])


def _letterbox(view: InferenceView) -> Letterbox:
    if not isinstance(view.geometry, Letterbox):
        raise ValueError(
            f"view {view.name} is stretched, not letterboxed: it was built by another tool, whose "
            "resizing live frames must go through"
        )
    return view.geometry
