"""The house as CONTRIBUTING maps it: which room imports which, and what each door says."""

import ast
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from graphlib import TopologicalSorter
from importlib import import_module
from types import SimpleNamespace

import pytest
from places import ROOT

from builder.core.errors import MissingExtraError
from builder.core.registry import BUILTIN

pytestmark = pytest.mark.core

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAP = re.search(r"### The map\n.*?```text\n(.*?)```", CONTRIBUTING, re.DOTALL)
# Rooms of one line of this list stand side by side: neither imports the other.
FLOORS = [
    ["schemas"],
    ["core"],
    ["inputs", "canvas", "stores"],
    ["sources", "trackers"],
    ["dataset"],
    ["build"],
    ["training", "inference"],
    ["transform", "report", "testing"],
    ["cli"],
]
# They hand names on when they are asked for; nobody in the house imports through them.
FRONT_DOORS = {"builder", "letterset", "letterset.plugins", "letterset.__main__"}
HEAVY = ("av", "cv2", "hdf5plugin", "rich", "scipy", "torch", "zarr", "ray", "rerun")


def module_of(path, root=ROOT):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(root):
    files = sorted(
        path for top in ("letterset", "schemas", "builder") for path in root.glob(f"{top}/**/*.py")
    )
    return {module_of(path, root): path for path in files}


def imports_of(path, modules):
    """Yield every module a file imports: in functions and for type checkers alone, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module


def mapped_order(text, modules):
    """Return the modules of a map in order; a folder named in a line has a line of its own.

    ``*`` stands for all other files of a folder, in any order that their imports allow.
    """
    lines = {}
    parents = []
    for line in re.sub(r"\n {20,}", " ", text).splitlines():
        indent, folder, names = re.fullmatch(r"( *)([\w/]+)/ *(.*)", line).groups()
        del parents[len(indent) // 2 :]
        parents.append(folder.replace("/", "."))
        lines[".".join(parents)] = names.split()

    def others(folder):
        named = {f"{folder}.{name.rstrip('/')}" for name in lines[folder]}
        left = {name for name in modules if name.rpartition(".")[0] == folder} - named
        graph = {name: left.intersection(imports_of(modules[name], modules)) for name in left}
        return TopologicalSorter({name: sorted(graph[name]) for name in sorted(left)})

    def walk(folder):
        for name in lines[folder]:
            if name == "*":
                yield from others(folder).static_order()
            elif name.endswith("/"):
                yield from walk(f"{folder}.{name[:-1]}")
            else:
                yield f"{folder}.{name}"
        yield folder  # its door, which may hand on what is inside

    rooms = [folder for folder in lines if folder.count(".") == folder.startswith("builder.")]
    return [module for room in rooms if room != "builder" for module in walk(room)]


def wrong_imports(root, order):
    """List the imports that run against the order of the map, or between rooms side by side."""
    modules = modules_of(root)
    place = {module: at for at, module in enumerate(order)}
    floor = {room: at for at, rooms in enumerate([["letterset"], *FLOORS]) for room in rooms}

    def room(module):
        top, _, rest = module.partition(".")
        return top if top != "builder" else rest.partition(".")[0]

    found = []
    for module, path in modules.items():
        if module in FRONT_DOORS:
            continue
        for imported in set(imports_of(path, modules)) & modules.keys() - {module}:
            if imported in FRONT_DOORS:
                found.append(f"{module} imports {imported}")
                continue
            up = place[imported] > place[module] and not imported.startswith(f"{module}.")
            aside = room(imported) != room(module) and floor[room(imported)] >= floor[room(module)]
            if up or aside:
                found.append(f"{module} imports {imported}")
    return found


def wrong_map(order, modules):
    """List the modules that are not in the map, those that are no more, and those named twice."""
    named = Counter([*order, "builder"])
    return sorted({*modules} ^ {*named} | {name for name, times in named.items() if times > 1})


def says_what_is_inside(room, door, text):
    """Tell whether CONTRIBUTING's table has the first sentence of the docstring of a room."""
    said = " ".join(door.__doc__.partition("\n\n")[0].split())
    return f"| `{room}` | {said} |" in text


def heavy_imports(modules):
    """List what schemas import that is neither pydantic nor of the standard library."""
    allowed = {"schemas", "pydantic", "typing_extensions"} | sys.stdlib_module_names
    return [
        f"{module} imports {name}"  # typing_extensions to type checkers alone
        for module, path in modules.items()
        if module.partition(".")[0] == "schemas"
        for name in imports_of(path, modules)
        if name.partition(".")[0] not in allowed
    ]


def imported_backends(modules):
    """List the imports of backends by anybody but their own files."""
    targets = [target for part in BUILTIN.values() for target in part.values()]
    backends = {target.partition(":")[0] for target in targets}
    assert all(".kinds." in name for name in backends)
    return [
        f"{module} imports {imported}"
        for module, path in modules.items()
        for imported in imports_of(path, modules)
        if (
            ".kinds." in imported
            and not module.startswith(f"{imported.partition('.kinds.')[0]}.kinds")
        )
        or (imported in backends and module in backends)
    ]


