"""What datasets of samples have in common: the epoch all workers see, batching, decoding."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from builder.core.errors import DatasetError

Sample = dict[str, Any]


class SampleDataset(TorchDataset[Sample]):
    """A dataset whose tensors lie in memory shared with all DataLoader workers, forked or spawned.

    So ``set_epoch`` reaches workers that persist from epoch to epoch.
    """

    def __init__(self) -> None:
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.share_memory_()  # a copy has its own

    @property
    def epoch(self) -> int:
        """The epoch whose augmentation, or mixture, is drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, each with its own draws; call it before iterating the DataLoader."""
        self._epoch.fill_(epoch)


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack samples, their geometry too, as a DataLoader does by itself.

    Raises DatasetError for samples that differ in what they hold, saying how; by itself a
    DataLoader drops what the first sample of a batch does not have.
    """
    if isinstance(samples, Mapping):
        raise TypeError("collate takes a list of samples, such as [windows[0], windows[1]]")
    first, held = samples[0], _held(samples[0])
    for sample in samples[1:]:
        found = _held(sample)
        differing = [key for key in held | found if held.get(key) != found.get(key)]
        if differing:
            said = "; ".join(
                f"{key} {held.get(key, 'missing')} and {found.get(key, 'missing')}"
                for key in differing
            )
            raise DatasetError(
                f"samples of {first['episode']} and {sample['episode']} do not batch: {said}. "
                "Leave such arrays out with arrays=(...), or read them through a MixtureDataset"
            )
    return default_collate(list(samples))


def _held(sample: Sample) -> dict[str, tuple[int, ...] | str]:
    """Return the shape of every tensor, and the type of everything else."""
    return {
        key: tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
        for key, value in sample.items()
    }


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
