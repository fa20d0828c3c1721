"""Rows to look at twice: those that many queries share, likely leaks, and repeats among the picked rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from near.common.errors import printable
from near.common.keys import Sorted
from near.common.text import plural
from near.data.leakage import leaks
from near.data.rows import Rows
from near.report.page.scores import PICKED, ScoreSample
from near.report.shares import percent
from near.searching.neighbours import Neighbours

NEAREST = 10  # ranks in which a row counts as shared
LISTED = 20  # rows of a table
TEXT = 200  # characters of a text


@dataclass
class Findings:
    """A sentence, and a table of examples with its heads."""

    sentence: str
    heads: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def hubs(neighbours: Neighbours, rows: Rows) -> Findings:
    """The rows that are among the nearest of most queries."""
    ids = neighbours.ids[:, :NEAREST]
    queries, ranks = ids.shape
    found, counts = np.unique(ids, return_counts=True)
    order = np.lexsort((found, -counts))
    found, counts = found[order], counts[order]
    half = int(np.searchsorted(np.cumsum(counts), ids.size / 2)) + 1
    nearest = "nearest row" if ranks == 1 else f"{ranks} nearest"
    sentence = (
        f"Half of the places among every query's {nearest} go to {half} of {plural(len(found), 'row')}; one row is "
        f"among them for {counts[0]} of {plural(queries, 'query', 'queries')} ({percent(counts[0] / queries)})."
    )
    shared = found[counts > 1][:LISTED]
    cells = [
        [str(row), str(source), str(count), text]
        for row, source, count, text in zip(shared, rows.sources(shared), counts, prompts(rows, shared), strict=False)
    ]
    return Findings(sentence, ["row", "source", "queries", "prompt"], cells)


def near_queries(neighbours: Neighbours, rows: Rows, queries: Rows, threshold: float) -> Findings:
    """Rows whose vector is nearly a query's: likely leaks, such as a paraphrase."""
    at, rank = np.nonzero(neighbours.scores >= threshold)
    if not len(at):
        return Findings(f"By embeddings: no row has a similarity of {threshold:g} or more to a query.")
    scores, ids = neighbours.scores[at, rank], neighbours.ids[at, rank]
    order = np.argsort(-scores, kind="stable")[:LISTED]
    sentence = (
        f"By embeddings: {plural(len(np.unique(ids)), 'row')} with a similarity of {threshold:g} or more to one of "
        f"{plural(len(np.unique(at)), 'query', 'queries')}. Check whether they give away its answer."
    )
    query_ids = queries.eligible()[at[order]]
    pairs = zip(
        scores[order], query_ids, prompts(queries, query_ids), ids[order], prompts(rows, ids[order]), strict=True
    )
    cells = [[f"{score:.3f}", f"{query}: {prompt}", f"{row}: {text}"] for score, query, prompt, row, text in pairs]
    return Findings(sentence, ["similarity", "query", "row"], cells)


def query_prompts(rows: Rows, queries: Rows, leakage: str) -> Findings:
    """Rows with a query's prompt, by words (near/data/leakage.py). `leakage`: data.leakage."""
    leaked, _ = leaks(rows, queries)
    leaked &= rows.usable()
    ids = np.flatnonzero(leaked)[:LISTED]
    if not len(ids):
        return Findings("By words: no row has the prompt of a query.")
    end = "left out (data.leakage=drop)." if leakage == "drop" else "in the pool (data.leakage=keep)."
    count = plural(int(leaked.sum()), "row with the prompt of a query is", "rows with the prompt of a query are")
    cells = [
        [str(row), str(source), text]
        for row, source, text in zip(ids, rows.sources(ids), prompts(rows, ids), strict=True)
    ]
    return Findings(f"By words: {count} {end}", ["row", "source", "prompt"], cells)