MODULES = modules_of(ROOT)
ORDER = mapped_order(MAP[1], MODULES)
ROOMS = [room for rooms in FLOORS for room in rooms]


def test_the_map_names_every_module_once():
    assert wrong_map(ORDER, MODULES) == []


def test_a_module_that_is_not_in_the_map_is_found():
    new, old = "builder.core.brand_new", ORDER[3]
    assert wrong_map(ORDER, {**MODULES, new: None}) == [new]
    assert wrong_map([*ORDER, new], MODULES) == [new]
    assert wrong_map([*ORDER, old], MODULES) == [old]


def test_where_it_is_names_files_that_are_there():
    """Ten features, and the one file to open for each."""
    rows = re.search(r"### Where is it\?\n\n((?:\|.*\n)+)", CONTRIBUTING)[1]
    files = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", rows, re.MULTILINE)
    assert len(files) == len(rows.splitlines()) - 2  # the heading and the line below it
    assert len(files) >= 10
    assert [name for name in files if ROOT / name not in MODULES.values()] == []


def test_the_house_has_at_most_fourteen_rooms():
    folders = {path.name for path in (ROOT / "builder").iterdir() if path.is_dir()}
    folders -= {"__pycache__"}
    assert folders == {*ROOMS} - {"schemas"}
    assert len(folders) <= 14
    files = {path.name for path in (ROOT / "builder").iterdir() if path.is_file()}
    assert files == {"__init__.py", "py.typed"}


def test_tests_lie_in_the_rooms_they_test(request):
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= {*ROOMS, "product", "real"}
    assert {*ROOMS} - folders <= {"testing"}  # suites that are run against good and bad backends
    skipped = request.config.getini("norecursedirs")
    assert not folders & {*skipped}  # pytest passes over folders called build by default


def test_imports_run_one_way():
    assert wrong_imports(ROOT, ORDER) == []


@pytest.mark.parametrize(
    ("planted", "where"),
    [
        ("import builder.cli.main", "top"),
        ("from builder.cli import main", "function"),
        ("from builder.dataset.opening import open_dataset", "type checker"),
        ("from builder.canvas import letterbox", "top"),
        ("import builder", "top"),
        ("from letterset import open_dataset", "function"),
    ],
)
def test_a_planted_import_is_found(tmp_path, planted, where):
    for path in MODULES.values():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    victim = tmp_path / "builder" / "inputs" / "listing.py"
    text = victim.read_text(encoding="utf-8")
    more = {
        "top": planted,
        "function": f"def late():\n    {planted}",
        "type checker": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {planted}",
    }
    victim.write_text(f"{text}\n\n{more[where]}\n", encoding="utf-8")
    (found,) = wrong_imports(tmp_path, ORDER)
    assert found.startswith("builder.inputs.listing imports ")


@pytest.mark.parametrize("room", ["letterset", *ROOMS])
def test_every_door_says_what_contributing_says(room):
    """And hands on what it lists."""
    name = room if room in ("letterset", "schemas") else f"builder.{room}"
    door = import_module(name)
    assert says_what_is_inside(room, door, CONTRIBUTING)
    for exported in getattr(door, "__all__", ()):
        with suppress(MissingExtraError):  # the core install has the names, not what they need
            assert getattr(door, exported) is not None


def test_a_door_that_says_something_else_is_found():
    door = import_module("builder.core")
    assert says_what_is_inside("core", door, CONTRIBUTING)
    assert not says_what_is_inside(
        "core", SimpleNamespace(__doc__="Every other file."), CONTRIBUTING
    )
    assert not says_what_is_inside("core", import_module("builder.stores"), CONTRIBUTING)


def test_schemas_need_pydantic_and_the_standard_library_alone():
    assert heavy_imports(MODULES) == []


def test_nobody_imports_a_backend_but_its_own_files():
    # The registry finds backends by name; nothing above or beside them may know one.
    assert imported_backends(MODULES) == []


@pytest.mark.parametrize(
    ("module", "planted", "guard"),
    [
        ("schemas.geometry", "import numpy", heavy_imports),
        ("schemas.geometry", "from builder.core import errors", heavy_imports),
        ("builder.build.pipeline", "import builder.sources.kinds.atm", imported_backends),
        ("builder.trackers.kinds.lk", "import builder.trackers.kinds.dis", imported_backends),
    ],
)
def test_a_planted_dependency_is_found(tmp_path, module, planted, guard):
    path = tmp_path / "planted.py"
    path.write_text(f"{MODULES[module].read_text(encoding='utf-8')}\n\n{planted}\n", "utf-8")
    (found,) = guard({**MODULES, module: path})
    assert found.startswith(f"{module} imports ")


@pytest.mark.parametrize(
    "module",
    [
        "schemas",
        "builder",
        "builder.dataset.opening",
        "builder.core.registry",
        "builder.cli",
        "letterset",
        "letterset.plugins",
    ],
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
