"""Queries with their nearest rows, and which selections trained those."""

import numpy as np

from near.report.page.pool import Pool
from near.report.page.taken import Taken

NAME = 80  # characters of a query in the list


def browser(pool: Pool, taken: list[Taken], queries: int, neighbours: int, shown: int) -> dict | None:
    """The first `queries` queries with `neighbours` rows each, texts cut to `shown` characters; None without a matrix.

    {"of": all queries, "embedder": ..., "queries": [[id, text, [row, ...], [score, ...], its name], ...],
    "rows": {row: [text, source, [[group, runs, rounds], ...], [groups whose warm-up alone drew it]]}}
    """
    if pool.neighbours is None:
        return None
    asked = pool.queries.eligible()[:queries]
    ids, scores = (m[: len(asked), :neighbours] for m in (pool.neighbours.ids, pool.neighbours.scores))
    names = [" ".join(text.split())[:NAME] for text in pool.queries.texts(asked, "prompt")]
    told = [
        [int(q), text, row.tolist(), [round(float(s), 4) for s in score], name]
        for q, text, row, score, name in zip(asked, texts(pool.queries, asked, shown), ids, scores, names, strict=True)
    ]
    rows = np.unique(ids)
    sources = pool.rows.sources(rows)
    found = {}
    for place, (row, text) in enumerate(zip(rows.tolist(), texts(pool.rows, rows, shown), strict=True)):
        by, warm = [], []
        for group, one in enumerate(taken):
            at = int(np.searchsorted(one.ids, row))
            if at < len(one.ids) and one.ids[at] == row:
                by.append([group, int(one.runs[at]), int(one.rounds[at])])
            elif row in one.warmup:
                warm.append(group)
        found[row] = [text, str(sources[place]), by, warm]
    of = len(pool.queries.eligible())
    return {"of": of, "embedder": pool.embedder, "queries": told, "rows": found}


def texts(rows, ids: np.ndarray, shown: int) -> list[str]:
    """What the messages of rows `ids` say, each with its role, cut to `shown` characters."""
    found = []
    for start in range(0, len(ids), 4096):
        for messages in rows.chats(ids[start : start + 4096]):
            whole = "\n".join(f"{m['role']}: {m['content'] or ''}" for m in messages)
            found.append(whole if len(whole) <= shown else whole[: shown - 1] + "…")
    return found
