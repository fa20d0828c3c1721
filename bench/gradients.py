"""Per-example gradients with their projection, compared with a plain backward pass and DataFlex's loop.

    python bench/gradients.py [rows=160 timed=48 seeds=6 turns=3 dims=1024,2048,4096,8192 model=smollm2]

SmolLM2-135M unless another `model` is named, LoRA on all linear layers, rows of the demo. Other
options are overrides of train.py. Three parts:

1. Seconds an example, on `timed` rows: a plain batched forward and backward pass under the same token budget; features
   of near/selection/scoring/gradients.py, with Adam's direction, at 4096 and 8192 dimensions; and DataFlex's
   method: batches of one, its gradients in a buffer of 16, projected by traker 0.3.2's BasicProjector (Rademacher, 8192
   dimensions, blocks of 128). The latter projects two of its 64 blocks and is multiplied by 32. In turns, the fastest
   of `turns`; DataFlex's once, and without its projection if traker cannot be downloaded.
2. The error of projected inner products: unit gradients of `rows` rows (LoRA of rank 2) in Adam's direction, root mean
   square over all pairs and `seeds` seeds, of near's sparse projection with 1 and 4 hashes and of a dense Rademacher
   one.
3. Final scores of LESS for these rows and 16 queries: rank correlation with an exact reference (one by one by autograd,
   no projection), and the share of the reference's top tenth in theirs, means over the seeds.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import hashlib
import importlib
import logging
import subprocess
import tarfile
import tempfile
import time
import types
from collections.abc import Sequence

import numpy as np
import torch

from bench import common
from near.common.batches import batches
from near.common.errors import UserError
from near.data.loading import load
from near.data.pool import load_pool
from near.models.loading import add_finetuning, load_base, load_tokenizer
from near.models.tokens import Collator, Tokens, tokenize
from near.models.weights import trained
from near.selection.scoring.gradients import PerExample, Projection, moments_of

TOKENS = 1024  # of a batch, with its padding
DIMS = (1024, 2048, 4096, 8192)
TIMED = (4096, 8192)  # dimensions that are timed
BLOCK = 128  # dimensions of a dense projection that are drawn at a time, as in DataFlex
BUFFER = 16  # gradients that DataFlex projects together
TRAKER = "6a3702b7ab749c57c6d8838fad1772f90c12a58bda572f1e8c02628fd7f091ec"


def loaded(words: list[str], r: int):
    """Model with LoRA of rank `r` and its optimizer after 8 steps on random rows; tokens of pool and queries."""
    cfg = common.composed("train", f"finetuning.r={r}", *words)
    tokenizer = load_tokenizer(cfg.model, cfg.cache_dir)
    queries = load(cfg.data, "queries", cfg.cache_dir)
    parts = [
        tokenize(rows, tokenizer, cfg.data, cfg.cache_dir)
        for rows in (load_pool(cfg.data, queries, cfg.cache_dir), queries)
    ]
    torch.manual_seed(0)
    adapted = add_finetuning(load_base(cfg.model, cfg.cache_dir, "cpu"), cfg.finetuning).train()
    optimizer = torch.optim.AdamW(list(trained(adapted).values()), lr=5e-4)
    for step in range(8):
        optimizer.zero_grad()
        for batch in batched(drawn(parts[0], 8, seed=100 + step)):
            adapted(**batch, use_cache=False).loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return adapted, optimizer, *parts


def drawn(tokens: Tokens, count: int, seed: int) -> list[dict]:
    count = min(count, len(tokens.eligible))
    ids = np.random.default_rng(seed).choice(tokens.eligible, count, replace=False)
    return [tokens.table[int(i)] for i in ids]


def batched(rows: list[dict]) -> list[dict[str, torch.Tensor]]:
    return [Collator(0)([rows[i] for i in part]) for part in batches([len(r["input_ids"]) for r in rows], 64, TOKENS)]


# 1. seconds


def timings(words: list[str], timed: int, turns: int) -> None:
    model, optimizer, pool, _ = loaded(words, 16)
    rows, weights = drawn(pool, timed, seed=0), trained(model)
    inputs = batched(rows)
    size = sum(weight.numel() for weight in weights.values())
    print(
        f"\n{timed} rows, {sum(len(r['input_ids']) for r in rows) / timed:.0f} tokens each, {size / 1e6:.1f}M weights"
    )

    def plain() -> None:
        for batch in inputs:
            model(**batch, use_cache=False).loss.backward()
        optimizer.zero_grad()

    moments, methods = moments_of(optimizer, weights), {"plain forward and backward": plain}
    for dim in TIMED:
        projection = Projection(dim)

        def features(projection=projection) -> None:
            with PerExample(model, projection) as per_example:
                for batch in inputs:
                    per_example(batch, moments=moments)

        methods[f"features, {dim} dimensions"] = features
    took = {name: [] for name in methods}
    for turn in range(turns + 1):  # the first does not count
        for name, work in methods.items():
            seconds, _ = common.timed(work)
            took[name] += [seconds] if turn else []
    base = min(took["plain forward and backward"]) / timed
    for name, runs in took.items():
        spread = "  ".join(f"{seconds / timed:.3f}" for seconds in runs)
        print(f"{name:34}{min(runs) / timed:8.3f} s{min(runs) / timed / base:8.2f}   ({spread})", flush=True)
    loop, buffer = dataflex_loop(model, optimizer, rows[:BUFFER])
    print(f"{'DataFlex: batches of one':34}{loop:8.3f} s{loop / base:8.2f}")
    try:
        projection_seconds = dataflex_projection(buffer)
    except UserError as error:
        return common.not_measured("DataFlex: its projection", error)
    ours = min(took["features, 8192 dimensions"]) / timed
    print(f"{'DataFlex: its projection':34}{projection_seconds:8.3f} s{projection_seconds / base:8.2f}")
    together = loop + projection_seconds
    print(f"DataFlex, together: {together:.2f} s an example, {together / ours:.1f} times near's")


def dataflex_loop(model, optimizer, rows: list[dict]) -> tuple[float, torch.Tensor]:
    """Seconds an example of DataFlex's forward, backward and Adam, in its order; its buffer of gradients."""
    weights = list(trained(model).values())
    size = sum(weight.numel() for weight in weights)
    first, second = (torch.cat([optimizer.state[w][k].flatten() for w in weights]) for k in ("exp_avg", "exp_avg_sq"))
    buffer = torch.zeros(len(rows), size, dtype=torch.float16)
    model.train()  # as in DataFlex: dropout is on
    started = time.perf_counter()
    for i, row in enumerate(rows):
        model(**Collator(0)([row])).loss.backward()
        gradient = torch.cat([weight.grad.view(-1) for weight in weights])
        denominator = second.mul(0.999).addcmul_(gradient, gradient, value=0.001).sqrt_().add_(1e-8)
        gradient.mul_(0.1).add_(first, alpha=0.9).div_(denominator)
        model.zero_grad()
        buffer[i].copy_(gradient)
    return (time.perf_counter() - started) / len(rows), buffer


