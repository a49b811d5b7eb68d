"""``letterset decode``: points in and out as files, through a stored geometry."""

from __future__ import annotations

import io
import json
import re
import sys

import numpy as np
import pytest

from builder.cli import main
from builder.core.errors import ConfigError
from builder.inference.points_file import read_geometry, read_points
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from schemas import Letterbox, swap_xy
from schemas.inference import Decoder

BOX = Letterbox.fit(source_shape=(480, 854), img_shape=(180, 320), sample_aspect_ratio=(4, 3))
POINTS_XY = np.array([[[0.0, 0.0], [853.25, 12.5]], [[400.0, 479.0], [1.0, -2.0]]])


@pytest.fixture
def geometry(tmp_path):
    path = tmp_path / "box.json"
    path.write_text(BOX.model_dump_json())
    return str(path)


def save(path, points, heading="x,y"):
    if path.suffix == ".npy":
        np.save(path, points)
    elif path.suffix == ".npz":
        np.savez(path, points=points)
    elif path.suffix == ".json":
        path.write_text(json.dumps(points.tolist()))
    else:
        np.savetxt(path, points.reshape(-1, 2), delimiter=",", header=heading, comments="")
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
    given, heading = (swap_xy(encoded), "row,col") if order == "rc" else (encoded, "x,y")
    points = save(tmp_path / f"in.{form}", given, heading)
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
        ("a.json", b'[["1", "2"]]', "something else than numbers"),
        ("a.json", b"[[true, false]]", "something else than numbers"),
        ("a.csv", b"frame,x\n1,2\n", "'frame,x', neither numbers nor a heading"),
        ("a.csv", b"# frame,x\n1,2\n", "neither numbers nor a heading"),
        ("a.csv", b"x,x\n1,2\n", "neither numbers nor a heading"),
        ("a.csv", b"1.0.0,2-\n1,2\n", "neither numbers nor a heading"),
        ("a.csv", b"y,x\n1,2\n", "says that its points are rc"),
        ("a.csv", b"# row,col\n1,2\n", "give --order rc"),
        ("a.csv", b"", "there are no numbers; expected numbers of shape"),
        ("a.csv", b"0.1 0.2\n", "neither numbers nor a heading"),
        (
            "a.csv",
            b"1,2\n0.1 0.2\n",
            "got the line '0.1 0.2', expected two numbers, as in 0.5,-0.2",
        ),
        ("a.csv", b"1,2,3\n", "got the line '1,2,3', expected two numbers"),
        ("a.json", b"[[1, 2], [3]]", "its lists are not of one length"),
        ("a.json", b"[[1, 2", "line 1 is no JSON"),
        ("a.csv", b'"pred_row", "pred_col"\n1,2\n', "give --order rc"),
        ("a.csv", b"x,y\n", "there are no numbers"),
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
    points, _ = read_points(str(path), "xy")
    assert points.shape == (2, 2)


def test_points_that_numpy_wrote_all_come_back(tmp_path):
    np.savetxt(tmp_path / "points.csv", POINTS_XY.reshape(-1, 2), delimiter=",")
    points, _ = read_points(str(tmp_path / "points.csv"), "xy")
    np.testing.assert_array_equal(points, POINTS_XY.reshape(-1, 2))


def test_a_geometry_that_is_nested_without_end_is_refused(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json"):
        read_geometry(tmp_path / "deep.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOX.model_dump_json()[:-1] + ',"kind":"letterbox"}', "the key 'kind' is there twice"),
        (BOX.model_dump_json().replace('"top"', '"left"'), "the key 'left' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 300 + "]" * 300, "geometry"),
    ],
)
def test_a_geometry_with_a_key_twice_or_without_an_end_is_refused(tmp_path, text, says):
    path = tmp_path / "box.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"box\.json.*{says}|{says}.*box\.json"):
        read_geometry(path)
    with pytest.raises(ValueError, match=r"box\.json is not what letterset export"):
        Decoder.load(path)


@pytest.mark.parametrize("heading", ["x,y", "# x,y", "col,row", "pred_x,pred_y", "x (px);", "u,v"])
def test_headings_that_say_the_order_asked_for(tmp_path, heading):
    path = tmp_path / "points.csv"
    path.write_text(f"\ufeff{heading}\n4,5\n".replace("x (px);", "X [px],Y [px]"))
    points, _ = read_points(str(path), "xy")
    np.testing.assert_array_equal(points, [[4, 5]])


