"""Runs side by side, in the terminal and as one HTML file: python report.py runs=FOLDER."""

import functools
from pathlib import Path

from near.app.scripts import run, script


@script("report")
def main(cfg):
    from near.app.check.check import read_run_config
    from near.report.report import report

    report(cfg, Path(cfg.output_dir), functools.partial(read_run_config, allow_targets=cfg.allow_targets))


if __name__ == "__main__":
    run(main)
