"""Windows of another length: tracks resampled in time, first and last step kept.

Both methods are linear in the data, so each is one small matrix (new, old) applied along
time; that serves numpy and torch (any device, with gradients) alike.
"""

from functools import lru_cache
from typing import Any, Literal

import numpy as np

from builder.core.registry import raise_missing_extra

Method = Literal["linear", "spline"]


def interpolate_traj(traj: Any, horizon: int, method: Method = "linear", axis: int = -3) -> Any:
    """Resample ``traj`` (..., T, N, 2) to ``horizon`` steps spread evenly over the same time.

    ``axis`` is the time axis (-2 for visibility (..., T, N), which comes back fractional).
    ``spline`` is AMPLIFY's cubic one (not-a-knot) and needs scipy.  Floating dtypes are kept,
    others become float64; values must be finite.  Raises ValueError for a horizon that
    cannot be made, MissingExtraError without scipy.
    """
    steps = traj.shape[axis]
    if horizon < 1 or steps < 1 or (steps == 1 and horizon > 1):
        raise ValueError(
            f"cannot interpolate {steps} steps to {horizon}: it takes at least 2 stored steps "
            f"(1 when nothing changes) and a horizon of at least 1"
        )
    if horizon == steps:
        return traj
    weights = _weights(steps, horizon, method)
    if hasattr(traj, "new_tensor"):
        data = traj if traj.is_floating_point() else traj.double()
        return (data.movedim(axis, -1) @ data.new_tensor(weights).T).movedim(-1, axis)
    data = traj if traj.dtype.kind == "f" else traj.astype(np.float64)
    moved = np.moveaxis(data, axis, -1) @ weights.T.astype(data.dtype)
    return np.moveaxis(moved, -1, axis)


@lru_cache(maxsize=32)
def _weights(steps: int, horizon: int, method: Method) -> np.ndarray:
    old, new = np.linspace(0.0, 1.0, steps), np.linspace(0.0, 1.0, horizon)
    if method == "spline":
        try:
            from scipy.interpolate import CubicSpline
        except ModuleNotFoundError as error:
            raise_missing_extra(error)
        return np.asarray(CubicSpline(old, np.eye(steps))(new))
    if method != "linear":
        raise ValueError(f"unknown interpolation method {method!r}; there are linear and spline")
    return np.stack([np.interp(new, old, unit) for unit in np.eye(steps)], axis=1)
