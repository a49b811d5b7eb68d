"""Backends by kind: imported when used, extensible through entry points.

Another package adds a backend with an entry point in the group ``letterset.<part>``, for
example ``[project.entry-points."letterset.trackers"] mine = "my_package:MyTracker"``.
A backend class has a ``Config`` model (a ``schemas.base.Record``) for its own settings.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from builder.core.errors import ConfigError, MissingExtraError
from builder.core.messages import explain, near
from schemas.config import Part

BUILTIN: dict[str, dict[str, str]] = {
    "sources": {
        "atm": "builder.sources.kinds.atm:Atm",
        "bridge": "builder.sources.kinds.bridge:Bridge",
        "diffusion_policy": "builder.sources.kinds.diffusion_policy:DiffusionPolicy",
        "droid": "builder.sources.kinds.droid:Droid",
        "episodes": "builder.sources.kinds.episode_folders:EpisodeFolders",
        "images": "builder.sources.kinds.image_folders:ImageFolders",
        "lerobot": "builder.sources.kinds.lerobot:LeRobot",
        "libero": "builder.sources.kinds.libero:Libero",
        "robomimic": "builder.sources.kinds.robomimic:Robomimic",
        "something_something": "builder.sources.kinds.something_something:SomethingSomething",
        "tapvid": "builder.sources.kinds.tapvid:TapVid",
        "video": "builder.sources.kinds.video_files:VideoFiles",
    },
    "trackers": {
        "cotracker": "builder.trackers.kinds.cotracker:CoTracker",
        "dis": "builder.trackers.kinds.dis:DisTracker",
        "lk": "builder.trackers.kinds.lk:LkTracker",
        "none": "builder.trackers.kinds.none:NoTracker",
        "precomputed": "builder.trackers.kinds.precomputed.tracker:Precomputed",
    },
    "stores": {
        "hdf5": "builder.stores.kinds.hdf5.store:Hdf5Store",
        "zarr": "builder.stores.kinds.zarr.store:ZarrStore",
    },
    "executors": {
        "serial": "builder.build.executors.kinds.processes:Serial",
        "processes": "builder.build.executors.kinds.processes:Processes",
        "ray": "builder.build.executors.kinds.ray_cluster:RayCluster",
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


def _entry_points(part: str) -> Any:
    return entry_points(group=f"letterset.{part}")
