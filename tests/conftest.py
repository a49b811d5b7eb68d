"""Shared by all tests; imports nothing that the core install lacks."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("letterset", deadline=None, print_blob=True)
settings.load_profile("letterset")

# The leg with the lowest versions has no torch; files that cannot be imported there are left out.
collect_ignore = [
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if find_spec("torch") is None
    and re.search(r"^(import|from) torch\b", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]
