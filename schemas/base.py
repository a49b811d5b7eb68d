"""The one strict, frozen base of every stored record, and its canonical digest."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Immutable, strictly typed, no unknown keys, no NaN or infinity.

    Strict: a float is not an int, a string is not a number.  JSON arrays are accepted
    where a tuple is meant, since JSON has no tuples.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="null"
    )


def _tuple_from_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _int_from_index(value: Any) -> Any:
    # numpy's integers are honest integers; floats, strings and booleans are not.
    return value.__index__() if hasattr(value, "__index__") and type(value) is not bool else value


Side = Annotated[int, BeforeValidator(_int_from_index), Field(ge=1, le=1_000_000)]
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


def json_sha256(value: Any) -> str:
    """Hash JSON data over its canonical form; returns 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


class Sealed(Record):
    """A record that carries the digest of its own other fields.

    ``digest`` is the SHA-256 of the record's canonical JSON without ``digest`` itself.
    Make one with :meth:`seal`; a record whose digest does not fit is rejected.
    """

    digest: SHA256

    @classmethod
    def seal(cls, **fields: Any) -> Any:
        """Build the record from all its other fields and compute its digest."""
        draft = cls.model_construct(digest="0" * 64, **fields)
        payload = draft.model_dump(mode="json", exclude={"digest"}, warnings=False)
        # A second pass through validation: defaults filled in, types checked, digest compared.
        filled = cls.model_validate_json(
            json.dumps({**payload, "digest": _UNSEALED}), context={"unsealed": True}
        )
        payload = filled.model_dump(mode="json", exclude={"digest"})
        return cls.model_validate_json(json.dumps({**payload, "digest": json_sha256(payload)}))

    @model_validator(mode="after")
    def _digest_fits(self, info: Any) -> Any:
        if info.context and info.context.get("unsealed"):
            return self
        actual = json_sha256(self.model_dump(mode="json", exclude={"digest"}))
        if actual != self.digest:
            raise ValueError(
                f"the record was changed after it was written: its digest says "
                f"{self.digest[:12]}..., its content gives {actual[:12]}..."
            )
        return self


_UNSEALED = "0" * 64
