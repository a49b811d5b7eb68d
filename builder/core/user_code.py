"""Functions of the user's own, named ``module:function``: imported, and told from one another."""

import functools
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from builder.core.errors import ConfigError


class UserFunction(NamedTuple):
    """A function that was found; ``source_sha256`` is of the file that defines it, if any."""

    call: Callable[..., Any]
    source_sha256: str | None


def load_function(name: str, what: str) -> UserFunction:
    """Import ``module:function``, looking into the working folder first, as ``python -m`` does.

    ``what`` names the setting, for errors.  Raises ConfigError when there is no such function.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"{what} is a function: write module:function, got {name!r}")
    try:
        found = _import(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        hint = f"; write {module[:-3]}:{attribute}" if module.endswith(".py") else ""
        raise ConfigError(
            f"{what} is module:function, where Python finds it, got {name!r}: "
            f"{type(error).__name__}: {error}{hint}"
        ) from error
    if not callable(found):
        raise ConfigError(f"{what} {name!r} cannot be called")
    return UserFunction(found, _source_sha256(found))


def as_array(value: Any) -> np.ndarray:
    """Turn what a user's function returned into an array; a torch tensor leaves its device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which numpy does not know
            value = value.float()
    return np.asarray(value)


def _import(module: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # for what the function imports later
    sys.path.insert(0, here)  # as python itself does; the command would not look there
    try:
        importlib.invalidate_caches()
        return importlib.import_module(module)
    finally:
        sys.path.remove(here)


def _source_sha256(function: Any) -> str | None:
    """Hash the file that defines a function; None where there is none to read."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    try:
        path = inspect.getsourcefile(function if hasattr(function, "__code__") else type(function))
        return hashlib.sha256(Path(path or "").read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None
