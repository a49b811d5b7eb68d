"""What the main process and living DataLoader workers tell each other."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset as TorchDataset


class Shared(TorchDataset[dict[str, Any]]):
    """A dataset whose tensors are one memory for all workers, forked or spawned.

    So ``set_epoch`` reaches those that persist from epoch to epoch.
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
        """The epoch that is drawn from."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw otherwise in another epoch; call it before iterating over the DataLoader."""
        self._epoch.fill_(epoch)
