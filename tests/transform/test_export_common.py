"""A damaged episode gets into no other form: it is listed, and the others are exported."""

from __future__ import annotations

import ast
import json
import pickle
import re

import h5py
import pytest

from builder.cli import main
from builder.core.errors import DatasetError, SourceError
from builder.core.paths import printable_path
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing import samples
from builder.testing.samples import Sample, sample_dataset, sample_meta
from builder.transform.embed import embed
from builder.transform.export.card import dataset_card
from builder.transform.export.inference import inference_meta
from builder.transform.export.tapvid import export_tapvid
from schemas import QuerySpec

TARGETS = ("inference", "amplify", "amplify-attrs", "card", "lerobot", "tapvid")


def flip(path, array):
    """Change one bit of an array."""
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        data[file[array].id.get_offset()] ^= 1
    path.write_bytes(data)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three sound episodes, as every target takes them."""
    monkeypatch.setattr(samples, "QUERIES", QuerySpec(grid=(2, 2)))
    given = [Sample(key, seed=seed, length=5 + seed) for seed, key in enumerate("abc")]
    sample_dataset(tmp_path / "in", Hdf5Store(tmp_path / "in"), given)
    return tmp_path / "in"


def exported(folder, to, out="out"):
    return main(["export", str(folder), str(folder.parent / out), "--to", to])


@pytest.mark.parametrize("to", TARGETS)
def test_damaged_episodes_are_listed_and_the_others_exported(folder, capsys, to):
    if to == "lerobot":
        pytest.importorskip("pyarrow")
    path = Hdf5Store(folder).path
    flip(path("b"), "root/actions")
    path("c").write_bytes(b"no episode")
    assert exported(folder, to) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"FAILED c: {path('c')}")
    assert f"FAILED b: {path('b')} is damaged: actions: its bytes changed" in said[1]
    assert said[2].startswith("wrote ")
    out = folder.parent / "out"
    if to == "tapvid":
        assert {name[0] for name in pickle.loads(out.read_bytes())} == {"a"}
    elif to == "inference":
        assert json.loads(out.read_text())["stats"]["actions"]["count"] == 5
    elif to == "card":
        assert "1 episode, 5 frames" in out.read_text()
    else:
        listed = json.loads((out / "letterset.json").read_text())["episodes"]
        assert ["a"] == ([e["id"] for e in listed] if to == "lerobot" else [*listed.values()])


@pytest.mark.parametrize("to", TARGETS)
def test_nothing_is_written_when_all_are_damaged(folder, capsys, to):
    if to == "lerobot":
        pytest.importorskip("pyarrow")
    for key in "abc":
        flip(Hdf5Store(folder).path(key), "root/actions")
    assert exported(folder, to) == 3
    said = capsys.readouterr()
    assert said.out.count("FAILED ") == 3
    assert "no episode is left to export; run letterset repair" in said.err
    assert not (folder.parent / "out").exists()


def test_damaged_pictures_tracks_and_embeddings_are_found(folder, capsys):
    embed(folder, f"{__name__}:letters")
    flip(Hdf5Store(folder).path("a"), "root/front/frames")
    flip(Hdf5Store(folder).path("b"), "root/wrist/vis")
    flip(folder / "layers" / "text_emb" / "c.hdf5", "root/text_emb")
    assert exported(folder, "tapvid") == 1
    said = capsys.readouterr().out
    assert "FAILED a: " in said
    assert "front/frames: its bytes changed" in said
    assert "FAILED b: " in said
    assert "wrist/vis: its bytes changed" in said
    assert exported(folder, "inference", "meta.json") == 0  # it takes nothing of these
    assert exported(folder, "amplify", "tree") == 3
    assert "FAILED c: " in capsys.readouterr().out


def letters(text):
    """An encoder."""
    return [float(len(text))]


def test_in_python_they_are_refused_unless_there_is_a_place_to_list_them(folder):
    dataset, out = open_dataset(folder), folder.parent / "clips.pkl"
    flip(Hdf5Store(folder).path("b"), "root/actions")
    for export in (
        lambda **how: export_tapvid(dataset, out, **how),
        lambda **how: inference_meta(dataset, **how),
        lambda **how: dataset_card(dataset, **how),
    ):
        with pytest.raises(DatasetError, match=r"1 episode of .* is\s+b: .* give failures=\{\}"):
            export()
        assert not out.exists()
        failures: dict[str, str] = {}
        export(failures=failures)
        assert [*failures] == ["b"]
        out.unlink(missing_ok=True)
    assert len(dataset) == 3


def test_what_cannot_be_exported_at_all_is_told_before_arrays_are_read(folder, capsys):
    for key in "abc":
        flip(Hdf5Store(folder).path(key), "root/actions")
    assert (
        main(["export", str(folder), str(folder.parent / "x"), "--to", "tapvid", "--views", "top"])
        == 2
    )
    assert "has no view 'top'" in capsys.readouterr().err
    with pytest.raises(SourceError):
        export_tapvid(open_dataset(folder), folder.parent / "x", failures={})


def test_a_card_holds_no_markup_of_others(tmp_path):
    hostile = "<img src=x onerror=alert(1)>\n# [click](javascript:1) `code` \x1b[2J *bold* &lt;"
    folder = tmp_path / 'a"b)\n```<b>\x1b]0;x\x07'
    tracker = sample_meta().tracker.model_copy(
        update=dict.fromkeys(("name", "version", "licence"), hostile)
        | {"settings": {"note": hostile}}
    )
    with DatasetWriter.create(folder, sample_meta(tracker=tracker)) as catalog:
        catalog.add(index_line(Sample("a").build(Hdf5Store(folder))))
    card = dataset_card(open_dataset(folder))
    body = card.partition("---\n\n")[2].partition("## Reading it")[0].replace("`failures/`", "")
    assert not re.search(r"(?<!\\)[<\[`&*]", body)
    assert "\x1b" not in card
    assert "\x07" not in card
    assert [line for line in card.splitlines() if line.startswith("# ")] == [
        line for line in card.splitlines() if line.startswith("# a")
    ]
    code = card.partition("```python\n")[2].partition("```\n")[0]
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert call.args[0].value == printable_path(folder.name)
