"""Which representation of a row finds the target's skill under other wordings: an ablation on data=crossed.

    python bench/skills.py [targets=ten|chosen|demo|sort-0,upper-3 dtype=bfloat16 rows=500 queries=16 size=48]

A target is a cell (a skill under a wording) of which the pool has no row. Near's walk takes `size` rows, 48 of them in
sweeps=targets; the table has the share of them with the target's skill and with its wording, means over the cells, and
the seconds of the processor for one pool and its queries, without loading models.

`targets=chosen` are six cells of the skills that sweeps=targets lacks, in one pool without any of the six: method and
layer were chosen on them. `targets=ten` are the targets of sweeps=targets, each with its pool, by near's embedders.
`targets=demo` are the tasks of data=demo: 20 rows of each are the pool, 10 others the queries, and 16 rows are taken.

Methods: MiniLM's vectors of prompt, answer, both, and their differences. Of the causal model (SmolLM2-135M), on
`prompt newline answer` without a chat template, the states of a layer: their mean over the answer; minus that of the
answer alone; their mean over all tokens; at the prompt's last token; at the end of a prompt that follows the row as a
demonstration (task vectors: Hendel et al. 2023, arXiv 2310.15916; Todd et al. 2024, arXiv 2310.15213). Then the
gradient of the loss at the output layer, sketched; and a ridge regression from MiniLM's vectors, fitted to a tenth of
the pool, to such states and gradients. `centred`: minus the pool's mean; `top 3 removed`: and three principal
components (Mu and Viswanath 2018, arXiv 1702.01417); `whitened`: 64 components of equal variance (Su et al. 2021,
arXiv 2103.15316).
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from bench import common
from near.common.batches import batches
from near.common.errors import UserError
from near.data.builtin.assets import resolve
from near.data.builtin.demo_data import TASKS, read_task
from near.data.formats.formats import embedded_text
from near.embedding.embed import embedder_of
from near.embedding.embedders.base import normalised
from near.models.loading import load_base, load_tokenizer
from near.searching.material import Material, load_queries
from near.searching.settings import SearchSettings
from near.selection.selectors.near import walk

TEN = "sort-0 reverse-1 initials-2 upper-3 last-4 count-5 rotate-6 longest-7 lengths-8 unique-9".split()
CHOSEN = "by_length-1 swap_ends-3 every_second-5 smallest-7 title-9 endings-0".split()
LAYERS = (3, 6, 12, 18, 20, 21, 27)
FIELDS = ("prompt", "answer", "both")
DEMONSTRATED = "Input: tiger, apple, moon, river, stone\nOutput:"  # the prompt that follows a row
SKETCH = 96  # dimensions of each side of the output layer's gradient
TOKENS = 2048  # of a batch
Pair = tuple[str, str]  # prompt, answer


class Cells(NamedTuple):
    """The rows of one pool, followed by the queries of each target.

    Attributes:
        pairs: of all rows.
        labels: skill and wording of the pool's rows.
        targets: skill and wording of each target, and where its queries are.
    """

    pairs: list[Pair]
    labels: list[Pair]
    targets: list[tuple[str, str, slice]]


def crossed(targets: Sequence[str], rows: int, queries: int) -> list[str]:
    """Overrides for the pool without `targets`; the first of them is the target."""
    words = ["data=crossed", f"data.target={targets[0]}", f"data.rows={rows}", f"data.query_rows={queries}"]
    left_out = [f"data.left_out=[{','.join(targets)}]"] if len(targets) > 1 else []
    return [*words, "data.eval_rows=32", *left_out]


def cells(targets: Sequence[str], rows: int, queries: int) -> Cells:
    pairs: list[Pair] = []
    labels: list[Pair] = []
    spans = []
    for target in targets:
        cfg = common.composed("select", *crossed(targets, rows, queries), f"data.target={target}")
        for part in ("queries",) if pairs else ("candidates", "queries"):
            path = Path(resolve(cfg.data[part].path, cfg.cache_dir))
            read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            pairs += [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in read]
            if part == "candidates":
                labels = [(row["skill"], str(row["wording"])) for row in read]
        skill, _, wording = target.rpartition("-")
        spans.append((skill, wording, slice(len(pairs) - queries, len(pairs))))
    return Cells(pairs, labels, spans)


def near_walk(similarities: np.ndarray, size: int) -> list[int]:
    """Rows in the order of selector=near: every query's nearest, then every query's second nearest, ..."""
    order = np.argsort(-similarities, axis=1, kind="stable")  # (n_queries, n_pool)
    return list(dict.fromkeys(order.T.ravel().tolist()))[:size]


def shares(vectors: np.ndarray, of: Cells, size: int) -> np.ndarray:
    """The shares of the rows near takes with the target's skill and its wording, (n_targets, 2)."""
    units, n, table = normalised(vectors), len(of.labels), []
    for skill, wording, queries in of.targets:
        taken = [of.labels[i] for i in near_walk(units[queries] @ units[:n].T, size)]
        table.append(shares_of(taken, skill, wording))
    return np.array(table)


