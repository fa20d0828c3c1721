"""The page of a selection: what select.py selected, to look at before anything is trained.

Nothing is embedded for it: parts that need vectors which are not in the store are left out, and the page says so.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from omegaconf import DictConfig

from near.common.config import public
from near.common.errors import UserError, one_line
from near.common.files import aside, provenance
from near.common.outputs import SELECTION_PAGE, claim
from near.common.text import plural
from near.report.labels import labels_of
from near.report.page.browser import browser
from near.report.page.charts import Figure, colour, label_charts, source_colours
from near.report.page.document import document
from near.report.page.pool import Pool
from near.report.page.pool_map import PoolMap, map_data, pool_map, sources_shown
from near.report.page.reach import Table, by_max_K, by_n
from near.report.page.scores import far_queries, sample_of, score_chart
from near.report.page.suspects import (
    Findings,
    hubs,
    near_each_other,
    near_queries,
    overlaps,
    query_prompts,
    same_prompts,
)
from near.report.page.taken import Taken
from near.report.shares import NOTE, Picks, sentences, shares_of
from near.searching.settings import SearchSettings
from near.selection.select import Selection

log = logging.getLogger(__name__)
T = TypeVar("T")

NEAREST = 10  # ranks of the matrix whose rows are shown without a selector
MAP_TEXT, BROWSER_TEXT = 160, 1000  # characters
SCRIPTS = ("map.js", "browser.js")


def write_page(cfg: DictConfig, folder: Path, selection: Selection) -> None:
    """Write selection.html into `folder`. `cfg`: the configuration of select.py."""
    claim(folder, "select")
    path = folder / SELECTION_PAGE
    with aside(path) as temporary:
        temporary.write_bytes(selection_page(cfg, folder, selection).encode("utf-8", "backslashreplace"))
    log.info(f"page: {path} ({path.stat().st_size / 1e6:.1f} MB)")


@dataclass
class _Parts:
    """The parts of the page that need vectors. `absent`: why parts are missing."""

    map: PoolMap | None = None
    scores: tuple[Figure, str] | None = None
    far: str | None = None
    repeats: Findings | None = None
    absent: list[str] = field(default_factory=list)

    def part(self, name: str, make: Callable[[], T]) -> T | None:
        """What `make` returns; None, with the reason in `absent`, where it raises a UserError."""
        try:
            return make()
        except UserError as error:
            self.absent.append(f"No {name}: {one_line(error)}.")
            return None


def selection_page(cfg: DictConfig, folder: Path, selection: Selection) -> str:
    """The whole HTML document."""
    rows, queries = selection.material.candidates, selection.material.queries
    neighbours, eligible = selection.neighbours, rows.eligible()
    pool = Pool(cfg.data, SearchSettings.of(cfg, cfg.cache_dir), rows.fingerprint, rows, queries, neighbours)
    name, ids = _picked(selection)
    labels = labels_of(cfg.data, rows, queries, cfg.cache_dir)
    shares = shares_of(labels, [Picks(name, ids, np.ones(len(ids), dtype=np.int64))], eligible)
    taken = [_taken(ids)]
    parts = _with_vectors(cfg, pool, taken, name, ids)
    colours = source_colours([], [] if parts.map is None else sources_shown(pool, parts.map)[0])
    charts = {"scores": [] if parts.scores is None else [parts.scores[0]], **label_charts([shares])}
    marked = f"are {'picked rows' if selection.ids is not None else f'the rows of {name}'}"

    def data(share: float) -> dict:
        values = {"groups": [{"label": name, "colour": colour(0), "runs": 1}], "charts": charts}
        badges = taken if selection.ids is not None else []
        values["browser"] = browser(pool, badges, cfg.queries, cfg.neighbours, int(BROWSER_TEXT * share))
        if parts.map is not None:
            values["map"] = map_data(pool, parts.map, taken, int(MAP_TEXT * share), colours, marked)
        return values

    leaks, repeats = _suspects(cfg, pool, ids, parts)
    return document(
        "selection.html",
        SCRIPTS,
        data,
        title=f"near: {folder.resolve().name}",
        picked=_sentence(selection, name, len(ids), len(eligible)),
        looked=f"What {name} looked at" if selection.ids is not None else f"Labels of {name} rows of every query",
        only="only rows that were picked" if selection.ids is not None else "",
        shares=[("", sentences(shares), [one.table() for one in shares])],
        shares_over=None,
        shares_note=NOTE,
        scores=[line for line in (parts.scores and parts.scores[1], parts.far) if line],
        max_K=None if neighbours is None else by_max_K(neighbours, labels, len(eligible)),
        n=by_n(neighbours, labels, selection.ids),
        hubs=None if neighbours is None else hubs(neighbours, rows),
        leaks=leaks,
        repeats=repeats,
        absent=parts.absent,
        settings=_settings(cfg),
    )


def _picked(selection: Selection) -> tuple[str, np.ndarray]:
    """A name for the rows that are shown, and their ids, int64 (m,): the subset, or without a selector the nearest of
    every query."""
    if selection.ids is not None:
        return str(selection.selector), selection.ids
    ids = selection.neighbours.ids[:, :NEAREST]
    return "the nearest" if ids.shape[1] == 1 else f"the {ids.shape[1]} nearest", np.unique(ids)


def _sentence(selection: Selection, name: str, count: int, eligible: int) -> str:
    queries = selection.material.queries
    for_queries = "" if queries is None else f" for {plural(len(queries.eligible()), 'query', 'queries')}"
    if selection.ids is not None:
        return f"{name} picked {count} of {plural(eligible, 'row')} that may be selected{for_queries}."
    width = selection.neighbours.ids.shape[1]
    return (
        f"Neighbours of {plural(width, 'rank')}{for_queries} in a pool of {plural(eligible, 'row')} that may be "
        "selected. No selector picked any yet (selector=near n=ROWS does): where this page speaks of picked rows, it "
        f"means {name} rows of every query, {plural(count, 'row')} in all."
    )


def _taken(ids: np.ndarray) -> Taken:
    once = np.ones(len(ids), dtype=np.int64)
    return Taken(np.sort(ids), once, once, np.empty(0, dtype=np.int64))


def _with_vectors(cfg: DictConfig, pool: Pool, taken: list[Taken], name: str, ids: np.ndarray) -> _Parts:
    parts = _Parts()
    sample = parts.part("scores and no repeats by embeddings", lambda: sample_of(pool, ids))
    if sample is not None:
        parts.repeats = near_each_other(sample, pool.rows, len(ids), cfg.data.dedup_threshold)
        if len(sample.queries) and len(sample.ids):
            parts.scores = score_chart(sample, name, pool.embedder)
        if len(sample.queries) and pool.neighbours is not None and pool.neighbours.scales is None:
            parts.far = far_queries(sample, pool.neighbours.scores[:, 0], pool.queries.eligible())
    if cfg.map is not None:
        parts.map = parts.part("map of the pool", lambda: pool_map(pool, taken, cfg.map_rows, cfg.map))
    return parts


def _suspects(cfg: DictConfig, pool: Pool, ids: np.ndarray, parts: _Parts) -> tuple[list[Findings], list[Findings]]:
    """Likely leaks, and repeats among the rows `ids`."""
    leaks = [] if pool.queries is None else [query_prompts(pool.rows, pool.queries, cfg.data.leakage)]
    leaks.append(overlaps(pool.rows, ids))
    if pool.neighbours is not None and pool.neighbours.scales is None:  # scores of BM25 are no cosines
        leaks.append(near_queries(pool.neighbours, pool.rows, pool.queries, cfg.data.dedup_threshold))
    return leaks, [same_prompts(pool.rows, ids), *([] if parts.repeats is None else [parts.repeats])]


def _settings(cfg: DictConfig) -> Table:
    """Command, versions and options, as rows of a table."""
    described = provenance()
    rows = [["command", str(described["command"])], ["created", str(described["created"])]]
    rows += [[f"{name} version", str(version)] for name, version in described["versions"].items()]

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        else:
            rows.append([path, str(node)])

    walk(public(cfg), "")
    return ["what", "value"], rows
