"""Samples as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

from builder.core.errors import DatasetError

Sample = dict[str, Any]


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack samples, their geometry too, as a DataLoader does by itself.

    Raises DatasetError for samples that differ in what they hold, saying how; by itself a
    DataLoader leaves out what the first sample of a batch has not.
    """
    first, facts = samples[0], _facts(samples[0])
    for sample in samples[1:]:
        found = _facts(sample)
        differing = [key for key in facts | found if facts.get(key) != found.get(key)]
        if differing:
            said = "; ".join(
                f"{key} {facts.get(key, 'missing')} and {found.get(key, 'missing')}"
                for key in differing
            )
            raise DatasetError(
                f"samples of {first['episode']} and {sample['episode']} do not batch: {said}. "
                "Leave such arrays out with arrays=(...), or read them through a MixtureDataset"
            )
    return default_collate(list(samples))


def _facts(sample: Sample) -> dict[str, tuple[int, ...] | str]:
    """Return the shape of every tensor, and the kind of what is none."""
    return {
        key: tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
        for key, value in sample.items()
    }
