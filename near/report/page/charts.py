"""The charts of a report, as plain Plotly figures ({"data", "layout"}): losses, cost, sources, overlap.

Names come from data and configurations. They are escaped, because Plotly reads them as HTML.
"""

import html
from collections.abc import Sequence

import numpy as np

from near.common.text import plural
from near.report.compare import BASELINE, Group, baseline_of, beside_base, beside_random
from near.report.page.taken import overlaps
from near.report.runs import Run
from near.report.shares import LabelShares, percent

Figure = dict

# Distinct in light and dark, and for colour-blind readers (after Okabe and Ito). A selection has the same one in all
# charts and on the map.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f7bd9", "#b0574f", "#6b8e23", "#00868b")
COLOURS += ("#4b2e83", "#7f7f7f", "#c2185b", "#795548", "#3f7fbf", "#b8860b")

SECONDS = "seconds of training and of the rounds' selections (not of embedding and searching, which are cached)"


def colour(place: int) -> str:
    """The colour of the selection at `place`."""
    return COLOURS[place % len(COLOURS)]


def differences(groups: list[Group]) -> Figure | None:
    """Each selection's difference to random rows: a dot, with the span of its two intervals. The span contains zero
    where no difference is shown."""
    data, labels = [], []
    for place, group in enumerate(groups):
        other = baseline_of(group, groups)
        difference = None if other in (None, group) else beside_random(group, other)
        if difference is None:
            continue
        low, high = difference.interval or (difference.mean, difference.mean)
        labels.append(html.escape(group.label))
        arms = {"array": [round(high - difference.mean, 6)], "arrayminus": [round(difference.mean - low, 6)]}
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": html.escape(group.label),
                "x": [round(difference.mean, 6)],
                "y": [labels[-1]],
                "text": [html.escape(f"{difference}: {difference.verdict}")],
                "hovertemplate": "%{text}<extra></extra>",
                "showlegend": False,
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    **arms,
                    "color": colour(place),
                    "thickness": 2,
                    "width": 6,
                },
                "marker": {"color": colour(place), "size": 11},
            }
        )
    if not data:
        return None
    figure = figure_of(data, f"Target loss minus {BASELINE} rows'", "← better · 95% intervals · worse →", "")
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 2, "dash": "dash"}}
    name = {"x": 0, "y": 1, "yref": "paper", "yanchor": "bottom", "text": f"{BASELINE} rows", "showarrow": False}
    figure["layout"] |= {
        "height": 160 + (44 if len(data) < 7 else 30) * len(data),
        "shapes": [zero],
        "annotations": [name],
        "hovermode": "closest",
    }
    figure["layout"]["yaxis"] |= {"type": "category", "range": [len(data) - 0.5, -0.5]}
    return figure


def target_loss(groups: list[Group], by: str) -> Figure | None:
    """Target loss at the start of each round and at the end, `by` step or seconds; a line for each run."""
    data = []
    for place, group in enumerate(groups):
        for seed, run in group.runs.items():
            points = curve(run, by)
            if not points:
                continue
            x, y = map(list, zip(*points, strict=True))
            data.append(_line(group, place, seed, x, y, legend=run is group.one))
    if not data:
        return None
    axis = "optimizer step" if by == "step" else SECONDS
    return figure_of(data, f"Target loss by {by}", axis, "target loss (nats a token)")


def curve(run: Run, by: str) -> list[tuple[float, float]]:
    """(step or seconds, target loss) at the start of every round and at the end; empty where they were not recorded.
    Where the weights of an earlier round were kept, the end was not evaluated."""
    points = []
    for line in run.rounds:
        x = line.step if by == "step" else line.seconds
        if x is None or line.target_loss is None:
            return []
        points.append((x, line.target_loss))
    end = run.training.steps if by == "step" else _spent(run)
    if not points or end is None:
        return []
    return [*points, (end, run.metrics.target_loss)] if run.kept_last else points


def _spent(run: Run) -> float | None:
    if run.training.train_seconds is None or run.selecting is None:
        return None
    return run.training.train_seconds + run.selecting


