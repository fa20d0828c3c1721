"""The report: tables in the terminal, and one HTML file that needs no network."""

import logging
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from near.common.errors import visible
from near.common.files import aside, provenance, write_json
from near.common.outputs import claim
from near.common.tables import console, table
from near.report import shares, verdict
from near.report.compare import groups_of
from near.report.lookup import lookup
from near.report.page.page import page
from near.report.page.parts import gathered
from near.report.record import record
from near.report.runs import Run, collect
from near.report.standing import Standing, standings
from near.report.tables import notes, run_table

log = logging.getLogger(__name__)


def report(cfg: DictConfig, output_dir: Path, read_config: Callable[[Path], DictConfig]) -> None:
    """Print the tables of the runs below cfg.runs and write report.html and report.json; with cfg.row, print where the
    row was trained.

    Args:
        cfg: the options of report.py.
        output_dir: where both go.
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
    groups = groups_of(runs)
    parts = gathered(cfg, groups, read_config)
    shares.show(parts.shares)
    claim(output_dir, "report")
    path = output_dir / "report.html"
    with aside(path) as temporary:
        temporary.write_bytes(page(cfg, runs, groups, root, unfinished, parts).encode("utf-8", "backslashreplace"))
    write_json(output_dir / "report.json", {**record(runs), **provenance()})
    log.info(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _print(runs: list[Run], root: Path, unfinished: list[Standing]) -> None:
    out = console(least=120)
    out.print(table(*run_table(runs, root)))
    verdict.show(runs)
    for note in notes(runs, unfinished):
        out.print(visible(note), style="dim", markup=False)
