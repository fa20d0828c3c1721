"""Counts with their nouns."""

import pytest

from near.common.text import plural, shortened


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


def test_long_names_lose_their_middle():
    assert shortened("x" * 48) == "x" * 48
    assert shortened("base + /a/long/path/adapter", 16) == "base …th/adapter"
    assert {len(shortened("y" * n, 20)) for n in range(20, 60)} == {20}
