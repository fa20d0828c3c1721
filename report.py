"""Runs side by side, in the terminal and as one HTML file: python report.py runs=FOLDER."""

from pathlib import Path

from near.app import run, script


@script("report")
def main(cfg):
    from near.report.write import report

    report(cfg, Path(cfg.output_dir))


if __name__ == "__main__":
    run(main)
