"""Runs side by side: a table in the terminal and one HTML file that needs no network."""

import html
import logging
from pathlib import Path

import plotly.graph_objects as go
from omegaconf import DictConfig
from plotly.colors import qualitative
from plotly.offline import get_plotlyjs
from rich import box
from rich.console import Console
from rich.table import Column, Table

from near import verdict
from near.files import aside
from near.lookup import lookup
from near.runs import Run, collect

log = logging.getLogger(__name__)

COLUMNS = ("selector", "seed", "run", "model", "target loss", "answers right", "distinct rows", "train s", "select s")
SEEN = "evaluated on the queries, which selection saw"


def cells(run: Run, root: Path) -> list[str]:
    """A run's row of the table."""
    m, t = run.metrics, run.training
    right = "-" if m["answers_right"] is None else f"{m['answers_right']}/{m['rows']}"
    name = "-" if run.folder is None else str(run.folder.relative_to(root))
    found = [run.selector, _dash(run.seed), name, run.model, f"{m['target_loss']:.4f}", right]
    return [*found, _dash(t.get("distinct_rows")), _dash(t.get("train_seconds")), _dash(run.selecting)]


def _dash(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def report(cfg: DictConfig, output_dir: Path) -> None:
    """What report.py does: print the table of all runs below cfg.runs and write report.html there; with cfg.row, print
    where that row was trained instead."""
    root = Path(cfg.runs)
    if cfg.row is not None:
        return lookup(root, cfg.row)
    runs, unfinished = collect(root)
    _print(runs, root, unfinished)
    path = output_dir / "report.html"
    with aside(path) as temporary:
        temporary.write_text(page(runs, root, unfinished), encoding="utf-8")
    log.info(f"report: {path}")


def notes(runs: list[Run], unfinished: list[Path]) -> list[str]:
    """What a reader of the table must know."""
    found = []
    if any(r.metrics.get("selection_saw_them") for r in runs):
        found.append(f"The rows were {SEEN}: the losses are not of unseen data.")
    if len({r.evaluated for r in runs}) > 1:
        found.append("These runs were evaluated on different rows: their losses can't be compared.")
    models = {r.model for r in runs}
    if len(models) == 1:
        found.insert(0, f"Model: {models.pop()}.")
    found += [f"{folder}: begun and not finished." for folder in unfinished]
    return found


def shown(runs: list[Run], root: Path) -> tuple[list[str], list[list[str]]]:
    """The table's columns and rows; the model is a column only where there are several."""
    rows = [cells(run, root) for run in runs]
    at = COLUMNS.index("model")
    keep = [i for i in range(len(COLUMNS)) if i != at or len({row[at] for row in rows}) > 1]
    return [COLUMNS[i] for i in keep], [[row[i] for i in keep] for row in rows]


def _print(runs: list[Run], root: Path, unfinished: list[Path]) -> None:
    names, rows = shown(runs, root)
    table = Table(*(Column(name, no_wrap=True) for name in names), box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(width=max(Console().width, 120))  # a table cut to a pipe's 80 columns can't be read
    console.print(table)
    verdict.show(runs)
    for note in notes(runs, unfinished):
        console.print(note, style="dim", markup=False, highlight=False)


def page(runs: list[Run], root: Path, unfinished: list[Path]) -> str:
    """The whole HTML document; all text from data and configurations is escaped."""
    names, rows = shown(runs, root)
    head = "".join(f"<th>{html.escape(c)}</th>" for c in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    remarks = "".join(f"<p class=note>{html.escape(n)}</p>" for n in notes(runs, unfinished))
    figures = "".join(_figure(f) for f in (_losses(runs, root), *_sources(runs, root)) if f is not None)
    table = _html_table(head, body)
    names, rows = verdict.table(runs)
    if rows:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in names)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        table += _html_table(head, body) + "".join(f"<p class=note>{html.escape(n)}</p>" for n in verdict.notes(runs))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>near: {html.escape(root.name)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script><h1>near: {html.escape(root.name)}</h1>"
        f"{table}{remarks}{figures}</html>"
    )


def _html_table(head: str, body: str) -> str:
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _figure(figure: go.Figure) -> str:
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})


def _name(run: Run, root: Path) -> str:
    return html.escape(str(run.folder.relative_to(root)) if run.folder and run.folder != root else run.selector)


def _losses(runs: list[Run], root: Path) -> go.Figure | None:
    curves = [
        go.Scatter(
            x=[line["step"] for line in run.training["history"]],
            y=[line["loss"] for line in run.training["history"]],
            name=_name(run, root),
            mode="lines",
        )
        for run in runs
        if run.training.get("history")
    ]
    if not curves:
        return None
    figure = go.Figure(curves)
    return figure.update_layout(title="Training loss", xaxis_title="optimizer step", template="plotly_white")


def _sources(runs: list[Run], root: Path) -> list[go.Figure]:
    """For each run, what its rounds took from each source, stacked; a source has one colour in all of them."""
    figures, colours = [], qualitative.Plotly + qualitative.Dark24
    known = sorted({source for run in runs for line in run.rounds for source in line["sources"]})
    colour = {source: colours[i % len(colours)] for i, source in enumerate(known)}
    for run in runs:
        if not run.rounds:
            continue
        rounds = [f"{r['round']} ({r['selector']})" for r in run.rounds]
        totals: dict[str, int] = {}
        for line in run.rounds:
            for source, count in line["sources"].items():
                totals[source] = totals.get(source, 0) + count
        figure = go.Figure(
            [
                go.Bar(
                    x=rounds,
                    y=[r["sources"].get(s, 0) for r in run.rounds],
                    name=html.escape(s),
                    marker_color=colour[s],
                )
                for s in sorted(totals, key=lambda s: -totals[s])
            ]
        )
        title = f"Rows of each round by source: {_name(run, root)}"
        figures.append(figure.update_layout(barmode="stack", title=title, yaxis_title="rows", template="plotly_white"))
    return figures


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}th,td{padding:.3rem .8rem;text-align:left;border-bottom:1px solid #ccc}
td:nth-child(n+4){font-variant-numeric:tabular-nums}.wide{overflow-x:auto}.note{color:#666}
"""
