"""How many of LESS's rows surrogate_less finds: on gradients that runs of LESS left in the cache, or in runs of both.

    python train.py sweeps=targets selector=less seed=1
    python bench/surrogate.py runs=runs/targets [samples=5] [embedder=minilm ...]
    python bench/surrogate.py runs=runs/large only=runs # finished runs of both: overlap, seconds, target losses

    python train.py selector=less data=crossed data.rows=10000 trainer.update_times=1 output_dir=RUN
    python bench/surrogate.py runs=RUN targets=sort-0,count-5 gradients=0.05,0.1 chosen=0.025 [draws=1]

The last trains the warm-up of RUN once more for each target, for the gradients of its queries (16, as in
sweeps=targets), and compares choices by all gradients of RUN's pool without the target's cell: surrogate_less, `near`
by the same embeddings, and a shortlist of it with as many gradients. `mean score` is that of the chosen rows, 0% for
rows at random, 100% for LESS's.

Without only=runs and targets no gradient is computed: the selector gets those that the runs of LESS with seed 1 stored.
Further words are the embedder's options; by default those that predict gradients best. The overlap is the share of
LESS's rows that are chosen, a mean over samples; beside it stands what the selector says of it.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import os
import tempfile
from collections.abc import Sequence
from unittest import mock

import numpy as np
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from bench import common
from near.common.errors import UserError
from near.common.files import read_yaml_list
from near.common.run_folder import METRICS, RunFolder, below
from near.data.builtin.assets import resolve
from near.embedding.embed import embedder_of
from near.embedding.embedders.base import normalised
from near.selection.round import Round
from near.selection.selectors.less import Less
from near.selection.selectors.surrogate_less import FEWEST, SurrogateLess
from near.selection.similarity import VectorSimilarity
from near.training import forecast
from near.training.train import train
from tests.scored import FakeScorer, Queries, round_for
from tests.selection.test_surrogate_less import Vectors

BUDGETS = [(48, 50), (48, 75), (48, 100), (48, 150), (48, 200), (12, 25), (12, 50)]  # rows chosen, gradients
WORDS = ("embedder=answer_states", "embedder.prompt=true", "model.dtype=bfloat16")


def stored_gradients(cache: Path) -> list[np.ndarray]:
    """The gradients in the cache, float32 (n, dim) of each set of rows."""
    sets = []
    for folder in sorted((cache / "scores").glob("*")):
        parts = [load_file(path).get("gradients") for path in sorted(folder.glob("*.safetensors"))]
        if parts and parts[0] is not None:
            sets.append(np.concatenate(parts).astype(np.float32))
    return sets


def matching(stored: list[np.ndarray], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The gradients of the pool and the queries whose mean cosines are the best `scores` of a run; None if they are not
    stored."""
    best = np.sort(scores)[::-1]
    for pool in (p for p in stored if len(p) >= len(best)):
        for queries in (q for q in stored if len(q) < len(pool) and q.shape[1] == pool.shape[1]):
            if np.abs(np.sort((pool @ queries.T).mean(axis=1))[::-1][: len(best)] - best).max() < 1e-3:
                return pool, queries
    return None


