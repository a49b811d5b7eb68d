"""Shared by all tests; imports nothing that the core install lacks."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# CI judges a change by the same examples each time; `make test` elsewhere looks for new ones.
settings.register_profile("letterset", deadline=None, print_blob=True)
settings.register_profile("same", settings.get_profile("letterset"), derandomize=True)
settings.load_profile("letterset")

# The leg with the lowest versions has no torch; files that cannot be imported there are left out.
collect_ignore = [
    str(path)
    for path in Path(__file__).parent.rglob("test_*.py")
    if find_spec("torch") is None
    and re.search(r"^(import|from) torch\b", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="module")
def inline_executor():
    """Let ``executor.kind=inline`` run tasks in this process."""
    from builder.core.registry import BUILTIN

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILTIN["executors"], "inline", "inline_executor:Inline")
        patch.setitem(BUILTIN["executors"], "lenient", "inline_executor:Lenient")
        patch.setitem(BUILTIN["executors"], "elsewhere", "inline_executor:Elsewhere")
        yield


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Make the videos of ``media.KINDS`` when they are asked for, once."""
    from media import KINDS, make

    folder = tmp_path_factory.mktemp("clips")

    def clip(name):
        path = folder / name
        return path if path.exists() else make(path, **KINDS[name])

    return clip


def mount(place: Path, *options: str) -> None:
    """Mount at a place, or once more with other options; skips the test where that is refused."""
    try:
        subprocess.run(["mount", *options, str(place)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small tmpfs cannot be mounted here (it takes root): {error}")


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 4 MiB; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def faults():
    """An S3 server of our own on a free port of this machine, which can be told to fail."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    from faulty_s3 import FaultyS3

    with FaultyS3() as server:
        yield server


@pytest.fixture(scope="module")
def s3_server(faults):
    """Options for fsspec to reach that server."""
    return {
        "key": "dummy",
        "secret": "dummy",
        "endpoint_url": faults.url,
        "client_kwargs": {"region_name": "eu-west-1"},
    }


def _end_readers() -> None:
    """End the children that are kept for reading: they know the environment they began in."""
    from builder.build import reader

    for each in reader._IDLE:
        each.kill()
        each.stop()


@pytest.fixture
def s3(s3_server, faults, monkeypatch):
    """The file system of that server, with a bucket of this test's; every process finds it."""
    fsspec = pytest.importorskip("fsspec")
    where = {
        "AWS_ENDPOINT_URL": s3_server["endpoint_url"],
        "AWS_ACCESS_KEY_ID": s3_server["key"],
        "AWS_SECRET_ACCESS_KEY": s3_server["secret"],
        "AWS_DEFAULT_REGION": s3_server["client_kwargs"]["region_name"],
    }
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    _end_readers()
    # Those that know another test's server.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    files = fsspec.filesystem("s3", **s3_server)
    files.makedirs("bucket", exist_ok=True)
    yield files
    faults.heal()  # whatever became of the test
    files.invalidate_cache()
    files.rm("bucket", recursive=True)