def training_loss(groups: list[Group]) -> Figure | None:
    """The Trainer's training loss. Each run trains other rows, so these losses can't be compared."""
    data = []
    for place, group in enumerate(groups):
        for seed, run in group.runs.items():
            lines = run.training.history
            if lines:
                x, y = [line["step"] for line in lines], [line["loss"] for line in lines]
                data.append(_line(group, place, seed, x, y, legend=run is group.one))
    title = "Training loss (each on the rows it trained: not to be compared)"
    return figure_of(data, title, "optimizer step", "training loss") if data else None


def cost_and_gain(groups: list[Group]) -> Figure | None:
    """The seconds of each run, and by how much its target loss is below the untrained model's."""
    data = []
    for place, group in enumerate(groups):
        base = beside_base(group)
        points = [(spent, run) for run in group.runs.values() if (spent := _spent(run)) is not None]
        if base is None or not points:
            continue
        gains = [run.metrics.base.target_loss - run.metrics.target_loss for _, run in points]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": html.escape(group.label),
                "x": [round(spent, 3) for spent, _ in points],
                "y": gains,
                "text": [_cost(run) for _, run in points],
                "hovertemplate": "%{text}<br>%{x:.1f} s, gain %{y:.4f}",
                "marker": {"color": colour(place), "size": 11, "symbol": place % 8},
            }
        )
    if not data:
        return None
    return figure_of(data, "Cost and gain", SECONDS, "target loss gained on the untrained model")


def _cost(run: Run) -> str:
    tokens = run.training.tokens_trained
    parts = [f"seed {run.seed}", f"selecting {run.selecting:.1f} s", f"training {run.training.train_seconds:.1f} s"]
    return html.escape(", ".join(parts + ([plural(tokens, "token")] if tokens else [])))


def _line(group: Group, place: int, seed: object, x: list, y: list, legend: bool) -> dict:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": html.escape(group.label),
        "legendgroup": str(place),
        "showlegend": legend,
        "x": [round(float(v), 3) for v in x],
        "y": [round(float(v), 6) for v in y],
        "hovertemplate": html.escape(f"{group.label}, seed {seed}") + ": %{y:.4f}<extra></extra>",
        "line": {"color": colour(place), "width": 2},
        "marker": {"size": 5, "symbol": place % 8},
    }


def sources(groups: list[Group], colours: dict[str, str]) -> list[tuple[str, Figure]]:
    """For each selection, the rows of each source that its rounds took, as stacked bars: the mean over its seeds.
    `colours`: of the sources, the same in every chart."""
    figures = []
    for group in groups:
        runs = [run for run in group.runs.values() if run.rounds]
        if not runs:
            continue
        count = min(len(run.rounds) for run in runs)
        names = [f"{line.round} ({line.selector})" for line in runs[0].rounds[:count]]
        totals: dict[str, np.ndarray] = {}
        for run in runs:
            for at, line in enumerate(run.rounds[:count]):
                for source, rows in line.sources.items():
                    totals.setdefault(source, np.zeros(count))[at] += rows / len(runs)
        data = [
            {
                "type": "bar",
                "name": html.escape(source),
                "x": [html.escape(name) for name in names],
                "y": [round(float(v), 2) for v in totals[source]],
                "marker": {"color": colours[source]},
            }
            for source in sorted(totals, key=lambda s: -totals[s].sum())
        ]
        title = f"{html.escape(group.label)}: distinct rows by source, mean of seeds"
        figure = figure_of(data, title, "", "")
        figure["layout"] |= {"barmode": "stack", "height": 440}
        figures.append((group.label, figure))
    return figures


def source_colour(place: int) -> str:
    """The colour of the source at `place`: steps of the golden angle around the colour circle."""
    return f"hsl({(place * 137.508 + 20) % 360:.0f},{55 + place % 3 * 10}%,{48 + place % 2 * 10}%)"


