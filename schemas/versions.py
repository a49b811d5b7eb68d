"""Older versions of the format: which models read them, and the steps up to the newest.

When a record changes so that the old model could misread it, the old model stays as it was under
another name, gets a method ``to_next_version()`` and is listed in ``OLDER``; its golden files stay.
"""

from typing import Any, Protocol, TypeVar

from schemas.base import TRUSTED, Record, Sealed, content_sha256

R = TypeVar("R", bound=Record)


class Older(Protocol):
    """What a model of an older version has besides its fields."""

    def to_next_version(self) -> Any:
        """Return the same content as a record of the version after this one."""
        ...


OLDER: dict[type[Record], dict[int, type[Record]]] = {}
"""By the newest model of a record: its older models by version.  Version 1 is the first."""


def version_of(model: type[Record]) -> int | None:
    """Return the format version that a model reads; None when it does not say."""
    field = model.model_fields.get("format_version")
    return None if field is None else int(field.default)


def read_any_version(model: type[R], text: str | bytes, data: Any, version: object) -> R:
    """Validate a stored record as what it is, and bring it to the version of ``model``.

    ``data`` is ``text`` as parsed JSON.

    An upgraded record keeps the digest it was stored with, which tells which record it is.
    Raises ValueError (among it pydantic.ValidationError) for a version that no model reads, and
    for a record that is not what its version says.
    """
    newest = version_of(model)
    if newest is None or version == newest:
        return _read(model, text, data)
    older = OLDER.get(model, {})
    if not isinstance(version, int) or version not in older:
        readable = ", ".join(map(str, [*sorted(older), newest]))
        raise ValueError(f"it has format version {version!r}, expected one of {readable}")
    record: Any = _read(older[version], text, data)
    stored = record
    for _ in range(version, newest):
        record = record.to_next_version()
    if type(record) is not model:
        raise TypeError(f"{type(stored).__name__} was upgraded to {type(record).__name__}")
    if isinstance(stored, Sealed):
        record = record.model_copy(update={"digest": stored.digest})
    upgraded: R = record
    return upgraded


def _read(model: type[R], text: str | bytes, data: Any) -> R:
    """Validate a stored record.

    A digest is compared with the JSON as it stands, not with what this model would write: which
    fields a class has, and how pydantic writes them, may differ from release to release.
    """
    if issubclass(model, Sealed) and is_intact(data):
        return model.model_validate_json(text, context=TRUSTED)
    return model.model_validate_json(text)


def is_intact(data: Any) -> bool:
    """Tell whether JSON data is that of a sealed record, unchanged since it was written."""
    return isinstance(data, dict) and data.get("digest") == content_sha256(data)
