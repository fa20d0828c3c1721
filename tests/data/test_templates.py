"""Named templates: their ids and labels are those of renderings by hand, and their Jinja renders the same text."""

import json
import logging
from dataclasses import replace

import pytest

from near.common.errors import UserError
from near.data.templates.named import ENDS, TEMPLATES, set_template, template_of
from tests.conftest import ROOT
from tests.hand_rendering import HANDS, IGNORED, encoded
from tests.templates_chats import TOOLS, chats, ids_of, tokenizer

pytestmark = pytest.mark.model
CHATS, UNNAMED = chats(200), tokenizer()
SINGLE_CALLS = chats(200, calls=1)  # glm4 writes no second call in a turn
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def rows_of(name: str) -> list[list[dict]]:
    return SINGLE_CALLS if TEMPLATES[name].tools == "glm4" else CHATS


def named(name: str, **options):
    one = tokenizer()
    set_template(one, name, **options)
    return one


def coded(template, messages: list[dict], named, **options) -> tuple[list[int], list[int]]:
    """ids and labels by the pieces of a template."""
    ids, labels = [], []
    for piece in template.pieces(messages, named.bos_token or "", named.eos_token or "", **options):
        part = ids_of(piece.text)
        ids += part
        first = named.convert_tokens_to_ids(piece.first_label) if piece.first_label else IGNORED
        labels += part if piece.answer is not None else [first] + [IGNORED] * (len(part) - 1)
    return ids, labels


def text_of(template, messages: list[dict], **options) -> str:
    return "".join(piece.text for piece in template.pieces(messages, "<s>", "</s>", **options))


def hugging_face(messages: list[dict]) -> tuple[list[dict], list | None]:
    """A row's messages as apply_chat_template takes them, and its tools."""
    tools, out = None, []
    for message in messages:
        if message["role"] == "tools":
            tools = json.loads(message["content"])
            continue
        turn = {"role": message["role"], "content": message["content"]}
        if "reasoning" in message:
            turn["reasoning_content"] = message["reasoning"]
        if "calls" in message:
            turn["tool_calls"] = [{"type": "function", "function": call} for call in json.loads(message["calls"])]
        out.append(turn)
    return out, tools


def rendered(named, messages: list[dict], generate: bool = False, **options) -> str:
    turns, tools = hugging_face(messages)
    return named.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=generate, **options)


@pytest.mark.parametrize("name", HANDS)
def test_ids_and_labels_are_those_of_a_rendering_by_hand(name):
    one = named(name)
    for messages in rows_of(name):
        assert coded(TEMPLATES[name], messages, one) == encoded(HANDS[name], messages, UNNAMED)


@pytest.mark.parametrize("thinking", [True, None, False])
@pytest.mark.parametrize("last_only", [True, False])
@pytest.mark.parametrize("name", [name for name, hand in HANDS.items() if hand.thinks])
def test_thinking_and_the_historys_thinking(name, thinking, last_only):
    one = named(name)
    for messages in rows_of(name)[:100]:
        ours = coded(TEMPLATES[name], messages, one, thinking=thinking, mask_history=last_only)
        assert ours == encoded(HANDS[name], messages, UNNAMED, thinking, last_only)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_jinja_renders_the_joined_pieces(name):
    one, template = named(name), TEMPLATES[name]
    for messages in rows_of(name)[:50]:
        options = {"thinking": False} if messages[-1]["content"] > "M" else {}
        jinja = {"enable_thinking": False} if options else {}
        pieces = template.pieces(messages, one.bos_token, one.eos_token, **options)
        assert rendered(one, messages, **jinja) == "".join(piece.text for piece in pieces)
        prompt = messages[:-1]
        pieces = template.pieces(prompt, one.bos_token, one.eos_token, generate=True, **options)
        assert rendered(one, prompt, generate=True, **jinja) == "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_are_trained_from_where_generation_begins(name):
    one, template = named(name), TEMPLATES[name]
    for messages in rows_of(name)[:20]:
        ids, _ = coded(template, messages, one)
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before, _ = coded(template, messages[:i], one, generate=True)
                through = [p for p in template.pieces(messages, one.bos_token, one.eos_token) if p.answer == i]
                assert ids[: len(before)] == before
                answer = ids_of(through[0].text)
                assert ids[len(before) : len(before) + len(answer)] == answer


