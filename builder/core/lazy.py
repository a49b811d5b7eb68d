"""Names that a door hands on, and values by name, made when they are first asked for."""

import ast
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

A = TypeVar("A")
V = TypeVar("V")


def lazy_names(
    module: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package that hands names on.

    The names, and the modules they come from, are the imports below ``if TYPE_CHECKING`` in
    ``file``, the package's own.  Asking for a name raises MissingExtraError where what it needs is
    not installed.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    checked = (node for node in tree.body if isinstance(node, ast.If))
    imports = (each for node in checked for each in node.body if isinstance(each, ast.ImportFrom))
    home = {alias.name: str(node.module) for node in imports for alias in node.names}

    def __getattr__(name: str) -> Any:
        if name not in home:
            from builder.core.messages import near

            raise AttributeError(
                f"module {module!r} has no attribute {name!r}{near(name, [*home])}"
            )
        try:
            return getattr(import_module(home[name]), name)
        except ModuleNotFoundError as error:
            from builder.core.registry import raise_missing_extra

            raise_missing_extra(error)

    def __dir__() -> list[str]:
        own = (name for name in vars(sys.modules[module]) if name.startswith("__"))
        return sorted({*own, *home})  # without what the package needs for itself

    return __getattr__, __dir__, sorted(home)


class MovedModules(MetaPathFinder, Loader):
    """Imports modules under the names they had in an earlier release, with a warning."""

    def __init__(self, moved: Mapping[str, str]) -> None:
        self._moved = moved

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that moved; None for any other."""
        return ModuleSpec(name, self) if name in self._moved else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module that it is now in the place of the one asked for."""
        old, new = module.__name__, self._moved[module.__name__]
        warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        sys.modules[old] = import_module(new)


class Lazy(Mapping[str, V]):
    """Values by name; each is made when it is first asked for, and kept.

    Asking for a value raises whatever making it raises, every time.
    """

    def __init__(self, makers: Mapping[str, Callable[[], V]]) -> None:
        self._makers, self._made = dict(makers), dict[str, V]()

    @classmethod
    def of(cls, make: Callable[[A], V], arguments: Mapping[str, A]) -> "Lazy[V]":
        """Return the values that a function makes, each of the argument of its name."""
        return cls({name: partial(make, argument) for name, argument in arguments.items()})

    def __getitem__(self, name: str) -> V:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
