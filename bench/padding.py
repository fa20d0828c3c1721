"""Training on rows of mixed length: tokens per second with padding, with rows sorted by length, and without padding.

    python bench/padding.py [rows=32 batch=8 cutoff=256 turns=3 model=smollm2 tasks=demo|all]

Rows of OpenAI's evals, LoRA, forward and backward passes without an optimizer, float32. The same rows each time: in
batches as drawn and padded; sorted by length before they are cut into batches, as rounds do it, and padded; sorted, and
each batch's rows end to end (trainer.padding_free) where near finds that less work. The three alternate; the median of
`turns` counts. Tokens are those of rows, without padding.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import statistics

import numpy as np

from bench import common
from bench.material import evals_rows


def main(
    rows: int = 32, batch: int = 8, cutoff: int = 256, turns: int = 3, model: str = "smollm2", tasks: str = "demo"
) -> None:
    from near.models.loading import add_finetuning, load_base, load_tokenizer
    from near.models.losses import answer_losses
    from near.models.padding_free import cheaper
    from near.models.tokens import Collator

    cfg = common.composed("train", f"model={model}")
    tokenizer = load_tokenizer(cfg.model, cfg.cache_dir)
    drawn = []
    for question, answer in evals_rows(cfg.cache_dir, rows, tasks, answered=True):
        end = tokenizer(answer, add_special_tokens=False)["input_ids"][: cutoff // 2]
        start = tokenizer(question, add_special_tokens=False)["input_ids"][: cutoff - len(end)]
        drawn.append({"input_ids": [*start, *end], "labels": [-100] * len(start) + end})
    lengths = np.array([len(row["input_ids"]) for row in drawn])
    order = np.argsort(lengths, kind="stable")
    network = add_finetuning(load_base(cfg.model, cfg.cache_dir), cfg.finetuning).train()
    collate = Collator(tokenizer.pad_token_id)

    def passes(order: np.ndarray, padding_free: bool) -> None:
        for start in range(0, len(order), batch):
            part = collate([drawn[i] for i in order[start : start + batch]])
            answer_losses(network, part, padding_free)[0].sum().backward()

    work = {"as drawn": (np.arange(rows), False), "sorted": (order, False), "without padding": (order, True)}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    passes(order[:batch], True)  # tries whether the model keeps rows apart
    for _ in range(turns):
        for name, how in work.items():
            seconds[name].append(common.timed(lambda how=how: passes(*how))[0])
    print(f"{rows} rows of {lengths.min()} to {lengths.max()} tokens, {lengths.sum()} in all, batches of {batch}")
    for name, (order, _) in work.items():
        parts = [lengths[order[at : at + batch]].tolist() for at in range(0, rows, batch)]
        ends = name == "without padding"
        passed = sum(sum(p) if ends and cheaper(network, p, max(p)) else max(p) * len(p) for p in parts)
        middle = statistics.median(seconds[name])
        each = ", ".join(f"{s:.2f}" for s in seconds[name])
        print(f"{name:16}{lengths.sum() / middle:8.0f} tokens/s  {middle:7.2f} s ({each}), {passed} tokens passed")


if __name__ == "__main__":
    common.script(main)
