"""Reading build configs: safe YAML, ``key=value`` overrides, errors in sentences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from builder.build.executors.base import EXECUTORS
from builder.core.errors import ConfigError
from builder.core.explain import explain
from builder.core.registry import config_keys
from builder.dataset.folder import load_meta
from builder.trackers.base import TRACKERS
from schemas.base import Record
from schemas.config import BuildConfig, ExecutorPart, TrackerPart
from schemas.dataset import QuerySpec

# No setting needs more; what is deeper, or larger, would break whatever walks through it.
_MAX_DEPTH, _MAX_VALUES = 32, 1_000_000
_TOO_DEEP = "{} is nested too deeply, or holds too much; expected a config"


def load_config(
    path: Path | str | None = None,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    fallbacks: Mapping[str, Any] | None = None,
) -> BuildConfig:
    """Read a config file, lay ``defaults`` and then ``key=value`` overrides over it, validate.

    ``fallbacks`` are values by dotted key for what is still not said then.

    Relative paths inside a config are relative to the working directory, like those on the
    command line.  Raises ConfigError naming the file or key, what was got and what was expected.
    """
    data: dict[str, Any] = _read_yaml(Path(path)) if path is not None else {}
    for key, value in (defaults or {}).items():
        _assign(data, key, value)
    read_overrides(overrides, data)
    for key, value in (fallbacks or {}).items():
        parent, _, last = key.rpartition(".")
        group = data.setdefault(parent, {}) if parent else data
        if isinstance(group, dict):
            group.setdefault(last, value)
    try:
        config = BuildConfig.model_validate(data)
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(where + explain(error, BuildConfig, known=config_keys)) from None
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
        raise ConfigError(explain(error, TrackConfig, known=config_keys)) from None
    TRACKERS.configure(parts.tracker)
    EXECUTORS.configure(parts.executor)
    return parts


def read_overrides(overrides: Sequence[str], data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Lay ``key=value`` over ``data``, dots making groups; returns it.  Raises ConfigError."""
    data = {} if data is None else data
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        if not equals or not key:
            raise ConfigError(
                f"expected key=value, such as store.frames.codec=jpeg, got {override!r}"
            )
        _assign(data, key, _yaml(text, f"the override {override!r}"))
    return data


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file or folder; expected a config") from None
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder, not a config; give it as the source, for example: letterset "
            f"build {path} dataset --img-shape 256 256"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from None
    data = _yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys, got a {type(data).__name__}")
    return data


class _DuplicateKey(Exception):
    """A key is there twice: YAML would silently take the last."""


class _TooDeep(Exception):
    """More nesting than any config has: bounded here, as a process may set any recursion limit."""


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _MAX_DEPTH + 1:
            raise _TooDeep
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set[tuple[str, Any]]()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = key.tag, key.value
            if isinstance(key, yaml.ScalarNode) and name in seen:
                line = key.start_mark.line + 1
                raise _DuplicateKey(f"line {line}: the key {key.value!r} is there twice")
            seen |= {name} if isinstance(key, yaml.ScalarNode) else set()
        return super().construct_mapping(node, deep)


def _refuse_deep(data: Any, where: str) -> None:
    """Raise ConfigError for what is nested too deeply, endlessly (``&a [*a]``), or is too large.

    Counted as it would be written out without references.
    """
    waiting, count = [(data, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise ConfigError(_TOO_DEEP.format(where))
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]


def _yaml(text: str, where: str) -> Any:
    try:
        found = yaml.load(text, _Loader)
        _refuse_deep(found, where)
        return found
    except (_TooDeep, RecursionError):
        raise ConfigError(_TOO_DEEP.format(where)) from None
    except _DuplicateKey as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        parts = [getattr(error, "context", None), getattr(error, "problem", None)]
        sentence = place + (", ".join(filter(None, parts)) or " ".join(str(error).split()))
        raise ConfigError(
            f"{where} is not plain YAML (tags that build objects are refused): {sentence}; put "
            "quotes around text with special characters, as in 'source.include=[\"*.mp4\"]'"
        ) from None


def _assign(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    if len(parents) > _MAX_DEPTH:
        raise ConfigError(_TOO_DEEP.format(f"the key {dotted[:60]}..."))
    for parent in parents:
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"cannot set {dotted}: {parent} is {inner!r}, not a group of keys")
        data = inner
    data[last] = value
