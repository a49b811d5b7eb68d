"""The house: who may import whom, what loads when, and how long a file may be."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from builder.registry import BUILTIN

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("schemas/**/*.py"), *ROOT.glob("builder/**/*.py")])
SCRIPTS = sorted(ROOT.glob("scripts/*.py"))
HEAVY = ("av", "cv2", "hdf5plugin", "rich", "scipy", "torch", "zarr", "ray", "rerun")

# Lowest first.  Nothing reaches a higher layer, not even through modules that are not named.
LAYERS = [
    {"schemas.base"},
    {"schemas.affine"},
    {"schemas.geometry"},
    {"schemas.dataset", "schemas.legacy"},
    {"schemas.layers"},
    {"schemas.config"},
    {"schemas"},
    {"builder.errors"},
    {"builder.video", "builder.letterbox", "builder.queries", "builder.windows", "backends"},
    {"builder.registry"},
    {"builder.sources.recognize"},
    {"builder.pipeline", "builder.dataset", "builder.sources.guess"},
    {"builder.training", "builder.report"},
    {"builder.cli"},
    {"scripts"},
]
BACKENDS = ("builder.sources.", "builder.trackers.", "builder.stores.", "builder.executors.")


def _module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path) for path in FILES}


def _layer(module):
    """Return a module's rank, None for one that LAYERS does not name."""
    folder = module.rpartition(".")[0]
    for name in (module, folder, "backends" if module.startswith(BACKENDS) else ""):
        for rank, names in enumerate(LAYERS):
            if name in names:
                return rank
    return None


def _imports(path, when_loaded=False):
    """Yield every module a file imports (``when_loaded``: at once), type checkers' left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if when_loaded and isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        else:
            todo.extend(ast.iter_child_nodes(node))


def test_the_house_was_found():
    assert {"schemas.geometry", "builder.registry", "builder.sources.base"} <= MODULES
    assert len(MODULES) > 15


GRAPH = {_module(path): MODULES.intersection(_imports(path)) for path in FILES}


def test_no_imports_go_in_a_circle():
    graph = {_module(path): MODULES.intersection(_imports(path, True)) for path in FILES}
    assert len([*TopologicalSorter(graph).static_order()]) == len(graph)


@pytest.mark.parametrize("module", [name for name in sorted(GRAPH) if _layer(name) is not None])
def test_imports_run_one_way(module):
    todo, seen = [module], set()
    while todo:
        current = todo.pop()
        above = [name for name in GRAPH[current] if (_layer(name) or 0) > _layer(module)]
        assert not above, f"{module} reaches {above} through {current}"
        todo += GRAPH[current] - seen
        seen |= GRAPH[current]


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_schemas_need_pydantic_and_the_standard_library_alone(path):
    module = _module(path)
    if module.partition(".")[0] != "schemas":
        return
    outside = {name.partition(".")[0] for name in _imports(path)} - sys.stdlib_module_names
    assert outside <= {"schemas", "pydantic"}


def test_nobody_imports_a_backend_but_its_own_files():
    # The registry finds backends by name; nothing above or beside them may know one.
    targets = [target for part in BUILTIN.values() for target in part.values()]
    backends = {target.partition(":")[0] for target in targets}
    for path in FILES:
        module = _module(path)
        for imported in set(_imports(path)) & backends:
            assert module not in backends, f"{module} imports {imported}"
            assert module.startswith(imported.rpartition(".")[0] + "."), module


@pytest.mark.parametrize(
    "module", ["schemas", "builder", "builder.dataset", "builder.registry", "builder.cli"]
)
def test_loading_stays_light(module):
    # The command's start-up, a robot and a reading process must not pay for building.
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & set(HEAVY)
    if module == "schemas":
        assert not loaded & {"numpy", "h5py", "yaml", "builder"}


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=lambda path: path.stem)
def test_no_file_holds_two_ideas(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{path}: {lines} lines; split it"
