"""Everything that keeps a GPU busy, beside its peers, as a table and as JSON: for one data-centre GPU, under 8 minutes.

    python bench/gpu.py [device=auto texts=6000 searched=100000,1000000 queries=2000 K=1000 steps=24 rows=512
        dim=8192 model=smollm2 width=qwen3 demo=true out=FILE.json]

device=auto is the accelerator, or the CPU where there is none; small sizes make it run there too (texts=64
searched=2000 queries=50 K=10 steps=8 rows=16 width=tiny model=tiny demo=false). Each part has a process of its own:

1. embedding: MiniLM, and the shape of Qwen3-Embedding-0.6B with random weights (`width`), in texts and tokens per
   second: near; sentence-transformers' encode with the best of three batch sizes; the bare forward loop over near's
   batches, whose tokens are on the device already.
2. search: exact, with torch's product and top-k in blocks from host memory, and the product alone (bench/search.py).
3. training: milliseconds a step of rounds, padded and without padding, and of transformers' Trainer on the same rows
   (bench/trainer.py).
4. LESS: features of `rows` rows in tokens per second, beside a plain forward and backward pass in the same batches.
5. the demo, by phase.

Peak memory is the device's, or the process's on a CPU. Goals on a GPU: embedding at least 0.9 of the bare loop, search
at most 1.5 of torch's blocks with the same ids, a step at most 1.01 of the Trainer's, features at least 0.9 of the
plain passes.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import logging
import os
import subprocess
import tempfile

import torch

from bench import common
from near.common.batches import batches
from near.common.errors import UserError
from near.common.files import write_json

WIDTHS = {  # of the model with random weights that stands for Qwen3-Embedding-0.6B
    "qwen3": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
}
HEADS = {"qwen3": {"num_key_value_heads": 8, "head_dim": 128}, "tiny": {"num_key_value_heads": 1, "head_dim": 16}}


def chosen(device: str) -> str:
    if device != "auto":
        return device
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else f"{found.type}:0"


def finished(device: str) -> None:
    """Wait for the device."""
    if not device.startswith("cpu"):
        torch.accelerator.synchronize(device)


def peak(device: str) -> float:
    """The most memory so far, in GB."""
    used = common.peak() if device.startswith("cpu") else torch.accelerator.max_memory_allocated(device)
    return round(used / 1e9, 3)


def fastest(work, device: str, turns: int = 2) -> float:
    """Seconds of the fastest of `turns`, after one that does not count."""

    def whole() -> None:
        work()
        finished(device)

    return min(common.timed(whole)[0] for _ in range(turns + 1))


def random_embedder(folder: str, width: str, vocabulary: Path) -> str:
    """Save a model of the shape of Qwen3-Embedding with random weights, and MiniLM's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import AutoModel, AutoTokenizer, Qwen3Config

    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    config = Qwen3Config(vocab_size=len(tokenizer), **WIDTHS[width], **HEADS[width], pad_token_id=0)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(f"{folder}/base")
    tokenizer.save_pretrained(f"{folder}/base")
    body = Transformer(f"{folder}/base", max_seq_length=256)
    pooling = Pooling(config.hidden_size, pooling_mode="lasttoken")
    SentenceTransformer(modules=[body, pooling, Normalize()], device="cpu").save(f"{folder}/model")
    return f"{folder}/model"


