"""The cache of what was used last."""

import pytest

from builder.core.lru_cache import LruCache

pytestmark = pytest.mark.core


def test_the_least_recently_used_value_makes_room():
    cache = LruCache(2)
    cache["a"], cache["b"] = 1, 2
    assert cache.get("a") == 1  # now b is the least recently used
    cache["c"] = 3
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)
    cache["a"] = 4  # replaced, not added
    assert (len(cache), cache.pop("a"), cache.pop("a"), len(cache)) == (2, 4, None, 1)
