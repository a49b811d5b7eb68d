"""The house: who may import whom, what loads when, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from builder.registry import BUILTIN

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("schemas/**/*.py"), *ROOT.glob("builder/**/*.py")])
SCRIPTS = sorted(ROOT.glob("scripts/*.py"))
HEAVY = ("av", "cv2", "hdf5plugin", "pebble", "rich", "scipy", "torch", "zarr", "ray", "rerun")

# Lowest first.  A file may import from its own layer or a lower one.  What is not named here
# is a part: it sits beside the backends, above the schemas and below the registry.
LAYERS = [
    {"schemas.base"},
    {"schemas.affine"},
    {"schemas.geometry"},
    {"schemas.dataset", "schemas.legacy"},
    {"schemas.config"},
    {"schemas"},
    {"builder.errors"},
    {"parts"},
    {"builder.registry"},
    {
        "builder.points",
        "builder.settings",
        "builder.pipeline",
        "builder.plan",
        "builder.dataset",
        "builder.episode",
        "builder.legacy",
        "builder.repair",
        "builder.finalize",
        "builder.resume",
        "builder.sources.guess",
        "builder.validate",
    },
    {
        "builder.doctor",
        "builder.doctor_report",
        "builder.export",
        "builder.inference",
        "builder.migrate",
        "builder.migrate_episode",
        "builder.training",
        "builder.report",
        "builder.testing",
    },
    {"builder"},
    {"builder.cli"},
    {"scripts"},
]


def _module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path) for path in FILES}


def _layer(module):
    for rank, names in enumerate(LAYERS):
        if module in names:
            return rank
    parent = module.rpartition(".")[0]
    named = {name for names in LAYERS for name in names} - {"schemas", "builder"}
    if parent in named:
        return _layer(parent)
    return _layer("parts") if module.startswith("builder.") else _layer(parent)


def _imports(path):
    """Yield every module a file imports, except for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
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


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_imports_run_one_way(path):
    module = _module(path)
    for imported in _imports(path):
        if imported.partition(".")[0] not in ("schemas", "builder", "scripts"):
            continue
        assert _layer(imported) <= _layer(module), (
            f"{module} imports {imported}, which is above it; LAYERS says what is where"
        )


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