def dataflex_projection(buffer: torch.Tensor) -> float:
    """Seconds an example of DataFlex's projection; UserError if traker's package cannot be downloaded."""
    with tempfile.TemporaryDirectory() as folder:
        module = trak_projectors(Path(folder))
        best = 1e9
        for dtype in (torch.float16, torch.float32):  # DataFlex's dtype; and the one that is faster on a CPU
            projector = module.BasicProjector(
                buffer.shape[1], 2 * BLOCK, 42, module.ProjectionType.rademacher, torch.device("cpu"), BLOCK, dtype
            )
            gradients = buffer.to(dtype)
            seconds, _ = common.timed(lambda p=projector, g=gradients: p.project(g, model_id=0))
            best = min(best, seconds)
    return best * (8192 / BLOCK / 2) / len(buffer)


def trak_projectors(folder: Path):
    """traker's module of projectors, from its package, which is downloaded into `folder` and verified."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--dest", str(folder), "traker==0.3.2"]
    if subprocess.run(command, capture_output=True).returncode:
        raise UserError("could not download traker==0.3.2 from the package index")
    (path,) = folder.glob("*.tar.gz")
    if hashlib.sha256(path.read_bytes()).hexdigest() != TRAKER:
        raise UserError(f"{path.name} is not the file that was measured; download it again")
    with tarfile.open(path) as archive:
        for name in ("projectors.py", "utils.py"):
            (folder / name).write_bytes(archive.extractfile(f"traker-0.3.2/trak/{name}").read())
    package = types.ModuleType("trak")
    package.__path__ = [str(folder)]
    sys.modules["trak"] = package
    return importlib.import_module("trak.projectors")


# 2. and 3. projections


def quality(words: list[str], rows: int, seeds: int, dims: Sequence[int]) -> None:
    model, optimizer, pool, queries = loaded(words, 2)
    names = trained(model)
    directions = directed(one_by_one(model, drawn(pool, rows, seed=1)), optimizer, names)
    target = one_by_one(model, drawn(queries, 16, seed=2))
    ours = features(model, drawn(pool, rows, seed=1), moments_of(optimizer, names))
    apart = ((ours - directions).norm(dim=1) / directions.norm(dim=1)).max()
    print(f"\n{rows} rows, {directions.shape[1] / 1e6:.2f}M weights; batched gradients differ by at")
    print(f"most {apart:.1e} of their length from gradients computed one by one")
    units, target_units = (torch.nn.functional.normalize(g, dim=1) for g in (directions, target))
    exact, scores = units @ units.T, (units @ target_units.T).mean(1)
    both = torch.cat([units, target_units])
    projected: dict[tuple[str, int], list] = {}
    for seed in range(seeds):
        for dim in dims:
            for hashes in (1, 4):
                low = sparse(both, dim, hashes, seed, {n: w.numel() for n, w in names.items()})
                projected.setdefault((f"sparse, {hashes} a coordinate", dim), []).append(low)
        for dim, low in dense(both, seed, dims).items():
            projected.setdefault(("dense Rademacher", dim), []).append(low)
    print(f"{'':26}{'dims':>6}{'error':>9}{'rank corr.':>12}{'top tenth':>11}")
    pairs = torch.triu_indices(rows, rows, 1)
    for (name, dim), lows in sorted(projected.items(), key=lambda item: (item[0][1], item[0][0])):
        errors, ranks, shares = [], [], []
        for low in lows:
            products = low[:rows] @ low[:rows].T
            errors.append((products - exact)[pairs[0], pairs[1]].square().mean().item())
            unit = torch.nn.functional.normalize(low, dim=1)
            got = (unit[:rows] @ unit[rows:].T).mean(1)
            ranks.append(rank_correlation(got, scores))
            top = max(1, rows // 10)
            shares.append(len(set(got.topk(top).indices.tolist()) & set(scores.topk(top).indices.tolist())) / top)
        error = np.mean(errors) ** 0.5
        print(f"{name:26}{dim:6d}{error:9.4f}{np.mean(ranks):12.4f}{np.mean(shares):11.3f}", flush=True)


def one_by_one(model, rows: list[dict]) -> torch.Tensor:
    """Gradients float32 (rows, p) by autograd, dropout off."""
    model.eval()
    gradients = []
    for row in rows:
        model.zero_grad()
        model(**Collator(0)([row]), use_cache=False).loss.backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in trained(model).values()]))
    model.zero_grad()
    return torch.stack(gradients)


def features(model, rows: list[dict], moments) -> torch.Tensor:
    """near's gradients without a projection, float32 (rows, p)."""
    order = batches([len(r["input_ids"]) for r in rows], 64, TOKENS)
    with PerExample(model, Projection(None)) as per_example:
        gradients = [per_example(batch, moments=moments) for batch in batched(rows)]
    out = torch.empty_like(torch.cat(gradients))
    out[np.concatenate(order)] = torch.cat(gradients)
    return out


