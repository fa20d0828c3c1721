"""A saved W&B workspace of a sweep's comparison: python -m near workspace entity=ME sweep=selectors."""

import importlib.util
from typing import TYPE_CHECKING

from near.common.errors import UserError, did_you_mean, one_line
from near.common.extras import install

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

SELECTOR = "choices.selector"  # what a run is grouped by, in its configuration (near/training/trackers/runs.py)

LOSS = "target/target_loss"
SELECTION = ("mean_score", "overlap", "never_seen", "rows", "tokens", "select_seconds")
TRAINING = ("loss", "learning_rate", "grad_norm")


def workspace(entity: str, project: str = "near", sweep: str | None = None, rounds: int = 3) -> "Workspace":
    """The workspace, not saved yet. sweep: show only runs that carry it as a tag: the sweep's name, or the id of a W&B
    sweep; rounds: of how many rounds the tables of rows are shown.

    Raises UserError where wandb-workspaces is not installed.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError(f"wandb-workspaces is not installed; {install('workspaces')}")
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"near: {sweep or 'all runs'}",
        sections=_sections(rounds),
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[] if sweep is None else [ws.Tags().isin([sweep])],
            groupby=[ws.Config(SELECTOR)],
            order=[ws.Ordering(ws.Summary(LOSS), ascending=True)],
            pinned_columns=[f"summary:{LOSS}", "summary:target/answers_right", "config:max_K.value"],
        ),
    )


def _sections(rounds: int) -> list["Section"]:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    grouped = {"groupby": wr.Config(SELECTOR), "groupby_aggfunc": "mean"}

    def line(metric: str) -> wr.LinePlot:
        """The mean over seeds, with their standard deviation, by optimizer step."""
        title = metric.replace("/", ": ").replace("_", " ")
        axis = {"x": "step", "title_x": "optimizer step"}
        return wr.LinePlot(title=title, y=[metric], groupby_rangefunc="stddev", max_runs_to_show=100, **axis, **grouped)

    def bar(metric: str, title: str) -> wr.BarPlot:
        return wr.BarPlot(title=title, metrics=[metric], max_runs_to_show=100, **grouped)

    columns = [wr.Config(SELECTOR), wr.Config("max_K"), wr.Config("seed"), wr.SummaryMetric(LOSS)]
    parallel = wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=c) for c in columns])
    tables = [wr.WeavePanelSummaryTable(table_name=f"rows/round_{i:03d}") for i in range(rounds)]
    return [
        ws.Section(
            name="target",
            is_open=True,
            panels=[
                bar(LOSS, "target loss at the end"),
                line(LOSS),
                bar("target/answers_right", "answers right"),
                parallel,
            ],
        ),
        ws.Section(name="selection", is_open=True, panels=[line(f"selection/{name}") for name in SELECTION]),
        ws.Section(name="train", is_open=True, panels=[line(f"train/{name}") for name in TRAINING]),
        ws.Section(name="rows", panels=tables),
        ws.Section(name="settings", panels=[wr.RunComparer(diff_only="split")]),
    ]


def main(words: list[str]) -> None:
    """Save the workspace that `key=value` words ask for, and print where it is."""
    options = dict(word.partition("=")[::2] for word in words)
    known = ("entity", "project", "sweep", "rounds")
    for key in options:
        if key not in known:
            raise UserError(f"{key} is not an option{did_you_mean(key, known)}")
    if not options.get("entity"):
        raise UserError("entity is missing: set entity=..., the W&B user or team")
    if not options.get("rounds", "3").isdecimal():
        raise UserError(f"rounds={options['rounds']} is not a whole number")
    board = workspace(**{k: int(v) if k == "rounds" else v for k, v in options.items()})
    import wandb

    try:
        print(board.save().url)
    except (wandb.errors.Error, OSError, ValueError) as error:  # no key, no such project, no network
        raise UserError(f"W&B did not save the workspace: {one_line(error)}; try wandb login") from error
