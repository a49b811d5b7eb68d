"""Filter expressions: what they mean, and that nothing else is ever run."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.errors import ConfigError
from builder.dataset.filters import Expression

COLUMNS = {
    "motion": np.array([0.0, 1.5, np.nan, 4.0]),
    "vis": np.array([1.0, 0.25, 0.5, 0.75]),
    "task": np.array(["open", "close", "open", ""]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("motion > 1 and vis > 0.5", [0, 0, 0, 1]),
        ("motion > 1 or vis > 0.5", [1, 1, 0, 1]),
        ("not (motion > 1)", [1, 0, 1, 0]),
        ("0.25 <= vis < 0.75", [0, 1, 1, 0]),
        ("motion * 2 - 1 == 2", [0, 1, 0, 0]),
        ("vis / motion > 0.2", [1, 0, 0, 0]),
        ("task in ['open', 'x']", [1, 0, 1, 0]),
        ("task not in ('open',) and task != ''", [0, 1, 0, 0]),
        ("-vis < -0.6", [1, 0, 0, 1]),
        ("True", [1, 1, 1, 1]),
        ("  1 < 2\n", [1, 1, 1, 1]),
    ],
)
def test_masks(text, expected):
    mask = Expression(text, COLUMNS).mask(COLUMNS)
    assert mask.dtype == bool
    assert mask.tolist() == [bool(value) for value in expected]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("motoin > 1", "'motoin' is unknown .did you mean 'motion'"),
        ("motion >", "cannot be read"),
        ("motion", "must be true or false"),
        ("motion + 1", "must be true or false"),
        ("__import__('os')", "not allowed"),
        ("motion.real > 1", "not allowed"),
        ("motion[0] > 1", "not allowed"),
        ("[x for x in motion]", "not allowed|list holds"),
        ("(lambda: 1)() > 0", "not allowed"),
        ("motion ** 9 > 1", "Pow is not allowed"),
        ("motion @ vis > 1", "MatMult is not allowed"),
        ("motion is vis", "Is is not allowed"),
        ("'a' in task", "'in' is followed by a list"),
        ("task in [motion]", "numbers and texts only"),
        ("(vis, motion) == 1", "behind 'in' only"),
        ("[]", "behind 'in' only"),
        ("[True, False, True, False]", "behind 'in' only"),
        ("vis > 0 and [True, False, True, False]", "behind 'in' only"),
        ("[1, 2, 3, 4] > motion", "behind 'in' only"),
        ("task in ['a', 'b'] == vis", "last thing of a comparison"),
        ("task in []  in [1]", "last thing of a comparison"),
        ("motion > 1j", "neither a number nor a text"),
        ("motion > " + "9" * 500, "whole number of more than 63 bits"),
        ("-" * 1900 + "motion > 1", "cannot be read|does not compare"),
        ("motion > None", "neither"),
        ("f'{motion}' == 'a'", "not allowed"),
        ("(motion := 3) > 1", "not allowed"),
        ("task > 3", "does not compare|must be true"),
        ("'a' + 1 > 2", "does not compare"),
        ("(" * 300 + "1" + ")" * 300, "cannot be read"),
        ("vis > 0 and " * 500 + "True", "at most 2000"),
        ("\0", "cannot be read"),
    ],
)
def test_everything_else_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        Expression(text, COLUMNS).mask(COLUMNS)


def test_nesting_is_bounded_whatever_the_recursion_limit():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        with pytest.raises(ConfigError, match="nested more than 400 deep"):
            Expression("-" * 1900 + "motion > 1", COLUMNS)
    finally:
        sys.setrecursionlimit(limit)
    Expression("-" * 300 + "motion > 1", COLUMNS)


@given(st.text(max_size=60))
def test_no_text_does_harm(text):
    try:
        mask = Expression(text, COLUMNS).mask(COLUMNS)
    except ConfigError:
        return
    assert mask.shape == (4,)


def test_names_are_known():
    assert Expression("vis > 0 and task == 'a'", COLUMNS).names == {"vis", "task"}