@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_in_any_order_are_rendered_alike(name):
    """Two questions, two answers, a late system text, an answer first, a result last: what no trainer's file has."""
    orders = ["uua", "uaa", "usua", "au", "aua", "ssua", "s", "u", "uasa", "sa", "uat", "sta", "uttu", "su", "sas"]
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    one, template = named(name), TEMPLATES[name]
    for order in orders:
        messages = [{"role": roles[letter], "content": f"{letter}{i}"} for i, letter in enumerate(order)]
        for generate in (False, True):
            text = "".join(p.text for p in template.pieces(messages, one.bos_token, one.eos_token, generate=generate))
            assert rendered(one, messages, generate) == text
            assert all(message["content"] in text for message in messages)


def test_an_answers_opening_stands_only_before_an_answer():
    opening = "<|im_start|>assistant\n"
    assert text_of(TEMPLATES["yi"], [USER, USER]).count(opening) == 0
    assert text_of(TEMPLATES["yi"], [USER, USER, ANSWER, ANSWER]).count(opening) == 2
    assert text_of(TEMPLATES["yi"], [USER], generate=True).endswith(opening)
    assert [p.text for p in TEMPLATES["vicuna"].pieces([USER], "", "", generate=True, default_system="")] == [
        "USER: hi ASSISTANT:"
    ]


def test_the_system_text_of_a_row_without_one():
    yours = {"role": "system", "content": "be brief"}
    qwen = TEMPLATES["qwen"]
    assert "You are Qwen" in text_of(qwen, [USER, ANSWER])
    assert "You are Qwen" in text_of(qwen, [{"role": "system", "content": ""}, USER, ANSWER])
    assert "You are Qwen" not in text_of(qwen, [yours, USER, ANSWER])
    assert text_of(qwen, [USER, ANSWER], default_system="").startswith("<|im_start|>user")
    assert "system\nmine<|im_end|>" in text_of(qwen, [USER, ANSWER], default_system="mine")


def test_text_beside_a_call_stands_before_it():
    calls = json.dumps([{"name": "now", "arguments": {}}])
    for content, between in (("Let me see.", "\n"), ("See:\n", ""), ("", "")):
        messages = [USER, {"role": "assistant", "content": content, "calls": calls}]
        text = text_of(TEMPLATES["qwen3_nothink"], messages)
        assert f'assistant\n{content}{between}<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>' in text


def test_tools_without_parameters_and_types_of_several_kinds_are_described():
    odd = [{"name": "a"}, {"name": "b", "parameters": {"properties": {"x": {"enum": [1, 2]}, "y": {}}}}]
    messages = [{"role": "tools", "content": json.dumps(odd)}, USER, ANSWER]
    for name, template in TEMPLATES.items():
        one = named(name)
        assert rendered(one, messages) == "".join(p.text for p in template.pieces(messages, "<s>", one.eos_token))


def test_arguments_as_json_text_are_rendered_as_objects_in_jinja():
    arguments = json.dumps({"town": "Oslo"})
    turn = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "w", "arguments": arguments}}]}
    text = named("qwen").apply_chat_template([USER, turn], tokenize=False)
    assert '<tool_call>\n{"name": "w", "arguments": {"town": "Oslo"}}\n</tool_call>' in text


