"""Maps of points as the numbers that samples carry."""

from __future__ import annotations

import numpy as np
import torch

from schemas.affine import AxisAffine


def matrix(affine: AxisAffine) -> np.ndarray:
    """Return the (2, 3) float64 matrix that maps (x, y, 1) as ``affine`` maps (x, y)."""
    (sx, sy), (ox, oy) = affine.scale_xy, affine.offset_xy
    if affine.transpose:
        return np.array([[0.0, sx, ox], [sy, 0.0, oy]])
    return np.array([[sx, 0.0, ox], [0.0, sy, oy]])


def decode_batch(prediction_rc: torch.Tensor, decode: torch.Tensor) -> torch.Tensor:
    """Decode predictions of a batch to source pixels, each sample through its own geometry.

    ``prediction_rc`` (B, V, ..., 2) is (row, col) in [-1, 1], ``decode`` (B, V, 2, 3) the batch's
    entry of that name; one sample's (V, ..., 2) and (V, 2, 3) do as well.  Returns (x, y) source
    pixels of the same shape, at least float32; differentiable.  Raises ValueError for shapes that
    do not belong together.
    """
    lead = decode.ndim - 2
    fits = prediction_rc.ndim > lead and prediction_rc.shape[:lead] == decode.shape[:lead]
    if not fits or prediction_rc.shape[-1:] != (2,) or decode.shape[-2:] != (2, 3):
        raise ValueError(
            "expected a prediction (B, V, ..., 2) and the batch's decode (B, V, 2, 3), got "
            f"{tuple(prediction_rc.shape)} and {tuple(decode.shape)}"
        )
    # Half precision would be off by pixels.
    dtype = torch.promote_types(prediction_rc.dtype, torch.float32)
    inner = (1,) * (prediction_rc.ndim - lead - 1)
    maps = decode.to(prediction_rc.device, dtype).reshape(*decode.shape[:lead], *inner, 2, 3)
    row, column = prediction_rc.to(dtype).unsqueeze(-2).unbind(-1)
    return column * maps[..., 0] + row * maps[..., 1] + maps[..., 2]
