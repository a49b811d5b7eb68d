"""Validation errors in sentences: which key, what was expected, what was got, and an example."""

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping
from shlex import quote
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from builder.core.messages import nearest
from schemas.base import SHA256
from schemas.dataset import Name

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off"}  # which YAML takes for values
_FOR_SHELLS = re.compile(r'["{}*? ]')
_GOT = 100  # characters of what was got
_LIMITS = ("ge", "gt", "le", "lt", "pattern")


def as_yaml(value: Any) -> str:
    """Write a value as it stands after ``key=`` and in a config."""
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def explain(
    error: ValidationError,
    model: Any,
    prefix: str = "",
    known: Callable[[], Mapping[str, list[str]]] | None = None,
    write: Callable[[Any], str] = as_yaml,
) -> str:
    """Put a validation error of ``model`` into sentences, one for each key.

    ``known`` gives dotted keys that may have been meant, with the kinds of backends that alone have
    them; ``write`` writes an example's value.
    """
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        loc = item["loc"]
        if item["type"] == "missing" and loc and isinstance(loc[-1], int):
            loc = loc[:-1]  # a list that is too short
        place = _Place.of(model, loc, prefix)
        value = list(item["input"]) if isinstance(item["input"], tuple) else item["input"]
        got = f"got {value!r:.{_GOT}}"
        if item["type"] == "extra_forbidden":
            key = f"{place.key}.{loc[-1]}".lstrip(".")
            found[key] = f"unknown key{_meant(key, known() if known else _names(model, prefix))}"
        elif item["type"] in ("value_error", "assertion_error"):
            said = re.sub("^(Value|Assertion) error, ", "", item["msg"])
            found[place.key] = said if isinstance(item["input"], dict) else f"{said}, {got}"
        else:
            lacks = item["type"] == "missing" and loc == item["loc"]
            shown = place.example(None if lacks else item["input"], write)
            wanted = expected(place.kind)
            said = f"this must be given: {wanted}" if lacks else f"expected {wanted}, {got}"
            found[place.key] = said + shown
    # Of a value that may be of several types, the one that fits best was tried the deepest.
    told = {
        key: said
        for key, said in found.items()
        if not any(other.startswith((f"{key}.", f"{key}[")) for other in found if key)
    }
    return "; ".join(f"{key}: {said}" if key else said for key, said in told.items())


class _Place(NamedTuple):
    """Where in a model an error is: its dotted key and type, and those of the named key around."""

    key: str
    kind: Any
    named: str
    named_kind: Any

    @classmethod
    def of(cls, model: Any, loc: tuple[int | str, ...], prefix: str) -> "_Place":
        here = cls(prefix, model, prefix, model)
        for part in loc:
            inner = _inner(here.kind, part)
            if inner is None:
                continue  # the name of a type that was tried
            if isinstance(part, int):
                here = here._replace(key=f"{here.key}[{part}]", kind=inner)
            else:
                key = f"{here.key}.{part}".lstrip(".")
                here = cls(key, inner, key, inner)
        return here

    def example(self, got: Any, write: Callable[[Any], str]) -> str:
        """Say what would be right, as the tail of a sentence."""
        got = got if self.key == self.named else None
        key, value = _example(self.named, self.named_kind, got)
        text = f"{key}={write(value)}"
        if write is as_yaml and _FOR_SHELLS.search(text):
            text = quote(text)
        return f"; for example {text}" if key else ""


def _parts(kind: Any) -> tuple[Any, dict[str, Any], list[Any]]:
    """Return a type without annotations, its limits, and the types of a union, or it alone."""
    limits: dict[str, Any] = {}
    while True:
        if isinstance(kind, FieldInfo):
            metadata, inner = kind.metadata, kind.annotation
        elif get_origin(kind) is Annotated:
            inner, *metadata = get_args(kind)
        else:
            break
        for each in metadata:
            for one in (each, *getattr(each, "metadata", ())):
                for name in _LIMITS:
                    if getattr(one, name, None) is not None:
                        limits.setdefault(name, getattr(one, name))
        kind = inner
    union = get_origin(kind) in (Union, types.UnionType)
    return kind, limits, list(get_args(kind)) if union else [kind]


def _is_model(kind: Any) -> bool:
    # On Python 3.10 a tuple[...] passes for a class, so issubclass cannot be asked.
    return hasattr(kind, "model_fields")


def _inner(kind: Any, part: int | str) -> Any:
    """Return the type at a key or position of another; None where ``part`` is none of it."""
    kind, _, members = _parts(kind)
    if len(members) > 1:
        return next((found for each in members if (found := _inner(each, part)) is not None), None)
    if _is_model(kind):
        return kind.model_fields.get(part)
    inner = get_args(kind)
    if get_origin(kind) is tuple and isinstance(part, int):
        return inner[0] if Ellipsis in inner else inner[min(part, len(inner) - 1)]
    if get_origin(kind) is dict and isinstance(part, str) and "[" not in part:
        return inner[1]
    return None


def expected(kind: Any) -> str:
    """Say what a type takes."""
    kind, limits, members = _parts(kind)
    if len(members) > 1:
        given = [each for each in members if each is not type(None)]
        said = [expected(each) for each in given if get_origin(each) is not dict]
        for each in (each for each in given if get_origin(each) is dict):
            value = expected(get_args(each)[1])
            said.append("a mapping to these" if value in said else expected(each))
        said += ["null"] if len(given) < len(members) else []
        return (", or " if any("," in each for each in said) else " or ").join(said)
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        *others, last = map(str, inner)
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) is tuple:
        if Ellipsis in inner:
            return f"a list (of {expected(inner[0])})"
        return f"a list of {len(inner)}, each {expected(inner[0])}"
    if get_origin(kind) is dict:
        return f"a mapping to {expected(inner[1])}"
    if _is_model(kind):
        return f"a group of keys ({', '.join(kind.model_fields)})"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, "another value") + _range(limits)


