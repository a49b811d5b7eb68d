"""What a run of a build records about itself; never part of any digest."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# What can change numbers or speed.
_PACKAGES = ("letterset", "numpy", "h5py", "av", "opencv-python-headless", "opencv-python", "torch")


def run_facts() -> dict[str, Any]:
    """Return versions and host of this run, as JSON data."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "host": platform.node(), "platform": platform.platform()}
