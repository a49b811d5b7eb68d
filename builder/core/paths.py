"""Episode ids, printable paths, and names and texts from data, made safe to store."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

_MAX_COMPONENT = 80
_MAX_FOLDERS = 800
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
# A Path makes one slash of two.  A password may have an @ in it, but no slash and no quote.
_PASSWORD = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^\s/:@"'<>]*:)[^\s/"'<>]*@""")
# A signed link carries what signs it as values behind its "?"; HTML writes "&" as "&amp;".
_SIGNATURE = re.compile(
    r"""([?&;](?:sig|[\w.-]*(?:signature|token|secret|password|credential|accesskey|api_?key)[\w.-]*)=)
    [^\s&#"'<>]+""",
    re.IGNORECASE | re.VERBOSE,
)
_HASH_TAIL = re.compile(r"-[0-9a-f]{8}$")
# One letter is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def episode_id(relative_path: bytes | str | PurePath) -> str:
    """Return the id of the episode at a path relative to its source's root.

    Slashes make folders, every component becomes a slug of ``[A-Za-z0-9._-]``, and the last
    one loses its suffix and ends in 8 hex digits of the SHA-256 of the raw path bytes.  Hence
    names that differ only in suffix, case, Unicode form or odd bytes give different ids, even
    on file systems that fold case, and no id leaves the folder it is joined to.
    """
    raw = _raw(relative_path)
    *folders, name = [part for part in raw.split(b"/") if part] or [b""]
    stem = re.sub(rb"(?<=.)\.[A-Za-z][A-Za-z0-9]{0,4}$", b"", name)
    digest = hashlib.sha256(raw).hexdigest()[:8]
    slugs: list[str] = []
    for slug in map(_folder_slug, reversed(folders)):
        # Very deep paths keep the folders nearest to the file; the hash tells them apart.
        if sum(map(len, slugs)) + len(slugs) + len(slug) > _MAX_FOLDERS:
            break
        slugs.insert(0, slug)
    return "/".join([*slugs, f"{_path_slug(stem)}-{digest}"])


def user_cache() -> Path:
    """Return the folder for what can be fetched or found again: in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "letterset"


def without_hash(episode_id: str) -> str:
    """Return an episode's id without the digits at its end, as people see it."""
    return _HASH_TAIL.sub("", episode_id)


def printable_path(path: bytes | str | PurePath) -> str:
    """Return a path as plain text, odd bytes percent-encoded.

    Invalid UTF-8, control and other unprintable characters, and the percent sign itself
    become ``%XX``, so ``urllib.parse.unquote_to_bytes`` gives the raw bytes back.
    """
    text = _raw(path).decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() and c != "%" else _percent(c) for c in text)


def without_passwords(text: str) -> str:
    """Return text with ``***`` for what lets one in at every URL.

    These are the password of ``s3://key:***@host`` and the signature of ``https://host/a?sig=***``.
    """
    return _SIGNATURE.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def is_url(path: PurePath | str) -> bool:
    """Tell whether a path is a URL such as ``s3://bucket/dataset``, also as a Path."""
    return bool(_URL.match(str(path)))


def shown_url(url: PurePath | str) -> str:
    """Return a URL with both of its slashes, which a Path merges."""
    return re.sub(":/+", "://", str(url), count=1)


def safe_names(raw_names: Iterable[str]) -> dict[str, str]:
    """Map names from data (views, arrays) to names that can be stored, in the given order.

    Characters outside ``[A-Za-z0-9_.-]`` become ``_``; names that would collide, also in a
    file system that folds case, get 6 hex digits of their SHA-256.
    """
    slugs = {raw: _slug(raw) for raw in raw_names}
    counts = Counter(slug.lower() for slug in slugs.values())
    for raw, slug in slugs.items():
        if counts[slug.lower()] > 1:
            slugs[raw] = f"{slug}-{hashlib.sha256(_raw(raw)).hexdigest()[:6]}"
    return slugs


def safe_text(value: str | None, limit: int = 10_000) -> str | None:
    """Return text that UTF-8 can hold, without NUL, cut to ``limit`` characters; "" is None."""
    if value is None:
        return None
    text = value.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
    return text[:limit] or None


def _raw(path: bytes | str | PurePath) -> bytes:
    if isinstance(path, PurePath):
        path = path.as_posix()
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


def _slug(text: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:_MAX_COMPONENT].lstrip(".-").rstrip(".")
    return slug or "_"


def _path_slug(component: bytes) -> str:
    slug = _slug(component.decode("utf-8", "surrogateescape"))
    return f"_{slug}" if _RESERVED.match(slug) else slug


def _folder_slug(component: bytes) -> str:
    slug = _path_slug(component)
    # No folder may look like an episode: in some stores an episode is a folder.
    return f"{slug}_" if _HASH_TAIL.search(slug) else slug
