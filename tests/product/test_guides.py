"""The guides "Add a tracker" and "Add a store" are run as a reader would."""

import importlib
import re
import resource
import sys
from contextlib import contextmanager

import pytest

from builder.core.errors import MissingExtraError, OutputError
from builder.core.registry import BUILTIN
from builder.testing.samples import Sample
from builder.testing.trackers import check_follows_motion


def _blocks(root, page):
    text = (root / "docs" / "guides" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def save(root, tmp_path, monkeypatch):
    """Save the first block of a page as a module; returns the module and the second block."""
    saved = []

    def save(page, module):
        code, proof = _blocks(root, page)
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        saved.append(module)
        return importlib.import_module(module), proof

    yield save
    for module in saved:
        sys.modules.pop(module, None)


def test_the_tracker_of_the_guide_conforms(save):
    _, proof = save("add-a-tracker", "shift")
    exec(compile(proof, "add-a-tracker.md", "exec"), {})


def test_a_tracker_off_by_a_pixel_would_be_noticed(save):
    module, _ = save("add-a-tracker", "shift")

    class Off(module.Shift):
        def track(self, clips, queries_xy):
            return [(xy + 1, vis, conf) for xy, vis, conf in super().track(clips, queries_xy)]

    with pytest.raises(AssertionError, match="followed"):
        check_follows_motion(Off)


def test_the_store_of_the_guide_conforms(save):
    _, proof = save("add-a-store", "npy_store")
    exec(compile(proof, "add-a-store.md", "exec"), {"__name__": "__main__"})


@contextmanager
def small_files():
    """No file can grow over 100 bytes: the nearest thing to a full disk that needs no disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_stops_the_store_of_the_guide_by_name(save, tmp_path):
    store = save("add-a-store", "npy_store")[0].NpyStore(tmp_path / "out")
    with pytest.raises(OutputError, match=r"cannot write .*a: File too large"), small_files():
        Sample("a").build(store)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_both_are_known_once_their_entry_points_are(root):
    for page, part in (("add-a-tracker", "trackers"), ("add-a-store", "stores")):
        text = (root / "docs" / "guides" / f"{page}.md").read_text(encoding="utf-8")
        assert f'[project.entry-points."letterset.{part}"]' in text
        assert part in BUILTIN


def test_the_training_set_without_torch_says_what_to_install(monkeypatch):
    import builder.training

    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [each for each in sys.modules if each.startswith("builder.training.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match="torch"):
        builder.training.WindowDataset  # noqa: B018
