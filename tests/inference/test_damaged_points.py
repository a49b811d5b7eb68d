"""Damaged and hostile files of points give points, or a sentence; never a traceback."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile

import numpy as np
import pytest

from builder.cli.main import parser
from builder.core.errors import ConfigError
from builder.inference.points_file import FORMS, read_points
from schemas import Letterbox

pytestmark = pytest.mark.core

BOX = Letterbox.fit(source_shape=(480, 854), img_shape=(180, 320))
POINTS = np.linspace(-1, 1, 60).reshape(2, 3, 5, 2)
CASES = 160  # of each form


def as_npy(points):
    buffer = io.BytesIO()
    np.save(buffer, points)
    return buffer.getvalue()


def as_npz(points):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=points)
    return buffer.getvalue()


def as_csv(points):
    buffer = io.BytesIO()
    np.savetxt(buffer, points.reshape(-1, 2), delimiter=",", header="x,y", comments="")
    return buffer.getvalue()


WHOLE = {
    "npy": as_npy(POINTS),
    "npz": as_npz(POINTS),
    "csv": as_csv(POINTS),
    "json": json.dumps(POINTS.tolist()).encode(),
}


def damaged(whole, dice):
    """Damage bytes as disks, networks and editors do, mostly at the front."""
    data = bytearray(whole)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        at = min(int(dice.expovariate(8 / len(data))), len(data) - 1)
        length = dice.choice((1, 1, 2, 8, 64))
        kind = dice.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + length] = dice.randbytes(length)
        elif kind == 2:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 3:
            data[at : at + length] = bytes(length)
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[max(0, at - length) : at] * dice.choice((1, 40))
        else:
            data[at : at + 1] = dice.choice(
                (
                    b"[",
                    b"{",
                    b'"',
                    b"'",
                    b"(",
                    b"-",
                    b"9" * 30,
                    b"e999",
                    b"\xff",
                    b"\n",
                    b"True",
                    b"#",
                )
            )
        data = data or bytearray(b"\0")
    return bytes(data)


@pytest.fixture
def decode(tmp_path):
    """Decode bytes as a form; returns the error's text, or None."""
    (tmp_path / "box.json").write_text(BOX.model_dump_json())
    words = ["decode", "POINTS", "--geometry", str(tmp_path / "box.json"), "--order", "xy"]
    args = parser().parse_args([*words, "--space", "norm", "--out", str(tmp_path / "out.npy")])

    def run(form, data):
        path = tmp_path / f"in.{form}"
        path.write_bytes(data)
        args.points = str(path)
        try:
            assert args.run(args) == 0
        except ConfigError as error:
            return str(error)
        return None

    return run


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_a_sentence(form, decode):
    assert decode(form, WHOLE[form]) is None
    dice, refused = random.Random(f"letterset {form}"), 0
    for _ in range(CASES):
        said = decode(form, damaged(WHOLE[form], dice))
        if said is not None:
            assert f"in.{form}" in said or "--space" in said
            refused += 1
    assert refused > CASES / 4


def header(shape, dtype="<f8", version=1):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def archive(member, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("points.npy", member)
    return buffer.getvalue()


def patched(raw, method):
    """Say in both headers of a zip's only member that it is compressed in another way."""
    at, central = raw.index(b"PK\3\4"), raw.index(b"PK\1\2")
    data = bytearray(raw)
    data[at + 8 : at + 10] = data[central + 10 : central + 12] = struct.pack("<H", method)
    return bytes(data)


LARGE = header((400_000_000, 2))  # 6.4 GB


@pytest.mark.parametrize(
    ("form", "data", "words"),
    [
        ("npy", LARGE + bytes(160), "6400000000 bytes; the limit is"),
        ("npy", header((400_000_000, 2), version=2), "the limit is"),
        ("npy", header((10**30, 2)), "the limit is"),
        ("npy", header((-1, 2)), "the limit is"),
        ("npy", header((5, 2)) + bytes(79), "80 bytes, and holds 79"),
        ("npy", header((1, 2), "|O") + b"cos\nsystem\n.", "object is not plain numbers"),
        ("npy", header((1, 2), "<c16") + bytes(32), "not plain numbers"),
        ("npy", header("(1, 2", "<f8") + bytes(16), "no npy header"),
        ("npy", header("(" * 300 + "1" + ")" * 300), "no npy header"),
        ("npy", b"\x93NUMPY\x03\x00" + header((1, 2))[8:], "of version (3, 0)"),
        ("npy", b"", "no npy header"),
        ("npz", archive(LARGE + bytes(6_000_000)), "6400000000 bytes; the limit is"),
        ("npz", archive(header((5, 2)), zipfile.ZIP_STORED), "80 bytes, and holds 0"),
        ("npz", archive(as_npy(POINTS), zipfile.ZIP_LZMA), "method 14 is refused"),
        ("npz", patched(archive(as_npy(POINTS)), 99), "refused"),
        ("npz", as_npy(POINTS), "no npz archive"),
        ("json", b"[" * 100_000, "as json"),
        ("json", b"[" * 80 + b"1" + b"]" * 80, "as json"),
        ("json", b"[[1, 2], [3]]", "as json"),
        ("json", b"[[1" + b"0" * 5000 + b", 2]]", "as json"),
        ("json", b"\xff\xfe[\0", "as json"),
        ("csv", b"\0\0\0\0", "as csv"),
        ("csv", b"\n\n", "there are no numbers"),
        ("csv", b"1,2\n3\n", "as csv"),
    ],
    # Not the bytes: archives hold the time at which they were made.
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_what_hostile_files_declare_is_believed_by_nobody(decode, form, data, words):
    assert words in (decode(form, data) or "it was decoded")


def test_no_pipe_is_waited_for(tmp_path):
    for form in FORMS:
        os.mkfifo(tmp_path / f"pipe.{form}")
        with pytest.raises(ConfigError, match="not a regular file"):
            read_points(str(tmp_path / f"pipe.{form}"), "xy")
