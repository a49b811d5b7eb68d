"""Windows of a built dataset as training samples, with AMPLIFY's keys and shapes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from builder.dataset import Dataset, EpisodeData, ViewData
from builder.errors import ConfigError, DatasetError
from builder.letterbox import letterbox_frame, unletterbox_frame
from builder.windows import valid_steps
from schemas.geometry import AxisAffine, Letterbox

Sample = dict[str, Any]


class WindowDataset(TorchDataset[Sample]):
    """One sample per window of every episode.

    A sample has, for V views and N points:

    ``traj`` (V, horizon, N, 2) float32, (row, col), [-1, 1] on the canvas, not clipped;
    ``vis`` (V, horizon, N) float32, 0 or 1;
    ``valid`` (horizon,) bool: steps that show a frame of their own (not the frozen tail);
    ``in_content`` (V, N) bool: points that start on the picture, not in the bars;
    ``images`` (V, H, W, 3) uint8 RGB, or float32 in [0, 1]: the frame at step 0;
    ``decode`` (V, 2, 2) float64: scale and offset, (x, y), from normalized to source pixels
    (see :func:`decode_batch`);
    ``episode`` id, ``t`` start frame, ``text``, and pass-through arrays such as ``actions``
    (horizon, D) float32, zeros after the end.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        img_shape: tuple[int, int] | None = None,
        views: Sequence[str] | None = None,
        horizon: int | None = None,
        tail: Literal["exclude", "mask"] = "exclude",
        images: Literal["uint8", "float", "none"] = "uint8",
    ) -> None:
        """Choose what samples hold.

        ``img_shape`` (H, W) other than the dataset's goes through the geometry: points to
        source pixels and into a new letterbox, images re-letterboxed.  ``horizon`` shortens
        windows.  ``tail``: "exclude" leaves out windows that run past the end, "mask" keeps
        them, told apart by ``valid``.  Raises ConfigError for what the dataset cannot give,
        DatasetError when no window is left.
        """
        self.dataset, self.tail, self.images = dataset, tail, images
        meta = dataset.meta
        if meta.mode != "reinit":
            raise ConfigError(f"{dataset.path}: whole-episode tracks are not cut into windows")
        self.horizon = horizon or meta.horizon
        if self.horizon > meta.horizon:
            raise ConfigError(f"horizon {horizon} is longer than the stored {meta.horizon}")
        self.img_shape = img_shape or meta.img_shape
        self.views = tuple(views) if views else self._common_views()
        self._ids = [key for key, line in dataset.index.items() if {*self.views} <= {*line.views}]
        counts = [self._count(dataset.index[key].length) for key in self._ids]
        self._ends = list(accumulate(counts))
        if not len(self):
            raise DatasetError(
                f"{dataset.path}: none of {len(dataset)} episodes has views {self.views} and "
                f"{self.horizon} frames; shorten the horizon or use tail='mask'"
            )

    def _common_views(self) -> tuple[str, ...]:
        lines = list(self.dataset.index.values())
        if not lines:
            raise DatasetError(f"{self.dataset.path} has no episodes")
        return tuple(name for name in lines[0].views if all(name in line.views for line in lines))

    def _count(self, length: int) -> int:
        last = length - self.horizon if self.tail == "exclude" else length - 1
        return max(0, last // self.dataset.meta.start_every + 1)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        """Return one sample.  Raises IndexError, DatasetError for a damaged episode."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        at = bisect_right(self._ends, index)
        window = index - (self._ends[at - 1] if at else 0)
        episode = self.dataset[self._ids[at]]
        start = window * self.dataset.meta.start_every
        parts = [self._view(episode.views[name], window, start) for name in self.views]
        sample: Sample = {
            key: torch.from_numpy(np.stack([part[key] for part in parts])) for key in parts[0]
        }
        valid = valid_steps(np.array([start]), self.horizon, episode.meta.length)[0]
        sample.update(valid=torch.from_numpy(valid), episode=episode.meta.id, t=start)
        sample["text"] = episode.meta.text or ""
        for name in episode.arrays:
            sample[name] = torch.from_numpy(self._steps(episode, name, start))
        return sample

    def _view(self, view: ViewData, window: int, start: int) -> dict[str, np.ndarray]:
        stored, box = view.geometry, view.geometry
        tracks_xy = view.tracks[window, : self.horizon]
        norm = AxisAffine.normalization(self.img_shape)
        if self.img_shape != stored.img_shape:
            box = refit(stored, self.img_shape)
            norm = norm @ box.affine @ ~stored.affine
        decode = ~(AxisAffine.normalization(self.img_shape) @ box.affine)
        traj = np.empty((*tracks_xy.shape[:2], 2), np.float32)
        # One pass from the file's memory into (row, col).
        np.multiply(tracks_xy[..., ::-1], np.array(norm.scale_xy[::-1], np.float32), out=traj)
        traj += np.array(norm.offset_xy[::-1], np.float32)
        part = {
            "traj": traj,
            "vis": view.vis[window, : self.horizon].astype(np.float32),
            "in_content": np.asarray(stored.inside(view.queries)),
            "decode": np.array([decode.scale_xy, decode.offset_xy]),
        }
        if self.images != "none" and view.frames is not None:
            part["images"] = self._image(view.frames[start], stored, box)
        return part

    def _image(self, frame: np.ndarray, stored: Any, box: Any) -> np.ndarray:
        if box is not stored:
            frame = letterbox_frame(unletterbox_frame(np.asarray(frame), stored), box)
        if self.images == "float":
            return frame.astype(np.float32) / np.float32(255)
        return np.array(frame)

    def _steps(self, episode: EpisodeData, name: str, start: int) -> np.ndarray:
        """Cut a per-frame array to the window, zeros after its end; others come whole."""
        array = episode.arrays[name]
        if array.shape[:1] != (episode.meta.length,):
            return np.array(array)
        out = np.zeros((self.horizon, *array.shape[1:]), array.dtype)
        rows = array[start : start + self.horizon]
        out[: len(rows)] = rows
        return out


def refit(box: Any, img_shape: tuple[int, int]) -> Any:
    """Fit the same source onto another canvas."""
    if isinstance(box, Letterbox):
        return Letterbox.fit(box.source_shape, img_shape, box.sample_aspect_ratio)
    return type(box)(source_shape=box.source_shape, img_shape=img_shape)


def decode_batch(prediction_rc: torch.Tensor, decode: torch.Tensor) -> torch.Tensor:
    """Decode predictions of a batch to source pixels, each sample through its own geometry.

    ``prediction_rc`` (B, V, ..., 2) is (row, col) in [-1, 1], ``decode`` (B, V, 2, 2) the
    batch's entry of that name.  Returns (B, V, ..., 2) (x, y) source pixels; differentiable.
    """
    column = (*decode.shape[:2], *(1,) * (prediction_rc.ndim - 3), 2)
    scale, offset = decode.to(prediction_rc).unbind(dim=2)
    return prediction_rc.flip(-1) * scale.reshape(column) + offset.reshape(column)
