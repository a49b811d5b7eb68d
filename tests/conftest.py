"""Shared by all tests; imports nothing that the core install lacks."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("letterset", deadline=None, print_blob=True)
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
        yield


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