def embedding(device: str, count: int, width: str | None) -> dict:
    """One model's rates. width: None for MiniLM, otherwise a key of WIDTHS."""
    from hydra.utils import instantiate

    from bench.material import evals_rows
    from near.data.builtin.assets import resolve

    logging.disable(logging.WARNING)
    cfg = common.composed("select", f"embedder.device={device}")
    texts = [question for question, _ in evals_rows(cfg.cache_dir, count, "demo")]
    minilm = resolve(cfg.embedder.model, cfg.cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        cfg.embedder.model = str(minilm) if width is None else random_embedder(folder, width, Path(minilm))
        embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
        embedder.embed(texts[:16])  # loads the model
        model = embedder._model
        lengths = [min(256, len(ids)) for ids in model.tokenizer(texts, verbose=False)["input_ids"]]
        near = fastest(lambda: embedder.embed(texts), device)
        encode = min(
            fastest(lambda size=size: model.encode(texts, batch_size=size, convert_to_numpy=True), device, 1)
            for size in (32, 128, 512)
        )
        budget = getattr(embedder, "tokens_per_batch", None) or max(4096, max(lengths))
        parts = batches(lengths, count, budget, alike=0.9)
        ready = [model.tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=256,
                                 return_tensors="pt").to(device) for part in parts]  # fmt: skip

        def bare() -> None:
            with torch.inference_mode():
                for batch in ready:
                    model.forward(dict(batch))

        loop = fastest(bare, device)
    rate = {name: round(count / seconds, 1) for name, seconds in (("near", near), ("encode", encode), ("bare", loop))}
    tokens = {name: round(sum(lengths) / count * value) for name, value in rate.items()}
    return {"texts_per_s": rate, "tokens_per_s": tokens, "relative": loop / near, "peak_gb": peak(device)}


def searching(device: str, rows: int, queries: int, K: int) -> dict:
    from bench.search import search_rows

    return {**search_rows(device, rows, queries, min(K, rows)), "peak_gb": peak(device)}


def training(kind: str, folder: str, model: str, steps: int, padding_free: bool, extra: list[str]) -> dict:
    from bench.trainer import step

    words = [
        f"model={model}",
        "trainer.warmup_step=4",
        "trainer.update_step=4",
        f"trainer.update_times={steps // 4 - 1}",
    ]
    run = step(folder, kind, [*words, f"trainer.padding_free={str(padding_free).lower()}", *extra])
    device = chosen("auto")
    return {"ms": 1000 * run["seconds"], "peak_gb": peak(device)}


def less(device: str, rows: int, dim: int, model: str, extra: list[str]) -> dict:
    """Features and plain passes over the same batches, of at most 1,024 tokens on a CPU and 16,384 elsewhere."""
    from bench.gradients import drawn, loaded
    from near.models.tokens import Collator
    from near.models.weights import trained
    from near.selection.scoring.gradients import PerExample, Projection, moments_of

    logging.disable(logging.WARNING)
    adapted, optimizer, pool, _ = loaded([f"model={model}", *extra], 16)
    adapted.to(device)
    for state in optimizer.state.values():
        state.update({name: value.to(device) for name, value in state.items() if torch.is_tensor(value)})
    chosen_rows = drawn(pool, rows, seed=0)
    lengths = [len(row["input_ids"]) for row in chosen_rows]
    budget = 1024 if device.startswith("cpu") else 16_384
    inputs = [Collator(0)([chosen_rows[i] for i in part]) for part in batches(lengths, 64, budget)]
    inputs = [{name: value.to(device) for name, value in batch.items()} for batch in inputs]
    moments, projection = moments_of(optimizer, trained(adapted)), Projection(dim)

    def plain() -> None:
        for batch in inputs:
            adapted(**batch, use_cache=False).loss.backward()
        optimizer.zero_grad()

    def features() -> None:
        with PerExample(adapted, projection) as per_example:
            for batch in inputs:
                per_example(batch, moments=moments)

    seconds = {"plain": fastest(plain, device), "near": fastest(features, device)}
    rates = {name: round(sum(lengths) / value) for name, value in seconds.items()}
    return {"tokens_per_s": rates, "relative": seconds["plain"] / seconds["near"], "peak_gb": peak(device)}