def directed(gradients: torch.Tensor, optimizer, names) -> torch.Tensor:
    """Adam's direction (Kingma and Ba 2015), float32 (rows, p)."""
    states = [optimizer.state[weight] for weight in names.values()]
    first, second = (torch.cat([s[key].flatten() for s in states]) for key in ("exp_avg", "exp_avg_sq"))
    steps = int(states[0]["step"]) + 1
    out = torch.empty_like(gradients)
    for i, gradient in enumerate(gradients):
        m, v = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        out[i] = m / (1 - 0.9**steps) / ((v / (1 - 0.999**steps)).sqrt() + 1e-8)
    return out


def sparse(vectors: torch.Tensor, dim: int, hashes: int, seed: int, sizes: dict[str, int]) -> torch.Tensor:
    projection, start = Projection(dim, hashes, seed), 0
    out = projection.zeros(len(vectors), sizes, "cpu")
    for name, size in sizes.items():
        projection.add(out, name, vectors[:, start : start + size])
        start += size
    return projection.finished(out)


def dense(vectors: torch.Tensor, seed: int, dims: Sequence[int]) -> dict[int, torch.Tensor]:
    """A dense Rademacher projection to the largest of `dims`; to fewer by its first dimensions."""
    rng, parts = np.random.default_rng(seed), []
    count = -(-vectors.shape[1] // 8)
    for _ in range(0, max(dims), BLOCK):
        bits = np.unpackbits(np.frombuffer(rng.bytes(BLOCK * count), np.uint8).reshape(BLOCK, count), axis=1)
        signs = torch.from_numpy(bits[:, : vectors.shape[1]]).float().mul_(2).sub_(1)
        parts.append(vectors @ signs.T)
    whole = torch.cat(parts, dim=1)
    return {dim: whole[:, :dim] / dim**0.5 for dim in dims}


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's."""
    return float(np.corrcoef(a.argsort().argsort().numpy(), b.argsort().argsort().numpy())[0, 1])


def main(
    *overrides: str,
    rows: int = 160,
    timed: int = 48,
    seeds: int = 6,
    turns: int = 3,
    dims: list[int] = DIMS,
    model: str = "smollm2",
) -> None:
    logging.disable(logging.WARNING)
    words = [f"model={model}", *overrides]
    timings(words, timed, turns)
    quality(words, rows, seeds, dims)


if __name__ == "__main__":
    common.script(main)
