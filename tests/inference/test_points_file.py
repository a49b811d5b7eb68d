"""``letterset decode``: points in and out as files, through a stored geometry."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest

from builder.cli import main
from builder.core.errors import ConfigError
from builder.inference.points_file import read_geometry, read_points
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from schemas import Letterbox, swap_xy

BOX = Letterbox.fit(source_shape=(480, 854), img_shape=(180, 320), sample_aspect_ratio=(4, 3))
POINTS_XY = np.array([[[0.0, 0.0], [853.25, 12.5]], [[400.0, 479.0], [1.0, -2.0]]])


@pytest.fixture
def geometry(tmp_path):
    path = tmp_path / "box.json"
    path.write_text(BOX.model_dump_json())
    return str(path)


def save(path, points):
    if path.suffix == ".npy":
        np.save(path, points)
    elif path.suffix == ".npz":
        np.savez(path, points=points)
    elif path.suffix == ".json":
        path.write_text(json.dumps(points.tolist()))
    else:
        np.savetxt(path, points.reshape(-1, 2), delimiter=",", header="x,y", comments="")
    return str(path)


def load(path):
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        return np.load(path)["points"]
    if path.suffix == ".json":
        return np.array(json.loads(path.read_text()))
    return np.loadtxt(path, delimiter=",", skiprows=1)


@pytest.mark.parametrize("form", ["npy", "npz", "json", "csv"])
@pytest.mark.parametrize("order", ["xy", "rc"])
@pytest.mark.parametrize("space", ["norm", "img"])
def test_every_form_order_and_space(tmp_path, geometry, form, order, space):
    encoded = BOX.encode(POINTS_XY) if space == "norm" else BOX.to_img(POINTS_XY)
    points = save(tmp_path / f"in.{form}", swap_xy(encoded) if order == "rc" else encoded)
    out = tmp_path / f"out.{form}"
    argv = ["decode", points, "--geometry", geometry, "--order", order, "--space", space]
    assert main([*argv, "--out", str(out)]) == 0
    expected = POINTS_XY.reshape(-1, 2) if form == "csv" else POINTS_XY
    np.testing.assert_allclose(load(out), expected, atol=1e-9)


def test_standard_input_and_output(monkeypatch, capsysbinary, geometry):
    stdin = io.TextIOWrapper(io.BytesIO(b"[[-1.0, -1.0], [1.0, 1.0]]"))
    monkeypatch.setattr(sys, "stdin", stdin)
    argv = ["decode", "-", "--geometry", geometry, "--order", "xy", "--space", "norm"]
    assert main(argv) == 0
    got = np.array(json.loads(capsysbinary.readouterr().out))
    np.testing.assert_allclose(got, BOX.decode(np.array([[-1.0, -1.0], [1.0, 1.0]])))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"[[1, 2, 3]]", "shape"),
        ("a.json", b"{not json", "as json"),
        ("a.txt", b"", "are kept as"),
        ("a.npy", b"\x93NUMPY broken", "as npy"),
        ("a.csv", b"x,y\none,two\n", "as csv"),
        ("a.json", b'["a"]', "as json"),
        ("a.json", b'{"points": [[1, 2]]}', "shape (..., 2)"),
        ("a.json", b'[{"x": 1, "y": 2}]', "shape (..., 2)"),
        ("a.json", b"[[1" + b"0" * 400 + b", 2]]", "as json"),
        ("a.json", b"[" * 100_000, "as json"),
        ("a.npz", b"PK\x03\x04 broken", "as npz"),
    ],
)
def test_bad_points_are_named(tmp_path, capsys, geometry, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    argv = ["decode", str(path), "--geometry", geometry, "--order", "xy", "--space", "norm"]
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert name in message
    assert words in message


def test_an_object_on_standard_input_is_json(monkeypatch, capsys, geometry):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"x": 1}')))
    argv = ["decode", "-", "--geometry", geometry, "--order", "xy", "--space", "norm"]
    assert main(argv) == 2
    assert "as json" in capsys.readouterr().err


def test_an_unknown_episode_is_named(tmp_path, capsys):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a")])
    points = save(tmp_path / "in.json", POINTS_XY)
    argv = ["decode", points, "--geometry", str(tmp_path), "--order", "xy", "--space", "img"]
    assert main([*argv, "--episode", "nope", "--view", "front"]) == 2
    assert capsys.readouterr().err == (
        f"letterset decode: no episode 'nope' in {tmp_path}; it has 1, the first is a\n"
    )


def test_pickled_arrays_are_refused(tmp_path, capsys, geometry):
    path = tmp_path / "evil.npy"
    np.save(path, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    argv = ["decode", str(path), "--geometry", geometry, "--order", "xy", "--space", "norm"]
    assert main(argv) == 2
    assert "evil.npy" in capsys.readouterr().err


def test_a_tampered_geometry_is_refused(tmp_path, capsys):
    path = tmp_path / "box.json"
    path.write_text(BOX.model_dump_json().replace('"left":0', '"left":3'))
    points = save(tmp_path / "in.json", POINTS_XY)
    argv = ["decode", points, "--geometry", str(path), "--order", "xy", "--space", "norm"]
    assert main(argv) == 2
    assert "box.json" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["1e+01,2.5e+00", "nan,inf", "-3,NAN", "x,y\n10,2.5"])
def test_a_first_line_of_numbers_is_no_heading(tmp_path, first):
    path = tmp_path / "points.csv"
    path.write_text(f"{first}\n4,5\n")
    points, _ = read_points(str(path))
    assert points.shape == (2, 2)


def test_points_that_numpy_wrote_all_come_back(tmp_path):
    np.savetxt(tmp_path / "points.csv", POINTS_XY.reshape(-1, 2), delimiter=",")
    points, _ = read_points(str(tmp_path / "points.csv"))
    np.testing.assert_array_equal(points, POINTS_XY.reshape(-1, 2))


def test_a_geometry_that_is_nested_without_end_is_refused(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json"):
        read_geometry(tmp_path / "deep.json")
