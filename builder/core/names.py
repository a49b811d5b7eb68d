"""Names and texts from data, made safe to store."""

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

_MAX = 80


def safe_names(raw_names: Iterable[str]) -> dict[str, str]:
    """Map names from data (views, arrays) to names that can be stored, in the given order.

    Characters outside ``[A-Za-z0-9_.-]`` become ``_``; names that would collide, also in a
    file system that folds case, get 6 hex digits of their SHA-256.
    """
    raw_names = list(dict.fromkeys(raw_names))
    slugs = {raw: _slug(raw) for raw in raw_names}
    counts = Counter(slug.lower() for slug in slugs.values())
    return {
        raw: slug if counts[slug.lower()] == 1 else f"{slug}-{_digest(raw)}"
        for raw, slug in slugs.items()
    }


def safe_text(value: str | None, limit: int = 10_000) -> str | None:
    """Return text that UTF-8 can hold, without NUL, cut to ``limit`` characters; "" is None."""
    if value is None:
        return None
    text = value.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
    return text[:limit] or None


def _slug(raw: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", raw)[:_MAX].lstrip(".-").rstrip(".")
    return slug or "_"


def _digest(raw: str) -> str:
    return sha256(raw.encode("utf-8", "surrogateescape")).hexdigest()[:6]
