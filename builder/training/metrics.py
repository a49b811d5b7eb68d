"""What to watch while a motion tokenizer trains: code usage and how much there is to learn.

Names and definitions are those of AMPLIFY and its users.  Everything streams: per batch a
few counters are updated; nothing grows with the number of batches.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from builder.canvas.loss_steps import LOSS_WINDOW, rounded_steps
from builder.core.records import checked_shape
from builder.training.normalize import unnormalize_traj


class CodeUsage:
    """Counts how often each of ``codebook_size`` codes was used, over batches.

    For FSQ the codebook size is the product of its levels.
    """

    def __init__(self, codebook_size: int) -> None:
        if codebook_size < 1:
            raise ValueError(f"codebook_size must be at least 1, got {codebook_size}")
        self.counts = np.zeros(codebook_size, dtype=np.int64)

    def update(self, indices: Any) -> None:
        """Count code indices: integers of any shape, numpy or torch, in [0, codebook_size).

        Raises TypeError for other numbers, ValueError for codes out of range.
        """
        codes = _numpy(indices).ravel()
        if codes.dtype.kind not in "iu":
            raise TypeError(f"code indices must be integers, got dtype {codes.dtype}")
        if codes.size and not 0 <= codes.min() <= codes.max() < self.counts.size:
            raise ValueError(
                f"code indices must lie in [0, {self.counts.size}), got {codes.min()} to "
                f"{codes.max()}; give the real codebook size (FSQ: the product of its levels)"
            )
        self.counts += np.bincount(codes, minlength=self.counts.size)

    def metrics(self) -> dict[str, Any]:
        """Summarize, by name without prefix; all zero before the first code.

        ``unique_codes``; ``entropy_norm``: entropy over the log of the codebook size;
        ``perplexity``: exp(entropy); ``codebook_perplexity``: perplexity over the most there
        could be, min(codebook size, codes seen); ``code_usage_hist``: the counts of the codes
        in use, an array.
        """
        used = self.counts[self.counts > 0]
        total = int(used.sum())
        share = used / max(total, 1)
        entropy = 0.0 - float((share * np.log(share)).sum())
        perplexity = math.exp(entropy) if total else 0.0
        size = self.counts.size
        return {
            "unique_codes": int(used.size),
            "entropy_norm": entropy / math.log(size) if size > 1 else 0.0,
            "perplexity": perplexity,
            "codebook_perplexity": perplexity / max(min(size, total), 1),
            "code_usage_hist": used,
        }


def displacement_classes(
    traj_rc: Any, img_shape: tuple[int, int], window: tuple[int, int] = LOSS_WINDOW
) -> tuple[np.ndarray, np.ndarray]:
    """Classify per-step displacements as AMPLIFY's loss does.

    ``traj_rc`` (..., T, N, 2) is normalized (row, col).  Positions are brought to pixels of
    ``img_shape`` (H, W), clamped to [0, size - 1] and rounded (half to even) *before* the
    difference is taken; displacements are then clamped to the window.  Returns the classes
    (..., T - 1, N) int64, row * columns + column, the centre (112 of 15 x 15) being zero
    motion, and which of them were clamped, i.e. saturated (..., T - 1, N) bool.
    """
    pixels = unnormalize_traj(_numpy(traj_rc), img_shape)
    classes, saturated = 0, False
    for moved, cells in zip(rounded_steps(pixels, img_shape), window, strict=True):
        half = cells // 2
        kept = np.clip(moved, -half, half)
        classes = classes * cells + kept.astype(np.int64) + half
        saturated = saturated | (moved != kept)
    return np.asarray(classes), np.asarray(saturated)


class MotionStats:
    """How much motion normalized tracks hold, as a trainer with ``img_shape`` sees it."""

    def __init__(self, img_shape: tuple[int, int], window: tuple[int, int] = LOSS_WINDOW) -> None:
        self.img_shape, self.window = img_shape, window
        self.steps = self.zero = self.saturated = self.nonzero = 0
        self.points = self.clipped = 0
        self.low_rc = np.full(2, np.inf)
        self.high_rc = np.full(2, -np.inf)

    def update(self, traj_rc: Any, valid: Any = None) -> None:
        """Count normalized (row, col) tracks (..., T, N, 2), before clipping or after.

        ``valid`` (broadcast to (..., T, N), bool) leaves points out; a step counts when both
        its ends are valid.
        """
        traj = _numpy(traj_rc)
        keep = np.broadcast_to(True if valid is None else _numpy(valid), traj.shape[:-1])
        if not keep.any():
            return
        both = keep[..., 1:, :] & keep[..., :-1, :]
        for axis in (0, 1):
            points = traj[..., axis][keep]
            self.points += points.size
            self.clipped += int(np.count_nonzero(np.abs(points) > 1))
            self.low_rc[axis] = min(self.low_rc[axis], points.min())
            self.high_rc[axis] = max(self.high_rc[axis], points.max())
            inside = np.clip(traj[..., axis], -1, 1)
            self.nonzero += int(np.count_nonzero((np.diff(inside, axis=-2) != 0) & both))
        classes, saturated = displacement_classes(traj, self.img_shape, self.window)
        centre = (self.window[0] // 2) * self.window[1] + self.window[1] // 2
        self.steps += int(np.count_nonzero(both))
        self.zero += int(np.count_nonzero((classes == centre) & both))
        self.saturated += int(np.count_nonzero(saturated & both))

    def metrics(self) -> dict[str, float]:
        """Summarize; shares are of what was counted, 0 when nothing was.

        ``nonzero_velocity_share`` (of single components, as AMPLIFY counts);
        ``zero_class_share`` and ``saturated_share`` of steps in the loss window;
        ``clipped_share`` of coordinates outside [-1, 1]; the range of rows and columns.
        """
        seen = self.points > 0
        return {
            "nonzero_velocity_share": self.nonzero / max(2 * self.steps, 1),
            "zero_class_share": self.zero / max(self.steps, 1),
            "saturated_share": self.saturated / max(self.steps, 1),
            "clipped_share": self.clipped / max(self.points, 1),
            "row_min": float(self.low_rc[0]) if seen else 0.0,
            "row_max": float(self.high_rc[0]) if seen else 0.0,
            "col_min": float(self.low_rc[1]) if seen else 0.0,
            "col_max": float(self.high_rc[1]) if seen else 0.0,
        }


class Monitor:
    """A plain callback: call it once per training step, it logs now and then.

    ``log(metrics, step)`` is whatever logs: ``lambda m, step: wandb.log(m, step=step)`` or
    :func:`tensorboard_log`.  Code metrics of the one batch are named ``train_..._step``, as
    AMPLIFY's users know them; ``train_..._run`` counts all batches so far.
    """

    def __init__(
        self,
        codebook_size: int,
        img_shape: tuple[int, int],
        log: Callable[[dict[str, Any], int], Any],
        every: int = 100,
        phase: str = "train",
    ) -> None:
        self.codebook_size, self.img_shape = codebook_size, checked_shape(img_shape, "img_shape")
        self.log, self.every, self.phase = log, every, phase
        self.run = CodeUsage(codebook_size)

    def __call__(self, step: int, indices: Any, traj_rc: Any = None, valid: Any = None) -> None:
        """Count the batch's code ``indices`` (and tracks); log when ``step`` is due."""
        self.run.update(indices)
        if step % self.every:
            return
        batch = CodeUsage(self.codebook_size)
        batch.update(indices)
        named = batch.metrics()
        logged = {
            f"{self.phase}_unique_codes_step": named["unique_codes"],
            f"{self.phase}_entropy_norm_step": named["entropy_norm"],
            f"{self.phase}_perplexity_step": named["perplexity"],
            f"{self.phase}_code_usage_hist": named["code_usage_hist"],
            f"{self.phase}_codebook_perplexity": named["codebook_perplexity"],
            f"{self.phase}_unique_codes_run": self.run.metrics()["unique_codes"],
        }
        if traj_rc is not None:
            motion = MotionStats(self.img_shape)
            motion.update(traj_rc, valid)
            logged |= {f"{self.phase}_{name}": value for name, value in motion.metrics().items()}
        self.log(logged, step)


def tensorboard_log(writer: Any) -> Callable[[dict[str, Any], int], None]:
    """Make a ``log`` for :class:`Monitor` from a TensorBoard ``SummaryWriter``."""

    def log(metrics: dict[str, Any], step: int) -> None:
        for name, value in metrics.items():
            add = writer.add_histogram if isinstance(value, np.ndarray) else writer.add_scalar
            add(name, value, step)

    return log


def _numpy(array: Any) -> np.ndarray:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
