"""Counts with their nouns."""

import pytest

from near.common.text import plural


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((0, "row"), "0 rows"),
        ((1, "row"), "1 row"),
        ((2, "row"), "2 rows"),
        ((1, "query", "queries"), "1 query"),
        ((3, "query", "queries"), "3 queries"),
        ((1, "weight differs", "weights differ"), "1 weight differs"),
    ],
)
def test_a_count_has_the_noun_that_goes_with_it(words, expected):
    assert plural(*words) == expected