def demo() -> dict:
    """Seconds of each step of the demo, in a new folder and cache but for the assets."""
    from bench.demo import steps
    from near.common.files import cache_folder

    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        (cache / "assets").symlink_to(cache_folder(common.composed("select").cache_dir, "assets").resolve())
        for words in steps(f"{folder}/runs"):
            command = [sys.executable, *words]
            environment = {**os.environ, "NEAR_CACHE": str(cache)}
            run = dict(cwd=common.ROOT, env=environment, capture_output=True, text=True)
            taken, done = common.timed(lambda command=command, run=run: subprocess.run(command, **run))
            if done.returncode:
                raise UserError(f"{words[0]} ended with status {done.returncode}: {done.stderr.strip()[-200:]}")
            seconds[words[0]] = round(taken, 1)
    return {"seconds": seconds, "total": round(sum(seconds.values()), 1)}


def parts_of(device: str, texts: int, searched: list[int], queries: int, K: int, steps: int, rows: int, dim: int,
             model: str, width: str, with_demo: bool, extra: list[str]) -> dict:  # fmt: skip
    """Measure each part in a process of its own, and print its row."""
    result: dict = {}

    def row(name: str, part: dict, *shown: str) -> None:
        result[name] = part
        print(f"{name:28}" + "  ".join(shown) + f"  {part.get('peak_gb', 0):.2f} GB", flush=True)

    for name, kind in (("embedding, MiniLM", None), (f"embedding, {width} shape", width)):
        part = common.apart(embedding, device, texts, kind)
        rates = ", ".join(f"{key} {value:,.0f}" for key, value in part["texts_per_s"].items())
        row(name, part, f"texts/s: {rates};", f"{part['relative']:.2f} of the bare loop")
    for size in searched:
        part = common.apart(searching, device, size, queries, K)
        times = ", ".join(f"{key} {value:.3f} s" for key, value in part["seconds"].items())
        same = "same ids" if part["same_ids"] else "OTHER IDS"
        row(f"search, {size:,} rows", part, f"{times};", f"{part['relative']:.2f} of torch's blocks,", same)
    with tempfile.TemporaryDirectory() as folder:
        common.apart(training, "rounds", folder, model, steps, False, extra)  # not counted: fills the cache
        runs = {
            "plain Trainer": common.apart(training, "plain", folder, model, steps, False, extra),
            "padded": common.apart(training, "rounds", folder, model, steps, False, extra),
            "padding-free": common.apart(training, "rounds", folder, model, steps, True, extra),
        }
    for name, part in runs.items():
        part["relative"] = part["ms"] / runs["plain Trainer"]["ms"]
        row(f"step, {name}", part, f"{part['ms']:.1f} ms;", f"{part['relative']:.3f} of the plain Trainer")
    part = common.apart(less, device, rows, dim, model, extra)
    rates = ", ".join(f"{key} {value:,}" for key, value in part["tokens_per_s"].items())
    row("LESS features", part, f"tokens/s: {rates};", f"{part['relative']:.2f} of plain passes")
    if with_demo:
        part = common.apart(demo)
        row("demo", part, ", ".join(f"{key} {value:.0f} s" for key, value in part["seconds"].items()))
    return result


def main(
    *overrides: str,
    device: str = "auto",
    texts: int = 6000,
    searched: list[int] = (100_000, 1_000_000),
    queries: int = 2000,
    K: int = 1000,
    steps: int = 24,
    rows: int = 512,
    dim: int = 8192,
    model: str = "smollm2",
    width: str = "qwen3",
    demo: bool = True,
    out: str = "",
) -> None:
    if width not in WIDTHS:
        raise UserError(f"width={width}: use one of {', '.join(WIDTHS)}")
    if steps < 8 or steps % 4:
        raise UserError(f"steps={steps}: use a multiple of 4 steps, 8 or more")
    on = chosen(device)
    name = "CPU" if on == "cpu" else torch.get_device_module(on).get_device_name(on)
    print(f"on {on} ({name})", flush=True)
    sizes = (texts, list(searched), queries, K, steps, rows, dim)
    result = parts_of(on, *sizes, model, width, demo, list(overrides))
    result |= {"device": name, "head": common.head()}
    if out:
        write_json(Path(out), result)
        print(f"wrote {out}")
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    common.script(main, embedding, searching, training, less, demo)
