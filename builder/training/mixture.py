"""Several datasets as one, drawn by weight, in samples of one shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from builder.core.errors import ConfigError
from builder.training.samples import Sample, SampleDataset
from builder.training.windows import WindowDataset

_TENSORS = ("traj", "vis", "conf", "valid", "in_content", "images", "decode", "view_mask")


class MixtureDataset(SampleDataset):
    """Draws from named datasets in proportion to their weights.

    All parts must give samples of one canvas, horizon, number of points and views; give each
    ``WindowDataset`` the same ``img_shape``, ``resample``, ``points`` and ``view_map`` (with
    ``missing="mask"`` where some lack a view), so that datasets of different cameras, frame
    rates and window lengths mix.

    A sample is the part's, plus ``source`` (its name), plus for every name in ``pad`` the array
    zero-padded to the largest size among the parts and ``<name>_mask`` telling what the part has.
    Other pass-through arrays are left out, since parts may have different ones.  When a part is
    resampled, ``valid_read`` (T,) tells of the largest T which rows are there, False in padding.
    """

    def __init__(
        self,
        parts: Mapping[str, WindowDataset],
        weights: Mapping[str, float] | None = None,
        *,
        pad: Sequence[str] = ("actions", "proprioception", "text_emb"),
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        """Mix ``parts``; ``weights`` default to their sizes, ``length`` to their sum.

        Raises ConfigError saying what differs between parts, or which number is wrong.
        """
        super().__init__()
        if not isinstance(parts, Mapping) or not parts:
            raise ConfigError("a mixture takes datasets by name, at least one: {'libero': windows}")
        self.parts = dict(parts)
        _refuse_others(self.parts)
        _refuse_different(self.parts)
        if weights is None:
            weights = {name: float(len(part)) for name, part in parts.items()}
        if not isinstance(weights, Mapping):
            raise ConfigError(f"weights must be given by name, as the parts are, got {weights!r}")
        positive = all(0 < weight < np.inf for weight in weights.values())
        if weights.keys() != parts.keys() or not positive:
            raise ConfigError(
                f"weights must be positive, one for each of {sorted(parts)}; got {dict(weights)}"
            )
        shares = np.array([weights[name] for name in parts])
        self._ends = np.cumsum(shares / shares.sum())
        self.length = length if length is not None else sum(len(part) for part in parts.values())
        if self.length < 1 or seed < 0:
            raise ConfigError(f"length must be above 0, seed not below, got {self.length}, {seed}")
        self.seed = seed
        self._sizes = {name: _largest(self.parts, name) for name in pad}
        resampled = any(part.options.resample for part in parts.values())
        self._read_steps = max(part.read_steps for part in parts.values()) if resampled else None

    def set_epoch(self, epoch: int) -> None:
        """Draw other samples in another epoch; call it before iterating over the DataLoader."""
        super().set_epoch(epoch)
        for part in self.parts.values():
            part.set_epoch(epoch)

    def __repr__(self) -> str:
        shares = zip(self.parts, np.diff(self._ends, prepend=0), strict=True)
        drawn = ", ".join(f"{name!r} {share:.1%}" for name, share in shares)
        return f"MixtureDataset({self.length} samples an epoch: {drawn})"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Return one sample; the same for the same seed, epoch and index."""
        if not -self.length <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        rng = np.random.default_rng([self.seed, self.epoch, index % self.length])
        at = min(int(np.searchsorted(self._ends, rng.random(), side="right")), len(self.parts) - 1)
        name, part = list(self.parts.items())[at]
        sample = part[int(rng.integers(len(part)))]
        kept = {key: sample[key] for key in (*_TENSORS, "episode", "t", "text") if key in sample}
        kept["source"] = name
        if self._read_steps is not None:
            there = sample["valid_read" if "valid_read" in sample else "valid"]
            kept["valid_read"] = torch.zeros(self._read_steps, dtype=torch.bool)
            kept["valid_read"][: len(there)] = there
        for array, size in self._sizes.items():
            if size is not None:
                found = sample.get(array)
                _refuse_larger(found, size, f"{name}, episode {sample['episode']}: {array}")
                kept[array], kept[f"{array}_mask"] = _padded(found, size)
        return kept


def _largest(parts: Mapping[str, WindowDataset], name: str) -> tuple[int, ...] | None:
    """Return the smallest shape that holds the array of every part, from its first sample."""
    shapes = [tuple(part[0][name].shape) for part in parts.values() if name in part[0]]
    if not shapes:
        return None
    if len({len(shape) for shape in shapes}) != 1:
        raise ConfigError(f"{name} has shapes {shapes}: they cannot be padded to one another")
    return tuple(max(sides) for sides in zip(*shapes, strict=True))


def _refuse_larger(array: Any, size: tuple[int, ...], where: str) -> None:
    """Raise ConfigError for an array that does not fit in; None fits."""
    shape = size if array is None else tuple(array.shape)
    if len(shape) != len(size) or any(a > b for a, b in zip(shape, size, strict=True)):
        raise ConfigError(
            f"{where} is {shape}, larger than {size}, the largest of any part's first sample: give "
            "episodes whose arrays differ a part of their own, or choose with pad=(...)"
        )


def _padded(array: Any, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    out, mask = torch.zeros(size), torch.zeros(size, dtype=torch.bool)
    if array is not None:
        inner = tuple(slice(side) for side in array.shape)
        out[inner] = array.to(out.dtype)
        mask[inner] = True
    return out, mask


def _refuse_others(parts: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        if isinstance(part, MixtureDataset):
            raise ConfigError(
                f"{name} is a mixture itself: put its parts {sorted(part.parts)} into this one, "
                "with its weights multiplied into theirs"
            )
        if not isinstance(part, WindowDataset):
            raise ConfigError(f"{name} must be a WindowDataset, got {type(part).__name__}")


def _refuse_different(parts: Mapping[str, WindowDataset]) -> None:
    facts = {
        name: {
            "img_shape": part.img_shape,
            "horizon": part.horizon,
            "points": part.num_points,
            "views": tuple(part.views),
            "images": part.options.images if "images" in part[0] else "none",
            "history": part.options.history,
            "conf": part.options.conf,
        }
        for name, part in parts.items()
    }
    (first, expected), *others = facts.items()
    for name, found in others:
        differing = [key for key in expected if found[key] != expected[key]]
        if differing:
            said = "; ".join(f"{key} {expected[key]} and {found[key]}" for key in differing)
            raise ConfigError(
                f"{first} and {name} give different samples: {said}. Give both WindowDatasets the "
                "same img_shape, resample, points, view_map, images, history and conf"
            )
