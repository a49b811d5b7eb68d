"""A CoTracker network that is given features instead of frames, and its coordinates.

The convolutional features of a frame do not depend on the window it is seen in.  They are
computed once per frame and handed to the network in place of its own encoder's output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from builder.core.errors import TrackingError
from builder.core.working import still_working
from builder.trackers.kinds.cotracker.correlation import CorrelationRows

Result = tuple[np.ndarray, np.ndarray, np.ndarray | None]


class Prepared(NamedTuple):
    """A frame as the model needs it: features (C, h, w), and the shape (H, W) it had."""

    features: torch.Tensor
    shape: tuple[int, int]


class Prediction(NamedTuple):
    """The network's output: tracks (B, T, N, 2) model pixels; vis, conf (B, T, N) in [0, 1]."""

    tracks: torch.Tensor
    vis: torch.Tensor
    conf: torch.Tensor | None

    def rows(self, begin: int, end: int | None = None) -> Prediction:
        """Cut out time steps."""
        conf = None if self.conf is None else self.conf[:, begin:end]
        return Prediction(self.tracks[:, begin:end], self.vis[:, begin:end], conf)


class HeldFeatures(torch.nn.Module):
    """Replaces the network's encoder: returns features that were computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.held = torch.empty(0)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return held features (B, T, C, h, w) as (B * T', C, h, w).

        The network pads its video (B * T', 3, H, W) by the last frame; so does this.
        """
        missing = len(video) // len(self.held) - self.held.shape[1]
        tail = self.held[:, -1:].expand(-1, missing, -1, -1, -1)
        return torch.cat([self.held, tail], dim=1).flatten(0, 1)


class Transformer(torch.nn.Module):
    """The network's transformer without its mask and, on request, under bfloat16 autocast.

    The mask leaves out points whose query comes later; here every query is in the first frame,
    so that a mask hides nothing and adding it changes no bit.
    """

    def __init__(self, inner: torch.nn.Module, bf16: bool) -> None:
        super().__init__()
        self.inner, self.bf16 = inner, bf16

    def forward(self, tokens: torch.Tensor, mask: Any = None, **options: Any) -> torch.Tensor:
        """Run ``inner``; its output is float32 again."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.bf16):
            return self.inner(tokens, **options).float()


class ViewOrCopy(TorchFunctionMode):
    """Lets ``view`` copy: CoTracker 3 views an expanded tensor, an error for batches."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``reshape`` where ``view`` was meant."""
        func = torch.Tensor.reshape if func is torch.Tensor.view else func
        return func(*args, **(kwargs or {}))