def shares_of(taken: list[Pair], skill: str, wording: str) -> list[float]:
    """The shares of the labels `taken` with that skill and with that wording."""
    return [sum(s == skill for s, _ in taken) / len(taken), sum(w == wording for _, w in taken) / len(taken)]


def variants(vectors: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """The vectors, (m, dim), as they are and after operations fitted to the pool, their first n rows."""
    vectors = np.asarray(vectors, dtype=np.float64)
    centred = vectors - vectors[:n].mean(0)
    _, lengths, axes = np.linalg.svd(centred[:n], full_matrices=False)
    return {
        "as it is": vectors,
        "centred": centred,
        "top 3 removed": centred - (centred @ axes[:3].T) @ axes[:3],
        "whitened": centred @ axes[:64].T / np.maximum(lengths[:64], 1e-9 * lengths[0]),
    }


def ridge(inputs: np.ndarray, outputs: np.ndarray, known: np.ndarray, strength: float = 0.1) -> np.ndarray:
    """Outputs of all rows by a ridge regression from `inputs` that is fitted to the rows `known`."""
    x, y = inputs - inputs[known].mean(0), outputs - outputs[known].mean(0)
    kernel = x[known] @ x[known].T
    kernel += strength * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
    return (x @ x[known].T) @ np.linalg.solve(kernel, y[known])


class Causal:
    """A causal language model and what it makes of rows."""

    def __init__(self, dtype: str):
        cfg = common.composed("train", f"model.dtype={dtype}")
        self.model = load_base(cfg.model, cfg.cache_dir, "cpu").eval()
        self.tokenizer = load_tokenizer(cfg.model, cfg.cache_dir)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def run(self, rows: list[list[int]], take: Callable, layers: int | None = None) -> None:
        """Calls take(rows of the batch, token ids (B, T), states of each layer (B, T, dim)) for every batch. `layers`:
        only so many layers are computed."""
        inner = self.model.model
        whole, norm = inner.layers, inner.norm
        if layers is not None:
            inner.layers, inner.norm = whole[:layers], torch.nn.Identity()
        try:
            for part in batches([len(row) for row in rows], 64, TOKENS):
                tokens = torch.zeros((len(part), max(len(rows[i]) for i in part)), dtype=torch.long)
                mask = torch.zeros_like(tokens)
                for at, i in enumerate(part):
                    tokens[at, : len(rows[i])] = torch.tensor(rows[i])
                    mask[at, : len(rows[i])] = 1
                with torch.inference_mode():
                    outputs = inner(input_ids=tokens, attention_mask=mask, use_cache=False, output_hidden_states=True)
                    take(part, tokens, outputs.hidden_states)
        finally:
            inner.layers, inner.norm = whole, norm

    def states(self, pairs: list[Pair], layers: Sequence[int], whole: bool = False) -> dict[str, np.ndarray]:
        """By name, states of `layers`, float32 (n, n_layers, dim). `whole`: of all methods, and the sketch of the
        output layer's gradient, (n, SKETCH^2)."""
        prompts = [self.ids(f"{prompt}\n" if prompt else "") for prompt, _ in pairs]
        answers = [self.ids(answer) for _, answer in pairs]
        dim, n = self.model.config.hidden_size, len(pairs)
        names = ("answer", "all tokens", "last of the prompt") if whole else ("answer",)
        out = {name: np.zeros((n, len(layers), dim), dtype=np.float32) for name in names}
        sketch = np.zeros((n, SKETCH**2), dtype=np.float32)
        sides = torch.randn((2, dim, SKETCH), generator=torch.Generator().manual_seed(0)) / SKETCH**0.5

        def take(part, tokens, states) -> None:
            for at, i in enumerate(part):
                first, stop = len(prompts[i]), len(prompts[i]) + len(answers[i])
                spans = {"answer": (first, stop), "all tokens": (0, stop), "last of the prompt": (first - 1, first)}
                for name in names:
                    begin, end = spans[name]
                    for column, layer in enumerate(layers):
                        out[name][i, column] = states[layer][at, begin:end].float().mean(0).numpy()
                if whole:
                    last = states[-1][at, first - 1 : stop - 1]  # the states that predict the answer's tokens
                    errors = self.model.lm_head(last).float().softmax(-1)
                    errors[torch.arange(stop - first), tokens[at, first:stop]] -= 1
                    gradients = errors @ self.model.lm_head.weight.float()  # of the loss by each state
                    sketch[i] = ((gradients @ sides[0]).T @ (last.float() @ sides[1])).flatten().numpy()

        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        self.run(rows, take, None if whole else max(layers))
        return {**out, "gradient": sketch} if whole else out

    def demonstrated(self, pairs: list[Pair], layers: Sequence[int]) -> np.ndarray:
        """States at the end of DEMONSTRATED, which follows each row, float32 (n, n_layers, dim)."""
        out = np.zeros((len(pairs), len(layers), self.model.config.hidden_size), dtype=np.float32)
        rows = [self.ids(f"{prompt}\n{answer}\n\n{DEMONSTRATED}") for prompt, answer in pairs]

        def take(part, tokens, states) -> None:
            for at, i in enumerate(part):
                for column, layer in enumerate(layers):
                    out[i, column] = states[layer][at, len(rows[i]) - 1].float().numpy()

        self.run(rows, take, max(layers))
        return out


def minilm(pairs: list[Pair], field: str) -> np.ndarray:
    cfg = common.composed("select", "embedder=minilm")
    embedder = embedder_of(cfg.embedder, cfg.cache_dir)
    embedder.dim  # noqa: B018 load the model
    texts = {"prompt": [p for p, _ in pairs], "answer": [a for _, a in pairs], "both": ["\n".join(p) for p in pairs]}
    with measured(f"MiniLM, {field}"):
        return embedder.embed(texts[field])


SECONDS: dict[str, list[float]] = {}  # of the processor, by method, of each pool


class measured:
    """Adds the processor's seconds of a block to SECONDS."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        self.started = time.process_time()

    def __exit__(self, *_) -> None:
        SECONDS.setdefault(self.name, []).append(time.process_time() - self.started)


def line(name: str, table: np.ndarray) -> None:
    """Print a row of the table from shares (n_targets, 2)."""
    each = " ".join(f"{100 * share:3.0f}" for share in table[:, 0])
    print(f"{name:50}{100 * table[:, 0].mean():6.1f}{100 * table[:, 1].mean():8.1f}   {each}", flush=True)


def on_chosen(model: Causal, rows: int, queries: int, size: int) -> None:
    of = cells(CHOSEN, rows, queries)
    n = len(of.labels)
    vectors = {f"MiniLM, {field}": minilm(of.pairs, field) for field in FIELDS}
    prompt, answer, both = (normalised(v) for v in vectors.values())
    vectors["MiniLM, both - prompt"] = both - prompt
    vectors["MiniLM, both - prompt - answer"] = both - prompt - answer
    with measured("causal model, all layers"):
        states = model.states(of.pairs, LAYERS, whole=True)
    with measured(f"causal model, {max(LAYERS)} layers, answers alone"):
        alone = model.states([("", answer) for _, answer in of.pairs], LAYERS)["answer"]
    with measured(f"causal model, {max(LAYERS)} layers, rows as demonstrations"):
        after = model.demonstrated(of.pairs, LAYERS)
    for column, layer in enumerate(LAYERS):
        at = {name: values[:, column] for name, values in states.items() if name != "gradient"}
        vectors[f"answer, layer {layer}"] = at["answer"]
        vectors[f"answer - answer alone, layer {layer}"] = at["answer"] - alone[:, column]
        vectors[f"all tokens, layer {layer}"] = at["all tokens"]
        vectors[f"last of the prompt, layer {layer}"] = at["last of the prompt"]
        vectors[f"after the row as demonstration, layer {layer}"] = after[:, column]
    vectors["gradient at the output layer"] = states["gradient"]
    known = np.random.default_rng(0).permutation(n)[: n // 10]
    inputs, layer = np.concatenate([prompt, answer, both], axis=1), LAYERS.index(20)
    for name, outputs in (("answer, layer 20", states["answer"][:, layer]), ("gradient", states["gradient"])):
        vectors[f"MiniLM to {name}, by ridge"] = ridge(inputs, normalised(outputs), known)
    for name, rows_of in vectors.items():
        for how, values in variants(rows_of, n).items():
            line(f"{name}, {how}", shares(values, of, size))


def on_demo(model: Causal) -> None:
    cfg = common.composed("select")
    folder, rng = Path(resolve("builtin:evals", cfg.cache_dir)), np.random.default_rng(0)
    targets: list[Pair] = []
    pool: list[Pair] = []
    for task in sorted(TASKS):
        rows = read_task(folder, task)
        drawn = [rows[i]["messages"] for i in rng.permutation(len(rows))[:30]]
        pairs = [(embedded_text(turns, "prompt"), embedded_text(turns, "answer")) for turns in drawn]
        targets, pool = targets + pairs[:10], pool + pairs[10:]
    labels = [(task, "") for task in sorted(TASKS) for _ in range(20)]
    starts = range(len(pool), len(pool) + len(targets), 10)
    spans = [(task, "-", slice(start, start + 10)) for task, start in zip(sorted(TASKS), starts, strict=True)]
    of = Cells(pool + targets, labels, spans)
    vectors = {f"MiniLM, {field}": minilm(of.pairs, field) for field in FIELDS}
    with measured("answer, layer 20"):
        vectors["answer, layer 20"] = model.states(of.pairs, [20])["answer"][:, 0]
    for name, values in vectors.items():
        line(name, shares(values, of, 16))


def methods(dtype: str) -> dict[str, list[str]]:
    """Overrides of near's embedders by their names in the table."""
    minilm = {f"MiniLM, {field}": ["embedder=minilm", f"embedder.embed={field}"] for field in FIELDS}
    return minilm | {"answer_states": ["embedder=answer_states", f"model.dtype={dtype}"]}


def by_near(targets: Sequence[str], rows: int, queries: int, size: int, dtype: str) -> None:
    tables: dict[str, list[np.ndarray]] = {}
    for target in targets:
        of = cells([target], rows, queries)
        skill, wording, _ = of.targets[0]
        for name, words in methods(dtype).items():
            options = crossed([target], rows, queries)
            cfg = common.composed("select", *options, *words)
            material = Material.load(cfg.data, load_queries(cfg.data, cfg.cache_dir, True, True), cfg.cache_dir)
            neighbours = material.neighbours(SearchSettings.of(cfg, cfg.cache_dir))
            taken = [of.labels[i] for i in walk(neighbours, rows)[0][:size]]
            tables.setdefault(name, []).append(shares_of(taken, skill, wording))
            if target == targets[0]:
                embedder = embedder_of(cfg.embedder, cfg.cache_dir)
                texts = [embedder.document([message("user", p), message("assistant", a)]) for p, a in of.pairs]
                embedder.embed(texts[:1])  # load the model
                with measured(name):
                    embedder.embed(texts)
    for name, table in tables.items():
        line(name, np.array(table))


def message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def main(
    targets: str = "ten",
    dtype: str = "bfloat16",
    rows: int = 500,
    queries: int = 16,
    size: int = 48,
) -> None:
    names = {"ten": TEN, "chosen": CHOSEN, "demo": sorted(TASKS)}.get(targets) or targets.split(",")
    if not all("-" in name for name in names) and targets != "demo":
        raise UserError(f"targets={targets}: use ten, chosen, demo, or cells such as sort-0,upper-3")
    logging.disable(logging.WARNING)
    print(f"\n{'share of the rows taken, in percent':50}{'skill':>6}{'wording':>8}   skill of {' '.join(names)}")
    if targets == "demo":
        on_demo(Causal(dtype))
    elif targets == "chosen":
        on_chosen(Causal(dtype), rows, queries, size)
    else:
        by_near(names, rows, queries, size, dtype)
    print(f"\nseconds of the processor for a pool and its queries (causal model: {dtype}; MiniLM: float32)")
    for name, seconds in SECONDS.items():
        print(f"{name:50}{np.mean(seconds):6.1f}")


if __name__ == "__main__":
    common.script(main)