def test_a_byte_order_mark_costs_no_point(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("\ufeff1,2\n3,4\n")
    np.testing.assert_array_equal(read_points(str(path), "rc")[0], [[1, 2], [3, 4]])


def test_a_comment_is_no_heading_and_null_is_missing(tmp_path):
    (tmp_path / "a.csv").write_text("# made yesterday\n# by me\n# x,y\n1,2\n# a note\n")
    assert read_points(str(tmp_path / "a.csv"), "xy")[0].shape == (1, 2)
    (tmp_path / "a.json").write_text("[[null, 2]]")
    np.testing.assert_array_equal(read_points(str(tmp_path / "a.json"), "xy")[0], [[np.nan, 2]])


def test_the_name_of_an_array_says_its_order(tmp_path):
    np.savez(tmp_path / "a.npz", tracks_rc=np.zeros((3, 2)))
    assert read_points(str(tmp_path / "a.npz"), "rc")[0].shape == (3, 2)
    with pytest.raises(ConfigError, match="give --order rc"):
        read_points(str(tmp_path / "a.npz"), "xy")


@pytest.mark.parametrize(
    ("space", "points", "asked"),
    [
        ("norm", [[0.5, -0.25], [160.0, 90.0]], "1 of 2 points lie more than half a picture"),
        ("norm", [[5.0, 7.0]], "Then give --space img"),
        ("img", [[0.5, -0.25], [-1.0, 1.0]], "within a pixel of the corner"),
        ("img", [[600.0, 90.0]], "Then give --space norm"),
        ("norm", [[1.2, -1.9], [np.nan, 300.0]], None),
        ("img", [[-100.0, 260.0], [0.5, 0.5]], None),
        ("img", [[0.0, 0.0]], None),
        ("img", [], None),
    ],
)
def test_points_of_the_other_space_are_asked_about(
    tmp_path, capsys, geometry, space, points, asked
):
    path = save(tmp_path / "in.npy", np.array(points, np.float32).reshape(-1, 2))
    argv = ["decode", path, "--geometry", geometry, "--order", "xy", "--space", space]
    assert main(argv) == (2 if asked else 0)
    if asked:
        assert asked in capsys.readouterr().err
    assert main([*argv, "--far-outside"]) == 0


@pytest.mark.parametrize(
    ("name", "order", "space"),
    [
        ("RC", "rc", None), ("yx", "rc", None), ("t_yx", "rc", None), ("rc_points", "rc", None),
        ("row_col", "rc", None), ("pred_xy_norm", "xy", "norm"), ("points_px", None, "img"),
        ("x_y", "xy", None), ("colours", None, None), ("max_arc", None, None),
    ],
)  # fmt: skip
def test_names_of_arrays_that_say_an_order_or_a_space(tmp_path, name, order, space):
    path = tmp_path / "a.npz"
    np.savez(path, **{name: np.full((3, 2), 0.5)})
    for given in ("xy", "rc"):
        for where in ("norm", "img"):
            if order in (None, given) and space in (None, where):
                assert read_points(str(path), given, where)[0].shape == (3, 2)
            else:
                with pytest.raises(ConfigError, match=r"a\.npz says that its points are"):
                    read_points(str(path), given, where)


def test_an_array_that_says_its_order_is_found_among_others(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, points_rc=np.zeros((3, 2)), vis=np.ones((3, 2)))
    assert read_points(str(path), "rc")[0].max() == 0
    np.savez(path, points_rc=np.zeros((3, 2)), points_xy=np.ones((3, 2)))
    with pytest.raises(ConfigError, match=r"got \['points_rc', 'points_xy'\]"):
        read_points(str(path), "rc")


@pytest.mark.parametrize(
    ("heading", "space"),
    [("x_px,y_px", "img"), ("x [pixels],y [pixels]", "img"), ("x_norm,y_norm", "norm")],
)
def test_the_unit_of_a_heading_is_no_other_than_asked_for(tmp_path, heading, space):
    path = tmp_path / "a.csv"
    path.write_text(f"{heading}\n0.5,2\n")
    assert read_points(str(path), "xy", space)[0].shape == (1, 2)
    with pytest.raises(ConfigError, match=f"give --space {space}, or correct the heading"):
        read_points(str(path), "xy", "img" if space == "norm" else "norm")


@pytest.mark.parametrize(
    "text", ["x;y\n.5;-2\n", ".5\t-2", '"x","y"\n".5","-2"\n', "# x;y\n.5;-2", "Y;X\n-2;.5"]
)
def test_tables_are_parted_by_semicolons_and_tabs_too(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    order = "rc" if text[0] == "Y" else "xy"
    points, _ = read_points(str(path), order)
    np.testing.assert_array_equal(points, [[0.5, -2] if order == "xy" else [-2, 0.5]])


def test_decimal_commas_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("0,5;0,7\n1,5;2,5\n")
    with pytest.raises(ConfigError, match=r"known: .*; numbers need a decimal point"):
        read_points(str(path), "xy")


def test_columns_beside_the_points_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("frame,x,y\n0,1,2\n")
    with pytest.raises(ConfigError, match="keep the columns x and y alone"):
        read_points(str(tmp_path / "a.csv"), "xy")


@pytest.mark.parametrize(
    ("order", "points", "asked"),
    [
        ("rc", [[300.0, 100.0], [20.0, 170.0]], "1 of 2 points lie outside .* give --order xy"),
        ("xy", [[100.0, 300.0], [170.0, 20.0]], "1 of 2 points lie outside .* give --order rc"),
        ("xy", [[300.0, 100.0], [20.0, 170.0]], None),
        ("xy", [[100.0, 185.0]], None),  # a little outside
        ("xy", [[100.0, 250.0], *[[10.0, 10.0]] * 20], None),  # one that left the picture
        ("xy", [[100.0, 250.0], [310.0, 10.0]], None),  # outside in either order
        ("rc", [[np.nan, 300.0]], None),
    ],
)
def test_pixels_that_lie_in_the_picture_in_the_other_order_are_asked_about(
    tmp_path, capsys, geometry, order, points, asked
):
    path = save(tmp_path / "in.npy", np.array(points))
    argv = ["decode", path, "--geometry", geometry, "--order", order, "--space", "img"]
    assert main(argv) == (2 if asked else 0)
    if asked:
        assert re.search(asked, " ".join(capsys.readouterr().err.split()))
    assert main([*argv, "--far-outside"]) == 0
