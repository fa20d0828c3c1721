"""Loss on the assistant's turns only; a cut takes the prompt's start first."""

import copy
import logging

import numpy as np
import pytest
import torch

from near.common.errors import UserError
from near.data.loading import load
from near.data.templates.named import TEMPLATES, set_template
from near.models import tokens as tokens_module
from near.models.encoding import IGNORED, Encoded, Encoder
from near.models.loading import load_tokenizer
from near.models.tokens import Collator, processes, tokenize
from tests.conftest import configured

pytestmark = pytest.mark.model
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "howdy"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
]


@pytest.fixture(scope="module")
def tokenizer(cache):
    return load_tokenizer(configured("train", "model=tiny").model, str(cache))


def encode(messages, tokenizer, cutoff_len, **options) -> Encoded:
    return Encoder(tokenizer, {"cutoff_len": cutoff_len, **options}).encode(messages)


def trained(tokenizer, coded) -> str:
    labels = coded["labels"] if isinstance(coded, dict) else coded.labels
    return tokenizer.decode([t for t in labels if t != IGNORED])


def test_labels_are_the_answers_and_their_ends(tokenizer):
    coded = encode(CHAT, tokenizer, 1000)
    assert trained(tokenizer, coded) == "hello<|im_end|>4<|im_end|>"
    assert tokenizer.decode(coded.input_ids) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert (coded.cut_prompt, coded.cut_answer) == (0, 0)
    assert all(label in (IGNORED, token) for token, label in zip(coded.input_ids, coded.labels, strict=True))


def test_a_cut_takes_the_prompts_start_first(tokenizer):
    whole = encode(CHAT, tokenizer, 1000)
    n = len(whole.input_ids)
    cut = encode(CHAT, tokenizer, n - 10)
    assert (cut.cut_prompt, cut.cut_answer) == (10, 0)
    assert list(cut.input_ids) == list(whole.input_ids[10:])
    only = encode(CHAT, tokenizer, 2)  # "4<|im_end|>" and the newline after it
    assert trained(tokenizer, only) == "4<|im_end|>"
    assert len(only.input_ids) == 2
    assert only.cut_prompt + only.cut_answer == n - 2


def test_a_template_that_rewrites_turns_is_refused(tokenizer):
    old = tokenizer.chat_template
    tokenizer.chat_template = "{{ messages | reverse | map(attribute='content') | join('|') }}"
    try:
        with pytest.raises(UserError, match="rewrites earlier turns"):
            encode(CHAT, tokenizer, 100)
    finally:
        tokenizer.chat_template = old


def test_collator_pads_on_the_right():
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = Collator(0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["labels"].dtype == torch.long


def test_rows_keep_their_ids(tokenizer, small_data, cache):
    cfg = configured("train", *small_data)
    rows = load(cfg.data, "candidates", str(cache))
    tokens = tokenize(rows, tokenizer, cfg.data, str(cache))
    assert len(tokens.table) == len(rows)
    for row in (0, 17, 59):
        assert trained(tokenizer, tokens.table[row]) == rows.messages(row)[-1]["content"] + "<|im_end|>"
    assert tokens.eligible.tolist() == list(range(60))


def test_a_model_without_a_chat_template_is_refused_unless_one_is_named(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    with pytest.raises(UserError, match="has no chat template; set model.template to one of chatml, llama3, alpaca, "):
        set_template(plain, None)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_locate_every_answer(tokenizer, name):
    named = copy.deepcopy(tokenizer)
    set_template(named, name)
    coded = encode(CHAT, named, 1000)
    answers = trained(named, coded)
    assert "hello" in answers
    assert "4" in answers
    assert "2+2" not in answers
    assert "howdy" not in answers
    assert "brief" not in answers


def test_an_opening_answer_is_not_trained_on(tokenizer):
    coded = encode([CHAT[2], *CHAT[3:]], tokenizer, 1000)
    assert trained(tokenizer, coded) == "4<|im_end|>"


def test_rows_that_the_template_refuses_are_counted(tokenizer, small_data, cache, caplog):
    caplog.set_level(logging.INFO)
    picky = copy.deepcopy(tokenizer)
    refusing = "{% if 'colour' in messages[0]['content'] %}{{ raise_exception('no colours') }}{% endif %}"
    picky.chat_template = refusing + tokenizer.chat_template
    cfg = configured("train", *small_data)
    rows = load(cfg.data, "candidates", str(cache))
    tokens = tokenize(rows, picky, cfg.data, str(cache))
    assert len(tokens.eligible) == 40
    assert "the chat template rejects 20 rows, the first with: no colours" in caplog.text


def test_plain_text_is_trained_whole_and_without_a_template(tokenizer):
    coded = encode([{"role": "assistant", "content": "plain words"}], tokenizer, 100)
    assert tokenizer.decode(coded.input_ids) == "plain words<|im_end|>"
    np.testing.assert_array_equal(coded.labels, coded.input_ids)
    cut = encode([{"role": "assistant", "content": "plain words"}], tokenizer, 5)
    assert (tokenizer.decode(cut.input_ids), cut.cut_answer) == ("plain", 7)


def test_several_processes_give_the_tokens_of_one_and_run_once(tokenizer, small_data, tmp_path, monkeypatch):
    cfg, tables = configured("train", *small_data), {}
    for count in (1, 3):
        cfg.data.num_proc = count
        rows = load(cfg.data, "candidates", str(tmp_path / str(count)))
        tables[count] = tokenize(rows, tokenizer, cfg.data, str(tmp_path / str(count))).table.to_list()
    assert tables[1] == tables[3]
    monkeypatch.setattr(tokens_module.Encoder, "encode", lambda *a: pytest.fail("tokenised again"))
    for count in (None, 2):  # with another number of processes than the cache was made by
        cfg.data.num_proc = count
        assert tokenize(rows, tokenizer, cfg.data, str(tmp_path / "3")).table.to_list() == tables[3]


def test_processes_are_started_where_they_pay(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [processes(n) for n in (60, 3999, 4000, 7000, 10**6)] == [None, None, 2, 3, 4]


@pytest.mark.parametrize("name", [None, *TEMPLATES])
def test_tools_and_systems_are_read_and_not_trained_on(tokenizer, name):
    named = copy.deepcopy(tokenizer)
    set_template(named, name)
    chat = [
        {"role": "system", "content": "you may call rain()"},
        {"role": "user", "content": "will it rain"},
        {"role": "assistant", "content": "rain(today)"},
        {"role": "tool", "content": "it pours"},
        {"role": "assistant", "content": "yes"},
    ]
    coded = encode(chat, named, 1000)
    whole, answers = named.decode(coded.input_ids), trained(named, coded)
    assert all(m["content"] in whole for m in chat)
    assert [m["content"] in answers for m in chat] == [False, False, True, False, True]
    before = {"chatml": "<|im_start|>tool\n", "llama3": "ipython<|end_header_id|>\n\n", "alpaca": "### Instruction:\n"}
    assert f"{before.get(name or 'chatml', '')}it pours" in whole
