"""The report's page: verdict, losses, cost, rows, map, queries, answers and settings of the runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from near.report import left_out, quantiles, races, stages, targets, verdict
from near.report.compare import Group
from near.report.page.answers import answers
from near.report.page.browser import browser
from near.report.page.charts import Figure, all_charts, colour, label_charts, source_colours
from near.report.page.document import document
from near.report.page.parts import PageParts
from near.report.page.pool_map import map_data, sources_shown
from near.report.page.settings import Compared, compared
from near.report.page.target_charts import quantile_curves, target_map
from near.report.runs import Run
from near.report.shares import NOTE, OVER_TARGETS, ROUNDS, over_targets, sentences
from near.report.standing import Standing
from near.report.tables import notes, run_table
from near.report.targets import targets_of

SCRIPTS = ("map.js", "browser.js", "answers.js")
BESIDE = 4  # selections whose settings stand side by side
MAP_TEXT, BROWSER_TEXT, ANSWER_TEXT = 160, 1000, 1000  # characters
MARKED = "were picked by a selector and trained on (rows that only a warm-up drew are not marked)"


def page(
    cfg: DictConfig, runs: list[Run], groups: list[Group], root: Path, unfinished: list[Standing], parts: PageParts
) -> str:
    """The whole HTML document.

    Args:
        cfg: the options of report.py.
        runs: the finished runs.
        groups: compare.groups_of(runs).
        root: the folder that they are below.
        unfinished: the runs without a result.
        parts: of `groups`, from the pool.
    """
    colours = source_colours(groups, [] if parts.map is None else sources_shown(parts.pool, parts.map)[0])
    charts = all_charts(groups, colours) | label_charts([of.shares for of in parts.shares])
    over, curves, worths = targets_of(groups), quantiles.curves_of(groups), left_out.worths_of(groups)
    charts |= {"targets": _some(target_map(over)), "quantiles": _some(quantile_curves(curves))}
    if over:  # too many to read side by side; the map has them all
        charts["differences"] = []
    shown = [{"label": g.label, "colour": colour(i), "runs": len(g.runs)} for i, g in enumerate(groups)]
    settings, (heads, cells), records = compared(groups), verdict.table(runs), races.records_of(runs)
    return document(
        "page.html",
        SCRIPTS,
        lambda share: {"groups": shown, "charts": charts} | _with_texts(cfg, groups, parts, share, colours),
        title=f"near: {root.resolve().name}",
        answer=" ".join([f"Over {len(over.targets)} targets: {targets.answer(over)}", *verdict.clean(groups)])
        if over
        else verdict.answer(runs),
        over_targets=[*_in_parts(*targets.table(over), targets.PARTS)] if over else [],
        over_notes=targets.notes(over) if over else [],
        races=races.table(records) if records else None,
        races_notes=races.notes(records),
        curves=quantiles.table(curves) if curves else None,
        curves_note=quantiles.NOTE,
        worths=left_out.table(worths) if worths else None,
        worths_note=left_out.NOTE,
        verdicts=_in_parts(heads, cells, verdict.parts(heads)),
        verdict_notes=verdict.notes(runs),
        runs=run_table(runs, root),
        runs_notes=notes(runs, []),
        unfinished=unfinished,
        looked="What the selections looked at",
        only="only rows that were trained on",
        shares=[(of.target, sentences(of.shares), [one.table() for one in of.shares]) for of in parts.shares],
        shares_over=over_targets(parts.shares) if len(parts.shares) > 1 else None,
        shares_note=f"{ROUNDS} {NOTE} {OVER_TARGETS if len(parts.shares) > 1 else ''}",
        stages=stages.table(of_stages) if (of_stages := stages.stage_rows(groups)) else None,
        stages_note=stages.NOTE,
        absent=parts.absent,
        groups=groups,
        settings=settings,
        differing=_differing(settings, [group.label for group in groups]),
    )


def _with_texts(cfg: DictConfig, groups: list[Group], parts: PageParts, share: float, colours: dict[str, str]) -> dict:
    """Answers, queries and map for the page's scripts, their texts cut to a share of the usual length."""
    data = {"answers": answers(groups, cfg.answers, int(ANSWER_TEXT * share)) if groups else []}
    if parts.pool is not None:
        length = int(BROWSER_TEXT * share)
        data["browser"] = browser(parts.pool, parts.taken, cfg.queries, cfg.neighbours, length)
    if parts.map is not None:
        data["map"] = map_data(parts.pool, parts.map, parts.taken, int(MAP_TEXT * share), colours, MARKED)
    return data


def _some(figure: Figure | None) -> list[Figure]:
    return [] if figure is None else [figure]


def _in_parts(heads: list[str], rows: list[list[str]], parts: Iterable[Sequence[int]]) -> list[tuple[list, list]]:
    """A table that is too wide for the page as several, each with some of its columns."""
    return [([heads[i] for i in at], [[row[i] for i in at] for row in rows]) for at in parts]


def _differing(settings: Compared, labels: list[str]) -> tuple[list[str], list[list[str]]]:
    """The table of settings that differ: a column for each selection; of many, the selections that share a value."""
    if len(labels) <= BESIDE:
        return ["setting", *labels], settings.differing
    rows = []
    for key, *values in settings.differing:
        for value in dict.fromkeys(values):
            rows.append([key, value, ", ".join(n for n, v in zip(labels, values, strict=True) if v == value)])
    return ["setting", "value", "selections"], rows