def _range(limits: dict[str, Any]) -> str:
    if pattern := limits.get("pattern"):
        known = {
            _parts(Name)[1]["pattern"]: " of letters, digits, _ . -",
            _parts(SHA256)[1]["pattern"]: " of 64 digits 0-9 a-f",
        }
        return known.get(pattern, f" that fits {pattern}")
    low = f" from {limits['ge']}" if "ge" in limits else ""
    low = f" above {limits['gt']}" if "gt" in limits else low
    return low + (f" to {limits['le']}" if "le" in limits else "")


def _example(key: str, kind: Any, got: Any) -> tuple[str, Any]:
    """Return a key and a value that would be right, as near as can be to what was got."""
    default = kind.default if isinstance(kind, FieldInfo) else None
    _, _, members = _parts(kind)
    choices = [str(word) for each in members for word in _choices(each)]
    if meant := nearest(str(got), choices):
        return key, meant
    for each in members:
        if _is_model(each) and not choices:
            fields = each.model_fields
            needed = [name for name, field in fields.items() if field.is_required()]
            if not (first := next(iter([*needed, *fields]), None)):
                return "", None
            inner = got if isinstance(got, str) else None
            return _example(f"{key}.{first}".lstrip("."), fields[first], inner)
        value = _near_value(each, kind, got)
        if value is not None and not (default and isinstance(value, str) and value is not got):
            return key, value
    if choices:
        return key, default if default in choices else choices[0]
    if isinstance(default, str | int | float) or (isinstance(default, tuple) and default):
        return key, default
    value = _any_value(members[0], _parts(kind)[1])
    return ("", None) if value is None else (key, value)


def _choices(kind: Any) -> tuple[Any, ...]:
    kind, _, members = _parts(kind)
    if len(members) > 1:
        return tuple(word for each in members for word in _choices(each))
    return get_args(kind) if get_origin(kind) is Literal else ()


def _near_value(kind: Any, around: Any, got: Any) -> Any:
    """Return what was got in the form of a type, or None."""
    kind, limits, members = _parts(kind)
    limits = {**_parts(around)[1], **limits}
    if got is None or isinstance(got, dict):
        return None
    if len(members) > 1:
        return next((_near_value(each, None, got) for each in members if type(got) is each), None)
    if get_origin(kind) is tuple and not isinstance(got, list | tuple):
        inner = get_args(kind)
        value = _near_value(inner[0], None, got)
        return None if value is None else [value] * (1 if Ellipsis in inner else len(inner))
    if kind is str and not isinstance(got, list | tuple) and "pattern" not in limits:
        return got if isinstance(got, str) else str(got)
    if kind is bool and str(got).lower() in ("1", "yes", "on", "true", "0", "no", "off", "false"):
        return str(got).lower() in ("1", "yes", "on", "true")
    if kind in (int, float) and not isinstance(got, bool | list | tuple):
        try:
            number = kind(float(got))
        except (TypeError, ValueError, OverflowError):
            return None
        inside = number >= limits.get("ge", number) and number <= limits.get("le", number)
        return number if inside and (limits.get("gt") is None or number > limits["gt"]) else None
    return None


def _any_value(kind: Any, limits: dict[str, Any]) -> Any:
    kind, own, members = _parts(kind)
    limits = {**limits, **own}
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        return [_any_value(inner[0], {})] if Ellipsis in inner else [256] * len(inner)
    if get_origin(kind) is dict:
        return {"NAME": _any_value(get_args(kind)[1], {})}
    if len(members) > 1:
        return _any_value(members[0], {})
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if kind in (int, float):
        return max(min(10, limits.get("le", 10)), limits.get("ge", 0))
    if "pattern" in limits and limits["pattern"] != _parts(Name)[1]["pattern"]:
        return None  # made up, it would not fit
    return True if kind is bool else "NAME"


def _names(model: Any, prefix: str) -> dict[str, list[str]]:
    return {key: [] for key in dotted_keys(model, prefix)}


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a model and of those that it is made of."""
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}".lstrip(".")
        yield key
        for each in _parts(field)[2]:
            if _is_model(each):
                yield from dotted_keys(each, key)


def _meant(key: str, known: Mapping[str, list[str]]) -> str:
    """Suggest which key may have been meant, of whatever level, as the tail of a sentence."""
    group, _, name = key.rpartition(".")
    if kinds := known.get(key):
        return f" of this kind; {group}.kind={' and '.join(kinds)} may have it"
    names: dict[str, list[str]] = {}
    for each in known:
        names.setdefault(each.rpartition(".")[2], []).append(each)
    same = [each for each in known if each.rpartition(".")[0] == group]
    own = nearest(name, [each.rpartition(".")[2] for each in same])
    if own and name not in names:
        return f" (did you mean {f'{group}.{own}'.lstrip('.')!r}?)"
    if meant := name if name in names else nearest(name, [*names]):
        return f" (did you mean {' or '.join(map(repr, names[meant][:3]))}?)"
    return f"; there are {', '.join(same)}"
