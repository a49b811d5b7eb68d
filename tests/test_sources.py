"""Every source against the shared conformance suite; one line each."""

from importlib import import_module

import pytest
import robot_fixtures as robots
import source_fixtures as fixtures

from builder.core.errors import SourceError
from builder.core.registry import BUILTIN, backend
from builder.sources.selection import Selection
from builder.testing.sources import CHECKS
from schemas.config import Limits


def later(module, writer, needs):
    """A writer that needs more packages, imported when it is used."""

    def write(root):
        pytest.importorskip(needs)
        return getattr(import_module(module), writer)(root)

    return write


# kind -> (writes a small faithful example into a folder and returns it, settings)
EXAMPLES = {
    "atm": (robots.write_atm, {}),
    "bridge": (robots.write_bridge, {}),
    "droid": (robots.write_droid, {}),
    "something_something": (robots.write_something, {}),
    "diffusion_policy": (later("zarr_fixtures", "write_pusht", "zarr"), {}),
    "episodes": (fixtures.write_episode_folders, {}),
    "images": (fixtures.write_image_folders, {"folder": "view", "recorded_fps": 12.5}),
    "tapvid": (fixtures.write_tapvid, {}),
    "video": (fixtures.write_videos, {}),
    "lerobot": (later("lerobot_fixtures", "write_v3", "pyarrow"), {}),
    "libero": (fixtures.write_libero, {}),
    "robomimic": (fixtures.write_robomimic, {}),
}


# What reading them needs beyond the build extra.
NEEDS = {"diffusion_policy": "numcodecs", "lerobot": "pyarrow"}


def class_of(kind):
    pytest.importorskip(NEEDS.get(kind, "av"))
    return backend("sources", kind)


@pytest.fixture(scope="module", params=EXAMPLES)
def make_source(request, tmp_path_factory):
    write, settings = EXAMPLES[request.param]
    root = write(tmp_path_factory.mktemp(request.param))
    found = class_of(request.param)
    return lambda: found(root, found.Config(**settings), Limits())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_source_conforms(check, make_source):
    check(make_source)


def test_every_source_has_an_example():
    assert set(EXAMPLES) == set(BUILTIN["sources"])


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_source_shares_the_selection(kind):
    assert issubclass(class_of(kind).Config, Selection)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_absent_source_is_an_error_that_names_it(kind, tmp_path):
    found = class_of(kind)
    with pytest.raises(SourceError, match="nowhere"):
        list(found(tmp_path / "nowhere", found.Config(), Limits()).refs())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty"):
        list(found(tmp_path / "empty", found.Config(), Limits()).refs())
