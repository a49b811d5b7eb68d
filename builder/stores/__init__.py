"""Episodes on disk, whole or not at all: what a store is, and what stores of files share."""

from builder.stores.atomic import fsync_tree
from builder.stores.base import ArraySpec, EpisodeReader, EpisodeWriter, Store, arrays_by_view
from builder.stores.codecs import stored_dtype
from builder.stores.reading import FileReader, readable
from builder.stores.writing import FileStore, FileWriter

__all__ = [
    "ArraySpec",
    "EpisodeReader",
    "EpisodeWriter",
    "FileReader",
    "FileStore",
    "FileWriter",
    "Store",
    "arrays_by_view",
    "fsync_tree",
    "readable",
    "stored_dtype",
]
