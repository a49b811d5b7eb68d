"""Backends by kind: imported when used, extensible through entry points.

Another package adds a backend with an entry point in the group ``letterset.<part>``, for
example ``[project.entry-points."letterset.trackers"] mine = "my_package:MyTracker"``.
A backend class has a ``Config`` model (a ``schemas.base.Record``) for its own settings.
A plug-in that cannot be imported is an error where it is asked for, and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from builder.core.errors import ConfigError, MissingExtraError
from builder.core.explain import dotted_keys, explain
from builder.core.messages import near
from schemas.config import BuildConfig, Part

B = TypeVar("B")

BUILTIN: dict[str, dict[str, str]] = {
    "sources": {
        "aloha": "builder.sources.kinds.aloha:Aloha",
        "atm": "builder.sources.kinds.atm:Atm",
        "bridge": "builder.sources.kinds.bridge:Bridge",
        "diffusion_policy": "builder.sources.kinds.diffusion_policy:DiffusionPolicy",
        "droid": "builder.sources.kinds.droid:Droid",
        "episodes": "builder.sources.kinds.episode_folders:EpisodeFolders",
        "images": "builder.sources.kinds.image_folders:ImageFolders",
        "lerobot": "builder.sources.kinds.lerobot:LeRobot",
        "libero": "builder.sources.kinds.libero:Libero",
        "rlds": "builder.sources.kinds.rlds:Rlds",
        "robomimic": "builder.sources.kinds.robomimic:Robomimic",
        "something_something": "builder.sources.kinds.something_something:SomethingSomething",
        "tapvid": "builder.sources.kinds.tapvid:TapVid",
        "video": "builder.sources.kinds.video_files:VideoFiles",
    },
    "trackers": {
        "callable": "builder.trackers.kinds.callable:CallableTracker",
        "cotracker": "builder.trackers.kinds.cotracker:CoTracker",
        "dis": "builder.trackers.kinds.dis:DisTracker",
        "lk": "builder.trackers.kinds.lk:LkTracker",
        "none": "builder.trackers.kinds.none:NoTracker",
        "precomputed": "builder.trackers.kinds.precomputed:Precomputed",
    },
    "stores": {
        "hdf5": "builder.stores.kinds.hdf5:Hdf5Store",
        "zarr": "builder.stores.kinds.zarr:ZarrStore",
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
    "scenedetect": "scenes",
    **dict.fromkeys(("numcodecs", "google_crc32c"), "zarr"),
    **{name: name for name in ("zarr", "torch", "ray", "rerun")},
}


@dataclass(frozen=True)
class Backends(Generic[B]):
    """The backends of one part of a config; ``B`` is the protocol or base class of each.

    ``part`` is ``sources``, ``trackers``, ``stores`` or ``executors``; ``base`` is what a class
    has to inherit from, if anything.
    """

    part: str
    base: type | None = None

    def kinds(self) -> list[str]:
        """List the kinds there are, without importing any."""
        return sorted({*BUILTIN[self.part], *self._plugins()})

    def plugins(self) -> list[str]:
        """List the kinds that other packages add."""
        return sorted(self._plugins())

    def load(self, kind: str) -> Callable[..., B]:
        """Import and return the class of one backend.

        Raises ConfigError for an unknown kind and for a plug-in that cannot be imported, and
        MissingExtraError for a missing package.
        """
        plugins = self._plugins()
        try:
            if target := BUILTIN[self.part].get(kind):
                module, _, name = target.partition(":")
                found: Callable[..., B] = getattr(import_module(module), name)
                return found
            if kind in plugins:
                return _load_plugin(plugins[kind], f"{self.part[:-1]}.kind")
        except ModuleNotFoundError as error:
            raise_missing_extra(error)
        part, there = self.part[:-1], self.kinds()
        raise ConfigError(
            f"{part}.kind: unknown {part} kind {kind!r}{near(kind, there)}; "
            f"there are {', '.join(there)}"
        )

    def configure(self, envelope: Part) -> tuple[Callable[..., B], Any]:
        """Return a backend's class and its validated own config for an envelope.

        Raises ConfigError naming the key, and what :meth:`load` raises.
        """
        found: Any = self.load(envelope.kind)
        if self.base is not None:
            require_base(found, self.base, f"{self.part[:-1]} {envelope.kind!r}")
        try:
            return found, found.Config.model_validate(envelope.settings)
        except ValidationError as error:
            raise ConfigError(explain(error, found.Config, self.part[:-1], config_keys)) from None

    def _plugins(self) -> dict[str, EntryPoint]:
        found = entry_points(group=f"letterset.{self.part}")
        return {entry.name: entry for entry in found if entry.name not in BUILTIN[self.part]}


def config_keys() -> dict[str, list[str]]:
    """Return the dotted keys of a build config, with the kinds that alone have a setting.

    No kinds for what every config has.  Kinds that cannot be imported here are left out.
    """
    found: dict[str, list[str]] = {key: [] for key in dotted_keys(BuildConfig)}
    for part in BUILTIN:
        backends: Backends[Any] = Backends(part)
        own: dict[str, list[str]] = {}
        loaded = 0
        for kind in backends.kinds():
            try:
                config: Any = getattr(backends.load(kind), "Config", None)
            except ConfigError:
                continue
            loaded += 1
            for key in dotted_keys(config, part[:-1]):
                own.setdefault(key, []).append(kind)
        found |= {key: kinds if len(kinds) < loaded else [] for key, kinds in own.items()}
    return found


def _load_plugin(entry: EntryPoint, key: str) -> Any:
    """Import a plug-in's class; whatever its module raises becomes a ConfigError."""
    package = entry.dist.name if entry.dist else "its package"
    try:
        found = entry.load()
        if not issubclass(found.Config, BaseModel):
            raise TypeError(f"{entry.attr}.Config is no pydantic model")
        return found
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _top(error) in EXTRA_OF:
            raise  # ours to install
        raise ConfigError(
            f"the plug-in {entry.name!r} of {entry.group} ({entry.value}, from {package}) cannot "
            f"be imported: {type(error).__name__}: {error}; upgrade or uninstall {package}, or "
            f"choose another {key}"
        ) from error


def require_base(found: type, base: type, what: str) -> None:
    """Raise ConfigError unless a class, maybe of another package, inherits from ``base``."""
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"{what}: {found.__module__}.{found.__qualname__} must inherit from "
            f"{base.__module__}.{base.__name__}"
        )


def import_extra(module: str) -> Any:
    """Import an optional package, or a module of one; raises MissingExtraError."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise_missing_extra(error)


def raise_missing_extra(error: ModuleNotFoundError) -> NoReturn:
    """Raise MissingExtraError for a missing optional package, the error itself for another."""
    module = _top(error)
    if module in EXTRA_OF:
        raise MissingExtraError(module, EXTRA_OF[module]) from None
    raise error


def _top(error: ModuleNotFoundError) -> str:
    return (error.name or "").partition(".")[0]
