"""Tokenisation: microseconds a row by template, and one very long row.

    python bench/encode.py [rows=800 turns=5 megabytes=50 model=smollm2 templates=own,qwen]

Rows of a question and a short answer are encoded as in train.py (near/models/encoding.py), the fastest of `turns`;
`own` is the model's chat template. Then one row with a question of `megabytes`, in a separate process: seconds and the
increase of the peak memory.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import functools

from bench import common
from near.common.errors import UserError


def encoder(model: str, template: str):
    """The encoder of train.py."""
    from near.models.encoding import Encoder
    from near.models.loading import load_tokenizer

    cfg = common.composed("train", f"model={model}", f"model.template={'null' if template == 'own' else template}")
    return Encoder(load_tokenizer(cfg.model, cfg.cache_dir), cfg.data)


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def long(model: str, megabytes: int) -> list[float]:
    """Encode one row of so many megabytes: seconds, increase of the peak memory in bytes, remaining tokens."""
    encode = encoder(model, "own").encode
    encode(chat("what is one and one", "two"))
    text = "what is the name of number 17? " * (megabytes * 1_000_000 // 31 + 1)
    before = common.peak()
    seconds, coded = common.timed(lambda: encode(chat(text[: megabytes * 1_000_000], "two")))
    return [seconds, common.peak() - before, len(coded.input_ids)]


def main(
    rows: int = 800,
    turns: int = 5,
    megabytes: int = 50,
    model: str = "smollm2",
    templates: list[str] = ("own", "qwen"),
) -> None:
    if min(rows, turns, megabytes) < 1:
        raise UserError(f"rows={rows} turns={turns} megabytes={megabytes}: use 1 or more of each")
    chats = [chat(f"what is the name of number {i}", f"name {i}") for i in range(rows)]
    for template in templates:
        encoded = functools.partial(map, encoder(model, template).encode, chats)
        tokens = sum(len(row.input_ids) for row in encoded())
        seconds = min(common.timed(lambda work=encoded: list(work()))[0] for _ in range(turns))
        print(
            f"template {template:12}{seconds / rows * 1e6:10.0f} us a row, {tokens / rows:.1f} tokens each", flush=True
        )
    seconds, rise, tokens = common.apart(long, model, megabytes)
    print(f"a row of {megabytes} MB: {seconds:.1f} s, {rise / 1e6:.0f} MB more at the peak, {tokens} tokens remain")


if __name__ == "__main__":
    common.script(main, long)
