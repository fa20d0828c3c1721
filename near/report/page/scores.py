"""How near picked rows are to the queries, beside random rows of the pool."""

from dataclasses import dataclass

import numpy as np

from near.common.errors import UserError
from near.common.text import plural
from near.report.page.charts import Figure, bars
from near.report.page.pool import Pool, stored_vectors
from near.report.shares import percent
from near.searching.summary import FAR

RANDOM, PICKED = 1000, 2000  # rows that are compared, at most
BLOCK = 4096  # queries at a time
BINS = 40
LISTED = 20  # queries that are named
NEAR = 0.95  # the quantile of the random rows' scores that near rows exceed


@dataclass(frozen=True)
class ScoreSample:
    """Vectors of some picked rows, some random rows and the queries, as they are stored.

    Attributes:
        ids: int64 (m,), picked rows.
        picked: float32 (m, dim), their vectors.
        random: float32 (r, dim), vectors of random rows that may be selected.
        queries: float32 (q, dim); (0, dim) without queries.
    """

    ids: np.ndarray
    picked: np.ndarray
    random: np.ndarray
    queries: np.ndarray


def sample_of(pool: Pool, ids: np.ndarray) -> ScoreSample:
    """A sample of the picked rows `ids`, int64 (n,), and of the pool. UserError where vectors are not stored."""
    rng = np.random.default_rng(0)
    if len(ids) > PICKED:
        ids = ids[np.sort(rng.choice(len(ids), PICKED, replace=False))]
    eligible = pool.rows.eligible()
    random = rng.choice(eligible, min(RANDOM, len(eligible)), replace=False)
    query_ids = np.empty(0, dtype=np.int64) if pool.queries is None else pool.queries.eligible()
    stored, vectors, queries, _ = stored_vectors(pool, np.concatenate([ids, random]), query_ids)
    if len(query_ids) and not len(queries):
        raise UserError("the store lacks vectors of queries")
    is_picked = stored < len(ids)
    queries = queries.reshape(len(queries), vectors.shape[1]) if len(queries) else vectors[:0]
    return ScoreSample(ids[stored[is_picked]], vectors[is_picked], vectors[~is_picked], queries)


def highest(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The highest similarity of each of `vectors` (n, dim) to any query, float32 (n,)."""
    best = np.full(len(vectors), -np.inf, dtype=np.float32)
    for start in range(0, len(queries), BLOCK):
        np.maximum(best, (vectors @ queries[start : start + BLOCK].T).max(axis=1), out=best)
    return best


def score_chart(sample: ScoreSample, name: str, embedder: str) -> tuple[Figure, str]:
    """The distributions of both kinds of rows, and a sentence on them. name, embedder: names of the picked rows and of
    the embedder."""
    picked, random = highest(sample.picked, sample.queries), highest(sample.random, sample.queries)
    low, high = (float(f(np.concatenate([picked, random]))) for f in (np.min, np.max))
    edges = np.linspace(low, max(high, low + 1e-3), BINS + 1)
    middles = ((edges[:-1] + edges[1:]) / 2).round(4).tolist()
    shares = [np.histogram(np.clip(s, low, edges[-1]), edges)[0] / len(s) for s in (picked, random)]
    names = [f"{name} ({plural(len(picked), 'row')})", f"random rows ({len(random)})"]
    figure = bars(dict(zip(names, shares, strict=True)), middles, "Highest similarity to a query", "similarity")
    threshold = np.quantile(random, NEAR)
    above = percent(float(np.mean(picked > threshold)))
    return figure, (
        f"Highest similarity to a query, by {embedder}: median {np.median(picked):.3f} of the rows of {name}, "
        f"{np.median(random):.3f} of random rows of the pool. {above} of the first are nearer than {NEAR:.0%} of "
        "the random rows."
    )


def far_queries(sample: ScoreSample, scores: np.ndarray, query_ids: np.ndarray) -> str:
    """A sentence on queries whose nearest row is hardly nearer than any (near/searching/summary.py).

    Args:
        sample: with random rows.
        scores: float32 (n_queries,), of each query's nearest row.
        query_ids: int64 (n_queries,).
    """
    typical = np.concatenate(
        [
            np.median(sample.queries[i : i + BLOCK] @ sample.random.T, axis=1)
            for i in range(0, len(sample.queries), BLOCK)
        ]
    )  # (n_queries,)
    far = query_ids[(scores - typical) < FAR * (1 - typical)]
    if not len(far):
        return f"Each of the {plural(len(query_ids), 'query has', 'queries has')} a near row in the pool."
    named = ", ".join(map(str, far[:LISTED])) + (", ..." if len(far) > LISTED else "")
    return (
        f"{len(far)} of {plural(len(query_ids), 'query', 'queries')} without a near row in the pool (their nearest is "
        f"hardly nearer than a random row): {named}."
    )
