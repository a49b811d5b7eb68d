"""Letterset's own files, told by their metadata: nothing that reads others' data takes them."""

import json
from pathlib import Path

META_NAME = "dataset.json"
METADATA = "metadata"
"""The attribute that holds an episode's metadata."""

_MAX_BYTES = 1 << 24
_VERBS = (
    "`letterset inspect` shows what it holds, `track` gives it other tracks, `convert` stores it "
    "otherwise, `merge` joins datasets; for another img_shape, build again from its source"
)
OWN_EPISODE = f"an episode of a letterset dataset; give the dataset's folder: {_VERBS}"


def is_own(stored: object) -> bool:
    """Tell whether text that was stored as metadata is a sealed record, of any version."""
    try:
        data = json.loads(stored) if isinstance(stored, str) else None
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"format_version", "digest"} <= data.keys()


def own_files(path: Path) -> str | None:
    """Say what of a dataset lies at a path, and which verbs are for it; None for anything else."""
    if is_own(_text(path / META_NAME)):
        return f"a letterset dataset: {_VERBS}"
    child = path.absolute()
    for folder in child.parents:
        # Stores keep episodes below folders of such names.
        if child.name.startswith("episodes") and is_own(_text(folder / META_NAME)):
            return f"part of the letterset dataset {folder}; give that folder: {_VERBS}"
        child = folder
    try:
        group = json.loads(_text(path / "zarr.json") or "null")["attributes"][METADATA]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return OWN_EPISODE if is_own(group) else None


def _text(file: Path) -> str | None:
    try:
        if file.is_file() and file.stat().st_size <= _MAX_BYTES:
            return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass  # what cannot be read is not known to be ours
    return None
