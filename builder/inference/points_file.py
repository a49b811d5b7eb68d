"""Reading and writing points and geometries for the command line: data, never code."""

import io
import json
import sys
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.core.errors import ConfigError
from builder.core.messages import explain
from schemas.dataset import EpisodeMeta
from schemas.geometry import Geometry
from schemas.inference import InferenceMeta

FORMS = ("npy", "npz", "csv", "json")

# What json and numpy raise for data that are something else, or damaged.
_NO_POINTS = (
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    OSError,
    EOFError,
    KeyError,
    BadZipFile,
)


def read_points(name: str) -> tuple[np.ndarray, str]:
    """Read points (..., 2) from a file, or from standard input for ``-``.

    Returns them as float64 (float32 arrays stay float32) and the form they came in.
    Raises ConfigError naming the file and what was expected.
    """
    if name == "-":
        data = sys.stdin.buffer.read()
        form = "json" if data.lstrip()[:1] in (b"[", b"{", b'"') else "csv"
    else:
        form = _form(name)
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the points: {error}") from None
    try:
        points = _parse(data, form)
    except _NO_POINTS as error:
        raise ConfigError(
            f"{name} holds no points as {form}: {error}; expected numbers of shape (..., 2)"
        ) from None
    if points.dtype.kind not in "iuf" or points.ndim == 0 or points.shape[-1] != 2:
        raise ConfigError(
            f"{name}: points are numbers of shape (..., 2), got {points.dtype} {points.shape}"
        )
    return points, form


def _parse(data: bytes, form: str) -> np.ndarray:
    if form == "json":
        return np.asarray(json.loads(data), dtype=np.float64)
    if form == "csv":
        lines = data.decode("utf-8").splitlines()
        # A heading such as "x,y" is allowed; 1e+00 and inf are numbers.
        heading = bool(lines) and not any(map(_is_number, lines[0].split(",")))
        return np.loadtxt(lines[heading:], delimiter=",", ndmin=2, dtype=np.float64)
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if form == "npy":
        return np.asarray(loaded)
    if "points" not in loaded and len(loaded.files) != 1:
        raise ValueError(f"expected one array, or one named 'points', got {loaded.files}")
    return np.asarray(loaded["points" if "points" in loaded else loaded.files[0]])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_points(points: np.ndarray, name: str | None, form: str) -> None:
    """Write points to a file, its suffix deciding the form; to standard output for None.

    On standard output binary forms become JSON.  Raises ConfigError.
    """
    if name is None:
        form = "json" if form in ("npy", "npz") else form
        sys.stdout.buffer.write(_format(points, form))
        sys.stdout.flush()
        return
    try:
        Path(name).write_bytes(_format(points, _form(name)))
    except OSError as error:
        raise ConfigError(f"cannot write the points: {error}") from None


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
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read a geometry from {path}: {error}") from None
    model: Any = Geometry
    if isinstance(data, dict) and "views" in data:
        model = InferenceMeta if "color_order" in data else EpisodeMeta
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    try:
        return adapter.validate_json(json.dumps(data))
    except ValidationError as error:
        raise ConfigError(f"{path} is no valid geometry: {explain(error)}") from None
