"""CoTracker 3's features around its points, looked up twice as fast, with equal bits.

The network samples 7 x 7 places around every point of every frame, in each refinement, through
a sampler of volumes: channels lie far apart in memory there, and its output has to be copied into
another layout for the product that follows.  Here the channels of a place lie together, are read
as rows, and are written in the order in which the product reads them.
"""

from typing import Any

import torch

# Places at a time: their rows stay in a core's cache.
_BLOCK = 1024


class CorrelationRows:
    """Replaces ``network.get_correlation_feat``.

    Products and sums are those of ``torch.nn.functional.grid_sample`` (bilinear, border,
    align_corners), in their order.
    """

    def __init__(self, network: Any) -> None:
        self._around, self._radius = network.get_support_points, network.corr_radius
        self._rows: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def forget(self) -> None:
        """Free the features of the last clip."""
        self._rows.clear()

    def __call__(self, fmaps: torch.Tensor, queried_coords: torch.Tensor) -> torch.Tensor:
        """Return (B, T, N, 7, 7, C) of ``fmaps`` (B, T, C, H, W) around (B * T, N, 2) (x, y)."""
        batch, length, channels, height, width = fmaps.shape
        centres = torch.nn.functional.pad(queried_coords, (1, 0))[:, None]
        around = self._around(centres, self._radius, reshape_back=False)
        # As the product reads them: points before frames.
        xy = around[..., 1:].unflatten(0, (batch, length)).transpose(1, 2).contiguous()
        sizes = xy.new_tensor([width, height])
        scale = xy.new_tensor([2 / max(side - 1, 1) for side in (width, height)])
        xy = (xy * scale - 1 + 1) / 2 * (sizes - 1)
        # What is no number becomes the last place there too; the track stays none.
        xy = xy.nan_to_num(torch.inf, torch.inf, -torch.inf).clamp_min(0).minimum(sizes - 1)
        frames = torch.arange(batch * length).view(batch, 1, length, 1, 1) * (height * width)
        found = _weighted_rows(self._as_rows(fmaps), xy, frames, (width, height))
        return found.view(*xy.shape[:-1], channels).transpose(1, 2)

    def _as_rows(self, fmaps: torch.Tensor) -> torch.Tensor:
        """Return (B * T * H * W, C), made once for all refinements of a clip."""
        held = self._rows.get(size := (fmaps.shape[-2], fmaps.shape[-1]))
        if held is None or held[0] is not fmaps:
            held = fmaps, fmaps.permute(0, 1, 3, 4, 2).flatten(0, 3).contiguous()
            self._rows[size] = held
        return held[1]


def _weighted_rows(
    rows: torch.Tensor, xy: torch.Tensor, first: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Return (M, C): the four rows around each of the places ``xy``, weighted and added up."""
    low = xy.floor()
    right, bottom = (xy - low).unbind(-1)
    left, top = (low + 1 - xy).unbind(-1)
    x, y = low.long().unbind(-1)
    next_x, next_y = (x + 1).clamp_max(size[0] - 1), (y + 1).clamp_max(size[1] - 1)
    corners = [
        ((first + row * size[0] + column).flatten(), (across * down).view(-1, 1))
        for row, down in ((y, top), (next_y, bottom))
        for column, across in ((x, left), (next_x, right))
    ]
    out = rows.new_empty(len(corners[0][0]), rows.shape[1])
    for begin in range(0, len(out), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        total = out[part]
        for number, (index, weight) in enumerate(corners):
            found = rows.index_select(0, index[part]).mul_(weight[part])
            total = total.copy_(found) if number == 0 else total.add_(found)
    return out
