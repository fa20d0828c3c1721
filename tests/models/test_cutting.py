"""Long texts lose their middle before they are tokenised; the remaining ids equal those of the whole text."""

import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from near.data.builtin.assets import resolve
from near.models import cutting
from near.models.cutting import LEAST, without_middle
from near.models.encoding import Encoder
from tests.made_tokenizers import byte_level, sentencepiece, unigram, without_bos

pytestmark = pytest.mark.model
LONG = 4 * LEAST
WORDS = ["the", "sum", "of", "Übermaß", "数学", "3.14159", "\n\n", "don't", "🙂", "    ", "x_y(z);", "naïve", "٣٤"]


def texts() -> dict[str, str]:
    rng = random.Random(0)
    words = " ".join(rng.choice(WORDS) for _ in range(LONG // 4))
    return {
        "words": words,
        "no spaces": "".join(rng.choice("abcdefghijklmnopqrstuvwxyz数学统计。") for _ in range(LONG)),
        "one letter": "a" * LONG,
        "spaces": "a" + " " * LONG + "b",
        "lines": "one line\n" * (LONG // 9),
        "digits": "".join(rng.choice("0123456789") for _ in range(LONG)),
        "long words": " ".join("ab" * rng.randint(1, 3000) for _ in range(LONG // 3000)),
    }


@pytest.fixture(scope="module")
def tokenizer(cache):
    return AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache))


@pytest.mark.parametrize("made", [byte_level, without_bos, sentencepiece, unigram])
def test_ends_under_other_kinds_of_tokenizers(made):
    tokenizer, text = made(), texts()["words"]
    ids = lambda part: tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]  # noqa: E731
    short = without_middle(text, 100, lambda part: len(ids(part)))
    assert len(short) < len(text)
    assert (ids(short)[:100], ids(short)[-100:]) == (ids(text)[:100], ids(text)[-100:])


@pytest.mark.parametrize("kind", texts())
@pytest.mark.parametrize("tokens", [16, 300])
def test_the_ends_are_tokenised_as_in_the_whole_text(tokenizer, kind, tokens):
    text = texts()[kind]
    ids = lambda part: tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]  # noqa: E731
    short = without_middle(text, tokens, lambda part: len(ids(part)))
    assert ids(short)[:tokens] == ids(text)[:tokens]
    if kind != "digits":  # three at a time, from the first one on
        assert ids(short)[-tokens:] == ids(text)[-tokens:]
    assert len(ids(short)) > tokens
    assert len(short) < len(text), "long enough to be shortened"


def test_short_texts_and_those_without_a_limit_stay():
    assert without_middle("a " * LEAST, 5, len) == "a " * LEAST
    assert without_middle("a " * LONG, None, len) == "a " * LONG


def test_text_of_few_tokens_has_a_bound():
    assert len(without_middle("\0" * (3 << 20), 256, lambda part: 0)) == 2 * cutting.MOST


@pytest.mark.parametrize("where", ["prompt", "answer", "earlier answer", "both", "plain", "system"])
def test_a_row_is_encoded_and_counted_as_without_the_bound(tokenizer, monkeypatch, where):
    long = texts()["words"]
    chat = [
        {"role": "system", "content": long if where == "system" else "be short"},
        {"role": "user", "content": "first?"},
        {"role": "assistant", "content": long if where == "earlier answer" else "one"},
        {"role": "user", "content": long if where in ("prompt", "both") else "second?"},
        {"role": "assistant", "content": long if where in ("answer", "both") else "two"},
    ]
    if where == "plain":
        chat = [{"role": "assistant", "content": long}]
    encoder = Encoder(tokenizer, {"cutoff_len": 64})
    cut, prompt = encoder.encode(chat), encoder.prompt_ids(chat[:-1] or chat)
    monkeypatch.setattr("near.models.encoding.without_middle", lambda text, *_: text)
    whole = encoder.encode(chat)
    np.testing.assert_array_equal(cut.input_ids, whole.input_ids)
    np.testing.assert_array_equal(cut.labels, whole.labels)
    assert cut.cut_prompt <= whole.cut_prompt and cut.cut_answer <= whole.cut_answer
    flags = ("cut_prompt", "cut_answer", "lost_question", "lost_answers", "endless", "end_added", "unrendered")
    for name in flags:
        assert bool(getattr(cut, name)) == bool(getattr(whole, name)), name
    if where != "plain":
        assert prompt[-64:] == encoder.prompt_ids(chat[:-1])[-64:]
