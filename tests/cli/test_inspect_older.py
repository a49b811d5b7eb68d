"""``letterset inspect`` of a folder of older track files."""

import json

import pytest
from legacy_fixtures import write_amplify, write_atm

from builder.cli import main


def test_older_files_are_shown_with_what_is_known_of_their_size(tmp_path, capsys):
    for name, shape, attrs in (
        ("land", (480, 854), True),
        ("none", (480, 854), False),
        ("port", (854, 480), True),
        ("root", (480, 480), "/root"),
    ):
        write_amplify(tmp_path / f"{name}.hdf5", {"default": shape}, older=True, attrs=attrs)
    (tmp_path / "bad.hdf5").write_bytes(b"?")
    assert main(["inspect", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "track files, for letterset doctor and migrate" in text
    for word in (
        "FAILED bad.hdf5",
        "note: land.hdf5, default: query points cover 56% of the width",
        "note: none.hdf5, default: the query grid tells that the frames were 480 high",
        "note: port.hdf5, default: 8 of 16 query points",
        "note: root.hdf5, default: height and width are attributes of root, not of root/default",
    ):
        assert word in text
    assert main(["inspect", str(tmp_path), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["views"]
    assert [row["tracked"] for row in rows] == ["480 x 854", "unknown", "854 x 480", "480 x 480"]


@pytest.mark.parametrize("argv", [["--kind", "video"], ["source.frame_step=2"]])
def test_settings_of_a_source_are_none_of_older_files(tmp_path, capsys, argv):
    write_amplify(tmp_path / "a.hdf5", {"default": (480, 854)}, older=True)
    assert main(["inspect", str(tmp_path), *argv]) == 3
    assert capsys.readouterr().out == ""


def test_atm_files_are_a_source(tmp_path, capsys):
    write_atm(tmp_path / "a.hdf5")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "atm" in capsys.readouterr().out


def test_a_doctor_is_next_not_a_preview(tmp_path, capsys):
    write_amplify(tmp_path / "a.hdf5", {"default": (480, 854)}, older=True)
    assert main(["inspect", str(tmp_path)]) == 0
    assert f"next: letterset doctor {tmp_path} --img-shape H W" in capsys.readouterr().out


def test_a_damaged_file_alone_is_not_called_an_older_one(tmp_path, capsys):
    write_amplify(tmp_path / "a.hdf5", {"default": (480, 854)}, older=True)
    whole = (tmp_path / "a.hdf5").read_bytes()
    (tmp_path / "a.hdf5").write_bytes(whole[: len(whole) // 2])
    assert main(["inspect", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "track files" not in said.out
    assert "a.hdf5: not a whole HDF5 file; get the file again" in said.err
