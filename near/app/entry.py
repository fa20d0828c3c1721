"""The five scripts: `python train.py` and `near train` call the same function here."""

import functools
import sys
from pathlib import Path

from omegaconf import DictConfig

from near.app.check.check import check, read_run_config
from near.app.scripts import output_dir, run, script
from near.common.command_line import Command, set_command


@script("select")
def select(cfg: DictConfig) -> None:
    if cfg.run is not None:
        from near.selection.round_export import export_rounds

        export_rounds(cfg, output_dir(), functools.partial(read_run_config, allow_targets=cfg.allow_targets))
        return
    from near.selection.select import select

    selection = select(cfg, output_dir())
    if cfg.page and selection is not None:
        from near.report.page.selection import write_page

        write_page(cfg, output_dir(), selection)


@script("train")
def train(cfg: DictConfig) -> float:
    from near.training.train import train

    return train(cfg, output_dir())


@script("merge")
def merge(cfg: DictConfig) -> None:
    from near.export.merge import merge

    merge(cfg, Path(cfg.output_dir))


@script("eval")
def evaluate(cfg: DictConfig) -> None:
    from near.evaluation.eval import evaluate

    evaluate(cfg, Path(cfg.output_dir), check)


@script("report")
def report(cfg: DictConfig) -> None:
    from near.report.report import report

    report(cfg, Path(cfg.output_dir), functools.partial(read_run_config, allow_targets=cfg.allow_targets))


SCRIPTS = {"select": select, "train": train, "merge": merge, "eval": evaluate, "report": report}


def start(name: str, *typed: str) -> None:
    """Run a script with the options in sys.argv.

    Args:
        name: of the script.
        typed: the words in front of the options, such as "near", "train"; by default `python` and the running file.
    """
    set_command(Command(name, typed or ("python", sys.argv[0])))
    run(SCRIPTS[name])
