"""Backends by kind: plug-ins of other packages, also broken ones, which stop nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from builder.build.executors.base import EXECUTORS
from builder.core.errors import ConfigError, DatasetError, MissingExtraError
from builder.core.registry import BUILTIN, Backends
from builder.dataset.folder import store_at
from builder.dataset.opening import open_dataset
from builder.sources.base import SOURCES
from builder.stores.base import PLACES, STORES
from builder.testing.samples import Sample, sample_dataset
from builder.trackers.base import TRACKERS
from schemas.base import Record
from schemas.config import ExecutorPart, SourcePart, TrackerPart

pytestmark = pytest.mark.core

PARTS = list(BUILTIN)
PLUGINS = {
    "absent": "there_is_no_such_module:Thing",
    "broken": "broken_plugin:Thing",  # its import raises an error of its own
    "leaving": "leaving_plugin:Thing",  # or ends the process
    "nameless": "good_plugin:Missing",
    "unset": "good_plugin:Unset",  # has no Config
}
MODULES = {
    "broken_plugin": "raise RuntimeError('no license server')",
    "leaving_plugin": "import sys\nsys.exit('bye')",
    "good_plugin": (
        "from builder.stores.kinds.hdf5 import Hdf5Store\n"
        "class Good(Hdf5Store):\n    place = 'episodes.good'\n"
        "class Unset:\n    pass\n"
    ),
}


def install(site, entries):
    """Install a package of plug-ins, ``entries`` by part, in the folder ``site``."""
    info = site / "sad_plugins-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sad-plugins\nVersion: 1.0\n")
    lines = []
    for part, kinds in entries.items():
        lines += [f"[letterset.{part}]", *(f"{kind} = {value}" for kind, value in kinds.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, text in MODULES.items():
        (site / f"{name}.py").write_text(text)
    return site


@pytest.fixture
def broken_site(tmp_path, monkeypatch):
    """Every part has broken plug-ins."""
    site = install(tmp_path / "site", dict.fromkeys(PARTS, PLUGINS))
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in MODULES:
        sys.modules.pop(name, None)


def letterset(site, *args):
    """Run the command where the plug-ins are installed."""
    path = os.pathsep.join([str(ROOT), str(site)])
    return subprocess.run(
        [sys.executable, "-m", "builder.cli", *map(str, args)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", PLUGINS)
def test_a_broken_plugin_that_is_asked_for_is_named_with_its_package(part, kind, broken_site):
    with pytest.raises(ConfigError) as caught:
        Backends(part).load(kind)
    said = str(caught.value)
    assert f"the plug-in {kind!r} of letterset.{part} ({PLUGINS[kind]}, from sad-plugins)" in said
    assert "upgrade or uninstall sad-plugins, or choose another" in said
    assert f"{part[:-1]}.kind" in said
    if kind == "broken":
        assert "RuntimeError: no license server" in said


@pytest.mark.parametrize("part", PARTS)
def test_broken_plugins_hide_no_kind_and_no_typing_error(part, broken_site):
    backends = Backends(part)
    assert backends.plugins() == sorted(PLUGINS)
    assert backends.kinds() == sorted({*PLUGINS, *BUILTIN[part]})
    with pytest.raises(ConfigError, match=r"unknown .* kind 'brokem'.*did you mean 'broken'"):
        backends.load("brokem")


def test_a_plugin_that_lacks_one_of_our_extras_says_which(tmp_path, monkeypatch):
    site = install(tmp_path / "site", {"trackers": {"mine": "needs_torch:Thing"}})
    (site / "needs_torch.py").write_text("import torch")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"letterset\[torch\]"):
        Backends("trackers").load("mine")


def test_a_plugin_never_takes_the_place_of_a_builtin_kind(tmp_path, monkeypatch):
    site = install(tmp_path / "site", {"stores": {"hdf5": PLUGINS["broken"]}})
    monkeypatch.syspath_prepend(str(site))
    assert STORES.plugins() == []
    assert STORES.load("hdf5").__name__ == "Hdf5Store"


def test_settings_are_checked_by_the_plugins_own_model(tmp_path, monkeypatch):
    site = install(tmp_path / "site", {"trackers": {"mine": "own_tracker:Mine"}})
    (site / "own_tracker.py").write_text(
        "from schemas.base import Record\n"
        "class Mine:\n    class Config(Record):\n        speed: int\n"
    )
    monkeypatch.syspath_prepend(str(site))
    made, own = Backends("trackers").configure(TrackerPart(kind="mine", speed=3))
    assert (made.__name__, own.speed) == ("Mine", 3)
    assert isinstance(own, Record)
    with pytest.raises(
        ConfigError, match=r"tracker.sped: unknown key \(did you mean 'tracker.speed'\?\)"
    ):
        Backends("trackers").configure(TrackerPart(kind="mine", sped=3))
    sys.modules.pop("own_tracker")


def test_a_builtin_module_that_is_broken_is_our_bug(monkeypatch):
    monkeypatch.setitem(BUILTIN["sources"], "ours", "builder.there_is_no_such_module:Thing")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        Backends("sources").configure(SourcePart(kind="ours", path="."))


# Datasets beside broken plug-ins.


def test_the_declared_places_are_those_of_the_stores():
    assert set(PLACES) == set(BUILTIN["stores"])
    for kind, place in PLACES.items():
        assert STORES.load(kind).place == place


def test_looking_for_a_builtin_store_imports_no_plugin(tmp_path, broken_site):
    sample_dataset(tmp_path / "out", STORES.load("hdf5")(tmp_path / "out"), [Sample("a")])
    assert store_at(tmp_path / "out").place == "episodes"
    assert "broken_plugin" not in sys.modules


def test_a_plugin_store_is_found_beside_broken_ones(tmp_path, monkeypatch):
    kinds = {**PLUGINS, "zz_good": "good_plugin:Good"}
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", {"stores": kinds})))
    out = tmp_path / "out"
    sample_dataset(out, STORES.load("zz_good")(out), [Sample("a")])
    assert (out / "episodes.good" / "a.hdf5").is_file()
    assert open_dataset(out)["a"].meta.id == "a"


def test_a_dataset_whose_store_cannot_be_imported_says_which(tmp_path, broken_site):
    out = tmp_path / "out"
    out.mkdir()
    assert store_at(out).place == "episodes"  # nothing is lost in a new dataset
    sample_dataset(out, STORES.load("hdf5")(out), [Sample("a")])
    (out / "episodes").rename(out / "episodes.odd")
    with pytest.raises(DatasetError, match=r"lists episodes, but .*'broken' of letterset.stores"):
        store_at(out)


def test_every_verb_works_beside_broken_plugins(tmp_path):
    """The command in a process of its own: help, reading and recognizing."""
    site = install(tmp_path / "site", dict.fromkeys(PARTS, PLUGINS))
    out = tmp_path / "out"
    sample_dataset(out, STORES.load("hdf5")(out), [Sample("a")])
    for args in (
        ["--help"], ["init", "--help"], ["inspect", "--help"], ["build", "--help"],
        ["validate", out], ["status", out],
    ):  # fmt: skip
        done = letterset(site, *args)
        assert done.returncode == 0, done.stderr
        assert "plug-in" not in done.stdout + done.stderr


@pytest.mark.parametrize("part", PARTS)
def test_a_build_with_a_broken_plugin_is_refused_by_its_name(part, tmp_path):
    pytest.importorskip("av")
    site = install(tmp_path / "site", dict.fromkeys(PARTS, PLUGINS))
    (tmp_path / "videos").mkdir()
    kinds = [f"{part[:-1]}.kind=broken", *(["source.kind=video"] if part != "sources" else [])]
    done = letterset(
        site, "build", "--source", tmp_path / "videos", "--out", tmp_path / "out",
        "--img-shape", "64", "96", *kinds,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "RuntimeError: no license server" in done.stderr
    assert "sad-plugins" in done.stderr
    assert not Path(tmp_path / "out").exists()


class Bare:
    """A backend that inherits from nothing."""

    class Config(Record):
        pass


@pytest.mark.parametrize(
    ("backends", "part"),
    [
        (SOURCES, SourcePart(kind="bare", path=".")),
        (TRACKERS, TrackerPart(kind="bare")),
        (EXECUTORS, ExecutorPart(kind="bare")),
    ],
)
def test_a_backend_without_its_base_is_refused_by_name(monkeypatch, backends, part):
    monkeypatch.setitem(BUILTIN[backends.part], "bare", f"{__name__}:Bare")
    name = backends.part[:-1]
    words = rf"{name} 'bare': {__name__}\.Bare must inherit from builder\.\S*\.{name.title()}$"
    with pytest.raises(ConfigError, match=words):
        backends.configure(part)


# How the product constructs a backend of each part.
TYPES = {
    "sources": "Callable[[Path, Any, Limits], Source]",
    "trackers": "Callable[[Any], Tracker]",
    "stores": "Callable[[Path], Store]",
    "executors": "Callable[[Any, int | None, float], Executor]",
}
TYPED = """
from collections.abc import Callable
from pathlib import Path
from typing import Any
from builder.build.executors.base import Executor
from builder.sources.base import Source
from builder.stores.base import Store
from builder.trackers.base import Tracker
from schemas.config import Limits
"""


def type_errors(place, targets):
    """Let the type checker compare classes, ``module:name`` by part, with their protocol."""
    api = pytest.importorskip("mypy.api")
    lines = [TYPED]
    for at, (part, target) in enumerate(targets):
        module, _, name = target.partition(":")
        lines += [f"from {module} import {name} as B{at}", f"b{at}: {TYPES[part]} = B{at}"]
    place.write_text("\n".join(lines))
    out, error, code = api.run(["--config-file", str(ROOT / "pyproject.toml"), str(place)])
    assert code in (0, 1), error
    return [line for line in out.splitlines() if "error:" in line]


def test_every_builtin_backend_keeps_its_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    builtin = [(part, target) for part in BUILTIN for target in BUILTIN[part].values()]
    assert type_errors(tmp_path / "good.py", builtin) == []
    wrong = [("trackers", BUILTIN["stores"]["hdf5"])]
    assert "Tracker" in type_errors(tmp_path / "wrong.py", wrong)[0]
