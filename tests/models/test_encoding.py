"""Answers are encoded as generation continues their prompts, under any template and tokenizer."""

import copy
import json
import random

import pytest
import torch

from near.common.errors import UserError
from near.data.templates.named import TEMPLATES, set_template, set_thinking
from near.models.encoding import IGNORED, Encoder
from tests import made_tokenizers

pytestmark = pytest.mark.model
PARTS = [
    "    return x",
    "\n",
    "\n\n",
    " ",
    "  ",
    "12",
    "3.5",
    "你好",
    "🙂",
    "café",
    "<b>",
    "word",
    "Word, ",
    "\tx",
    "{}",
    "'q'",
]
THINKING = (  # rewrites earlier turns: their thinking is left out, as Qwen3's template does
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n{{ m['reasoning_content'] or '' }}\n</think>\n\n"
    "{{ m['content'].lstrip('\n') }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENED = (  # generation opens a thought that finished answers lack, as DeepSeek-R1's template does
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<A>{{ m['content'] }}{{ eos_token }}"
    "{% else %}<U>{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<A><think>\n{% endif %}"
)


@pytest.fixture(scope="module", params=made_tokenizers.KINDS)
def tokenizer(request):
    return made_tokenizers.KINDS[request.param]()


def text(rng: random.Random) -> str:
    while True:
        made = "".join(rng.choice(PARTS) for _ in range(rng.randint(1, 5)))
        if made.strip():
            return made


def chats(count: int, seed: int = 0, system: bool = True):
    rng = random.Random(seed)
    for _ in range(count):
        chat = [{"role": "system", "content": text(rng)}] if system and rng.random() < 0.4 else []
        for _ in range(rng.randint(1, 3)):
            chat += [{"role": "user", "content": text(rng)}, {"role": "assistant", "content": text(rng)}]
        yield chat


def encode(tokenizer, messages, **options):
    return Encoder(tokenizer, {"cutoff_len": 10_000, **options}).encode(messages)


def spans(row) -> list[list[int]]:
    """Runs of labelled ids."""
    runs, before = [], False
    for label in row.labels.tolist():
        if label != IGNORED:
            runs = runs if before else [*runs, []]
            runs[-1].append(label)
        before = label != IGNORED
    return runs


def carrying(tokenizer, template: str):
    made = copy.deepcopy(tokenizer)
    if template in made_tokenizers.OWN_TEMPLATES:
        made.chat_template = made_tokenizers.OWN_TEMPLATES[template]
    elif template in TEMPLATES:
        set_template(made, template)
    else:
        made.chat_template = template
    return made


@pytest.mark.parametrize("template", [*(f"own {name}" for name in made_tokenizers.OWN_TEMPLATES), *TEMPLATES])
def test_training_sees_what_generation_continues_from(tokenizer, template):
    carried = carrying(tokenizer, template.removeprefix("own "))
    if template.startswith("own "):
        carried.chat_template = made_tokenizers.OWN_TEMPLATES[template.removeprefix("own ")]
    encoder = Encoder(carried, {"cutoff_len": 10_000})
    for chat in chats(4):
        row = encoder.encode(chat)
        ids, labels = row.input_ids.tolist(), row.labels.tolist()
        answers = [i for i, m in enumerate(chat) if m["role"] == "assistant"]
        for turn in answers:
            prompt = encoder.prompt_ids(chat[:turn])
            assert ids[: len(prompt)] == prompt  # the ids that generation continues from
            first = next(i for i, label in enumerate(labels) if label != IGNORED and i >= len(prompt))
            assert first == len(prompt)  # and the answer's labels begin there
        if carried.unk_token_id is not None and carried.unk_token_id in ids:
            continue  # this tokenizer has no token for some of the text
        answers_text = [carried.decode(run).strip() for run in spans(row)]
        assert all(chat[turn]["content"].strip() in "\n".join(answers_text) for turn in answers)


def test_an_answer_and_its_end_are_labelled_whole(tokenizer):
    carried = carrying(tokenizer, "chatml")
    carried.chat_template = made_tokenizers.CHATML
    end = carried.convert_tokens_to_ids("<|im_end|>")
    for answer in ("    return x", "\nword", " word", "\n\n  12", "word\n", "12 "):
        row = encode(carried, [{"role": "user", "content": "hello"}, {"role": "assistant", "content": answer}])
        (run,) = spans(row)
        assert run[-1] == end
        assert run.count(end) == 1
        whole = carried.decode(row.input_ids)
        assert answer in whole
        opening = carried.decode([i for i, label in zip(row.input_ids, row.labels, strict=True) if label == IGNORED])
        assert answer.strip() not in opening