def overlaps(rows: Rows, ids: np.ndarray) -> Findings:
    """Rows with sequences of words of held-out rows (near/data/contamination.py), those of `ids`, int64 (m,), first."""
    if rows.overlaps is None:
        return Findings("Overlaps: the pool was not compared with held-out rows (data.decontaminate=null).")
    if not rows.overlaps:
        return Findings("Overlaps (data.decontaminate): no row resembles a held-out row.")
    picked = set(ids.tolist())
    shown = sorted(rows.overlaps, key=lambda one: (one.row not in picked, one.row, one.set, one.held_out_row))
    count, held_out = len({one.row for one in shown}), len({(one.set, one.held_out_row) for one in shown})
    here = len({one.row for one in shown} & picked)
    sentence = (
        f"Overlaps (data.decontaminate): {plural(count, 'row resembles', 'rows resemble')} "
        f"{plural(held_out, 'held-out row')}; {here} of them {'is' if here == 1 else 'are'} picked "
        "(contaminated.jsonl has all)."
    )
    cells = [
        [str(one.row), "yes" if one.row in picked else "no", f"{one.set} {one.held_out_row}", str(one.kind), text]
        for one in shown[:LISTED]
        for text in [printable(one.words or f"cosine {one.cosine}", TEXT)]
    ]
    return Findings(sentence, ["row", "picked", "held-out row", "kind", "words"], cells)


def near_each_other(sample: ScoreSample, rows: Rows, of: int, threshold: float) -> Findings:
    """Picked rows whose vectors are nearly equal. `of`: how many rows were picked."""
    similar = np.triu(sample.picked @ sample.picked.T, 1)  # (m, m)
    first, second = np.nonzero(similar >= threshold)
    part = "" if len(sample.ids) == of else f" (of {PICKED} that were compared)"
    if not len(first):
        return Findings(f"By embeddings: no two picked rows{part} have a similarity of {threshold:g} or more.")
    scores = similar[first, second]
    order = np.argsort(-scores, kind="stable")[:LISTED]
    count = len(np.unique(np.concatenate([first, second])))
    a, b = sample.ids[first[order]], sample.ids[second[order]]
    pairs = zip(scores[order], a, prompts(rows, a), b, prompts(rows, b), strict=True)
    cells = [[f"{score:.3f}", f"{one}: {text}", f"{two}: {other}"] for score, one, text, two, other in pairs]
    sentence = (
        f"By embeddings: {plural(count, 'picked row')}{part} with a similarity of {threshold:g} or more to another; "
        "data.dedup=near leaves out the later ones."
    )
    return Findings(sentence, ["similarity", "row", "row"], cells)


def same_prompts(rows: Rows, ids: np.ndarray) -> Findings:
    """Picked rows with one prompt, by words. `ids`: int64 (m,)."""
    ids = np.sort(ids)
    high, low = np.empty(len(ids), dtype=np.uint64), np.empty(len(ids), dtype=np.uint64)
    for start, keys in rows.keys("prompt_key"):
        first, last = np.searchsorted(ids, [start, start + len(keys)])
        high[first:last], low[first:last] = keys[ids[first:last] - start].T
    ordered = Sorted(high, low)
    groups = np.split(ids[ordered.order], np.flatnonzero(ordered.begins)[1:])
    repeated = sorted((group for group in groups if len(group) > 1), key=len, reverse=True)
    if not repeated:
        return Findings("By words: no two picked rows have one prompt.")
    count = sum(map(len, repeated))
    firsts = np.array([group.min() for group in repeated[:LISTED]])
    cells = [
        [str(len(group)), _listed(np.sort(group)), text]
        for group, text in zip(repeated[:LISTED], prompts(rows, firsts), strict=True)
    ]
    sentence = f"By words: {count} picked rows have the prompt of another one ({plural(len(repeated), 'prompt')})."
    return Findings(sentence, ["rows", "ids", "prompt"], cells)


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")


def prompts(rows: Rows, ids: np.ndarray) -> list[str]:
    """The beginnings of the prompts of rows `ids`, one line each."""
    return [printable(text, TEXT) for text in rows.texts(np.asarray(ids), "prompt")]
