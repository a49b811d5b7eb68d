"""The guide "Add a source" is run as a reader would."""

import importlib
import re

import numpy as np
import pytest

from builder.core.errors import SourceError


@pytest.fixture
def blocks(root, tmp_path, monkeypatch):
    text = (root / "docs" / "guides" / "add-a-source.md").read_text(encoding="utf-8")
    found = re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "stacks.py").write_text(found[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield found
    importlib.sys.modules.pop("stacks", None)


def test_the_guide_runs_and_its_source_conforms(blocks):
    assert len(blocks) == 2
    exec(compile(blocks[1], "add-a-source.md", "exec"), {})


def test_the_source_takes_forty_lines_of_code(blocks):
    body = [
        line
        for line in blocks[0].splitlines()
        if line.strip() and not line.startswith(("from", "import"))
    ]
    assert len(body) <= 40


def test_changed_actions_are_noticed(blocks, tmp_path):
    stacks = importlib.import_module("stacks")
    exec(compile(blocks[1], "add-a-source.md", "exec"), {})
    [ref] = stacks.Stacks("data").refs()
    for root in ("data", "data/one.npy"):
        with stacks.Stacks(root).open(ref) as episode:
            assert [*episode.arrays] == (["actions"] if root == "data" else [])
            assert {*episode.files} >= {"one.npy"}
            assert len(episode.files) == 1 + len(episode.arrays)


def test_the_source_refuses_what_is_no_stack(blocks, tmp_path):
    stacks = importlib.import_module("stacks")
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "x.npy", np.zeros((3, 4)))
    source = stacks.Stacks(tmp_path / "data")
    [ref] = source.refs()
    with pytest.raises(SourceError, match=r"x\.npy: expected \(T, H, W, 3\)"):
        source.open(ref).__enter__()
