"""The frames of a sample: on its canvas, augmented as its tracks are."""

from __future__ import annotations

import numpy as np

from builder.training.augment import warp
from builder.training.episodes import ViewWindows
from schemas.affine import AxisAffine
from schemas.geometry import Stretch


def write_pictures(view: ViewWindows, start: int, turn: AxisAffine | None, out: np.ndarray) -> None:
    """Write the frames up to and including ``start`` into ``out`` (K, H, W, 3), oldest first.

    Before the first frame that is repeated.  ``turn`` is the augmentation's map of the canvas.
    """
    for back, slot in enumerate(reversed(out)):
        frame = np.asarray(view.frames[max(0, start - back)])
        if view.box is not view.stored:
            frame = _replaced(frame, view)
        if turn is not None:
            frame = warp(frame, turn)
        slot[...] = frame
        if out.dtype == np.float32:
            slot /= 255


def _replaced(frame: np.ndarray, view: ViewWindows) -> np.ndarray:
    """Move a stored frame onto the sample's canvas, through the source's own pixels."""
    from builder.canvas.letterbox import letterbox_frame, unletterbox_frame

    if isinstance(view.stored, Stretch):
        # The older route stretches from canvas to canvas.
        direct = Stretch(source_shape=view.stored.img_shape, img_shape=view.box.img_shape)
        return letterbox_frame(frame, direct)
    return letterbox_frame(unletterbox_frame(frame, view.stored), view.box)
