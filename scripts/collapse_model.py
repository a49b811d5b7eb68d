"""A small motion tokenizer after AMPLIFY's: velocities in, FSQ codes, displacement classes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from collapse_data import IMG_SHAPE, Condition
from torch import nn
from torch.nn import functional
from vector_quantize_pytorch import FSQ

from builder.training.metrics import LOSS_WINDOW, CodeUsage, Monitor, displacement_classes

LEVELS = [8, 5, 5, 5]
CODES = 1000
CENTRE = (LOSS_WINDOW[0] * LOSS_WINDOW[1]) // 2


class Tokenizer(nn.Module):
    """Encoder over time steps, one FSQ code per step, decoder to 15 x 15 classes per point."""

    def __init__(
        self, steps: int, points: int, hidden: int = 128, levels: Sequence[int] = LEVELS
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(points * 2, hidden)
        self.place = nn.Parameter(torch.randn(steps, hidden) * 0.02)
        self.encoder = _transformer(hidden, layers=2)
        self.quantize = FSQ(levels=[*levels], dim=hidden)
        self.decoder = _transformer(hidden, layers=1)
        self.points = nn.Embedding(points, hidden)
        self.mix = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)
        )
        self.classes = nn.Linear(hidden, LOSS_WINDOW[0] * LOSS_WINDOW[1])

    def forward(
        self, velocities: torch.Tensor, wanted: torch.Tensor | slice = slice(None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, T, N, 2) to logits (B, T, wanted points, classes) and code indices (B, T)."""
        hidden = self.encoder(self.embed(velocities.flatten(2)) + self.place)
        codes, indices = self.quantize(hidden)
        decoded = self.decoder(codes + self.place)[:, :, None]
        points = self.points.weight[wanted][None, None].expand(*decoded.shape[:2], -1, -1)
        both = torch.cat([decoded.expand_as(points), points], dim=-1)
        return self.classes(decoded + self.mix(both)), indices


def _transformer(hidden: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        hidden, 4, 2 * hidden, dropout=0.0, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def train(
    condition: Condition, seed: int, *, steps: int, batch: int, every: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Train on one condition; returns the metrics over steps and the final evaluation."""
    torch.manual_seed(seed)
    windows = condition.windows
    classes = torch.from_numpy(displacement_classes(windows, IMG_SHAPE)[0])
    model = Tokenizer(windows.shape[1] - 1, windows.shape[2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95))
    log: list[dict[str, Any]] = []
    monitor = Monitor(CODES, IMG_SHAPE, lambda m, step: log.append({"step": step, **m}), every)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        picks = torch.randint(len(windows), (batch,), generator=order)
        # All points are encoded, a quarter of them decoded: most of the cost is in the classes.
        wanted = torch.randperm(windows.shape[2], generator=order)[: windows.shape[2] // 4]
        logits, indices = model(windows[picks].diff(dim=1), wanted)
        truth = classes[picks][:, :, wanted]
        loss = functional.cross_entropy(logits.flatten(0, 2), truth.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor(step, indices)
        if step % every == 0:
            log[-1].pop("train_code_usage_hist")
            log[-1]["loss"] = loss.item()
    return log, evaluate(model, condition, classes)


@torch.no_grad()
def evaluate(model: Tokenizer, condition: Condition, classes: torch.Tensor) -> dict[str, float]:
    """Return code use and errors over all windows; errors in percent of the source's height."""
    usage = CodeUsage(CODES)
    right = moving = right_moving = 0
    error = still = count = 0.0
    for picks in _batches(len(classes), 32):
        velocities = condition.windows[picks].diff(dim=1)
        logits, indices = model(velocities)
        usage.update(indices)
        guess, truth = logits.argmax(dim=-1), classes[picks]
        right += int((guess == truth).sum())
        moves = truth != CENTRE
        moving += int(moves.sum())
        right_moving += int((guess == truth)[moves].sum())
        # What is really there, before the clipping, against what a class can say.
        size = torch.tensor(IMG_SHAPE) / 2
        true_px = condition.unclipped[picks].diff(dim=1) * size
        worth = condition.true_scale_rc[picks][:, None, None]
        error += float(((displacement(guess) - true_px) * worth).norm(dim=-1).sum())
        still += float((true_px * worth).norm(dim=-1).sum())
        count += truth.numel()
    found = usage.metrics()
    return {
        "unique_codes": found["unique_codes"],
        "entropy_norm": found["entropy_norm"],
        "perplexity": found["perplexity"],
        "accuracy": right / count,
        "moving_accuracy": right_moving / max(1, moving),
        "error_percent": 100 * error / count,
        "error_if_still_percent": 100 * still / count,
    }


def displacement(classes: torch.Tensor) -> torch.Tensor:
    """Return the (row, col) pixels that classes (...) stand for, (..., 2)."""
    rows, columns = LOSS_WINDOW
    row, column = classes // columns - rows // 2, classes % columns - columns // 2
    return torch.stack([row, column], dim=-1).float()


def _batches(total: int, size: int) -> Iterator[torch.Tensor]:
    yield from torch.arange(total).split(size)