def test_what_a_template_cant_say_is_refused():
    two = json.dumps([{"name": "now", "arguments": {}}] * 2)
    with pytest.raises(UserError, match="glm4 writes one tool call per turn, got 2"):
        text_of(TEMPLATES["glm4"], [USER, {"role": "assistant", "content": "", "calls": two}])
    with pytest.raises(UserError, match="template phi has no slot for role 'critic' \\(turn 1\\)"):
        text_of(TEMPLATES["phi"], [USER, {"role": "critic", "content": "no"}])
    with pytest.raises(UserError, match="m.t=qwen4 is not a template; did you mean qwen"):
        set_template(tokenizer(), "qwen4", "m.t")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_tokenizer_says_which_named_template_it_carries(name, tmp_path):
    one = named(name, default_system=None if name < "m" else 'say "hi"\n\\o/ 你好 🙂')
    one.save_pretrained(tmp_path)
    again = type(one).from_pretrained(tmp_path)
    assert again.chat_template == one.chat_template
    assert template_of(again).name == name
    assert template_of(again).default_system == (
        TEMPLATES[name].default_system if name < "m" else 'say "hi"\n\\o/ 你好 🙂'
    )
    assert rendered(again, [USER, ANSWER]) == text_of(template_of(again), [USER, ANSWER]).replace(
        "</s>", again.eos_token
    )


def test_another_template_is_no_named_one():
    one = named("qwen")
    for other in (None, "", "{{ messages }}", one.chat_template + " ", "{# nosuch #}", {"default": one.chat_template}):
        one.chat_template = other
        assert template_of(one) is None


def test_the_end_of_a_turn_becomes_the_tokenizers():
    assert (named("chatml").eos_token, named("llama3").eos_token, named("alpaca").eos_token) == (
        "<|im_end|>",
        "<|eot_id|>",
        "</s>",
    )
    assert named("yi").eos_token == "</s>"  # as in LLaMA-Factory, which replaces it in some templates only
    assert (ENDS["chatml"], ENDS["llama3"], ENDS["yi"], ENDS["gemma2"]) == (
        *("<|im_end|>", "<|eot_id|>", "<|im_end|>", "<end_of_turn>"),
    )
    assert "alpaca" not in ENDS


def test_an_end_that_the_vocabulary_lacks_is_named(caplog):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "<e>": 1}, [])), eos_token="<e>")
    with caplog.at_level(logging.WARNING):
        set_template(bare, "llama3")
    assert bare.eos_token == "<e>"
    assert len(bare) == 2
    assert "model.template=llama3: <|eot_id|>, which ends an answer, is not a token of this tokenizer" in caplog.text


def test_a_stop_word_in_the_vocabulary_is_encoded_as_one_token():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["a", "<e>", "<|im_end|>", "<", "|", "i", "m", "_", "e", "n", "d", ">"])}
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(words, [])), eos_token="<e>")
    assert len(bare.encode("a<|im_end|>")) > 2
    set_template(bare, "chatml")
    assert bare.encode("a<|im_end|>") == [0, 2]
    assert (bare.eos_token_id, len(bare)) == (2, 12)


def test_the_documentation_lists_every_name():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in TEMPLATES if f"`{name}`" not in text] == []


def test_the_tools_of_the_chats_are_in_them():
    assert sum(messages[0]["role"] == "tools" for messages in CHATS) > 50
    assert sum("reasoning" in m for messages in CHATS for m in messages) > 50
    assert sum("calls" in m for messages in CHATS for m in messages) > 50
    assert {tool["name"] for tool in TOOLS} == {"weather", "now", "find"}


@pytest.mark.parametrize(
    "tools", ['[{"name":"f","parameters":null}]', '[ {"type": "function", "function": {"name": "é"}} ]']
)
def test_tools_that_a_template_writes_as_they_are(tools):
    rows = [{"role": "tools", "content": tools}, USER, ANSWER]
    assert f"<|tool|>{tools}<|/tool|>" in text_of(replace(TEMPLATES["qwen"], tools="phi4_mini"), rows)
