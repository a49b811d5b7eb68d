"""Reading and writing points and geometries for the command line: data, never code."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.core.errors import ConfigError
from builder.core.explain import explain
from builder.inputs.listing import read_small, regular_file
from builder.inputs.numpy_files import array_names, open_archive, read_member, read_numbers
from builder.stores.atomic import output_errors
from schemas.base import strict_json
from schemas.dataset import EpisodeMeta
from schemas.geometry import Geometry
from schemas.inference import InferenceMeta

FORMS = ("npy", "npz", "csv", "json")
MAX_BYTES = 1 << 30
"""Of an array of points, and of a text that holds them."""

FAR = 2.0
"""Points this far out in [-1, 1] are half a picture outside of it: perhaps of another space."""

# What a heading calls the horizontal axis and the vertical one, alone or beside a unit.
_AXES = {"x": "x", "col": "x", "column": "x", "c": "x", "u": "x"}
_AXES |= {"y": "y", "row": "y", "r": "y", "v": "y"}
_SAYS: dict[tuple[str | None, ...], str] = {("x", "y"): "xy", ("y", "x"): "rc"}
_ORDERS = {"xy": "xy", "uv": "xy", "rc": "rc", "yx": "rc"}
# Axes in the name of an array: its single letters may be anything.
_LONG_AXES = {word: axis for word, axis in _AXES.items() if len(word) > 1 or word in "xy"}
_UNITS = {"norm": "norm", "normalized": "norm", "normalised": "norm"}
_UNITS |= {"px": "img", "pixel": "img", "pixels": "img"}

ORDER_SHARE = 0.1
"""Share of pixels outside of the picture that are asked about where the other order has none."""
_ORDER_MARGIN = 0.05


class _Said(NamedTuple):
    """What a heading, or the name of an array, says of its points; None where it says nothing."""

    order: str | None = None
    space: str | None = None


def read_points(name: str, order: str, space: str | None = None) -> tuple[np.ndarray, str]:
    """Read points (..., 2) from a file, or from standard input for ``-``.

    Returns them as float64 (float32 arrays stay float32) and the form they came in.  ``order`` is
    xy or rc, of each point, ``space`` norm or img.  Raises ConfigError naming the file and what was
    expected, also where a heading, or the name of an array, says another order or space.
    """
    form = "stdin" if name == "-" else _form(name)
    try:
        if form in ("npy", "npz"):
            points, said = _read_binary(Path(name), form)
        else:
            text = _text(name)
            if form == "stdin":
                form = "json" if text.lstrip()[:1] in ("[", "{", '"') else "csv"
            points, said = (_parse_json if form == "json" else _parse_csv)(text)
    except Exception as error:  # whatever parsers raise for what others wrote
        where = "standard input" if name == "-" else name
        raise ConfigError(
            f"{where} holds no points as {form}: {error}; expected numbers of shape (..., 2)"
        ) from None
    if points.dtype.kind not in "iuf" or points.ndim == 0 or points.shape[-1] != 2:
        raise ConfigError(
            f"{name}: points are numbers of shape (..., 2), got {points.dtype} {points.shape}"
        )
    if said.order not in (None, order):
        raise ConfigError(
            f"{name} says that its points are {said.order} (xy: x y, rc: row col), --order says "
            f"{order}; give --order {said.order}, or correct the heading or name"
        )
    if space is not None and said.space not in (None, space):
        raise ConfigError(
            f"{name} says that its points are {said.space} (norm: [-1, 1], img: pixels of "
            f"img_shape), --space says {space}; give --space {said.space}, or correct the heading "
            f"or name"
        )
    return points, form


def _text(name: str) -> str:
    if name == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
    else:
        data = read_small(Path(name), MAX_BYTES)
    return data.decode("utf-8-sig")


def _read_binary(path: Path, form: str) -> tuple[np.ndarray, _Said]:
    regular_file(path)
    if form == "npy":
        with path.open("rb") as stream:
            return read_numbers(stream, MAX_BYTES), _Said()
    with open_archive(path) as archive:
        names = array_names(archive)
        # Others may lie beside it: visibility, for example.
        likely = [each for each in names if each == "points"] or [
            each for each in names if len(names) == 1 or _name_says(each).order
        ]
        if len(likely) != 1:
            raise ValueError(
                f"expected one array, or one named 'points', or with xy or rc in its name, got "
                f"{names[:10]}"
            )
        return read_member(archive, likely[0], MAX_BYTES), _name_says(likely[0])


def _name_says(name: str) -> _Said:
    """Return what the name of an array says, such as ``pred_rc``, ``YX`` or ``row_col_px``."""
    words = _words(name)
    orders = {_ORDERS[word] for word in words if word in _ORDERS}
    axes = tuple(_LONG_AXES[word] for word in words if word in _LONG_AXES)
    orders |= {_SAYS[axes]} if axes in _SAYS else set()
    return _Said(orders.pop() if len(orders) == 1 else None, _unit(words))


def _words(name: str) -> list[str]:
    return [word for word in re.split("[^a-z]+", name.lower()) if word]


def _unit(words: list[str]) -> str | None:
    spaces = {_UNITS[word] for word in words if word in _UNITS}
    return spaces.pop() if len(spaces) == 1 else None


def _parse_json(text: str) -> tuple[np.ndarray, _Said]:
    try:
        found = np.asarray(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno} is no JSON ({error.msg.lower()})") from None
    except ValueError:
        raise ValueError("its lists are not of one length") from None
    if found.dtype.kind == "O" and all(isinstance(each, int | float | None) for each in found.flat):
        found = found.astype(np.float64)  # null is a missing number
    if found.dtype.kind not in "iuf":
        raise ValueError("there is something else than numbers in it")
    return found.astype(np.float64), _Said()


def _parse_csv(text: str) -> tuple[np.ndarray, _Said]:
    lines = [line for line in text.splitlines() if line.strip()]
    # NumPy writes a heading as a comment, but not every comment is one.
    while lines and lines[0].startswith("#") and len(_cells(lines[0])) != 2:
        del lines[0]
    words = _cells(lines[0]) if lines else []
    said = _Said()
    if words and not any(map(_is_number, words)):
        order = _SAYS.get(tuple(map(_axis, words)))
        if order is None:
            axes = {_axis(word) for word in words}
            more = "; keep the columns x and y alone" if axes > {"x", "y"} else ""
            if all(_is_number(word.replace(",", ".")) for word in words):
                more = "; numbers need a decimal point"
            raise ValueError(
                f"its first line is {lines[0]!r:.80}, neither numbers nor a heading that is known: "
                f"x,y or row,col, parted by commas, semicolons or tabs{more}"
            )
        said = _Said(order, _unit([part for word in words for part in _words(word)]))
        del lines[0]
    if not lines:
        raise ValueError("there are no numbers")
    points = []
    for line in lines:
        if not (before := line.partition("#")[0]).strip():
            continue
        cells = _cells(before)
        if not (len(cells) == 2 and all(map(_is_number, cells))):
            raise ValueError(f"got the line {line!r:.80}, expected two numbers, as in 0.5,-0.25")
        points.append([float(cell) for cell in cells])
    return np.array(points, np.float64).reshape(-1, 2), said


def _cells(line: str) -> list[str]:
    """Split a line of a table at the rarest sign that it has: a semicolon, a tab, a comma."""
    sign = next((each for each in ";\t" if each in line), ",")
    return [cell.strip(" \t\"'#") for cell in line.split(sign)]


def _axis(word: str) -> str | None:
    """Return the axis that a heading such as ``x``, ``pred_x`` or ``row [px]`` is of."""
    axes = {_AXES[part] for part in _words(word) if part in _AXES}
    return axes.pop() if len(axes) == 1 else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def check_space(points_xy: np.ndarray, space: str, img_shape: tuple[int, int]) -> None:
    """Ask, as a ConfigError, about points that look as if they were of the other space.

    Those are normalized points half a picture and more outside of it, or pixels that all lie
    within 1 of the corner, or half a picture and more outside of it.
    """
    finite_xy = points_xy[np.isfinite(points_xy).all(axis=-1)].astype(np.float64)
    if not finite_xy.any():
        return  # none, or all at 0, which is a place in both
    norm = finite_xy if space == "norm" else 2 * finite_xy / img_shape[::-1] - 1
    far = (np.abs(norm) > FAR).any(axis=-1)
    if far.any():
        why = (
            f"{far.sum()} of {far.size} points lie more than half a picture outside of it, the "
            f"farthest at {np.abs(norm).max():.6g} where the picture is [-1, 1]"
        )
    elif space == "img" and np.abs(finite_xy).max() <= 1:
        why = "all points lie within a pixel of the corner, as normalized ones would"
    else:
        return
    other = "img" if space == "norm" else "norm"
    raise ConfigError(
        f"--space {space}, but {why}. Are they of the other space? Then give --space {other}; if "
        f"they really lie there, give --far-outside"
    )


def check_order(points_xy: np.ndarray, order: str, img_shape: tuple[int, int]) -> None:
    """Ask, as a ConfigError, about pixels that lie in the picture only in the other order.

    A few that leave it are ordinary; ``ORDER_SHARE`` of them are not.
    """
    finite_xy = points_xy[np.isfinite(points_xy).all(axis=-1)].astype(np.float64)
    size_xy = np.array(img_shape[::-1], np.float64)

    def outside(points: np.ndarray, margin: float) -> np.ndarray:
        return np.asarray(
            ((points < -margin * size_xy) | (points > (1 + margin) * size_xy)).any(axis=-1)
        )

    far = outside(finite_xy, _ORDER_MARGIN)
    if not far.size or far.mean() < ORDER_SHARE or outside(finite_xy[..., ::-1], 0).any():
        return
    other = "rc" if order == "xy" else "xy"
    raise ConfigError(
        f"--order {order}, but {far.sum()} of {far.size} points lie outside of the picture of "
        f"{img_shape[0]} x {img_shape[1]} (H x W), and none do in the other order. Are they "
        f"{other} (xy: x y, rc: row col)? Then give --order {other}; if they really lie there, "
        f"give --far-outside"
    )


def write_points(points: np.ndarray, name: str | None, form: str) -> None:
    """Write points to a file, its suffix deciding the form; to standard output for None.

    On standard output binary forms become JSON.  Raises ConfigError and OutputError.
    """
    if name is None:
        form = "json" if form in ("npy", "npz") else form
        sys.stdout.buffer.write(_format(points, form))
        sys.stdout.flush()
        return
    data = _format(points, _form(name))
    with output_errors(Path(name)):
        Path(name).write_bytes(data)


def _format(points: np.ndarray, form: str) -> bytes:
    if form == "json":
        return (json.dumps(points.tolist()) + "\n").encode()
    buffer = io.BytesIO()
    if form == "csv":
        np.savetxt(
            buffer, points.reshape(-1, 2), delimiter=",", fmt="%.17g", header="x,y", comments=""
        )
    elif form == "npy":
        np.save(buffer, points)
    else:
        np.savez(buffer, points=points)
    return buffer.getvalue()


def _form(name: str) -> str:
    form = Path(name).suffix.lstrip(".").lower()
    if form not in FORMS:
        raise ConfigError(f"{name}: points are kept as {', '.join('.' + form for form in FORMS)}")
    return form


def read_geometry(path: Path) -> Any:
    """Read a geometry, an episode's metadata or an InferenceMeta from JSON; raises ConfigError."""
    try:
        text = path.read_bytes()
        data = strict_json(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read a geometry from {path}: {error}") from None
    model: Any = Geometry
    if not isinstance(data, dict) or not data.keys() & {"kind", "views"}:
        got = (
            f"the keys {', '.join(sorted(data)[:8])}" if isinstance(data, dict) else f"{data!r:.40}"
        )
        raise ConfigError(
            f"{path} holds no geometry: expected what letterset export --to inference wrote, an "
            f"episode's metadata, a Letterbox or a Stretch, got {got}; of a dataset give the folder"
        )
    if "views" in data:
        model = InferenceMeta if "color_order" in data else EpisodeMeta
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{path} is no valid geometry: {explain(error, model)}") from None
