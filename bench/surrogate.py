"""How many of LESS's rows surrogate_less finds, on the gradients that runs of LESS left in the cache (a trial).

python train.py sweeps=targets selector=less seed=1
python bench/surrogate.py CACHE RUNS/targets [embedder=answer_states embedder.prompt=true model.dtype=bfloat16]
"""

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import numpy as np
from safetensors.numpy import load_file

from bench import common
from near.embedding.embed import embedder_of
from near.selection.selectors.less import Less
from near.selection.selectors.surrogate_less import FEWEST, SurrogateLess
from near.selection.similarity import VectorSimilarity
from tests.scored import FakeScorer, Queries, round_for
from tests.selection.test_surrogate_less import Held

QUERIES, SEEDS = 16, 5
BUDGETS = [(48, 50), (48, 75), (48, 100), (48, 150), (48, 200), (12, 25), (12, 50)]  # rows chosen, gradients
WORDS = ["embedder=answer_states", "embedder.prompt=true", "model.dtype=bfloat16"]


def gradients(folder: Path) -> np.ndarray | None:
    parts = [load_file(path).get("gradients") for path in sorted(folder.glob("*.safetensors"))]
    return None if not parts or parts[0] is None else np.concatenate(parts).astype(np.float32)


def main() -> None:
    cache, runs = Path(sys.argv[1]), Path(sys.argv[2])
    features = [g for folder in (cache / "scores").iterdir() if (g := gradients(folder)) is not None]
    pools, queries = [g for g in features if len(g) > 400], [g for g in features if len(g) == QUERIES]
    embedder = embedder_of(common.composed("select", *(sys.argv[3:] or WORDS)).embedder, str(cache))
    vectors: dict[str, np.ndarray] = {}  # by text: pools share rows
    shares: dict[tuple[int, int], list] = {}
    for run in sorted(runs.glob("*selector-less_seed-1")):
        target = run.name.split("_")[0].removeprefix("data.target-")
        best = np.sort(np.load(run / "rounds" / "001_scores.npy"))[::-1]
        pairs = [(p, q) for p in pools for q in queries if p.shape[1] == q.shape[1]]
        same = [(p, q) for p, q in pairs if np.abs(np.sort((p @ q.T).mean(1))[::-1][: len(best)] - best).max() < 1e-3]
        if not same:
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
            for seed in range(SEEDS):
                similarity = VectorSimilarity(Held(embeddings), of_queries, np.arange(n), n, None)
                known = {"queries": Queries(["a"] * QUERIES), "eligible": np.arange(n), "similarity": similarity}
                known |= {"trained": np.zeros(n, dtype=np.int64), "seed": seed}
                scorers = [FakeScorer(pool=[pool], queries=[target_gradients]) for _ in range(2)]
                selector = SurrogateLess(sample=sample, exact=count - sample, min_overlap=None)
                chosen = selector.select(round_for(scorers[0], size, **known))
                less = Less().select(round_for(scorers[1], size, **known))
                said = chosen.fidelity
                found.append((np.isin(less.ids, chosen.ids).mean(), said["overlap"], said["rank_correlation"]))
            shares.setdefault((size, count), []).append(np.mean(found, axis=0))
        print(f"{target}: " + ", ".join(f"{size} of {count} {v[-1][0]:.2f}" for (size, count), v in shares.items()))
    for (size, count), values in shares.items():
        true, estimated, correlation = np.mean(values, axis=0)
        print(
            f"{len(values)} targets, {size} rows, {count} of {n} gradients: overlap {true:.2f}, estimated "
            f"{estimated:.2f}, rank correlation {correlation:.2f}"
        )


def embedded(embedder, vectors: dict[str, np.ndarray], file: Path) -> np.ndarray:
    texts = [embedder.document(json.loads(line)["messages"]) for line in file.read_text().splitlines()]
    if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
        vectors.update(zip(new, embedder.embed(new), strict=True))
    return np.stack([vectors[text] for text in texts])


if __name__ == "__main__":
    main()
