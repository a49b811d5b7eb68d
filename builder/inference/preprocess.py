"""On the robot: live camera frames into what the model saw in training.

The same kernel as the build.  Decoding predictions needs ``schemas`` alone: see
:class:`schemas.inference.Decoder`.
"""

from collections.abc import Mapping
from typing import Any

import av
import numpy as np

from builder.canvas.letterbox import Letterboxer
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

        Raises ValueError for an array of other axes or numbers, and when the frame is not of the
        view's resolution: a changed camera is refitted explicitly, with ``Decoder.refit``.
        TypeError for what is neither an array nor a frame.
        """
        name = self._decoder.view(view).name
        self._decoder.check_frame(_frame_shape(image, name), name)
        return self._boxers[name].canvas(image)

    def __call__(self, images: Mapping[str, Any]) -> np.ndarray:
        """Letterbox one frame of every view; returns (V, H, W, 3) uint8 in training order.

        Raises KeyError naming the views that are missing, TypeError for anything but a mapping.
        """
        if not isinstance(images, Mapping):
            raise TypeError(
                f"expected frames by view, such as {{{next(iter(self._boxers))!r}: frame}}, got "
                f"{type(images).__name__}"
            )
        missing = [name for name in self._boxers if name not in images]
        if missing:
            raise KeyError(f"no frame for views {missing}; got {list(images)}")
        return np.stack([self.frame(images[name], name) for name in self._boxers])


def _frame_shape(image: Any, view: str) -> tuple[int, int]:
    """Return (H, W) of a frame; other numbers than uint8 would be cut down to it silently."""
    if isinstance(image, av.VideoFrame):
        return image.height, image.width
    wanted = f"view {view}: expected a numpy array (H, W, 3) uint8 RGB, 0 to 255, or av.VideoFrame"
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{wanted}, got {type(image).__name__}; convert it with numpy.asarray")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{wanted}, got {image.shape} {image.dtype}")
    return image.shape[0], image.shape[1]


def _letterbox(view: InferenceView) -> Letterbox:
    if not isinstance(view.geometry, Letterbox):
        raise ValueError(
            f"view {view.name} is stretched, not letterboxed: it was built by another tool, whose "
            "resizing live frames must go through"
        )
    return view.geometry
