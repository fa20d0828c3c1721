"""Merge an adapter into its base model: python merge.py adapter_name_or_path=RUN/adapter export_dir=OUT."""

from pathlib import Path

from near.app.scripts import run, script


@script("merge")
def main(cfg):
    from near.export.merge import merge

    merge(cfg, Path(cfg.output_dir))


if __name__ == "__main__":
    run(main)