def test_the_end_token_is_added_where_a_template_ends_no_turn(tokenizer):
    carried = carrying(tokenizer, "endless")
    chat = [
        m
        for i in range(2)
        for m in ({"role": "user", "content": f"hello {i}"}, {"role": "assistant", "content": "word"})
    ]
    row = encode(carried, chat)
    assert row.end_added
    assert not row.endless
    assert [run[-1] for run in spans(row)] == [carried.eos_token_id] * 2
    assert row.input_ids[-1] == carried.eos_token_id
    assert (row.input_ids == carried.eos_token_id).sum() == 1  # the first answer's end is a label alone
    carried.eos_token = None
    row = encode(carried, chat)
    assert (row.end_added, row.endless) == (False, True)


def test_an_end_that_stands_at_a_chats_end_alone(tokenizer):
    """It is learned after every answer: before the last one as the label of what follows."""
    only_last = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% if loop.last and m['role'] == 'assistant' %}{{ eos_token }}{% else %}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    carried = carrying(tokenizer, only_last)
    encoder = Encoder(carried, {"cutoff_len": 10_000})
    for chat in chats(6, seed=2):
        row, end = encoder.encode(chat), carried.eos_token_id
        assert [run[-1] for run in spans(row)] == [end] * sum(m["role"] == "assistant" for m in chat)
        assert (row.input_ids == end).sum() == 1


def test_the_end_is_a_label_where_the_template_says_so(tokenizer):
    carried = carrying(tokenizer, "gemma2")
    chat = [m for n in "ab" for m in ({"role": "user", "content": n}, {"role": "assistant", "content": "word"})]
    row = encode(carried, chat)
    first = spans(row)[0]
    assert first[-1] == carried.eos_token_id
    at = row.labels.tolist().index(carried.eos_token_id)
    assert row.input_ids[at] != carried.eos_token_id
    untrained = encode(carried, [chat[0], {**chat[1], "train": False}, *chat[2:]])
    assert (untrained.labels == carried.eos_token_id).sum() == 1  # the last one


def test_history_is_rewritten_as_its_template_does(tokenizer):
    carried = carrying(tokenizer, THINKING)
    chat = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "\n  there", "reasoning": "the first"},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer", "reasoning": "the second"},
    ]
    encoder = Encoder(carried, {"cutoff_len": 1000})
    row = encoder.encode(chat)
    first, second = (carried.decode(run) for run in spans(row))
    assert first.strip() == "there<|im_end|>"
    assert second.strip() == "<think>\nthe second\n</think>\n\nanswer<|im_end|>"
    prompt = encoder.prompt_ids(chat[:3])
    assert row.input_ids[: len(prompt)].tolist() == prompt
    dropped = encode(carried, chat, reasoning="drop")
    assert dropped.dropped
    assert "the second" not in carried.decode(dropped.input_ids)


def test_equal_answers_are_distinguished(tokenizer):
    """Generation opens a thought, which only the last answer has."""
    opening = "<|im_start|>assistant\n{% if enable_thinking"
    assert opening in THINKING
    carried = carrying(tokenizer, THINKING.replace(opening, opening.replace("{%", "<think>\n{%", 1)))
    turns = ("word", "12", "word")
    chat = [m for t in turns for m in ({"role": "user", "content": "hello"}, {"role": "assistant", "content": t})]
    answers_text = [carried.decode(run).strip() for run in spans(encode(carried, chat))]
    assert answers_text == ["word<|im_end|>", "12<|im_end|>", "</think>\n\nword<|im_end|>"]


def test_thinking_can_be_turned_off(tokenizer):
    carried = carrying(tokenizer, THINKING)
    set_thinking(carried, False)
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "answer"}]
    encoder = Encoder(carried, {"cutoff_len": 1000})
    row = encoder.encode(chat)
    assert [carried.decode(run) for run in spans(row)] == ["answer<|im_end|>"]  # the empty thought is prompt
    prompt = encoder.prompt_ids(chat[:1])
    assert row.input_ids[: len(prompt)].tolist() == prompt


def test_an_answer_closes_the_thought_that_generation_opens(tokenizer):
    carried = carrying(tokenizer, OPENED)
    encoder = Encoder(carried, {"cutoff_len": 1000})
    for reasoning in ("", "first this"):
        last = {"role": "assistant", "content": "answer"} | ({"reasoning": reasoning} if reasoning else {})
        chat = [{"role": "user", "content": "hello"}, last]
        row, prompt = encoder.encode(chat), encoder.prompt_ids(chat[:1])
        assert row.input_ids[: len(prompt)].tolist() == prompt
        (run,) = spans(row)
        assert carried.decode(run, skip_special_tokens=True).strip() == f"{reasoning}\n</think>\n\nanswer".strip()


