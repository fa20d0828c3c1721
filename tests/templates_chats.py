"""Random chats and a generated tokenizer, for the tests of chat templates."""

import functools
import json
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = [
    *("<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|begin_of_text|>", "<|eot_id|>"),
    *("<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "<eos>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|observation|>", "[gMASK]", "<sop>", "[INST]", "[/INST]"),
    *("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<｜User｜>", "<｜Assistant｜>", "<tool_call>", "</tool_call>", "<think>"),
    *("</think>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    *("<|header_start|>", "<|header_end|>", "<|eot|>", "<|eom|>", "<|start|>", "<|message|>", "<|channel|>"),
]
BITS = [
    *("hello", "Hello world", "the answer is", "42", "3.14", " ", "  ", "\n", "\n\n", "\t", "?", "!", ".", ", "),
    *("你好，世界", "こんにちは", "한국어", "🙂", "👩‍👩‍👧", "naïve café", "def f(x):\n    return x\n", "    indented"),
    *("```python\nprint('hi')\n```", '{"a": 1}', "<b>", "$\\frac12$", 'it\'s "so"', "\\n", "%s {x} {{y}}", "C:\\dir"),
    *("### Instruction:", "User: ", "Assistant:", "Human: ", "</response>", "{% if %}", "[/INS", "<|im_", "'single'"),
]
TOOLS = [
    {
        "name": "weather",
        "description": "Weather of a town; 天气",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "description": "its name"},
                "unit": {"type": "string", "enum": ["C", "F"], "description": "°"},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["town"],
        },
    },
    {"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}},
    {"name": "find", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}},
]


def text(rng: random.Random, least: int = 1) -> str:
    out = "".join(rng.choice(BITS) for _ in range(rng.randint(least, 7)))
    return out if out.strip() else out + "x"


def call(rng: random.Random) -> dict:
    arguments = {"town": text(rng), "days": [1, 2]} if rng.random() < 0.6 else {"q": text(rng), "ok": True, "n": None}
    return {"name": rng.choice(["weather", "find"]), "arguments": arguments}


def chat(rng: random.Random, calls: int = 3) -> list[dict]:
    """One chat of turns in order, some with tools, calls (at most `calls` in a turn), results and reasoning."""
    messages, tools = [], rng.random() < 0.4
    if tools:
        bare = rng.sample(TOOLS, rng.randint(1, 3))
        descriptions = [{"type": "function", "function": tool} for tool in bare] if rng.random() < 0.7 else bare
        messages.append({"role": "tools", "content": json.dumps(descriptions, ensure_ascii=False)})
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": text(rng)})
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": text(rng)})
        while tools and rng.random() < 0.5:
            made = json.dumps([call(rng) for _ in range(rng.randint(1, calls))], ensure_ascii=False)
            messages.append({"role": "assistant", "content": "", "calls": made, **thought(rng)})
            messages += [{"role": "tool", "content": text(rng)} for _ in range(rng.randint(1, 2))]
        answer = {"role": "assistant", "content": text(rng), **thought(rng)}
        if rng.random() < 0.1 and "reasoning" not in answer:
            answer["content"] = f"<think>\n{text(rng)}\n</think>\n\n{answer['content']}"
        messages.append(answer)
    return messages


def thought(rng: random.Random) -> dict:
    return {"reasoning": text(rng)} if rng.random() < 0.3 else {}


def chats(n: int, seed: int = 0, calls: int = 3) -> list[list[dict]]:
    rng = random.Random(seed)
    return [chat(rng, calls) for _ in range(n)]


@functools.cache
def _core() -> str:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    words = [m["content"] for messages in chats(100, seed=1) for m in messages] * 2
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(words, trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet))
    core.add_special_tokens(SPECIAL)
    return core.to_str()


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows the special tokens of every template."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_core()), bos_token="<s>", eos_token="</s>")


@functools.cache
def ids_of(text: str) -> list[int]:
    """The token ids of `text`; callers must not change the list."""
    return _backend().encode(text, add_special_tokens=False).ids


@functools.cache
def _backend() -> Tokenizer:
    return Tokenizer.from_str(_core())
