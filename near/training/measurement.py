"""The work of a run with its model, of which a few batches are computed and timed."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from near.common.batches import spread
from near.common.cost import StageCost, size
from near.common.text import plural
from near.common.timing import Rate
from near.embedding.embedders.hashing import HashingEmbedder
from near.evaluation.cost import evaluation_stages
from near.evaluation.settings import EvalSettings
from near.models.loading import add_finetuning, load_start, load_tokenizer
from near.models.sample import TokenSample, sample_tokens, tokenising_seconds
from near.models.tokens import Tokens, tokens_path
from near.searching.dry_run import missing_embedder
from near.searching.settings import SearchSettings
from near.selection.cost import Scored, scoring_stage, shortlist_of
from near.selection.plan.choice import selection_of
from near.selection.scoring.checkpoints import Checkpoint
from near.selection.selectors.base import Selector
from near.training.inputs import Inputs, LoadedRows, is_dynamic
from near.training.job import Job, job_of
from near.training.picking import Batching, Picker
from near.training.rounds.schedule import Schedule
from near.training.timing import checkpoints_of, free, quiet, time_steps, weight_bytes, write_rate
from near.training.twins import training_key, warm_up_key
from near.training.warm_up import shares_warm_up
from near.training.workload import Workload

if TYPE_CHECKING:
    from transformers import TrainingArguments

COMPARED = 2000  # rows of the pool among which those are looked for that a selector may choose
FEWEST = 16  # rows that stand for those
ADAM = 2  # moments of a weight, in the weight's own type


def checkpoint_count(cfg: DictConfig) -> int:
    """Sets of weights under which rows are scored."""
    return len(cfg.scoring.checkpoints or [None])


class Measurement:
    """The work of a run with its model, of which a few batches are computed."""

    def __init__(
        self,
        cfg: DictConfig,
        output_dir: Path,
        rows: LoadedRows,
        selector: Selector,
        args: "TrainingArguments",
        workload: Workload,
        build: Callable,
    ):
        self.cfg, self.rows, self.selector, self.args, self.workload, self.build = (
            cfg,
            rows,
            selector,
            args,
            workload,
            build,
        )
        self.tokenizer = load_tokenizer(cfg.model, cfg.cache_dir)
        self.ids = rows.candidates.eligible()
        if rows.needs.trains_on_queries:  # whose ids follow the pool's
            self.ids = self.ids[self.ids >= len(rows.candidates) - len(rows.queries)]
        self.pool = sample_tokens(rows.candidates, self.ids, self.tokenizer, cfg.data)
        self.job = self._job(output_dir)
        self.shortlist: dict[str, Any] | None = None
        self.training_key: str | None = None
        self.warm_up_key: str | None = None

    def _job(self, output_dir: Path) -> Job:
        cfg, rows = self.cfg, self.rows
        neighbours = None
        if rows.needs.neighbours:
            search = SearchSettings.of(cfg, cfg.cache_dir)
            if cfg.indices_path is not None or missing_embedder(search) is None:
                neighbours = rows.material.neighbours(search, compute=False)
        tokens = Tokens(self.pool.tokens.table, self.ids)
        parts = (rows.needs, rows.candidates, rows.queries, rows.sets, self.tokenizer, tokens, None)
        self.inputs = Inputs(*parts, rows.columns, rows.query_columns, None, neighbours, rows.identity)
        return job_of(cfg, cfg.cache_dir, output_dir, self.selector, self.inputs, self.args)

    def stages(self) -> dict[str, StageCost]:
        """By name, in the order of the run."""
        cfg, rows, workload = self.cfg, self.rows, self.workload
        with quiet():
            picked = self._picked()
        tokenising = tokenising_seconds(self.pool, rows.candidates, self.tokenizer, cfg.data, cfg.cache_dir)
        started = time.perf_counter()
        model = load_start(cfg.model, cfg.cache_dir, finetuning=cfg.finetuning)
        settings = EvalSettings.of(cfg, cfg.cache_dir)
        loading = time.perf_counter() - started
        with quiet():
            times = (workload.measured, workload.validated)
            evaluations = evaluation_stages(settings, model, self.tokenizer, rows.sets, cfg.model, *times)
        started = time.perf_counter()
        model = add_finetuning(model, cfg.finetuning)
        loading += time.perf_counter() - started
        samples = [sample for sample, _ in picked.values()]
        rate, starting, trainer = time_steps(cfg, self.build, self.job, model, self.args, (samples or [self.pool])[-1])
        key = f"tokens {tokens_path(rows.candidates, self.tokenizer, cfg.data, cfg.cache_dir).stem}"
        stages = {
            "tokenising": StageCost.whole(
                tokenising, rows=len(rows.candidates), key=key, note="" if tokenising else "in the cache already"
            ),
            "loading the model": StageCost.whole(loading),
            "evaluation of the base": evaluations["evaluation of the base"],
        }
        if rows.needs.requires and workload.selections:
            with quiet():
                stages["scoring"] = self._scoring(model, trainer)
        for name, (sample, spare) in picked.items():
            count = (workload.warm if name == "warm-up" else workload.steps) * workload.draws
            stages[name] = self._training(name, count, rate, sample, spare, starting)
            starting = 0.0
        stages["evaluation"] = evaluations["evaluation"]
        stages["saving"] = self._saving(weight_bytes(model))
        if (fewest := workload.fewest) is not None:
            for name, part, of in (
                ("scoring", fewest.selections, workload.selections),
                ("training", fewest.steps, workload.steps),
            ):
                if name in stages:
                    stages[name] = dataclasses.replace(stages[name], low=stages[name].low * part / of)
        free(trainer)
        return stages

    def _picked(self) -> dict[str, tuple[TokenSample, TokenSample | None]]:
        """The rows of the warm-up and of training: samples of them, and of rows that they may be instead."""
        cfg, workload, needs = self.cfg, self.workload, self.rows.needs
        picked: dict[str, tuple[TokenSample, TokenSample | None]] = {}
        if workload.warm:
            picked["warm-up"] = self.pool, None
        if not is_dynamic(cfg):
            self.training_key = self._key(None)
            return picked | {"training": (self.pool, None)}
        known = not needs.neighbours or self.inputs.neighbours is not None
        picker = self._picker()
        if known:
            self.training_key = self._key(picker)
        if shares_warm_up(cfg):
            self.warm_up_key = warm_up_key(cfg, self.inputs.identity, self._picker(), self.args.world_size)
        if not workload.steps:
            return picked
        rounds = [phase for phase in picker.schedule.rounds() if not phase.warmup]
        if self.job.planned:
            order = np.concatenate([picker.order(phase) for phase in rounds])
            return picked | {"training": (self._sample(order), None)}
        if not needs.queries or needs.trains_on_queries:
            return picked | {"training": (self.pool, None)}
        return picked | {"training": (self._sample(self._like_target()), self.pool)}

    def _picker(self) -> Picker:
        fresh = dataclasses.replace(self.job, selector=selection_of(self.cfg))
        return Picker(fresh, Schedule.of(self.cfg.trainer), Batching.of(self.args))

    def _key(self, picker: Picker | None) -> str:
        inputs = self.inputs
        return training_key(self.cfg, inputs.identity, inputs.needs, picker, inputs.neighbours, self.args.world_size)

    def _sample(self, ids: np.ndarray) -> TokenSample:
        return sample_tokens(self.rows.candidates, ids, self.tokenizer, self.cfg.data)

    def _like_target(self) -> np.ndarray:
        """Rows of the pool whose words are nearest to a query's, as many of a sample as a round has of the pool: what
        stands for rows that are not selected yet."""
        ids, pool, queries = self.ids, self.rows.candidates, self.rows.queries
        if len(ids) > COMPARED:
            ids = np.sort(np.random.default_rng(0).choice(ids, COMPARED, replace=False))
        embedder = HashingEmbedder()
        of = queries.eligible()
        if len(of) > COMPARED:
            of = of[spread(np.arange(len(of)), COMPARED)]
        vectors = embedder.embed([embedder.document(chat) for chat in pool.chats(ids)])
        targets = embedder.embed([embedder.query(chat) for chat in queries.chats(of)])
        nearest = (vectors @ targets.T).max(axis=1)  # (n_ids, n_queries) -> (n_ids,)
        count = min(len(ids), max(FEWEST, round(len(ids) * self.workload.needed / len(self.ids))))
        return ids[np.argsort(-nearest, kind="stable")[:count]]

    def _training(
        self, name: str, count: int, rate: Rate, sample: TokenSample, spare: TokenSample | None, starting: float
    ) -> StageCost:
        """A stage of `count` draws of rows like those of `sample`, or of `spare`; starting: seconds once."""
        tokens = count * sample.mean
        each = rate.seconds(tokens, starting)
        note = ""
        if spare is not None:
            few, many = sorted((tokens, count * spare.mean))
            each["low"], each["high"] = starting + few * rate.low, starting + many * rate.high
            note = "rows not selected yet: as those with a query's words"
        key = self.warm_up_key if name == "warm-up" else None
        return StageCost(rows=count, tokens=round(tokens), memory=rate.memory, note=note, key=key, **each)

    def _scoring(self, model: Any, trainer: Any) -> StageCost:
        cfg, rows, workload = self.cfg, self.rows, self.workload
        queries, count, times = None, 0, workload.selections * checkpoint_count(cfg)
        optimizer = trainer.optimizer
        if rows.needs.requires == "gradients":
            count = len(rows.queries.eligible())
            queries = sample_tokens(rows.queries, rows.queries.eligible(), self.tokenizer, cfg.data)
            if cfg.scoring.checkpoints and cfg.scoring.adam:
                optimizer = Checkpoint.all(list(cfg.scoring.checkpoints))[0].moments(model)
        scored = Scored.of(cfg, self.selector, workload.eligible)
        sample = self.pool
        if scored.shortlisted:  # rows near the target, mostly
            sample = self._sample(self._like_target())
        stage, row = scoring_stage(
            cfg, rows.needs, model, optimizer, self.tokenizer, sample, queries, (scored.rows, count), times
        )
        self.shortlist = shortlist_of(scored, stage, row, workload.needed)
        return stage

    def _saving(self, weights: int) -> StageCost:
        """Checkpoints, with two moments of each weight, the best round's weights, and the weights at the end."""
        args, workload = self.args, self.workload
        one = weights if args.save_only_model else weights * (1 + ADAM)
        count = checkpoints_of(args, workload.first, workload.total)
        kept = min(count, args.save_total_limit or count)
        note = f"{plural(count, 'checkpoint')} of {size(one)}, {kept} of them kept"
        fewest = workload.fewest or workload
        low = min(count, checkpoints_of(args, workload.first, fewest.total)) * one + weights
        written, disk = count * one + weights, kept * one + weights
        if self.job.keep == "best" and workload.ends:
            note += f"; the best round's weights of {size(weights)}, at most {plural(workload.ends, 'time')}"
            low += 0 if workload.first else weights
            written += workload.ends * weights
            disk += max(kept, 1) * weights  # a checkpoint links to those that were the best at its step
        each = write_rate(one, self.job.output_dir)
        return StageCost(seconds=each * written, low=each * low, high=each * written, disk=disk, note=note)
