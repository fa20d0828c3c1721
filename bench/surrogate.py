"""How many of LESS's rows surrogate_less finds: on gradients that runs of LESS left in the cache, or in runs of both.

    python train.py sweeps=targets selector=less seed=1
    python bench/surrogate.py runs=runs/targets [samples=5] [embedder=minilm ...]
    python bench/surrogate.py runs=runs/large only=runs # finished runs of both: overlap, seconds, target losses

Without only=runs no gradient is computed: the selector gets those that the runs of LESS with seed 1 stored. Further
words are the embedder's options; by default those that predict gradients best. The overlap is the share of LESS's rows
that are chosen, a mean over samples; beside it stands what the selector says of it.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import os

import numpy as np
from safetensors.numpy import load_file

from bench import common
from near.common.errors import UserError
from near.common.run_folder import METRICS, RunFolder, below
from near.embedding.embed import embedder_of
from near.selection.selectors.less import Less
from near.selection.selectors.surrogate_less import FEWEST, SurrogateLess
from near.selection.similarity import VectorSimilarity
from tests.scored import FakeScorer, Queries, round_for
from tests.selection.test_surrogate_less import Vectors

BUDGETS = [(48, 50), (48, 75), (48, 100), (48, 150), (48, 200), (12, 25), (12, 50)]  # rows chosen, gradients
WORDS = ("embedder=answer_states", "embedder.prompt=true", "model.dtype=bfloat16")


def gradients(folder: Path) -> np.ndarray | None:
    """The gradients in a folder of the cache, float32 (n, dim); None if it has others' results."""
    parts = [load_file(path).get("gradients") for path in sorted(folder.glob("*.safetensors"))]
    return None if not parts or parts[0] is None else np.concatenate(parts).astype(np.float32)


def main(*overrides: str, runs: str = "runs/targets", samples: int = 5, only: str = "cache") -> None:
    if only == "runs":
        return compare(Path(runs))
    cache = Path(os.environ["NEAR_CACHE"])
    stored = [g for folder in sorted((cache / "scores").glob("*")) if (g := gradients(folder)) is not None]
    embedder = embedder_of(common.composed("select", *(overrides or WORDS)).embedder, str(cache))
    vectors: dict[str, np.ndarray] = {}  # by text: pools share rows
    shares: dict[tuple[int, int], list] = {}
    for run in sorted(Path(runs).glob("*selector-less_seed-1")):
        target = run.name.split("_")[0].removeprefix("data.target-")
        best = np.sort(np.load(run / "rounds" / "001_scores.npy"))[::-1]
        pairs = [(p, q) for p in stored for q in stored if len(q) < len(p) >= len(best) and p.shape[1] == q.shape[1]]
        same = [(p, q) for p, q in pairs if np.abs(np.sort((p @ q.T).mean(1))[::-1][: len(best)] - best).max() < 1e-3]
        if not same:
            print(f"{target}: its gradients are not in the cache")
            continue
        pool, target_gradients = same[0]
        files = [f for f in (cache / "assets").glob(f"crossed-{target}-*/pool.jsonl")]
        file = next(f for f in files if len(f.read_text().splitlines()) == len(pool))
        embeddings, of_queries = (
            embedded(embedder, vectors, file),
            embedded(embedder, vectors, file.with_stem("queries")),
        )
        n = len(pool)
        for size, count in BUDGETS:
            found = []
            sample = max(FEWEST, count // 8)
            for seed in range(samples):
                similarity = VectorSimilarity(Vectors(embeddings), of_queries, np.arange(n), n, None)
                known = {
                    "queries": Queries(["a"] * len(target_gradients)),
                    "eligible": np.arange(n),
                    "similarity": similarity,
                }
                known |= {"trained": np.zeros(n, dtype=np.int64), "seed": seed}
                scorers = [FakeScorer(pool=[pool], queries=[target_gradients]) for _ in range(2)]
                selector = SurrogateLess(sample=sample, exact=count - sample, min_overlap=None)
                chosen = selector.select(round_for(scorers[0], size, **known))
                less = Less().select(round_for(scorers[1], size, **known))
                said = chosen.fidelity
                found.append((np.isin(less.ids, chosen.ids).mean(), said["overlap"], said["rank_correlation"]))
            shares.setdefault((size, count), []).append(np.mean(found, axis=0))
        print(f"{target}: " + ", ".join(f"{size} of {count} {v[-1][0]:.2f}" for (size, count), v in shares.items()))
    if not shares:
        raise UserError(f"runs={runs}: no run of less with seed 1 whose gradients are in the cache; see --help")
    for (size, count), values in shares.items():
        true, estimated, correlation = np.mean(values, axis=0)
        print(
            f"{len(values)} targets, {size} rows, {count} of {n} gradients: overlap {true:.2f}, estimated "
            f"{estimated:.2f}, rank correlation {correlation:.2f}"
        )


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
