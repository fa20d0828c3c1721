"""What a run would train: steps, rows, selections and evaluations, counted from its options."""

import dataclasses
import logging
import math
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from near.common.config import select
from near.selection.plan.plan import Plan
from near.selection.selectors.base import Selector
from near.training.inputs import LoadedRows, is_dynamic, measures_validation
from near.training.picking import Batching
from near.training.rounds.schedule import Phase, Schedule

if TYPE_CHECKING:
    from transformers import TrainingArguments

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Workload:
    """What a run trains.

    Attributes:
        warm, steps: optimizer steps on random rows, and on selected or all rows, from `first` on.
        first: the step that the run resumes from; 0: it starts.
        draws: rows of a step.
        selections: rounds that are still to be selected; of a plan, those in which a stage uses the model.
        measured: rounds at whose start the target loss is measured.
        validated: how often the loss on the validation rows is still to be measured.
        eligible: rows that may be trained.
        needed: the most distinct rows of a round.
        fewest: what is trained if trainer.patience ends it as soon as it may; None without patience.
    """

    warm: int
    steps: int
    first: int
    draws: int
    selections: int
    measured: int
    eligible: int
    needed: int
    validated: int = 0
    fewest: "Workload | None" = None

    @property
    def ends(self) -> int:
        """Ends of rounds at which the loss on the validation rows is still to be measured."""
        return max(0, self.validated - (not self.first))  # without that of the untrained model

    @property
    def total(self) -> int:
        return self.first + self.warm + self.steps


def workload_of(cfg: DictConfig, selector: Selector, args: "TrainingArguments", eligible: int, first: int) -> Workload:
    """What a run trains that goes on from step `first`, on a pool with so many eligible rows."""
    batching = Batching.of(args)
    draws = batching.draws_per_step
    if not is_dynamic(cfg):
        epoch = math.ceil(math.ceil(eligible / batching.batch) / (draws // batching.batch))  # as the Trainer counts
        steps = cfg.trainer.get("train_step") or args.max_steps
        steps = steps if steps > 0 else math.ceil(args.num_train_epochs * epoch)
        return Workload(0, max(0, steps - first), first, draws, 0, 0, eligible, eligible)
    rounds, patience = Schedule.of(cfg.trainer).rounds(), cfg.trainer.get("patience")
    whole = _of_rounds(cfg, selector, rounds, draws, eligible, first)
    if patience is not None:  # the first round is the best
        whole.fewest = _of_rounds(cfg, selector, rounds[: patience + 1], draws, eligible, first)
    return whole


def _of_rounds(
    cfg: DictConfig, selector: Selector, rounds: list[Phase], draws: int, eligible: int, first: int
) -> Workload:
    left = [(phase.warmup, max(0, phase.start + phase.steps - max(first, phase.start))) for phase in rounds]
    warm, steps = sum(n for warmup, n in left if warmup), sum(n for warmup, n in left if not warmup)
    starting = [phase for phase in rounds if phase.start >= first]
    at_rounds = sum(phase.start > 0 for phase in starting) if cfg.evaluation.at_rounds else 0  # at 0 it is the base's
    needed = min(cfg.trainer.update_step * draws, selector.most(eligible) or eligible, eligible)
    validated = 0
    if select(cfg, "data.eval.validation") is not None and measures_validation(cfg):
        ends = [*(phase.start for phase in rounds), rounds[-1].start + rounds[-1].steps]
        validated = sum(step > first or first == 0 for step in ends)  # a checkpoint has that of its step
    starts = [phase.start for phase in rounds if not phase.warmup]
    scored = selector.scored_rounds(starts) if isinstance(selector, Plan) else starts
    selections = sum(step >= first for step in scored)
    return Workload(warm, steps, first, draws, selections, at_rounds, eligible, needed, validated)


def log_workload(cfg: DictConfig, rows: LoadedRows, selector: Selector, name: str, workload: Workload) -> None:
    """Log steps and rows, what is computed with the model before each round, and what is evaluated."""
    if is_dynamic(cfg):
        schedule = Schedule.of(cfg.trainer)
        rounds = schedule.rounds()
        selected = [r for r in rounds if not r.warmup]
        warm = "no warm-up"
        if len(rounds) > len(selected):
            warm = f"a warm-up of {cfg.trainer.warmup_step} steps on random rows"
        cycles = f", all of it {cfg.trainer.cycles} times" if cfg.trainer.cycles > 1 else ""
        log.info(
            f"dry run: {warm}, then {cfg.trainer.update_times} rounds of {cfg.trainer.update_step} steps on at most "
            f"{workload.needed} of {workload.eligible} rows by selector {name}{cycles}"
        )
        trained = schedule.total * workload.draws
        log.info(f"{schedule.total} steps of {workload.draws} rows: {trained} rows trained, counting repeats")
        if isinstance(selector, Plan):
            _log_stages(selector)
        if rows.needs.requires and selected:
            starts, less = [r.start for r in selected], ""
            if isinstance(selector, Plan):
                starts, less = selector.scored_rounds(starts), " (of fewer behind a filter)" if selector.filters else ""
            which = "each of the" if len(starts) == len(selected) else f"{len(starts)} of"
            what = f"{rows.needs.requires} of the pool's rows{less}"
            log.info(f"before {which} {len(selected)} rounds the model computes {what}")
    else:
        steps = workload.total
        log.info(
            f"dry run: all {workload.eligible} rows, {steps} steps of {workload.draws} rows: "
            f"{steps * workload.draws / workload.eligible:.2f} passes over them"
        )
    if workload.first:
        log.info(f"{workload.first} of {workload.total} steps are trained already: the run would resume there")
    sets = ", ".join(f"{len(part.eligible())} {part.name} rows" for part in rows.sets.all())
    at_rounds = is_dynamic(cfg) and cfg.evaluation.at_rounds
    log.info(f"evaluated {'at the start of every round and ' if at_rounds else ''}at the end: {sets}")
    if rows.sets.validation is not None:
        log.info(f"{len(rows.sets.validation.eligible())} more eval rows are the validation part")


def _log_stages(plan: Plan) -> None:
    for stage in plan.stages.values():
        every = "each round" if stage.period == 1 else f"every {stage.period} rounds"
        keep = f", keeps {keep:g}" if (keep := getattr(stage, "keep", None)) is not None else ""
        log.info(
            f"plan.{stage.name}: {stage.kind} by {type(stage.by).__name__}, from step {stage.start}, {every}{keep}"
        )
