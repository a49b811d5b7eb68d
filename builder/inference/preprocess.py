"""On the robot: live camera frames into what the model saw in training.

The same kernel as the build.  Decoding predictions needs ``schemas`` alone: see
:class:`schemas.inference.Decoder`.
"""

from collections.abc import Mapping
from typing import Any

import av
import numpy as np

from builder.canvas.letterbox import Letterboxer, letterbox_frame
from schemas.geometry import Geometry, Letterbox, Stretch
from schemas.inference import Decoder, InferenceMeta, InferenceView


class Preprocessor:
    """Letterboxes live frames of every view, in the order the model takes them.

    Frames are arrays (H, W, 3) uint8 RGB as the camera gives them, before orientation, or
    ``av.VideoFrame`` of any pixel format (a camera's own YUV comes out closest to the build:
    RGB made by a driver with coarse chroma differs by a few grey levels).  Raises ValueError
    for a view of an older file, which another tool stretched.
    """

    def __init__(self, meta: InferenceMeta) -> None:
        self._decoder = Decoder(meta)
        self._boxers = {
            view.name: Letterboxer(canvas_of(view), view.orientation) for view in meta.views
        }

    def __repr__(self) -> str:
        return repr(self._decoder).replace("Decoder", "Preprocessor", 1)

    def frame(self, image: Any, view: str | None = None) -> np.ndarray:
        """Letterbox one live frame; returns a new (H, W, 3) uint8 RGB array of ``img_shape``.

        Raises ValueError for an array of other axes or numbers, and when the frame is not of the
        view's resolution: a changed camera is refitted explicitly, with ``Decoder.refit``.
        TypeError for what is neither an array nor a frame.
        """
        name = self._decoder.view(view).name
        check_image(self._decoder, image, name)
        return on_img_shape(self._boxers[name].canvas(image), self._decoder.view(name))

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


def check_image(decoder: Decoder, image: Any, view: str) -> None:
    """Raise TypeError or ValueError for what is no frame of the view's resolution."""
    decoder.check_frame(_frame_shape(image, view), view)


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


def canvas_of(view: InferenceView) -> Geometry:
    """Return how the frames of a view were placed where they were tracked.

    Raises ValueError for frames of an older file, which another tool resized.
    """
    if view.tracked is None and not isinstance(view.geometry, Letterbox):
        raise ValueError(
            f"view {view.name} is stretched, not letterboxed: it was built by another tool, whose "
            "resizing live frames must go through"
        )
    return view.tracked or view.geometry


def on_img_shape(canvas: np.ndarray, view: InferenceView) -> np.ndarray:
    """Return a frame that was tracked as training sees it, (H, W, 3) of ``img_shape``."""
    if view.tracked is None:
        return canvas
    shape = view.geometry.img_shape
    return letterbox_frame(canvas, Stretch(source_shape=view.tracked.img_shape, img_shape=shape))