def main(
    *overrides: str,
    runs: str = "runs/targets",
    samples: int = 5,
    only: str = "cache",
    targets: list[str] = [],  # noqa: B006
    gradients: list[float] = [0.05, 0.1],  # noqa: B006
    chosen: float = 0.025,
    draws: int = 1,
) -> None:
    if only == "runs":
        return compare(Path(runs))
    if targets:
        return of_targets(RunFolder(Path(runs)), targets, gradients, chosen, draws, overrides or WORDS)
    cache = Path(os.environ["NEAR_CACHE"])
    stored = stored_gradients(cache)
    embedder = embedder_of(common.composed("select", *(overrides or WORDS)).embedder, str(cache))
    vectors: dict[str, np.ndarray] = {}  # by text: pools share rows
    shares: dict[tuple[int, int], list] = {}
    for run in sorted(Path(runs).glob("*selector-less_seed-1")):
        target = run.name.split("_")[0].removeprefix("data.target-")
        if (same := matching(stored, np.load(run / "rounds" / "001_scores.npy"))) is None:
            print(f"{target}: its gradients are not in the cache")
            continue
        pool, target_gradients = same
        files = [f for f in (cache / "assets").glob(f"crossed-{target}-*/pool.jsonl")]
        file = next(f for f in files if len(f.read_text().splitlines()) == len(pool))
        embeddings, of_queries = (
            embedded(embedder, vectors, file),
            embedded(embedder, vectors, file.with_stem("queries")),
        )
        n = len(pool)
        for size, count in BUDGETS:
            overlaps = []
            sample = max(FEWEST, count // 8)
            for seed in range(samples):
                given = (embeddings, of_queries, pool, target_gradients, size, seed)
                selector = SurrogateLess(sample=sample, exact=count - sample, min_overlap=None)
                picked, less = selector.select(round_in_memory(*given)), Less().select(round_in_memory(*given))
                said = picked.fidelity
                overlaps.append((np.isin(less.ids, picked.ids).mean(), said["overlap"], said["rank_correlation"]))
            shares.setdefault((size, count), []).append(np.mean(overlaps, axis=0))
        print(f"{target}: " + ", ".join(f"{size} of {count} {v[-1][0]:.2f}" for (size, count), v in shares.items()))
    if not shares:
        raise UserError(f"runs={runs}: no run of less with seed 1 whose gradients are in the cache; see --help")
    for (size, count), values in shares.items():
        true, estimated, correlation = np.mean(values, axis=0)
        print(
            f"{len(values)} targets, {size} rows, {count} of {n} gradients: overlap {true:.2f}, estimated "
            f"{estimated:.2f}, rank correlation {correlation:.2f}"
        )


def of_targets(
    run: RunFolder, targets: list[str], gradients: list[float], chosen: float, draws: int, words: Sequence[str]
) -> None:
    """Choices from the pool of `run`, a run of less, for other targets; see the top of this file.

    Args:
        gradients, chosen: shares of the pool.
        draws: samples of surrogate_less for each.
    """
    cache = Path(os.environ["NEAR_CACHE"])
    same = matching(stored_gradients(cache), np.load(run / "rounds" / "001_scores.npy"))
    if same is None:
        raise UserError(f"{cache}: the gradients of the run are not in this cache; set NEAR_CACHE to the run's")
    pool = same[0]
    embedder = embedder_of(common.composed("select", *words).embedder, str(cache))
    file = Path(resolve(run.config().data.candidates.path, cache))
    rows, vectors = [json.loads(line) for line in file.read_text().splitlines()], {}
    embeddings = embedded(embedder, vectors, file)
    by_choice: dict[tuple[str, float], list] = {}
    for target in targets:
        queries, its_file = query_gradients(run, target, cache)
        skill, _, wording = target.rpartition("-")
        kept = np.flatnonzero([(row["skill"], str(row["wording"])) != (skill, wording) for row in rows])
        exact = (pool[kept] @ queries.T).mean(axis=1)  # (n_kept,)
        size = round(chosen * len(kept))
        best, middle = np.argsort(-exact, kind="stable")[:size], exact.mean()

        def known(ids: np.ndarray, best=best, exact=exact, middle=middle) -> tuple[float, float]:
            return np.isin(best, ids).mean(), (exact[ids].mean() - middle) / (exact[best].mean() - middle)

        of_queries = embedded(embedder, vectors, its_file)
        parts, line = embeddings[kept], []
        near = nearness(parts, of_queries)
        results = [("near", 0.0, known(np.argsort(-near, kind="stable")[:size]))]
        for share in gradients:
            first = np.argsort(-near, kind="stable")[: round(share * len(kept))]
            results.append(("shortlist", share, known(first[np.argsort(-exact[first], kind="stable")[:size]])))
            for seed in range(draws):
                selector = SurrogateLess(sample=0.3 * share, exact=0.7 * share, min_overlap=None)
                picked = selector.select(round_in_memory(parts, of_queries, pool[kept], queries, size, seed))
                low, high = picked.fidelity["overlap_interval"]
                true, score = known(picked.ids)
                said = (picked.fidelity["overlap"], float(low <= true <= high), float(low <= true))
                results.append(("surrogate_less", share, (true, score, *said)))
        for name, share, values in results:
            by_choice.setdefault((name, share), []).append(values)
            line.append(f"{name} {share:.0%} {values[0]:.2f}" + (f" (says {values[2]:.2f})" if values[2:] else ""))
        print(f"{target}: {', '.join(line)}", flush=True)
    for (name, share), values in by_choice.items():
        means = np.mean(values, axis=0)
        line = f"{name} with {share:.0%} of the gradients: overlap {means[0]:.2f}, mean score {means[1]:.1%}"
        if len(means) > 2:
            line += f"; says {means[2]:.2f}, in its interval {means[3]:.0%}, above its lower end {means[4]:.0%}"
        print(line)


def query_gradients(run: RunFolder, target: str, cache: Path) -> tuple[np.ndarray, Path]:
    """Gradients of a target's queries after the warm-up of `run`, which is trained again, float32 (n_queries, dim); and
    the file of the queries."""
    words = [f"data.target={target}", "data.rows=500", "data.query_rows=16"]
    file = Path(resolve(common.composed("train", "data=crossed", *words).data.queries.path, cache))
    typed = map(str, read_yaml_list(run / ".hydra" / "overrides.yaml"))
    more = ["selector=random", "dry_run=forecast", "data.decontaminate=null", f"cache_dir={cache}"]
    cfg = common.composed("train", *typed, *more)
    OmegaConf.update(cfg, "data.queries.path", str(file))
    gradients = []

    def keep(round: Round, ids: np.ndarray) -> np.ndarray:
        gradients[:] = [round.scorer.query_gradients(round.model).matrix()]
        return np.arange(len(ids), dtype=np.float32)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(forecast, "agreement", keep):
        train(cfg, Path(folder))
    return gradients[0], file


def round_in_memory(
    embeddings: np.ndarray, of_queries: np.ndarray, pool: np.ndarray, queries: np.ndarray, size: int, seed: int
) -> Round:
    """A round of `size` rows for a selector, from gradients and embeddings in memory."""
    n = len(pool)
    known = {"queries": Queries(["a"] * len(queries)), "eligible": np.arange(n), "seed": seed}
    known["similarity"] = VectorSimilarity(Vectors(embeddings), of_queries, np.arange(n), n, None)
    known["trained"] = np.zeros(n, dtype=np.int64)
    return round_for(FakeScorer(pool=[pool], queries=[queries]), size, **known)


def nearness(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The mean cosine of each row with the queries, after every dimension has mean 0 and variance 1, float (n,)."""
    mean, deviation = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    return normalised((rows - mean) / deviation) @ normalised((queries - mean) / deviation).mean(axis=0)


def compare(root: Path) -> None:
    """Each finished run of surrogate_less below `root` beside that of less with the same pool, target and seed."""
    finished = {(one.metrics.selector, *_same(one)): one for one in below(root, METRICS)}
    pairs = [(one, finished.get(("less", *key[1:]))) for key, one in finished.items() if key[0] == "surrogate_less"]
    pairs = [(one, less) for one, less in pairs if less is not None]
    if not pairs:
        raise UserError(f"runs={root}: no run of surrogate_less with one of less beside it; see --help")
    for one, less in pairs:
        line, exact = one.rounds[-1], less.rounds[-1]
        overlap = np.isin(less.round_ids(exact.round), one.round_ids(line.round)).mean()
        said = line.fidelity or {"gradients": line.rows, "overlap": 1.0}
        print(
            f"{one.path.name}: gradients {said['gradients']}, overlap {overlap:.2f}, estimated {said['overlap']:.2f}; "
            f"seconds {line.select_seconds:.0f} + embedding {one.training.embed_seconds or 0:.0f}, of less "
            f"{exact.select_seconds:.0f}; target loss {one.metrics.target_loss:.4f}, of less "
            f"{less.metrics.target_loss:.4f}"
        )


def _same(run: RunFolder) -> tuple:
    """What two runs must have in common to be compared."""
    return run.metrics.eval_fingerprint, run.metrics.seed, run.training.identity.fingerprints["candidates"]


def embedded(embedder, vectors: dict[str, np.ndarray], file: Path) -> np.ndarray:
    """The vectors of the rows of a file, float32 (n, dim)."""
    texts = [embedder.document(json.loads(line)["messages"]) for line in file.read_text().splitlines()]
    if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
        vectors.update(zip(new, embedder.embed(new), strict=True))
    return np.stack([vectors[text] for text in texts])


if __name__ == "__main__":
    common.script(main)
