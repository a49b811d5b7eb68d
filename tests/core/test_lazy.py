"""Names that load when asked for, and modules that moved."""

import importlib
import sys

import pytest

import builder
from builder.core.lazy import lazy_names

pytestmark = pytest.mark.core


def test_every_module_that_moved_imports_under_its_old_name_with_a_warning():
    assert builder._MOVED
    for old, new in builder._MOVED.items():
        if new == "builder.inputs.video":
            pytest.importorskip("av")
        sys.modules.pop(old, None)
        try:
            with pytest.warns(DeprecationWarning, match=rf"^{old} is now {new}$"):
                moved = importlib.import_module(old)
            assert moved is importlib.import_module(new)
        finally:
            sys.modules.pop(old, None)


@pytest.mark.parametrize(
    ("module", "names"),
    {
        "builder.errors": ["SourceError", "DatasetError"],
        "builder.records": ["stored_form"],
        "builder.sources.base": ["BaseSource", "Episode", "EpisodeRef", "StreamInfo"],
        "builder.sources.listing": ["files", "locate"],
        "builder.sources.provenance": ["fingerprints"],
        "builder.sources.select": ["Selection"],
        "builder.sources.sidecars": ["read_npy"],
        "builder.sources.streams": ["BlockStream", "even_times"],
        "builder.splits": ["hash_splits", "read_splits", "write_splits"],
        "builder.stores.base": ["arrays_by_view"],
        "builder.stores.layout": ["stored_dtype"],
        "builder.stores.reading": ["FileReader"],
        "builder.stores.trees": ["fsync_tree"],
        "builder.stores.writing": ["FileStore", "FileWriter"],
        "builder.windows": ["WindowedTracker"],
    }.items(),
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_docs_of_the_first_release_import_is_still_there(module, names):
    found = importlib.import_module(module)
    assert [name for name in names if not hasattr(found, name)] == []


def test_names_load_when_they_are_asked_for(tmp_path):
    door = tmp_path / "__init__.py"
    door.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from collections.abc import Mapping as Mapping\n"
        "    from no_such_module_ import gone as gone\n"
    )
    get, names, exported = lazy_names(__name__, str(door))
    assert exported == ["Mapping", "gone"]
    assert {"Mapping", "gone", "__name__"} <= {*names()}
    assert "test_names_load_when_they_are_asked_for" not in names()  # what it is made with
    assert get("Mapping").__module__ == "collections.abc"
    with pytest.raises(AttributeError, match=r"has no attribute 'other'$"):
        get("other")
    with pytest.raises(AttributeError, match=r"'Maping' \(did you mean 'Mapping'\?\)"):
        get("Maping")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_"):
        get("gone")
