"""The page: one HTML document out of a template (static/page.html), with the data of its scripts.

Names and texts of data and configurations never become markup: the template escapes what it shows, and the rest is JSON
in a block that no browser runs, which the scripts put on the page as text. A content security policy lets the page's
own scripts run, and nothing be fetched.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hydra.errors import HydraException
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from plotly.offline import get_plotlyjs

from near.common.errors import UserError, one_line
from near.report import verdict
from near.report.compare import Group, groups_of
from near.report.page.answers import answers
from near.report.page.browser import browser, texts
from near.report.page.charts import all_charts, colour, source_colours
from near.report.page.pool import Pool, pool_of
from near.report.page.pool_map import laid_out, rows_shown
from near.report.page.settings import Compared, compared
from near.report.page.taken import Taken, taken
from near.report.runs import Run
from near.report.standing import Standing
from near.report.tables import notes, run_table

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("page.js", "charts.js", "map.js", "browser.js", "answers.js")
BESIDE = 4  # selections whose settings stand side by side
LIMIT = 9_000_000  # characters of data beside the charts' library; texts are cut shorter until they fit
INTERVAL = re.compile(r"(\[[^\]]*\] (?:seeds|examples))")
MAP_TEXT, BROWSER_TEXT, ANSWER_TEXT = 160, 1000, 1000  # characters

ENVIRONMENT = Environment(
    loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters["at_intervals"] = INTERVAL.split  # every second part is an interval


def page(
    cfg: DictConfig,
    runs: list[Run],
    root: Path,
    unfinished: list[Standing],
    read_config: Callable[[Path], DictConfig],
) -> str:
    """The whole HTML document.

    Args:
        cfg: the options of report.py.
        runs: the finished runs.
        root: the folder that they are below.
        unfinished: the runs without a result.
        read_config: reads and checks a run's config.yaml.
    """
    groups = groups_of(runs)
    parts = _gathered(cfg, groups, read_config)
    colours = source_colours(groups, [] if parts.map is None else _sources(parts)[0])
    data = {
        "groups": [{"label": g.label, "colour": colour(i), "runs": len(g.runs)} for i, g in enumerate(groups)],
        "charts": all_charts(groups, colours),
    }
    for share in (1.0, 0.5, 0.25, 0.1):
        text = _json(data | _with_texts(cfg, groups, parts, share, colours))
        if len(text) <= LIMIT:
            break
    scripts = [get_plotlyjs(), *map(_static, SCRIPTS)]
    settings = compared(groups)
    return ENVIRONMENT.get_template("page.html").render(
        title=f"near: {root.resolve().name}",
        answer=verdict.answer(runs),
        verdicts=_in_parts(*verdict.table(runs)),
        verdict_notes=verdict.notes(runs),
        runs=run_table(runs, root),
        runs_notes=notes(runs, []),
        unfinished=unfinished,
        absent=parts.absent,
        groups=groups,
        settings=settings,
        differing=_differing(settings, [group.label for group in groups]),
        style=_static("page.css"),
        data=text,
        scripts=scripts,
        digests=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    )


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


class _Parts:
    """The parts of a report that come from the pool. `absent`: why parts are missing."""

    def __init__(self):
        self.pool: Pool | None = None
        self.taken: list[Taken] = []
        self.map: tuple | None = None
        self.absent: list[str] = []


def _gathered(cfg: DictConfig, groups: list[Group], read_config: Callable[[Path], DictConfig]) -> _Parts:
    parts = _Parts()
    if not groups:
        return parts
    try:
        parts.pool = pool_of(groups, read_config)
    except UserError as error:
        parts.absent.append(f"No map and no queries: {one_line(error)}.")
        return parts
    parts.taken = [taken(g) if g.one.pool == parts.pool.fingerprint else Taken.empty() for g in groups]
    if parts.pool.neighbours is None:
        parts.absent.append("No queries are shown: no run saved a matrix of neighbours.")
    if cfg.map is not None:
        try:
            ids = rows_shown(parts.pool, parts.taken, cfg.map_rows)
            stored, coordinates, queries = laid_out(parts.pool, ids, cfg.map)
            parts.map = ids[stored], coordinates, queries
        except (UserError, HydraException, OmegaConfBaseException) as error:
            parts.absent.append(f"No map of the pool: {one_line(error)}.")
    return parts


def _with_texts(cfg: DictConfig, groups: list[Group], parts: _Parts, share: float, colours: dict[str, str]) -> dict:
    """Answers, queries and map for the page's scripts, their texts cut to a share of the usual length."""
    data = {"answers": answers(groups, cfg.answers, int(ANSWER_TEXT * share)) if groups else []}
    if parts.pool is not None:
        length = int(BROWSER_TEXT * share)
        data["browser"] = browser(parts.pool, parts.taken, cfg.queries, cfg.neighbours, length)
    if parts.map is not None:
        data["map"] = _map(parts, int(MAP_TEXT * share), colours)
    return data


