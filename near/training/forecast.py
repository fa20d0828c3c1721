"""`dry_run=forecast` of train.py: will this selection beat random rows? Nothing is trained."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.files import provenance
from near.common.outputs import claim
from near.common.processes import is_main
from near.common.run_folder import FORECAST
from near.common.sweep import of_job
from near.evaluation.forecast import VerdictForecast, band, calibration, earlier, gain, probabilities
from near.models.loading import add_finetuning, load_start
from near.selection.round import Round
from near.selection.selectors.less import Less, aggregated
from near.training.job import Job
from near.training.picking import Picker

if TYPE_CHECKING:
    from near.training.inputs import Inputs

log = logging.getLogger(__name__)

ROWS = 64  # of the selection, and random ones, at most
STREAM = 3  # of their random numbers


def forecast_training(cfg: DictConfig, output_dir: Path, job: Job, picker: Picker, inputs: "Inputs") -> VerdictForecast:
    """Log how likely the selection of the first round behind the warm-up is to beat random rows, and write
    forecast.json into `output_dir`. Gradients are those of the weights before training; a selector that looks at the
    model picks by them, too.

    Args:
        job: with a scorer of gradients.
        picker: of this run, before its first round.
    """
    from transformers import set_seed

    model = load_start(cfg.model, cfg.cache_dir, finetuning=cfg.finetuning)
    set_seed(cfg.seed)  # the adapter's first weights
    model = add_finetuning(model, cfg.finetuning)
    job.scorer.probe(model)
    round, ids = _first(picker, model)
    rng = np.random.default_rng((cfg.seed, STREAM))
    random = _sample(rng, round.eligible)  # before the others: the same for all selections
    chosen = _sample(rng, ids)
    typical, selected = agreement(round, random), agreement(round, chosen)
    if not np.ptp(typical):
        raise UserError(
            "dry_run=forecast: the gradients of all random rows agree alike with the target's, which tells nothing; "
            "leave dry_run out"
        )
    cells = earlier()
    gained, error = gain(selected, typical)
    probability = float(probabilities(cells, [gained])[0])
    like, came_true = calibration(cells)[band(probability)]
    forecast = VerdictForecast(
        selection=job.selector_name,
        gain=gained,
        error=error,
        selected=float(selected.mean()),
        random=float(typical.mean()),
        rows=len(chosen),
        random_rows=len(random),
        queries=len(round.scorer.queries.eligible),
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
            f"gradients of {forecast.rows} selected rows: a mean cosine of {forecast.selected:.4f} with those of "
            f"{forecast.queries} queries; of {forecast.random_rows} random rows {forecast.random:.4f}: {gained:+.2f} "
            f"(standard error {error:.2f}) standard deviations of random rows"
        )
        outside = gained < min(cell.gain for cell in cells) or gained > max(cell.gain for cell in cells)
        log.info(f"{forecast}" + ("; no earlier selection was so far on this side" if outside else ""))
        log.info("nothing was trained; leave out dry_run to start")
    return forecast


def _first(picker: Picker, model) -> tuple[Round, np.ndarray]:
    """The first round behind the warm-up, and its rows, int64 (m,)."""
    for phase in picker.schedule.rounds():
        round = picker.round(phase, model=model, collator=picker.job.collator)
        subset = picker.checked(picker.pick(phase, round), phase, round)
        if not phase.warmup:
            return round, subset.ids
        picker.take(subset, phase)
    raise UserError("dry_run=forecast: no round follows the warm-up; set trainer.update_times to 1 or more")


def _sample(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """At most ROWS of `ids`, int64, ascending."""
    return np.sort(rng.choice(ids, min(ROWS, len(ids)), replace=False))


def agreement(round: Round, ids: np.ndarray) -> np.ndarray:
    """The mean cosine of each row's gradient with the queries', float32 (n_ids,)."""
    means = Less().task_means(round, ids)
    return aggregated(means.means, means.sizes, "mean", len(ids))
