"""Backends by kind: imported when used, extensible through entry points.

Another package adds a backend with an entry point in the group ``letterset.<part>``, for
example ``[project.entry-points."letterset.trackers"] mine = "my_package:MyTracker"``.
A backend class has a ``Config`` model (a ``schemas.base.Record``) for its own settings.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from builder.errors import ConfigError, MissingExtraError
from schemas.config import Part

BUILTIN: dict[str, dict[str, str]] = {
    "sources": {
        "atm": "builder.sources.atm:Atm",
        "bridge": "builder.sources.bridge:Bridge",
        "diffusion_policy": "builder.sources.diffusion_policy:DiffusionPolicy",
        "droid": "builder.sources.droid:Droid",
        "episodes": "builder.sources.episode_folders:EpisodeFolders",
        "images": "builder.sources.image_folders:ImageFolders",
        "lerobot": "builder.sources.lerobot:LeRobot",
        "libero": "builder.sources.libero:Libero",
        "robomimic": "builder.sources.robomimic:Robomimic",
        "something_something": "builder.sources.something_something:SomethingSomething",
        "tapvid": "builder.sources.tapvid:TapVid",
        "video": "builder.sources.video_files:VideoFiles",
    },
    "trackers": {
        "cotracker": "builder.trackers.cotracker:CoTracker",
        "dis": "builder.trackers.dis:DisTracker",
        "lk": "builder.trackers.lk:LkTracker",
        "none": "builder.trackers.none:NoTracker",
        "precomputed": "builder.trackers.precomputed:Precomputed",
    },
    "stores": {
        "hdf5": "builder.stores.hdf5:Hdf5Store",
        "zarr": "builder.stores.zarr:ZarrStore",
    },
    "executors": {
        "serial": "builder.executors.processes:Serial",
        "processes": "builder.executors.processes:Processes",
        "ray": "builder.executors.ray_cluster:RayCluster",
    },
}

# Which extra brings an optional module.
EXTRA_OF = {
    **dict.fromkeys(("av", "cv2", "hdf5plugin", "rich"), "build"),
    "scipy": "torch",
    "pyarrow": "lerobot",
    **dict.fromkeys(("numcodecs", "google_crc32c"), "zarr"),
    **{name: name for name in ("zarr", "torch", "ray", "rerun")},
}


def kinds(part: str) -> list[str]:
    """List the kinds there are of ``sources``, ``trackers``, ``stores`` or ``executors``."""
    return sorted({*BUILTIN[part], *(entry.name for entry in _entry_points(part))})


def backend(part: str, kind: str) -> Any:
    """Import and return the class of one backend.

    Raises ConfigError for an unknown kind and MissingExtraError for a missing package.
    """
    target = BUILTIN[part].get(kind)
    try:
        if target is not None:
            module, _, name = target.partition(":")
            return getattr(import_module(module), name)
        for entry in _entry_points(part):
            if entry.name == kind:
                return entry.load()
    except ModuleNotFoundError as error:
        raise_missing_extra(error)
    raise ConfigError(
        f"unknown {part[:-1]} kind {kind!r}{near(kind, kinds(part))}; "
        f"there are {', '.join(kinds(part))}"
    )


def configure(part: str, envelope: Part) -> tuple[Any, Any]:
    """Return a backend's class and its validated own config for an envelope.

    Raises ConfigError naming the key.
    """
    found = backend(part, envelope.kind)
    try:
        return found, found.Config.model_validate(envelope.settings)
    except ValidationError as error:
        known = [*type(envelope).model_fields, *found.Config.model_fields]
        raise ConfigError(explain(error, prefix=part[:-1], known=known)) from None


def raise_missing_extra(error: ModuleNotFoundError) -> None:
    """Raise MissingExtraError for a missing optional package, the error itself for another."""
    module = (error.name or "").partition(".")[0]
    if module in EXTRA_OF:
        raise MissingExtraError(module, EXTRA_OF[module]) from None
    raise error


def explain(error: ValidationError, prefix: str = "", known: list[str] | None = None) -> str:
    """Put a validation error into sentences: where, what was got, what was expected."""
    lines = []
    for item in error.errors(include_url=False):
        parts = [str(part) for part in (prefix, *item["loc"]) if part != ""]
        where = ".".join(part for part in parts if "[" not in part)  # a type tried in a union
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            lines.append(f"{where}: unknown key{near(key, known or [])}")
        elif item["type"] == "missing":
            lines.append(f"{where}: this must be given")
        else:
            # A tuple is a list to those who write YAML or JSON.
            message = item["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
            lines.append(f"{where}: {message[0].lower()}{message[1:]}, got {item['input']!r:.200}")
    return "; ".join(lines)


def near(word: str, known: list[str]) -> str:
    """Suggest the nearest known word, as the tail of a sentence; empty when none is near."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _entry_points(part: str) -> Any:
    return entry_points(group=f"letterset.{part}")
