"""The report: tables in the terminal, and one HTML file that needs no network."""

import logging
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from near.common.errors import visible
from near.common.files import aside
from near.common.outputs import claim
from near.report import verdict
from near.report.lookup import lookup
from near.report.page.page import page
from near.report.runs import Run, collect
from near.report.standing import Standing, standings
from near.report.tables import notes, run_table

log = logging.getLogger(__name__)


def report(cfg: DictConfig, output_dir: Path, read_config: Callable[[Path], DictConfig]) -> None:
    """Print the tables of the runs below cfg.runs and write report.html; with cfg.row, print where the row was trained.

    Args:
        cfg: the options of report.py.
        output_dir: where report.html goes.
        read_config: reads and checks a run's config.yaml.

    Raises:
        UserError: there is no run below cfg.runs.
    """
    root = Path(cfg.runs)
    if cfg.row is not None:
        return lookup(root, cfg.row)
    runs, folders = collect(root)
    unfinished = standings(root, folders)
    _print(runs, root, unfinished)
    claim(output_dir, "report")
    path = output_dir / "report.html"
    with aside(path) as temporary:
        temporary.write_bytes(page(cfg, runs, root, unfinished, read_config).encode("utf-8", "backslashreplace"))
    log.info(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _print(runs: list[Run], root: Path, unfinished: list[Standing]) -> None:
    names, rows = run_table(runs, root)
    table = Table(*(Column(name, no_wrap=True) for name in names), box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    console = Console(width=max(Console().width, 120))  # a table cut to a pipe's 80 columns can't be read
    console.print(table)
    verdict.show(runs)
    for note in notes(runs, unfinished):
        console.print(visible(note), style="dim", markup=False, highlight=False)