class Engine:
    """Owns a network: moves it to ``device`` and replaces its encoder by ``HeldFeatures``.

    Model pixels are pixel-centre indices of the frame stretched to ``resolution`` (H, W).
    """

    def __init__(
        self,
        network: Any,
        device: torch.device,
        *,
        bf16: bool,
        iterations: int,
        support_grid: int,
        deterministic: bool,
    ) -> None:
        self.network = network.to(device).eval()
        self.device, self.iterations = device, iterations
        self.resolution: tuple[int, int] = tuple(network.model_resolution)
        self._deterministic = deterministic
        # On a CPU a window may take minutes, and so may one pass of the transformer.
        for module in network.modules():
            module.register_forward_hook(_goes_on)
        self._encoder, self._memory = network.fnet, HeldFeatures()
        network.fnet = self._memory
        network.updateformer = Transformer(network.updateformer, bf16)
        self._support = self._support_points(support_grid)
        self._rows: CorrelationRows | None = None
        if device.type == "cpu" and hasattr(network, "get_correlation_feat"):
            self._rows = network.get_correlation_feat = CorrelationRows(network)

    def _support_points(self, size: int) -> torch.Tensor:
        """Return a grid of size x size points (M, 3) (t, x, y) that only guides the others."""
        from cotracker.models.core.model_utils import get_points_on_a_grid

        if size == 0:
            return torch.zeros(0, 3, device=self.device)
        points = get_points_on_a_grid(size, self.resolution, device=self.device)[0]
        return F.pad(points, (1, 0))

    @contextmanager
    def _running(self) -> Iterator[None]:
        """No gradients; on a GPU true fp32 (TF32 is cuDNN's default) and repeatable choices."""
        cudnn = (
            torch.backends.cudnn.flags(
                enabled=True, deterministic=self._deterministic, allow_tf32=False
            )
            if self.device.type == "cuda"
            else nullcontext()
        )
        with torch.inference_mode(), cudnn:
            yield

    def features(self, frame_rgb: np.ndarray) -> torch.Tensor:
        """Return the encoder's features (C, h, w) of a frame (H, W, 3) uint8."""
        with self._running():
            image = torch.from_numpy(at_least_two_pixels(frame_rgb)).to(self.device)
            image = image.permute(2, 0, 1)[None].float()
            image = F.interpolate(image, self.resolution, mode="bilinear", align_corners=True)
            return self._encoder(2 * (image / 255.0) - 1.0)[0]

    def queries(self, queries_xy: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
        """Return (1, N + M, 3) (t, x, y) model points: continuous queries (N, 2), support."""
        scale = index_scale(shape, self.resolution)
        # CoTracker counts from pixel centres; the half pixel is here and in ``to_pixels`` only.
        points = torch.from_numpy(queries_xy - np.float32(0.5)) * torch.tensor(scale)
        return torch.cat([F.pad(points.to(self.device), (1, 0)), self._support])[None]

    def to_pixels(
        self, prediction: Prediction, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return tracks (B, T, N, 2) in continuous (x, y) pixels of frames of ``shape``, vis, conf.

        Support points are left out.  Raises TrackingError for NaN or infinity.
        """
        count = prediction.tracks.shape[2] - len(self._support)
        # Copies: a slice would keep all the steps it was cut from.
        tracks, vis, *more = (
            part[:, :, :count].cpu().numpy().copy() for part in prediction if part is not None
        )
        if not all(np.isfinite(part).all() for part in (tracks, vis, *more)):
            raise TrackingError("CoTracker gave NaN or infinity; its weights may be damaged")
        scale = np.array(index_scale(self.resolution, shape), np.float32)
        return tracks * scale + np.float32(0.5), vis, more[0] if more else None

    def forward(self, features: torch.Tensor, queries: torch.Tensor, **options: Any) -> Prediction:
        """Track queries (B, N, 3) through features (B, T, C, h, w); options are the network's."""
        batch, length = features.shape[:2]
        # Only the video's shape counts; its features are known.
        video = features.new_zeros(1).expand(batch, length, 3, *self.resolution)
        self._memory.held = features
        if hasattr(self.network, "corr_mlp"):
            # CoTracker 3 would ask for features in pieces, the padded ones never.
            options["fmaps_chunk_size"] = length
        with self._running(), ViewOrCopy() if batch > 1 else nullcontext():
            answer = self.network(video=video, queries=queries, iters=self.iterations, **options)
        if self._rows is not None:
            self._rows.forget()
        return Prediction(answer[0], answer[1], answer[2] if len(answer) == 4 else None)


def _goes_on(*_: Any) -> None:
    still_working()


def index_scale(shape: tuple[int, int], target: tuple[int, int]) -> tuple[float, float]:
    """Factors (x, y) from pixel-centre indices of ``shape`` (H, W) to those of ``target``.

    Corner pixels' centres lie on each other (``align_corners``); see ``at_least_two_pixels``.
    """
    (height, width), (to_height, to_width) = shape, target
    return (
        (max(to_width, 2) - 1) / (max(width, 2) - 1),
        (max(to_height, 2) - 1) / (max(height, 2) - 1),
    )


def at_least_two_pixels(frame_rgb: np.ndarray) -> np.ndarray:
    """Return a copy; the edge of a frame one pixel high or wide is repeated.

    Nothing could be stretched over the centres of one pixel.
    """
    more = [(0, int(side < 2)) for side in frame_rgb.shape[:2]]
    return np.pad(frame_rgb, [*more, (0, 0)], mode="edge")
