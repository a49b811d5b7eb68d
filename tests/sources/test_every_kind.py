"""Every source against the shared conformance suite; one line each."""

import pytest
from source_examples import EXAMPLES

from builder.core.errors import SourceError
from builder.core.registry import BUILTIN
from builder.sources.base import SOURCES
from builder.sources.selection import Selection
from builder.testing.sources import CHECKS
from schemas.config import Limits

# What reading them needs beyond the build extra.
NEEDS = {"diffusion_policy": "numcodecs", "lerobot": "pyarrow", "rlds": "google_crc32c"}


def class_of(kind):
    pytest.importorskip(NEEDS.get(kind, "av"))
    return SOURCES.load(kind)


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
