"""The page: everything gathered, and one HTML document around it.

What comes from data and configurations goes into it as JSON in blocks that no browser runs, and its scripts put it on
the page as text. A content security policy lets only these scripts run and nothing be fetched.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hydra.errors import HydraException
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
from near.report.page.settings import compared
from near.report.page.taken import Taken, taken
from near.report.runs import Run
from near.report.standing import Standing
from near.report.tables import notes, shown

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("page.js", "charts.js", "map.js", "browser.js", "answers.js")
BESIDE = 4  # selections whose settings stand side by side
LIMIT = 9_000_000  # bytes of data beside the charts' library; texts are cut shorter until they fit
INTERVAL = re.compile(r"(\[[^\]]*\] (?:seeds|examples))")
MAP_TEXT, BROWSER_TEXT, ANSWER_TEXT = 160, 1000, 1000  # characters


def page(
    cfg: DictConfig,
    runs: list[Run],
    root: Path,
    unfinished: list[Standing],
    read_config: Callable[[Path], DictConfig],
) -> str:
    """The whole document. `read_config`: a run's config.yaml, checked."""
    groups = groups_of(runs)
    parts = _gathered(cfg, groups, read_config)
    colours = source_colours(groups, [] if parts.map is None else _sources(parts)[0])
    data = {
        "groups": [{"label": g.label, "colour": colour(i), "runs": len(g.runs)} for i, g in enumerate(groups)],
        "charts": all_charts(groups, colours),
    }
    for share in (1.0, 0.5, 0.25, 0.1):
        told = data | _told(cfg, groups, parts, share, colours)
        if len(text := _json(told)) <= LIMIT:
            break
    title = html.escape(f"near: {root.resolve().name}")
    body = (STATIC / "page.html").read_text(encoding="utf-8")
    sections = {
        "title": title,
        "answer": html.escape(verdict.answer(runs)),
        "verdict": "".join(_table(heads, rows) for heads, rows in _in_parts(*verdict.table(runs))),
        "verdict_notes": _notes(verdict.notes(runs)),
        "runs": _table(*shown(runs, root)),
        "runs_notes": _notes(notes(runs, [])),
        "unfinished": _unfinished(unfinished),
        "compared": _compared(groups),
        "absent": _notes(parts.absent),
    }
    for name, content in sections.items():
        body = body.replace(f"{{{{{name}}}}}", content)
    scripts = [get_plotlyjs(), *((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
    )
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{(STATIC / 'page.css').read_text(encoding='utf-8')}</style></head>"
    )
    tail = "".join(f"<script>{script}</script>" for script in scripts)
    return f'{head}<body>{body}<script type="application/json" id="data">{text}</script>{tail}</body></html>'


class _Parts:
    """What of a report comes from the pool; `absent`: why something is not there."""

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
    parts.taken = [taken(g) if g.one.pool == parts.pool.fingerprint else Taken.nothing() for g in groups]
    if parts.pool.neighbours is None:
        parts.absent.append("No queries are shown: no run kept a matrix of neighbours.")
    if cfg.map is not None:
        try:
            ids = rows_shown(parts.pool, parts.taken, cfg.map_rows)
            there, places, queries = laid_out(parts.pool, ids, cfg.map)
            parts.map = ids[there], places, queries
        except (UserError, HydraException, OmegaConfBaseException) as error:
            parts.absent.append(f"No map of the pool: {one_line(error)}.")
    return parts


def _told(cfg: DictConfig, groups: list[Group], parts: _Parts, share: float, colours: dict[str, str]) -> dict:
    """What the page's scripts read, with texts cut to a share of their length."""
    found = {"answers": answers(groups, cfg.answers, int(ANSWER_TEXT * share)) if groups else []}
    if parts.pool is not None:
        length = int(BROWSER_TEXT * share)
        found["browser"] = browser(parts.pool, parts.taken, cfg.queries, cfg.neighbours, length)
    if parts.map is not None:
        found["map"] = _map(parts, int(MAP_TEXT * share), colours)
    return found


def _sources(parts: _Parts) -> tuple[list[str], np.ndarray]:
    """The sources of the rows on the map, those of most rows first, and which of them each row has, uint16 (m,)."""
    names, numbers = np.unique(parts.pool.rows.sources(parts.map[0]).astype(str), return_inverse=True)
    order = np.argsort(-np.bincount(numbers), kind="stable")
    rank = np.empty(len(order), dtype=np.uint16)
    rank[order] = np.arange(len(order))
    return [str(names[i]) for i in order], rank[numbers]


def _map(parts: _Parts, length: int, colours: dict[str, str]) -> dict:
    """Places as int16 and ids as int32 in base64, so that 20,000 rows take some 300 kB beside their texts."""
    ids, places, queries = parts.map
    names, numbers = _sources(parts)
    groups = []
    for one in parts.taken:
        at = np.flatnonzero(np.isin(ids, one.ids))
        place = np.searchsorted(one.ids, ids[at])
        groups.append({"at": _packed(at, np.int32), "runs": one.runs[place].tolist(), "all": len(one.ids)})
    asked = [] if parts.pool.queries is None else parts.pool.queries.eligible()[: len(queries)]
    return {
        "of": len(parts.pool.rows.eligible()),
        "embedder": parts.pool.embedder,
        "ids": _packed(ids, np.int32),
        "x": _packed(np.round(places[:, 0] * 32000), np.int16),
        "y": _packed(np.round(places[:, 1] * 32000), np.int16),
        "source": _packed(numbers, np.uint16),
        "sources": [[name, colours[name]] for name in names],
        "text": texts(parts.pool.rows, ids, length),
        "taken": groups,
        "queries": {
            "x": _packed(np.round(queries[:, 0] * 32000), np.int16),
            "y": _packed(np.round(queries[:, 1] * 32000), np.int16),
            "text": texts(parts.pool.queries, np.asarray(asked), length) if len(asked) else [],
        },
    }


def _packed(array: np.ndarray, dtype: type) -> str:
    return base64.b64encode(np.ascontiguousarray(array.astype(np.dtype(dtype).newbyteorder("<"))).tobytes()).decode()


def _json(value: object) -> str:
    """For a script block: no text of it can end the block."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _in_parts(heads: list[str], rows: list[list[str]]) -> list[tuple[list[str], list[list[str]]]]:
    """A table that is too wide for a page as several, each with the first column."""
    return [([heads[i] for i in at], [[row[i] for i in at] for row in rows]) for at in verdict.parts(heads)]


def _table(heads: list[str], rows: list[list[str]], kind: str = "") -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in heads)
    body = "".join("<tr>" + "".join(f"<td{_verdict(c)}>{_cell(c)}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _cell(text: str) -> str:
    """Escaped; an interval stays on its line."""
    return INTERVAL.sub(r'<span class="whole">\1</span>', html.escape(text))


def _verdict(cell: str) -> str:
    return f' class="{cell}"' if cell in ("better", "worse") else ""


def _notes(lines: list[str]) -> str:
    return "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines)


def _unfinished(found: list[Standing]) -> str:
    if not found:
        return ""
    rows = "".join(
        f'<tr><td>{html.escape(s.name)}</td><td><span class="state {s.state}">{s.state}</span></td>'
        f"<td>{html.escape(s.told)}</td></tr>"
        for s in found
    )
    return (
        '<h3>Runs without a result</h3><div class="wide" tabindex="0"><table class="unfinished"><tbody>'
        f"{rows}</tbody></table></div>"
    )


def _grouped(values: list[str], labels: list[str]) -> list[tuple[str, str]]:
    """Each value, and the selections that have it."""
    return [(v, ", ".join(n for n, own in zip(labels, values, strict=True) if own == v)) for v in dict.fromkeys(values)]


def _compared(groups: list[Group]) -> str:
    found = compared(groups)
    labels = [g.label for g in groups]
    out = [_table(["setting", *labels], found.differing, "settings")]
    if len(labels) > BESIDE:
        rows = [[key, value, of] for key, *values in found.differing for value, of in _grouped(values, labels)]
        out = [_table(["setting", "value", "selections"], rows, "settings")]
    if not found.differing and groups:
        out.append(_notes(["The selections differ in no setting but the seed."]))
    for title, heads, rows in (
        ("Commands that repeat each run", ["run", "command"], found.commands),
        ("Versions and fingerprints", ["what", "value", "of"], found.facts),
        ("Settings that all have in common", ["setting", "value"], found.alike),
    ):
        if rows:
            out.append(f"<details><summary>{title}</summary>{_table(heads, rows, 'code')}</details>")
    return "".join(out)