def bars(series: dict[str, np.ndarray], x: list, title: str, axis: str) -> Figure:
    """Bars of several series over `x`, one before the other, each with its shares, float64 (len(x),)."""
    data = [
        {
            "type": "bar",
            "name": html.escape(name),
            "x": x,
            "y": [round(float(share), 4) for share in shares],
            "opacity": 0.65,
            "marker": {"color": colour(place)},
        }
        for place, (name, shares) in enumerate(series.items())
    ]
    figure = figure_of(data, html.escape(title), axis, "share of the rows")
    figure["layout"] |= {"barmode": "overlay", "bargap": 0.02}
    figure["layout"]["yaxis"] |= {"tickformat": ".0%"}
    return figure


OTHERS = "#9a9fa6"


def label_shares(shares: LabelShares) -> Figure:
    """The shares of a label's values as stacked bars: one for the pool, the target and each selection."""
    columns, lines = shares.columns(), [html.escape(line.name) for line in shares.lines]
    data = []
    for place, (name, values) in enumerate(columns):
        others = place == len(shares.shown)
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": html.escape(name),
                "x": [round(max(0.0, float(value)), 4) for value in values],
                "y": lines,
                "text": [percent(max(0.0, value)) if value >= 0.08 else "" for value in values],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "hovertemplate": f"%{{y}}: %{{x:.1%}} {html.escape(name)}<extra></extra>",
                "marker": {"color": OTHERS if others else source_colour(place)},
            }
        )
    figure = figure_of(data, f"Rows by {html.escape(shares.label.name)}", "", "")
    figure["layout"] |= {"barmode": "stack", "height": 170 + 26 * len(lines), "legend": {"traceorder": "normal"}}
    figure["layout"]["xaxis"] |= {"tickformat": ".0%", "range": [0, 1]}
    figure["layout"]["yaxis"] |= {"type": "category", "range": [len(lines) - 0.5, -0.5]}
    return figure


def label_charts(targets: Sequence[Sequence[LabelShares]]) -> dict[str, list[Figure]]:
    """The charts of the labels of each target, by their place on the page (static/labels.html)."""
    return {f"labels {number}": [label_shares(one) for one in shares] for number, shares in enumerate(targets)}


def overlap(groups: list[Group]) -> Figure | None:
    """A heat map of the share of rows that two selections have in common."""
    values = overlaps(groups)
    if len(groups) < 2 or np.isnan(values).all():
        return None
    names = [html.escape(group.label) for group in groups]
    shown = [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in values]
    heat = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": shown,
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Viridis",
        "texttemplate": "%{z:.2f}",
        "hovertemplate": "%{x}, %{y}: %{z:.3f}<extra></extra>",
    }
    figure = figure_of([heat], "Overlap of the rows taken (Jaccard; on the diagonal between seeds)", "", "")
    figure["layout"]["yaxis"] |= {"autorange": "reversed"}
    return figure


def figure_of(data: list[dict], title: str, x: str, y: str) -> Figure:
    """A figure with a title and the titles of its axes."""
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    return {"data": data, "layout": {"title": {"text": title}, **axes, "hovermode": "x unified" if x else "closest"}}


def source_colours(groups: list[Group], pool: list[str] = ()) -> dict[str, str]:
    """The colour of every source in all charts: first the sources that rounds took from, by how many rows, then the
    others of the pool."""
    totals: dict[str, int] = {}
    for run in (run for group in groups for run in group.runs.values()):
        for line in run.rounds:
            for source, count in line.sources.items():
                totals[source] = totals.get(source, 0) + count
    names = dict.fromkeys([*sorted(totals, key=lambda s: (-totals[s], s)), *pool])
    return {name: source_colour(place) for place, name in enumerate(names)}


def all_charts(groups: list[Group], colours: dict[str, str]) -> dict[str, list[Figure]]:
    """The charts by section of the page."""
    losses = [target_loss(groups, "step"), target_loss(groups, "seconds"), training_loss(groups)]
    return {
        "differences": [f for f in [differences(groups)] if f],
        "losses": [f for f in losses if f],
        "cost": [f for f in [cost_and_gain(groups)] if f],
        "sources": [figure for _, figure in sources(groups, colours)],
        "overlap": [f for f in [overlap(groups)] if f],
    }
