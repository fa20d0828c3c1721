"""How many of LESS's rows surrogate_less finds, on the gradients that runs of LESS left in the cache (a trial).

python train.py sweeps=targets selector=less seed=1
python bench/surrogate.py CACHE RUNS/targets
"""

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import numpy as np
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from near.selection.selectors.less import Less
from near.selection.selectors.surrogate_less import SurrogateLess
from near.selection.similarity import VectorSimilarity
from tests.scored import FakeScorer, Queries, round_for
from tests.selection.test_surrogate_less import Held

QUERIES, SEEDS = 16, 5
BUDGETS = [(64, 50, None), (100, 100, None), (64, 50, 0.8)]  # sample, exact, min_overlap


def gradients(folder: Path) -> np.ndarray | None:
    parts = [load_file(path).get("gradients") for path in sorted(folder.glob("*.safetensors"))]
    return None if not parts or parts[0] is None else np.concatenate(parts).astype(np.float32)


def main() -> None:
    cache, runs = Path(sys.argv[1]), Path(sys.argv[2])
    features = [g for folder in (cache / "scores").iterdir() if (g := gradients(folder)) is not None]
    pools, queries = [g for g in features if len(g) > 400], [g for g in features if len(g) == QUERIES]
    model = SentenceTransformer(str(cache / "assets" / "all-MiniLM-L6-v2"))
    for run in sorted(runs.glob("*selector-less_seed-1")):
        target = run.name.split("_")[0].removeprefix("data.target-")
        best = np.sort(np.load(run / "rounds" / "001_scores.npy"))[::-1]
        pairs = [(p, q) for p in pools for q in queries if p.shape[1] == q.shape[1]]
        same = [(p, q) for p, q in pairs if np.abs(np.sort((p @ q.T).mean(1))[::-1][: len(best)] - best).max() < 1e-3]
        if not same:
            continue
        pool, target_gradients = same[0]
        files = [f for f in (cache / "assets").glob(f"crossed-{target}-*/pool.jsonl")]
        rows = next(r for f in files if len(r := f.read_text().splitlines()) == len(pool))
        messages = [json.loads(line)["messages"] for line in rows]
        texts = ["\n".join(m["content"] for m in chat if m["role"] != "system") for chat in messages]
        embeddings = model.encode(texts, normalize_embeddings=True)
        n = len(pool)
        for sample, exact, bound in BUDGETS:
            found = []
            for seed in range(SEEDS):
                similarity = VectorSimilarity(Held(embeddings), embeddings[:1], np.arange(n), n, None)
                known = {"queries": Queries(["a"] * QUERIES), "eligible": np.arange(n), "similarity": similarity}
                known |= {"trained": np.zeros(n, dtype=np.int64), "seed": seed}
                scorers = [FakeScorer(pool=[pool], queries=[target_gradients]) for _ in range(2)]
                chosen = SurrogateLess(sample=sample, exact=exact, min_overlap=bound).select(
                    round_for(scorers[0], 48, **known)
                )
                less = Less().select(round_for(scorers[1], 48, **known))
                said = chosen.fidelity
                found.append((np.isin(less.ids, chosen.ids).mean(), said["overlap"], said["gradients"]))
            true, estimated, count = np.mean(found, axis=0)
            print(f"{target}: {count:.0f} of {n} gradients: overlap {true:.2f}, estimated {estimated:.2f}", flush=True)


if __name__ == "__main__":
    main()
