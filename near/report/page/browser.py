"""Queries with their nearest rows, and the selections that trained those rows."""

import numpy as np

from near.data.rows import Rows
from near.report.page.pool import Pool
from near.report.page.taken import Taken

NAME = 80  # characters of a query in the list


def browser(pool: Pool, taken: list[Taken], queries: int, neighbours: int, length: int) -> dict | None:
    """Queries and their nearest rows, as the page's scripts read them; None without a matrix of neighbours.

    Args:
        pool: with its queries and neighbours.
        taken: what each selection took.
        queries: how many queries, the first ones.
        neighbours: how many rows for each.
        length: characters to which texts are cut.

    Returns:
        {"of": all queries, "embedder": ..., "queries": [[id, text, [row, ...], [score, ...], its name], ...],
        "rows": {row: [text, source, [[group, runs, rounds], ...], [groups whose warm-up alone drew it]]}}
    """
    if pool.neighbours is None:
        return None
    eligible = pool.queries.eligible()
    query_ids = eligible[:queries]
    ids, scores = (m[: len(query_ids), :neighbours] for m in (pool.neighbours.ids, pool.neighbours.scores))  # (q, K)
    names = [" ".join(text.split())[:NAME] for text in pool.queries.texts(query_ids, "prompt")]
    lines = [
        [int(q), text, row.tolist(), [round(float(s), 4) for s in score], name]
        for q, text, row, score, name in zip(
            query_ids, texts(pool.queries, query_ids, length), ids, scores, names, strict=True
        )
    ]
    rows = np.unique(ids)
    sources = pool.rows.sources(rows)
    described = {}
    for place, (row, text) in enumerate(zip(rows.tolist(), texts(pool.rows, rows, length), strict=True)):
        by, warm = [], []
        for group, one in enumerate(taken):
            at = int(np.searchsorted(one.ids, row))
            if at < len(one.ids) and one.ids[at] == row:
                by.append([group, int(one.runs[at]), int(one.rounds[at])])
            elif row in one.warmup:
                warm.append(group)
        described[row] = [text, str(sources[place]), by, warm]
    return {"of": len(eligible), "embedder": pool.similarity, "queries": lines, "rows": described}


def texts(rows: Rows, ids: np.ndarray, length: int) -> list[str]:
    """The messages of rows `ids`, each with its role, cut to `length` characters."""
    cut = []
    for start in range(0, len(ids), 4096):
        for messages in rows.chats(ids[start : start + 4096]):
            whole = "\n".join(f"{m['role']}: {m['content'] or ''}" for m in messages)
            cut.append(whole if len(whole) <= length else whole[: length - 1] + "…")
    return cut
