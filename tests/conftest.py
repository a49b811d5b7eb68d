"""Shared by all tests; imports nothing that the core install lacks."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("letterset", deadline=None, print_blob=True)
settings.load_profile("letterset")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]
