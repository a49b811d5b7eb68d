"""Splits of a dataset: ``splits/<name>.json``, lists of ids that can be edited by hand.

By hash, an episode's split depends on its own id (or task, or group) alone: adding episodes later
does not move any other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

from pydantic import Field, ValidationError, model_validator

from builder.core.errors import ConfigError, DatasetError
from builder.core.explain import explain
from builder.core.paths import episode_id
from builder.core.records import check_name
from builder.core.working import Each, one_by_one
from builder.dataset.episodes import Dataset, EpisodeOpener
from builder.stores.atomic import publish_text
from builder.stores.reading import blame_environment, refuse_special
from schemas.base import Record, strict_json
from schemas.dataset import EpisodeId, EpisodeMeta, Name

FOLDER = "splits"
_MOST_DRAWS = 1_000_000  # of a part for an episode, in search of a salt


class Splits(Record):
    """Which episodes belong to which split; one may belong to several, or to none."""

    by: Literal["episode", "clip", "task", "group", "source", "hand"] = Field(
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


By = Literal["episode", "clip", "task", "group"]


def split_keys(dataset: Dataset, by: By, each: Each = one_by_one) -> dict[str, str | None]:
    """Return what each episode is split by, by id: itself, its task or its group.

    Clips go with the episode they were cut from, but by ``clip`` each by itself.  Where episodes
    have to be opened, ``each`` does it.  Raises DatasetError.
    """
    if by == "clip" or (by == "episode" and not _any_clips(dataset.meta.config)):
        return {key: key for key in dataset.ids}
    found = each(partial(_split_key, dataset.opener(), by), dataset.listed())
    return dict(zip(dataset.ids, found, strict=True))


def _split_key(opener: EpisodeOpener, by: By, listed: tuple[str, str]) -> str | None:
    episode = opener(listed)
    with closing(episode.reader):
        return _whole_id(episode.meta) if by == "episode" else getattr(episode.meta, by)


def _any_clips(config: Mapping[str, Any]) -> bool:
    return any(
        isinstance(source := each.get("source"), dict) and source.get("clip") is not None
        for each in config.get("merged", [config])
    )


def _whole_id(meta: EpisodeMeta) -> str:
    clip = meta.source.clip
    return meta.id if clip is None else episode_id(unquote_to_bytes(clip.of))


def hash_splits(
    keys: Mapping[str, str | None],
    shares: Mapping[str, float],
    *,
    by: By = "episode",
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
    for each in sorted(keys):
        key = keys[each]
        if key is None:
            raise ConfigError(f"{each} has no {by} to split by; split by episode instead")
        name = _draw(f"{salt}\0{key}", shares)
        if name is not None:
            found[name].append(each)
    return _checked({"by": by, "shares": dict(shares), "salt": salt, "splits": found})


def full_salt(
    dataset: Path, name: str, keys: Mapping[str, str | None], shares: Mapping[str, float], by: By
) -> str:
    """Return a salt by which no part is empty, for :func:`hash_splits`: few episodes leave some so.

    That of ``splits/<name>.json`` where it is of the same kind, so that no episode moves; else the
    first of "", "1", "2", ... or "" where none of many will do.  Raises ConfigError.
    """
    if _path(dataset, name).exists():
        old = read_splits(dataset, name)
        if (old.by, old.shares) == (by, dict(shares)) and all(old.splits.values()):
            return old.salt
    salts = ["", *map(str, range(1, min(1000, _MOST_DRAWS // max(1, len(keys)))))]
    parts = (hash_splits(keys, shares, by=by, salt=salt) for salt in salts)
    return next((each.salt for each in parts if all(each.splits.values())), "")


def source_splits(given: Iterable[tuple[str, tuple[str, ...]]]) -> Splits:
    """Collect the splits that a source gives its episodes: pairs of id and split names.

    Raises ConfigError when it gives none.
    """
    found: dict[str, list[str]] = {}
    for each, names in given:
        for name in names:
            found.setdefault(name, []).append(each)
    if not found:
        raise ConfigError("the source assigns no splits to its episodes; split them by hash")
    return _checked({"by": "source", "splits": {k: sorted(set(v)) for k, v in found.items()}})


def write_splits(dataset: Path | str, name: str, splits: Splits) -> Path:
    """Write ``splits/<name>.json`` of a dataset, whole or not at all; returns its path.

    Raises ConfigError for a bad name, and OutputError.
    """
    dataset = Path(dataset)
    path = _path(dataset, name)
    text = json.dumps(splits.model_dump(mode="json"), indent=1) + "\n"
    publish_text(dataset, path, text, replace=True)
    return path


def refuse_other(dataset: Path, name: str, new: Splits, keys: Mapping[str, str | None]) -> None:
    """Raise ConfigError when ``splits/<name>.json`` is another split, or was edited by hand.

    The same split of a dataset that has grown since is not another one, and one with an empty part,
    as it was drawn, has served nobody.  ``keys`` are those of ``new``.
    """
    path = _path(dataset, name)
    if not path.exists():
        return
    old = read_splits(dataset, name)
    if old.by == new.by and not all(old.splits.values()):
        drawn = hash_splits(keys, old.shares, by=new.by, salt=old.salt)  # type: ignore[arg-type]
        if drawn == old:
            return
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


def read_splits(dataset: Path | str, name: str) -> Splits:
    """Read ``splits/<name>.json``.  Raises DatasetError naming the file and what is wrong."""
    dataset = Path(dataset)
    path = _path(dataset, name)
    refuse_special(path)
    try:
        text = path.read_bytes()
        strict_json(text)
        return Splits.model_validate_json(text)
    except FileNotFoundError:
        there = sorted(each.stem for each in path.parent.glob("*.json"))
        raise DatasetError(f"{dataset} has no splits called {name!r}; it has {there}") from None
    except OSError as error:
        blame_environment(error, path)
        raise DatasetError(f"{path}: it is no file ({error.strerror})") from None
    except ValidationError as error:
        raise DatasetError(f"{path}: not a file of splits ({explain(error, Splits)})") from None
    except ValueError as error:
        raise DatasetError(f"{path}: not a file of splits ({error})") from None


def split_ids(dataset: Dataset, split: str) -> list[str]:
    """Return the ids of ``<file>/<part>``, for example default/train, in the dataset's order.

    Raises ConfigError for a part that the file has not, and DatasetError for a file that is not
    there or a part without episodes.
    """
    file, _, name = split.partition("/")
    found = read_splits(dataset.path, file).splits
    if name not in found:
        raise ConfigError(f"{dataset.path}: splits {file!r} have no {name!r}, only {sorted(found)}")
    members = {*found[name]}
    ids = [key for key in dataset.ids if key in members]
    if not ids:
        raise DatasetError(
            f"{dataset.path}: split {split!r} is empty: it lists {len(members)} episodes, "
            f"none of which is in the dataset"
        )
    return ids


def split_pair(dataset: Dataset, pair: str) -> tuple[list[str], list[str]]:
    """Return the ids of two parts, for example ``train:val`` or ``tasks/train:tasks/val``.

    A part without a file is of splits/default.json.  Raises ConfigError for anything else and
    for parts that share an episode, and what :func:`split_ids` raises.
    """
    names = [name if "/" in name else f"default/{name}" for name in pair.split(":")]
    if len(names) != 2 or not all(all(name.split("/")) for name in names):
        raise ConfigError(f"expected two parts of a split, such as train:val, got {pair!r}")
    first, second = (split_ids(dataset, name) for name in names)
    if shared := {*first} & {*second}:
        raise ConfigError(
            f"{dataset.path}: {names[0]} and {names[1]} share {len(shared)} of their episodes, the "
            f"first is {min(shared)}; held-out episodes must be in one of them alone"
        )
    return first, second


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
        raise ConfigError(f"these splits cannot be stored: {explain(error, Splits)}") from None
