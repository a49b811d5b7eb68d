"""LIBERO: ``<suite>/<task>_demo.hdf5``; its pictures are stored upside-down."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from builder.core.paths import safe_text
from builder.inputs.hdf5 import SafeHdf5
from builder.sources.kinds.hdf5_demos import LIBERO_MARK, Demos, DemosConfig, is_libero
from schemas.geometry import Orientation

_SCENE = re.compile(r"^[A-Z][A-Z0-9_]*SCENE\d+_")


class LiberoConfig(DemosConfig):
    """Settings of the ``libero`` source.

    Pictures are flipped vertically by default.  Some pipelines turn them by 180 degrees
    instead (``orientation: rot180``); a policy must see what its data saw.
    """


class Libero(Demos):
    """Demonstrations of LIBERO; the instruction is the file's own, else read from its name."""

    Config: ClassVar = LiberoConfig
    evidence: ClassVar = "demonstrations of LIBERO (problem_info)"

    @classmethod
    def made(cls, file: SafeHdf5) -> bool:
        """Tell whether LIBERO wrote a file."""
        return is_libero(file)

    def orientation(self, file: SafeHdf5) -> tuple[Orientation, str | None]:
        """Return what the file's convention says, else what LIBERO does."""
        turn, why = super().orientation(file)
        if why is not None:
            return turn, why
        known = "LIBERO stores pictures upside-down"
        if is_libero(file):
            return "vflip", f"{known}, and the file's attribute {LIBERO_MARK} is LIBERO's"
        return "vflip", f"{known}; source.kind says that it is LIBERO, the file does not"

    def task(self, relative: str) -> str:
        """Return the task: ``KITCHEN_SCENE3_turn_on_the_stove`` of ``..._demo.hdf5``."""
        return Path(relative).stem.removesuffix("_demo")

    def text(self, file: SafeHdf5, relative: str) -> str | None:
        """Return the file's instruction, else the task in words, without its scene."""
        words: Any = None
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            words = json.loads(file.attr("data", LIBERO_MARK))["language_instruction"]
        # Some files have it as a list of its parts, some in quotes of its own.
        parts = words if isinstance(words, list) else [words]
        text = "".join(part for part in parts if isinstance(part, str)).strip(' "')
        return safe_text(_SCENE.sub("", text or self.task(relative)).replace("_", " "))
