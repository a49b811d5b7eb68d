"""A dataset that was prepared for its shards: by its token each knows that it has the right disk.

A shard that finds no dataset cannot tell whether it is the first or on a host without the disk.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from contextlib import suppress
from pathlib import Path

from builder.core.errors import ConfigError, HostError
from builder.dataset import locks
from builder.stores.atomic import publish_text
from builder.stores.filesystem import filesystem_type

# Logs lie there: nothing of a dataset depends on it, and it is left out of what is published.
_TOKEN = Path("runs", "prepared")
_LENGTH = 16


def token_for(folder: Path) -> str:
    """Return the token of a dataset's folder, made where there is none.  Raises OutputError."""
    if not _token(folder):
        publish_text(folder, folder / _TOKEN, secrets.token_hex(_LENGTH // 2) + "\n", replace=True)
    return _token(folder)


def require_prepared(folder: Path | str, token: str) -> None:
    """Check that this host has the prepared folder before it; nothing is written.

    Network filesystems may show a folder late, so this waits a while.  Raises HostError naming
    the host, and ConfigError for what is no token.
    """
    folder = Path(folder)
    if len(token) != _LENGTH or not token.isalnum():
        raise ConfigError(
            f"--prepared takes the token that the same build with --prepare printed, got {token!r}"
        )
    until = time.monotonic() + locks.SHARED_SECONDS
    while (found := _token(folder)) != token:
        if time.monotonic() >= until:
            there = "was prepared with another token" if found else "was not prepared"
            there = f"the dataset there {there}" if folder.is_dir() else "there is no such folder"
            raise HostError(
                f"{platform.node()} does not have the prepared output: {folder} ({there}; on "
                f"{_filesystem(folder)}). It must be one disk, at the same path on every host: "
                "mount it there, or leave that host out; nothing was written"
            )
        with suppress(OSError):
            os.listdir(folder.parent)  # makes network filesystems look again
        time.sleep(0.5)


def creates(folder: Path) -> str:
    """Say where a shard creates a dataset that nobody prepared."""
    return (
        f"this shard creates {folder}, on {platform.node()}, on {_filesystem(folder)}: all shards "
        "must write to this one disk; --prepare and --prepared make sure of it"
    )


def _filesystem(folder: Path) -> str:
    kind = filesystem_type(folder)
    return f"a filesystem of type {kind}" if kind else "an unknown filesystem"


def _token(folder: Path) -> str:
    try:
        with (folder / _TOKEN).open("rb") as file:
            return file.read(100).decode(errors="replace").strip()
    except OSError:
        return ""