def _sources(parts: _Parts) -> tuple[list[str], np.ndarray]:
    """The sources of the rows on the map, by how many rows they have; the index of each row's source, uint16 (m,)."""
    names, numbers = np.unique(parts.pool.rows.sources(parts.map[0]).astype(str), return_inverse=True)
    order = np.argsort(-np.bincount(numbers), kind="stable")
    rank = np.empty(len(order), dtype=np.uint16)
    rank[order] = np.arange(len(order))
    return [str(names[i]) for i in order], rank[numbers]


def _map(parts: _Parts, length: int, colours: dict[str, str]) -> dict:
    """Coordinates as int16 and ids as int32 in base64: 20,000 rows take about 300 kB beside their texts."""
    ids, coordinates, queries = parts.map  # (m,), (m, 2), (q, 2)
    names, numbers = _sources(parts)
    groups = []
    for one in parts.taken:
        at = np.flatnonzero(np.isin(ids, one.ids))
        place = np.searchsorted(one.ids, ids[at])
        groups.append({"at": _packed(at, np.int32), "runs": one.runs[place].tolist(), "all": len(one.ids)})
    query_ids = [] if parts.pool.queries is None else parts.pool.queries.eligible()[: len(queries)]
    return {
        "of": len(parts.pool.rows.eligible()),
        "embedder": parts.pool.embedder,
        "ids": _packed(ids, np.int32),
        "x": _packed(np.round(coordinates[:, 0] * 32000), np.int16),
        "y": _packed(np.round(coordinates[:, 1] * 32000), np.int16),
        "source": _packed(numbers, np.uint16),
        "sources": [[name, colours[name]] for name in names],
        "text": texts(parts.pool.rows, ids, length),
        "taken": groups,
        "queries": {
            "x": _packed(np.round(queries[:, 0] * 32000), np.int16),
            "y": _packed(np.round(queries[:, 1] * 32000), np.int16),
            "text": texts(parts.pool.queries, np.asarray(query_ids), length) if len(query_ids) else [],
        },
    }


def _packed(array: np.ndarray, dtype: type) -> str:
    return base64.b64encode(np.ascontiguousarray(array.astype(np.dtype(dtype).newbyteorder("<"))).tobytes()).decode()


def _json(value: object) -> str:
    """JSON for a script block: no text in it can end the block."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _in_parts(heads: list[str], rows: list[list[str]]) -> list[tuple[list[str], list[list[str]]]]:
    """A table that is too wide for the page as several, each with the first column."""
    return [([heads[i] for i in at], [[row[i] for i in at] for row in rows]) for at in verdict.parts(heads)]


def _differing(settings: Compared, labels: list[str]) -> tuple[list[str], list[list[str]]]:
    """The table of settings that differ: a column for each selection; of many, the selections that share a value."""
    if len(labels) <= BESIDE:
        return ["setting", *labels], settings.differing
    rows = []
    for key, *values in settings.differing:
        for value in dict.fromkeys(values):
            rows.append([key, value, ", ".join(n for n, v in zip(labels, values, strict=True) if v == value)])
    return ["setting", "value", "selections"], rows
