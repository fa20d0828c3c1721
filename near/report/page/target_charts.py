"""Charts of many targets, of the quantiles of a ranking, and of rows that were left out, as plain Plotly figures."""

import html

import numpy as np

from near.report.compare import BASELINE
from near.report.page.charts import Figure, colour, figure_of
from near.report.quantiles import Curve
from near.report.targets import BASE, Targets

# from better to worse, light in the middle; readable without telling red from green
DIVERGING = [[0, "#0b5fa5"], [0.5, "#f4f4f2"], [1, "#b3361f"]]


def target_map(over: Targets) -> Figure | None:
    """A heat map of the target loss minus random rows': targets down, selections and the base model across. A cell in
    bold is a verdict of that target's seeds and examples alone."""
    if not over:
        return None
    labels, names = [target.label for target in over.targets], [method.label for method in over.methods]
    values = np.full((len(labels), len(names) + 1), np.nan)
    texts = [["" for _ in range(values.shape[1])] for _ in labels]
    for column, method in enumerate(over.methods):
        for label, difference in zip(method.targets, method.differences, strict=True):
            row = labels.index(label)
            values[row, column] = difference.mean
            shown = f"{difference.mean:+.2f}"
            texts[row][column] = f"<b>{shown}</b>" if difference.verdict in ("better", "worse") else shown
    for row, target in enumerate(over.targets):
        if (base := target.base) is not None:
            values[row, -1], texts[row][-1] = base, f"{base:+.2f}"
    most = float(np.nanmax(np.abs(values[:, :-1]))) or 1.0  # the base model, far above, would take all the colour
    across = [html.escape(name) for name in (*names, f"{BASE} (untrained)")]
    heat = {
        "type": "heatmap",
        "x": across,
        "y": [html.escape(label) for label in labels],
        "z": [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in values],
        "zmin": -most,
        "zmax": most,
        "colorscale": DIVERGING,
        "text": texts,
        "texttemplate": "%{text}",
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{x}, %{y}: %{z:+.4f}<extra></extra>",
        "colorbar": {"title": {"text": f"minus {BASELINE}"}},
    }
    figure = figure_of([heat], f"Target loss minus {BASELINE} rows', by target (below zero is better)", "", "")
    figure["layout"] |= {"height": 190 + 30 * len(labels)}
    figure["layout"]["yaxis"] |= {"autorange": "reversed", "type": "category", "automargin": True}
    figure["layout"]["xaxis"] |= {"type": "category", "side": "top", "automargin": True}
    return figure


def quantile_curves(curves: list[Curve]) -> Figure | None:
    """Target loss after training on each quantile: the mean over seeds as a line, each seed as a dot."""
    if not curves:
        return None
    data = []
    for place, curve in enumerate(curves):
        name, marker = html.escape(curve.of), {"color": colour(place)}
        shared = {"type": "scatter", "name": name, "legendgroup": name, "marker": marker}
        numbers = curve.quantiles.tolist()
        means = [round(float(value), 4) for value in curve.losses.mean(axis=1)]
        data.append({**shared, "mode": "lines", "x": numbers, "y": means, "line": marker})
        dots = [round(float(value), 4) for value in curve.losses.ravel()]
        at = np.repeat(curve.quantiles, curve.losses.shape[1]).tolist()
        data.append({**shared, "mode": "markers", "x": at, "y": dots, "opacity": 0.6, "showlegend": False})
    title = "Target loss after training on each quantile of a ranking"
    return figure_of(data, title, "quantile (1: the best rows)", "target loss (nats a token)")
