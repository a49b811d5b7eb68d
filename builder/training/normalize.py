"""AMPLIFY-compatible normalization of (row, col) tracks, for numpy and torch.

The operations and their order are that code's, so that results are bit-equal to it in
float32 (it knows no other dtype) and to the same formula in float64.
"""

from typing import Any

from schemas.geometry import Points, as_float_points


def normalize_traj(traj_rc: Points, img_shape: tuple[int, int]) -> Points:
    """Map (row, col) pixels (..., 2) to [-1, 1]: ``(p - size/2) / (size/2)``; not clipped.

    ``img_shape`` is (H, W).  The dtype is kept, integers become float64, nothing is mutated.
    AMPLIFY clips in the same function; here that is :func:`clip_traj`.
    """
    out: Any = as_float_points(traj_rc)
    for axis in (0, 1):
        out[..., axis] -= img_shape[axis] / 2
        out[..., axis] /= img_shape[axis] / 2
    return out


def clip_traj(traj_rc: Points) -> Points:
    """Clip normalized tracks (..., 2) to [-1, 1]; what leaves the image stays at its edge."""
    return as_float_points(traj_rc).clip(-1.0, 1.0)


def unnormalize_traj(traj_rc: Points, img_shape: tuple[int, int]) -> Points:
    """Map [-1, 1] back to (row, col) pixels (..., 2): ``n * size / 2 + size/2``."""
    out: Any = as_float_points(traj_rc)
    for axis in (0, 1):
        out[..., axis] *= float(img_shape[axis])
        out[..., axis] /= 2
        out[..., axis] += img_shape[axis] / 2
    return out
