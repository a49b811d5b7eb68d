"""Parsing stored records: damage and newer formats become sentences that name the file."""

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from builder.core.errors import ConfigError, DatasetError, NewerFormatError
from schemas.base import MAX_SIDE, Record, Sealed, Shape, canonical_json, strict_json
from schemas.dataset import FORMAT_VERSION, Name
from schemas.versions import is_intact, read_any_version, version_of

R = TypeVar("R", bound=Record)

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SHAPE: TypeAdapter[tuple[int, int]] = TypeAdapter(Shape)


def parse_record(model: type[R], text: str | bytes, where: str) -> R:
    """Parse one record that was stored at ``where``; one of an older version is upgraded.

    Raises DatasetError when it is damaged and NewerFormatError when a newer letterset wrote it:
    one of a higher format version, or one with fields that this letterset does not know and, where
    it has a digest, the digest that they give.
    """
    try:
        data = strict_json(text)
    except ValueError as error:
        raise DatasetError(
            f"{where} is damaged: expected the JSON of {model.__name__}, got {error}"
        ) from None
    known = version_of(model) or FORMAT_VERSION
    version = data.get("format_version", known) if isinstance(data, dict) else known
    if isinstance(version, int) and version > known:
        raise NewerFormatError(where, f"format version {version}, this one knows {known}")
    try:
        return read_any_version(model, text, data, version)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        places = [".".join(map(str, item["loc"])) or model.__name__ for item in found]
        if all(item["type"] == "extra_forbidden" for item in found) and (
            is_intact(data) or not issubclass(model, Sealed)
        ):
            raise NewerFormatError(where, f"with {', '.join(places)}") from None
        reasons = [
            f"{place}: {item['msg'].removeprefix('Value error, ')}"
            for place, item in zip(places, found, strict=True)
        ]
        raise DatasetError(f"{where} is damaged: {'; '.join(reasons)}") from None
    except ValueError as error:
        raise DatasetError(f"{where} cannot be read: {error}") from None


def check_name(name: str, what: str) -> None:
    """Raise ConfigError, calling it ``what``, for a name that cannot be stored."""
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise ConfigError(f"{what} has letters, digits, _ . - only, got {name!r}") from None


def checked_shape(shape: tuple[int, int], what: str) -> tuple[int, int]:
    """Return ``shape`` (H, W) as it was given; raises ConfigError, calling it ``what``."""
    try:
        return _SHAPE.validate_python(shape)
    except ValidationError:
        raise ConfigError(
            f"{what} must be (H, W), whole numbers of pixels from 1 to {MAX_SIDE}, got {shape!r}"
        ) from None


def stored_form(record: Record) -> str:
    """Return the one text a record is stored as; equal records give equal bytes."""
    return canonical_json(record_data(record))


def record_data(record: Record) -> Any:
    """Return a record as JSON data."""
    return record.model_dump(mode="json")
