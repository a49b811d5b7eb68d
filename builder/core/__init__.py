"""What every room needs: errors, the registry of backends, stored records, paths, messages."""

from builder.core.errors import (
    ConfigError,
    DatasetError,
    DecodeError,
    LettersetError,
    MissingExtraError,
    NewerFormatError,
    OutputError,
    SourceError,
    StoreError,
    TrackingError,
    UnreadableError,
    WorkerError,
)
from builder.core.records import parse_record, stored_form

__all__ = [
    "ConfigError",
    "DatasetError",
    "DecodeError",
    "LettersetError",
    "MissingExtraError",
    "NewerFormatError",
    "OutputError",
    "SourceError",
    "StoreError",
    "TrackingError",
    "UnreadableError",
    "WorkerError",
    "parse_record",
    "stored_form",
]
