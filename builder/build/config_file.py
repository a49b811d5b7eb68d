"""Reading build configs: safe YAML, ``key=value`` overrides, errors in sentences."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from builder.build.executors.base import EXECUTORS
from builder.core.errors import ConfigError
from builder.core.messages import explain
from builder.dataset.folder import load_meta
from builder.trackers.base import TRACKERS
from schemas.base import Record
from schemas.config import BuildConfig, ExecutorPart, TrackerPart
from schemas.dataset import QuerySpec


def load_config(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> BuildConfig:
    """Read a config file, lay ``defaults`` and then ``key=value`` overrides over it, validate.

    Relative paths inside a config are relative to the working directory, like those on the
    command line.  Raises ConfigError naming the file or key, what was got and what was expected.
    """
    data: dict[str, Any] = _read_yaml(path) if path is not None else {}
    for key, value in (defaults or {}).items():
        _assign(data, key, value)
    read_overrides(overrides, data)
    try:
        config = BuildConfig.model_validate(data)
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(where + explain(error, known=list(_keys(BuildConfig)))) from None
    return config


class TrackConfig(Record):
    """What tracking a dataset once more needs; the rest is the dataset's."""

    tracker: TrackerPart = TrackerPart()
    queries: QuerySpec = QuerySpec()
    executor: ExecutorPart = ExecutorPart()


def read_parts(dataset: Path, overrides: Sequence[str]) -> TrackConfig:
    """Lay overrides over a dataset's own horizon, start_every, mode and queries.

    Raises ConfigError, and DatasetError when there is no dataset.
    """
    meta = load_meta(dataset)
    own = {"horizon": meta.horizon, "start_every": meta.start_every, "mode": meta.mode}
    data = {"tracker": own, "queries": meta.queries.model_dump(mode="json")}
    try:
        parts = TrackConfig.model_validate(read_overrides(overrides, data))
    except ValidationError as error:
        raise ConfigError(explain(error, known=list(TrackConfig.model_fields))) from None
    TRACKERS.configure(parts.tracker)
    EXECUTORS.configure(parts.executor)
    return parts


def read_overrides(overrides: Sequence[str], data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Lay ``key=value`` over ``data``, dots making groups; returns it.  Raises ConfigError."""
    data = {} if data is None else data
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"an override is key=value, got {override!r}; e.g. tracker.horizon=8")
        _assign(data, key, _yaml(text, f"the override {override!r}"))
    return data


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file or folder; expected a config") from None
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder, not a config; to build what is in it give it as --source"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from None
    data = _yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys, got a {type(data).__name__}")
    return data


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        parts = [getattr(error, "context", None), getattr(error, "problem", None)]
        sentence = place + (", ".join(filter(None, parts)) or " ".join(str(error).split()))
        raise ConfigError(
            f"{where} is not plain YAML (tags that build objects are refused): {sentence}"
        ) from None


def _assign(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"cannot set {dotted}: {parent} is {inner!r}, not a group of keys")
        data = inner
    data[last] = value


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        inner: Any = field.annotation
        # On Python 3.10 a tuple[...] passes for a class, so issubclass cannot be asked.
        if hasattr(inner, "model_fields"):
            yield from _keys(inner)