def test_tools_are_handed_to_the_template_or_refused(tokenizer):
    tools = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object", "properties": {}}}}]
    calls = json.dumps([{"name": "rain", "arguments": {"town": "Oslo"}}])
    chat = [
        {"role": "tools", "content": json.dumps(tools)},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "", "calls": calls},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "content": "answer"},
    ]
    takes = carrying(
        tokenizer,
        "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "CALL {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    row = encode(takes, chat)
    assert "TOOLS" in takes.decode(row.input_ids)
    called, answers_text = (takes.decode(run) for run in spans(row))
    assert called.strip() == 'CALL rain {"town": "Oslo"}<|im_end|>'
    assert answers_text.strip() == "answer<|im_end|>"
    plain = carrying(tokenizer, "chatml")
    plain.chat_template = made_tokenizers.CHATML
    with pytest.raises(UserError, match="does not accept tools"):
        encode(plain, chat)
    row = encode(plain, chat[1:])  # its calls are lines of JSON
    assert '{"name": "rain", "arguments": {"town": "Oslo"}}' in plain.decode(row.input_ids)


@pytest.mark.parametrize("template", ["own", "qwen"])
def test_turns_that_are_not_to_be_trained_have_no_label(tokenizer, template):
    carried = carrying(tokenizer, "qwen")
    if template == "own":
        carried.chat_template = made_tokenizers.CHATML
    chat = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "word", "train": False},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": "12"},
    ]
    strip = [carried.decode(run).replace("<|im_end|>", "").strip() for run in spans(encode(carried, chat))]
    assert strip == ["answer", "12"]
    last = [
        carried.decode(run).replace("<|im_end|>", "").strip() for run in spans(encode(carried, chat, mask_history=True))
    ]
    assert last == ["12"]
    every = encode(carried, chat, train_on_prompt=True)
    without = [i for i, label in enumerate(every.labels.tolist()) if label == IGNORED]
    assert carried.decode(every.input_ids[without]).replace("<|im_end|>", "").strip() == "word"


def test_a_named_templates_system_text_can_be_another_or_none(tokenizer):
    carried = carrying(tokenizer, "alpaca")
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "answer"}]
    default, other, none = (
        carried.decode(encode(carried, chat, default_system=s).input_ids) for s in (None, "word", "")
    )
    assert "instruction that describes" in default
    assert "word" in other and "instruction that describes" not in other
    assert none.startswith("### Instruction:")


def test_a_default_system_turn_stands_where_a_row_has_none(tokenizer):
    carried = carrying(tokenizer, "chatml")
    carried.chat_template = made_tokenizers.CHATML
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "answer"}]
    with_one = encode(carried, [{"role": "system", "content": "word"}, *chat])
    assert encode(carried, chat, default_system="word").input_ids.tolist() == with_one.input_ids.tolist()
    default = encode(carried, [{"role": "system", "content": "word"}, *chat], default_system="there")
    assert default.input_ids.tolist() == with_one.input_ids.tolist()


def test_what_a_cut_loses_is_counted_and_not_trained(tokenizer):
    carried = carrying(tokenizer, "chatml")
    carried.chat_template = made_tokenizers.CHATML
    chat = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "word word word"},
        {"role": "user", "content": "question question question"},
        {"role": "assistant", "content": "answer"},
    ]
    whole = encode(carried, chat)
    n, first = len(whole.input_ids), whole.labels.tolist().index(next(x for x in whole.labels if x != IGNORED))
    cut = encode(carried, chat, cutoff_len=n - first - 2)  # through the first answer
    assert (cut.lost_answers, cut.lost_question) == (1, False)
    assert [carried.decode(run).strip() for run in spans(cut)] == ["answer<|im_end|>"]
    header = encode(carried, chat, cutoff_len=len(spans(whole)[1]) + 3)  # of the last prompt, its opening is left
    assert header.lost_question
    assert spans(header)[-1] == spans(whole)[1]
    assert (whole.lost_answers, whole.lost_question) == (0, False)


def test_losses_are_those_of_prompt_and_answer_encoded_apart(tokenizer):
    """Beside plain transformers: prompt ids and answer ids joined, cross entropy over the answer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from near.models.losses import answer_losses
    from near.models.tokens import Collator

    carried = carrying(tokenizer, "chatml")
    carried.chat_template = made_tokenizers.CHATML
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(carried), **sizes)).eval()
    prefix = carried.decode(carried("b", add_special_tokens=False)["input_ids"] * 2) != "bb"
    for chat in chats(6, seed=1):
        chat = chat[:2] if chat[0]["role"] == "user" else chat[:3]
        row = encode(carried, chat)
        text = carried.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        prompt = carried(text, add_special_tokens=False)["input_ids"]
        answer = carried(chat[-1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        if prefix:  # no plain call encodes a continuation without the space
            answer = row.input_ids[len(prompt) :][: (row.labels != IGNORED).sum()].tolist()
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            plain = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
            ours, _ = answer_losses(model, Collator(carried.pad_token_id)([vars(row)]))
        assert float(ours.mean()) == pytest.approx(float(plain), abs=1e-5)
