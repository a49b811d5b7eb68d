"""Filter expressions such as ``motion > 1 and vis > 0.5``: parsed, checked, never executed.

They may hold numbers, texts, column names, comparisons (also ``in``), ``and``, ``or``, ``not`` and
``+ - * /``, nothing else of Python.
"""

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from builder.core.errors import ConfigError
from builder.core.messages import near

_MAX_TEXT = 2000
_MAX_DEPTH = 400  # below the interpreter's own limit, which libraries move

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, options: np.isin(value, options),
    ast.NotIn: lambda value, options: ~np.isin(value, options),
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.Not: np.logical_not,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class Expression:
    """A checked expression over named columns: a filter, or a weight."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        """Parse ``text``.  Raises ConfigError naming what is unknown or not allowed in it."""
        self.text = text
        self._known = names
        self.names: set[str] = set()
        if len(text) > _MAX_TEXT:
            raise ConfigError(f"a filter has at most {_MAX_TEXT} characters, got {len(text)}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            self._check(self._tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._error(
                f"cannot be read: {getattr(error, 'msg', error)}; write it like "
                "motion > 1 and vis >= 0.5"
            ) from None

    def mask(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evaluate a filter: columns (n,) in, (n,) bool out.

        Comparisons with NaN are false.  Raises ConfigError for values that cannot be compared.
        """
        found = self._found(columns)
        if found.dtype != np.bool_:
            raise self._error("must be true or false, such as motion > 1")
        return found

    def values(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evaluate a weight: columns (n,) in, (n,) float64 out; true is 1.

        Raises ConfigError when the result is not a number.
        """
        found = self._found(columns)
        if found.dtype.kind not in "biuf":
            raise self._error("must be a number, such as motion * vis")
        return found.astype(np.float64)

    def _found(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = len(next(iter(columns.values())))
        try:
            with np.errstate(all="ignore"):
                found = np.asarray(self._value(self._tree, columns))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._error(f"compares what does not compare: {error}") from None
        return np.broadcast_to(found, (rows,))

    def _check(self, node: ast.AST, depth: int = 0, *, after_in: bool = False) -> None:
        if depth > _MAX_DEPTH:
            raise self._error(f"cannot be read: it is nested more than {_MAX_DEPTH} deep")
        if isinstance(node, ast.Name):
            if node.id not in self._known:
                known = sorted(self._known)
                raise self._error(
                    f"{node.id!r} is unknown{near(node.id, known)}; there are {', '.join(known)}"
                )
            self.names.add(node.id)
            return
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, bool | int | float | str):
                raise self._error(f"{node.value!r} is neither a number nor a text")
            if isinstance(node.value, int) and node.value >= 1 << 63:
                raise self._error("holds a whole number of more than 63 bits")
            return
        if isinstance(node, ast.Compare):
            for op, right in zip(node.ops, node.comparators, strict=True):
                if isinstance(op, ast.In | ast.NotIn) != isinstance(right, ast.Tuple | ast.List):
                    raise self._error("'in' is followed by a list, such as task in ['a', 'b']")
        elif isinstance(node, ast.Tuple | ast.List):
            if not after_in:
                raise self._error(
                    "a list stands behind 'in' only, as the last thing of a comparison, "
                    "such as task in ['a', 'b']"
                )
            if not all(isinstance(item, ast.Constant) for item in node.elts):
                raise self._error("a list holds numbers and texts only")
        elif not isinstance(node, ast.BoolOp | ast.BinOp | ast.UnaryOp):
            raise self._error(f"{ast.unparse(node)!r} is not allowed in a filter")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.operator | ast.unaryop | ast.cmpop | ast.boolop):
                if type(child) not in _OPERATORS:
                    raise self._error(f"{type(child).__name__} is not allowed in a filter")
            elif not isinstance(child, ast.expr_context):
                listed = isinstance(node, ast.Compare) and child is node.comparators[-1]
                self._check(child, depth + 1, after_in=listed)

    def _value(self, node: Any, columns: Mapping[str, np.ndarray]) -> Any:
        if isinstance(node, ast.Name):
            return columns[node.id]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Tuple | ast.List):
            return [item.value for item in node.elts if isinstance(item, ast.Constant)]
        if isinstance(node, ast.UnaryOp):
            return _OPERATORS[type(node.op)](self._value(node.operand, columns))
        if isinstance(node, ast.BinOp):
            left, right = (self._value(side, columns) for side in (node.left, node.right))
            return _OPERATORS[type(node.op)](left, right)
        if isinstance(node, ast.BoolOp):
            found = self._value(node.values[0], columns)
            for part in node.values[1:]:
                found = _OPERATORS[type(node.op)](found, self._value(part, columns))
            return found
        # What is left is a comparison, maybe a chain of them.
        found, left = True, self._value(node.left, columns)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._value(comparator, columns)
            found = np.logical_and(found, _OPERATORS[type(op)](left, right))
            left = right
        return found

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"the filter {self.text[:200]!r}: {message}")
