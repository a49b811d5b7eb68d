"""Splits of a dataset: ``splits/<name>.json``, lists of ids that can be edited by hand.

By hash, an episode's split depends on its own id (or task, or group) alone: adding episodes later
does not move any other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from builder.core.errors import ConfigError, DatasetError
from builder.core.messages import explain
from builder.core.records import check_name
from builder.stores.atomic import publish_text
from schemas.base import Record
from schemas.dataset import EpisodeId, Name

FOLDER = "splits"


class Splits(Record):
    """Which episodes belong to which split; one may belong to several, or to none."""

    by: Literal["episode", "task", "group", "source", "hand"] = Field(
        default="hand", description="what decides where an episode is; hand: these lists alone"
    )
    shares: dict[Name, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description="expected, by part"
    )
    salt: str = Field(default="", description="another salt gives another split of that kind")
    splits: dict[Name, Annotated[tuple[EpisodeId, ...], Field(strict=False)]] = Field(
        description="ids by part"
    )

    @model_validator(mode="after")
    def _no_repeats(self) -> Splits:
        for name, ids in self.splits.items():
            if len(set(ids)) != len(ids):
                raise ValueError(f"split {name} lists an episode twice")
        return self


def hash_splits(
    keys: Mapping[str, str | None],
    shares: Mapping[str, float],
    *,
    by: Literal["episode", "task", "group"] = "episode",
    salt: str = "",
) -> Splits:
    """Split episodes by hash.

    ``keys`` maps an id to what is hashed: the id itself, its task, or its group, so that all
    episodes of a task stay together.  ``shares`` are the expected shares, in order, up to 1 in
    sum; the remainder belongs to no split.  Raises ConfigError for shares out of range and
    for an episode without a key.
    """
    total = math.fsum(shares.values())
    if not shares or min(shares.values()) <= 0 or total > 1 + 1e-9:
        raise ConfigError(f"shares are above 0 and at most 1 in sum, got {dict(shares)}")
    found: dict[str, list[str]] = {name: [] for name in shares}
    for episode_id in sorted(keys):
        key = keys[episode_id]
        if key is None:
            raise ConfigError(f"{episode_id} has no {by} to split by; split by episode instead")
        name = _draw(f"{salt}\0{key}", shares)
        if name is not None:
            found[name].append(episode_id)
    return _checked({"by": by, "shares": dict(shares), "salt": salt, "splits": found})


def source_splits(given: Iterable[tuple[str, tuple[str, ...]]]) -> Splits:
    """Collect the splits that a source gives its episodes: pairs of id and split names.

    Raises ConfigError when it gives none.
    """
    found: dict[str, list[str]] = {}
    for episode_id, names in given:
        for name in names:
            found.setdefault(name, []).append(episode_id)
    if not found:
        raise ConfigError("the source assigns no splits to its episodes; split them by hash")
    return _checked({"by": "source", "splits": {k: sorted(set(v)) for k, v in found.items()}})


def write_splits(dataset: Path, name: str, splits: Splits) -> Path:
    """Write ``splits/<name>.json`` of a dataset, whole or not at all; returns its path.

    Raises ConfigError for a bad name, and OutputError.
    """
    path = _path(dataset, name)
    text = json.dumps(splits.model_dump(mode="json"), indent=1) + "\n"
    publish_text(dataset, path, text, replace=True)
    return path


def refuse_other(dataset: Path, name: str, new: Splits) -> None:
    """Raise ConfigError when ``splits/<name>.json`` is another split, or was edited by hand.

    The same split of a dataset that has grown since is not another one.
    """
    path = _path(dataset, name)
    if not path.exists():
        return
    old = read_splits(dataset, name)
    differing = [
        f"{what} was {before!r}, now {now!r}"
        for what, before, now in (
            ("by", old.by, new.by),
            ("shares", _written(old.shares), _written(new.shares)),
            ("salt", old.salt, new.salt),
        )
        if before != now
    ]
    if not differing:
        known = {each for ids in new.splits.values() for each in ids}
        there = {part: {*ids} & known for part, ids in old.splits.items()}
        if any(not ids <= {*new.splits.get(part, ())} for part, ids in there.items()):
            differing = ["its lists were edited by hand"]
    if differing:
        raise ConfigError(
            f"{path} exists already and is another split: {'; '.join(differing)}. Choose another "
            "--name, or --overwrite it"
        )


def _written(shares: Mapping[str, float]) -> str:
    return " ".join(f"{name}={share}" for name, share in shares.items())


def read_splits(dataset: Path, name: str) -> Splits:
    """Read ``splits/<name>.json``.  Raises DatasetError naming the file and what is wrong."""
    path = _path(dataset, name)
    try:
        return Splits.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        there = sorted(each.stem for each in path.parent.glob("*.json"))
        raise DatasetError(f"{dataset} has no splits called {name!r}; it has {there}") from None
    except OSError as error:
        raise DatasetError(f"{path}: it cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise DatasetError(f"{path}: not a file of splits ({explain(error)})") from None


def _draw(key: str, shares: Mapping[str, float]) -> str | None:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    number = int.from_bytes(digest[:8], "big") / 2**64
    end = 0.0
    for name, share in shares.items():
        end += share
        if number < end:
            return name
    # The sum of shares may miss 1 by rounding.
    return name if end > 1 - 1e-9 else None


def _path(dataset: Path, name: str) -> Path:
    check_name(name, "a name of splits")
    return dataset / FOLDER / f"{name}.json"


def _checked(data: dict[str, object]) -> Splits:
    try:
        return Splits.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"these splits cannot be stored: {explain(error)}") from None
