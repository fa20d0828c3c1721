"""Words as texts are compared: what is the same, and what is not."""

import pytest

from near.data.words import joined, masked, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick, BROWN fox!", ["the", "quick", "brown", "fox"]),
        ("ﬁne Ａ１ Straße", ["fine", "a1", "strasse"]),
        ("what’s what's", ["whats", "whats"]),
        ("zero\u200bwidth soft\u00adhyphen", ["zerowidth", "softhyphen"]),
        ("1,000 and 2.5, 10:30", ["1000", "and", "2.5", "10:30"]),
        ("12-7, 12 - 7; 12+7", ["12-7", "12-7", "12", "+", "7"]),
        ("well-known **bold** _x_", ["well", "known", "bold", "x"]),
        ("水の中 ok", ["水", "の", "中", "ok"]),
        ("ประเทศ", list("ประเทศ")),
        ("한국어 문장", ["한국어", "문장"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301", ["café"]),
        ("a = b, x^2", ["a", "=", "b", "x", "^", "2"]),
        ("—?!… 🙂", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_the_sign_between_numbers_counts():
    assert len({tuple(words(f"what is 12 {sign} 7")) for sign in "+-*/"}) == 4


@pytest.mark.parametrize(
    ("word", "expected"), [("12-7", "0"), ("3.5", "0"), ("h2o", "h0o"), ("none", "none"), ("2020-01-05", "0")]
)
def test_masked(word, expected):
    assert masked(word) == expected


def test_joined_has_spaces_only_between_words_that_have_them():
    assert joined(words("I like 水の中, too")) == "i like 水の中 too"
