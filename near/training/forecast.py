"""`dry_run=forecast` of train.py: will this selection beat random rows? Only the warm-up is trained, and not kept."""

import copy
import dataclasses
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from near.common.errors import UserError
from near.common.files import provenance
from near.common.outputs import claim
from near.common.processes import is_main
from near.common.run_folder import CHECKPOINTS, FORECAST
from near.common.sweep import of_job
from near.common.text import plural
from near.evaluation.forecast import VerdictForecast, band, calibration, earlier, gain, probabilities
from near.models.loading import add_finetuning, load_start
from near.selection.round import Round
from near.selection.selectors.less import Less, aggregated
from near.training.job import Job
from near.training.rounds.schedule import Phase

if TYPE_CHECKING:
    from transformers import TrainingArguments

log = logging.getLogger(__name__)

ROWS = 64  # of the selection, and random ones, at most
STREAM = 3  # of their random numbers


def forecast_training(
    cfg: DictConfig, output_dir: Path, job: Job, args: "TrainingArguments", build: Callable
) -> VerdictForecast:
    """Log how likely the selection of the first round behind the warm-up is to beat random rows, and write
    forecast.json into `output_dir`. Gradients are taken where the run would select: after the warm-up, in the
    optimizer's direction as `scoring` says.

    Args:
        job: with a scorer of gradients; `warm_up`, if there is one, shares the warm-up with other forecasts.
        args: the run's TrainingArguments; not changed.
        build: makes the trainer: (cfg, job, model, args).
    """
    from transformers import set_seed

    model = load_start(cfg.model, cfg.cache_dir, finetuning=cfg.finetuning)
    set_seed(cfg.seed)  # the adapter's first weights
    model = add_finetuning(model, cfg.finetuning)
    job.scorer.probe(model)
    sampled = _first_round(cfg, job, args, model, build)
    if not np.ptp(sampled.typical):
        raise UserError(
            "dry_run=forecast: the gradients of all random rows agree alike with the target's, which tells nothing; "
            "leave dry_run out"
        )
    cells = earlier()
    gained, error = gain(sampled.selected, sampled.typical)
    probability = float(probabilities(cells, [gained])[0])
    like, came_true = calibration(cells)[band(probability)]
    forecast = VerdictForecast(
        selection=job.selector_name,
        step=sampled.step,
        gain=gained,
        error=error,
        selected=float(sampled.selected.mean()),
        random=float(sampled.typical.mean()),
        rows=len(sampled.selected),
        random_rows=len(sampled.typical),
        queries=sampled.queries,
        probability=probability,
        like=like,
        came_true=came_true,
        **of_job(),
        **provenance(),
    )
    if is_main():
        claim(output_dir, "train", (FORECAST,))
        forecast.write(output_dir / FORECAST)
        log.info(
            f"gradients of {forecast.rows} selected rows after {plural(forecast.step, 'step')}: a mean cosine of "
            f"{forecast.selected:.4f} with those of {forecast.queries} queries; of {forecast.random_rows} random rows "
            f"{forecast.random:.4f}: {gained:+.2f} (standard error {error:.2f}) standard deviations of random rows"
        )
        outside = gained < min(cell.gain for cell in cells) or gained > max(cell.gain for cell in cells)
        log.info(f"{forecast}" + ("; no earlier selection was so far on this side" if outside else ""))
        log.info("nothing was kept of the warm-up; leave out dry_run to train")
    return forecast


class _Sampled(Exception):
    """Ends the training: what a forecast needs is known.

    Args:
        step: optimizer steps before the round.
        selected, typical: agreement of its rows and of random ones, float32 (n,) each.
        queries: how many there were gradients of.
    """

    def __init__(self, step: int, selected: np.ndarray, typical: np.ndarray, queries: int):
        self.step, self.selected, self.typical, self.queries = step, selected, typical, queries


def _first_round(cfg: DictConfig, job: Job, args: "TrainingArguments", model, build: Callable) -> _Sampled:
    """Train until the first round behind the warm-up is selected."""

    def selected(phase: Phase, round: Round, ids: np.ndarray) -> None:
        if phase.warmup:
            return
        rng = np.random.default_rng((cfg.seed, STREAM))
        random = _sample(rng, round.eligible)  # before the others: the same for all selections
        typical, chosen = agreement(round, random), agreement(round, _sample(rng, ids))
        raise _Sampled(phase.start, chosen, typical, len(round.scorer.queries.eligible))

    args = copy.copy(args)
    args.save_strategy, args.eval_strategy = SaveStrategy.NO, IntervalStrategy.NO
    args.logging_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    args.push_to_hub = args.eval_on_start = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        args.output_dir = str(folder / CHECKPOINTS)
        job = dataclasses.replace(
            job, output_dir=folder, selected=selected, eval_table=None, callbacks=[], keep="last", patience=None
        )
        trainer = build(cfg, job, model, args)
        for printing in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(printing)
        resume = None
        if job.warm_up is not None:
            own = {"identity": trainer.run_identity()}
            resume = job.warm_up.adopt(folder / CHECKPOINTS, own, trainer.selector_state())
        if resume is not None:
            trainer.restore(resume)
        try:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        except _Sampled as sampled:
            return sampled
    raise UserError("dry_run=forecast: no round follows the warm-up; set trainer.update_times to 1 or more")


def _sample(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """At most ROWS of `ids`, int64, ascending."""
    return np.sort(rng.choice(ids, min(ROWS, len(ids)), replace=False))


def agreement(round: Round, ids: np.ndarray) -> np.ndarray:
    """The mean cosine of each row's gradient with the queries', float32 (n_ids,)."""
    means = Less().task_means(round, ids)
    return aggregated(means.means, means.sizes, "mean", len(ids))
