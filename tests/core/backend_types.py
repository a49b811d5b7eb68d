"""Every built-in backend as the type of its part: mypy reads this file, nothing runs it.

A backend that lacks a method of its protocol, or has another signature, is an error here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder.build.executors.base import Executor
from builder.build.executors.kinds.processes import Processes, Serial
from builder.build.executors.kinds.ray_cluster import RayCluster
from builder.sources.base import Source
from builder.sources.kinds.atm import Atm
from builder.sources.kinds.bridge import Bridge
from builder.sources.kinds.diffusion_policy import DiffusionPolicy
from builder.sources.kinds.droid import Droid
from builder.sources.kinds.episode_folders import EpisodeFolders
from builder.sources.kinds.image_folders import ImageFolders
from builder.sources.kinds.lerobot import LeRobot
from builder.sources.kinds.libero import Libero
from builder.sources.kinds.robomimic import Robomimic
from builder.sources.kinds.something_something import SomethingSomething
from builder.sources.kinds.tapvid import TapVid
from builder.sources.kinds.video_files import VideoFiles
from builder.stores.base import Store
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.trackers.base import Tracker
from builder.trackers.kinds.cotracker import CoTracker
from builder.trackers.kinds.dis import DisTracker
from builder.trackers.kinds.lk import LkTracker
from builder.trackers.kinds.none import NoTracker
from builder.trackers.kinds.precomputed import Precomputed
from schemas.config import Limits

SOURCES: dict[str, Callable[[Path, Any, Limits], Source]] = {
    "atm": Atm,
    "bridge": Bridge,
    "diffusion_policy": DiffusionPolicy,
    "droid": Droid,
    "episodes": EpisodeFolders,
    "images": ImageFolders,
    "lerobot": LeRobot,
    "libero": Libero,
    "robomimic": Robomimic,
    "something_something": SomethingSomething,
    "tapvid": TapVid,
    "video": VideoFiles,
}
TRACKERS: dict[str, Callable[[Any], Tracker]] = {
    "cotracker": CoTracker,
    "dis": DisTracker,
    "lk": LkTracker,
    "none": NoTracker,
    "precomputed": Precomputed,
}
STORES: dict[str, Callable[[Path], Store]] = {"hdf5": Hdf5Store, "zarr": ZarrStore}
EXECUTORS: dict[str, Callable[[Any, int | None, float], Executor]] = {
    "serial": Serial,
    "processes": Processes,
    "ray": RayCluster,
}
