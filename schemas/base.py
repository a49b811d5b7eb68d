"""The one strict, frozen base of every stored record, and its canonical digest."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

if TYPE_CHECKING:
    from typing_extensions import Self

SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Later:
    """See :data:`LATER`."""


LATER = _Later()
"""Marks a field, as ``Annotated[type, LATER]``, that a record got after it was first written down.

Such a field has a default and is left out of the JSON while it holds it, so that records without
it keep their bytes and digests.
"""


class Record(BaseModel):
    """Immutable, strictly typed, no unknown keys, no NaN or infinity.

    Strict: a float is not an int, a string is not a number.  JSON arrays are accepted
    where a tuple is meant, since JSON has no tuples.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="null"
    )

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Return the record as a dict, as pydantic does, without defaults of :data:`LATER` fields.

        ``mode="json"`` gives the JSON data that is stored.
        """
        data = super().model_dump(**options)
        _leave_later_defaults_out(self, data)
        return data


# Not a serializer of pydantic's: older releases warn of unions of records that have one.
def _leave_later_defaults_out(value: Any, data: Any) -> None:
    if isinstance(value, Record):
        for name in data.keys() & type(value).model_fields.keys():
            field, inner = type(value).model_fields[name], getattr(value, name)
            if LATER in field.metadata and inner == field.default:
                del data[name]
            else:
                _leave_later_defaults_out(inner, data[name])
    elif isinstance(value, tuple | list):
        for each, part in zip(value, data, strict=True):
            _leave_later_defaults_out(each, part)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _leave_later_defaults_out(each, data[key])


def _tuple_from_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _int_from_index(value: Any) -> Any:
    # numpy's integers are honest integers; floats, strings, booleans and arrays are not.
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


MAX_SIDE = 1_000_000
Side = Annotated[int, Field(ge=1, le=MAX_SIDE), BeforeValidator(_int_from_index)]
Shape = Annotated[
    tuple[Side, Side],
    BeforeValidator(_tuple_from_list),
    Field(description="(height, width) in pixels, both at least 1"),
]
Pair = Annotated[tuple[float, float], BeforeValidator(_tuple_from_list)]
Ratio = Annotated[
    tuple[Side, Side],
    BeforeValidator(_tuple_from_list),
    Field(description="(numerator, denominator), both at least 1"),
]


def canonical_json(value: Any) -> str:
    """Serialize JSON data so that equal values give equal bytes: sorted keys, no blanks."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def strict_json(text: str | bytes) -> Any:
    """Parse JSON that people may have written.

    Raises ValueError, also for a key that is there twice, of which one value would get lost, and
    for nesting that is too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def json_sha256(value: Any) -> str:
    """Hash JSON data over its canonical form; returns 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def content_sha256(data: Mapping[str, Any]) -> str:
    """Hash what the digest of a sealed record is taken over: its JSON data but ``digest``."""
    return json_sha256({key: value for key, value in data.items() if key != "digest"})


class Sealed(Record):
    """A record that carries the digest of its own other fields.

    ``digest`` is the SHA-256 of the record's canonical JSON without ``digest`` itself.
    Make one with :meth:`seal`; a record whose digest does not fit is rejected.  What was stored
    is read by :func:`schemas.versions.read_any_version`, which hashes the JSON as it stands.
    """

    digest: SHA256

    @classmethod
    def seal(cls, **fields: Any) -> Self:
        """Build the record from its other fields and compute its digest.

        Raises pydantic.ValidationError (a ValueError) for missing, unknown or wrong fields.
        """
        draft = cls.model_validate({**fields, "digest": _UNSEALED}, context=TRUSTED)
        return draft.model_copy(update={"digest": draft._content_sha256()})

    def resealed(self, **changes: Any) -> Self:
        """Return the record with some fields changed and the digest that fits them.

        Raises what :meth:`seal` raises.
        """
        kept = {key: getattr(self, key) for key in type(self).model_fields if key != "digest"}
        return self.seal(**{**kept, **changes})

    def _content_sha256(self) -> str:
        return content_sha256(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _digest_fits(self, info: ValidationInfo) -> Self:
        if info.context == TRUSTED:
            return self
        actual = self._content_sha256()
        if actual != self.digest:
            raise ValueError(
                f"the record was changed after it was written: its digest says "
                f"{self.digest[:12]}..., its content gives {actual[:12]}..."
            )
        return self


_UNSEALED = "0" * 64
TRUSTED = {"digest": "trusted"}
"""Validation context of a record whose digest is set afterwards, or was checked before."""
