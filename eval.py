"""Target loss and answers of a model or a run: python eval.py run=RUN (or model.name_or_path=...)."""

from pathlib import Path

from near.app.scripts import run, script


@script("eval")
def main(cfg):
    from near.app.check.check import check
    from near.evaluation.eval import evaluate

    evaluate(cfg, Path(cfg.output_dir), check)


if __name__ == "__main__":
    run(main)
