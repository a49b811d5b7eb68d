"""LIBERO: ``<suite>/<task>_demo.hdf5``; its pictures are stored upside-down."""

import re
from pathlib import Path
from typing import ClassVar

from builder.core.paths import safe_text
from builder.inputs.hdf5 import SafeHdf5
from builder.sources.kinds.hdf5_demos import DemoLayout, Demos, DemosConfig

_SCENE = re.compile(r"^[A-Z][A-Z0-9_]*SCENE\d+_")


class LiberoConfig(DemosConfig):
    """Settings of the ``libero`` source.

    Pictures are flipped vertically by default.  Some pipelines turn them by 180 degrees
    instead (``orientation: rot180``); a policy must see what its data saw.
    """


class Libero(Demos):
    """Demonstrations of LIBERO; the instruction is read from the file name."""

    Config: ClassVar = LiberoConfig
    layout: ClassVar = DemoLayout(image_suffix="_rgb", orientation="vflip")

    def task(self, relative: str) -> str:
        """Return the task: ``KITCHEN_SCENE3_turn_on_the_stove`` of ``..._demo.hdf5``."""
        return Path(relative).stem.removesuffix("_demo")

    def text(self, file: SafeHdf5, relative: str) -> str | None:
        """Return the task in words, without its scene."""
        return safe_text(_SCENE.sub("", self.task(relative)).replace("_", " "))
