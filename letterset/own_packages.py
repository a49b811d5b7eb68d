"""Loads ``schemas`` and ``builder`` of letterset, whatever else bears these names.

Both names are common.  A folder ``schemas`` beside a user's script comes before ours on
``sys.path``; so ours are loaded from beside this package, by their place, before anything can
find another.  Needs the standard library alone.
"""

import multiprocessing
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent
# The first words of each: another distribution may have put its own files into ours.
PACKAGES = {"schemas": "Schemas of letterset", "builder": "Builds, reads and checks letterbox"}
CURE = "rename yours, or use letterset in a process of its own"


def load_own_packages() -> None:
    """Load our packages under their names.

    Warns of a package that they hide.  Raises ImportError, naming the file and what to do, when
    another of the name is imported already, or lies in the place of ours.
    """
    for name in PACKAGES:
        there = sys.modules.get(name)
        if there is None:
            _load(name)
        elif (file := _place(there)) != _own(name):
            raise ImportError(
                f"letterset has a package named {name!r}, and {file} was imported by that name "
                f"before it: {CURE}",
                name=name,
            )


def _own(name: str) -> Path:
    return FOLDER / name / "__init__.py"


def _place(module: ModuleType) -> Path:
    """Return the file of a module, or the folder of one without a file."""
    folder = next(iter(getattr(module, "__path__", [])), "a module without a file")
    return Path(getattr(module, "__file__", None) or folder).resolve()


def _load(name: str) -> None:
    found = PathFinder.find_spec(name)
    spec = spec_from_file_location(name, _own(name))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not (module.__doc__ or "").startswith(PACKAGES[name]):
            raise ImportError("it is not letterset's")
    except (ImportError, OSError) as error:
        del sys.modules[name]
        if isinstance(error, ModuleNotFoundError):  # what ours need is not installed
            raise
        raise ImportError(
            f"{_own(name)}: {error}; another package that has files named {name!r} was installed "
            "over letterset: install letterset again, in an environment without that package",
            name=name,
        ) from error
    is_child = multiprocessing.parent_process() is not None
    if found and found.origin and Path(found.origin).resolve() != _own(name) and not is_child:
        warnings.warn(
            f"letterset has a package named {name!r} and hides {found.origin} in this process; "
            f"if your code imports it: {CURE}",
            stacklevel=4,
        )


class InOwnPackages:
    """A function of ours by name, for a child process that may find another ``builder`` first."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.module, self.name = function.__module__, function.__qualname__

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return getattr(import_module(self.module), self.name)(*args)
