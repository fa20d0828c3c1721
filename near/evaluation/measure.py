"""Evaluation of a model on a set of rows: target loss with its interval, greedy answers, and their grades."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hydra.utils import instantiate
from jinja2 import TemplateError
from omegaconf import DictConfig

from near.common.budget import Budget
from near.common.config import select
from near.common.errors import UserError, one_line
from near.common.processes import is_main, world_size
from near.common.records import ModelMetrics, Score, SetMetrics
from near.common.text import plural
from near.data.formats.formats import is_plain
from near.data.loading import is_set, load, more_sets, raw_rows
from near.data.rows import Rows
from near.data.validation import validation_split
from near.evaluation.benchmarks import check_benchmarks
from near.evaluation.generation import Answerer, check_backend, with_transformers
from near.evaluation.graded_columns import graded_columns
from near.evaluation.graders.base import Answer, Grade, Grader, checked_grades
from near.evaluation.intervals import over_examples
from near.evaluation.settings import EvalSettings
from near.models.budget import budget_for
from near.models.encoding import Encoded, Encoder
from near.models.losses import answer_losses, by_row
from near.models.tokens import Collator

log = logging.getLogger(__name__)

LOSS_TOKENS = 1024  # on a CPU, tokens of a batch: its logits are several float32 copies of (tokens, vocabulary)


@dataclass(frozen=True)
class Sets:
    """The rows that are evaluated: the target's, and further sets by name. `seen`: the target's rows are the queries,
    which the selection saw. `validation`: rows that choose the best round; None without data.eval.validation."""

    target: Rows
    seen: bool
    more: dict[str, Rows]
    validation: Rows | None = None

    def all(self) -> list[Rows]:
        """The rows that are reported."""
        return [self.target, *self.more.values()]

    def held_out(self) -> list[Rows]:
        return self.all() + ([] if self.validation is None else [self.validation])


def evaluation_sets(data: DictConfig, cache_dir: str) -> Sets:
    """data.eval (or the queries if it is not set) without its validation part, that part, and data.more_eval."""
    more = {name: load(data, part, cache_dir) for name, part in more_sets(data).items()}
    part = select(data, "eval.validation")
    if is_set(data, "eval"):
        rows = load(data, "eval", cache_dir)
        target, validation = (rows, None) if part is None else validation_split(rows, part, more.values())
        return Sets(target, False, more, validation)
    if part is not None:
        raise UserError(
            f"data.eval.validation={part} needs data.eval.path: the queries, which selectors see, can't choose a round"
        )
    log.info("data.eval is not set: evaluating on the queries, which selectors see")
    return Sets(load(data, "queries", cache_dir), True, more)


def graders_of(evaluation: DictConfig) -> dict[str, Grader]:
    """The graders of `evaluation.graders` by name. UserError if one is not a Grader or can't run here."""
    graders = {name: instantiate(options) for name, options in (evaluation.graders or {}).items()}
    for name, grader in graders.items():
        if not isinstance(grader, Grader):
            raise UserError(
                f"evaluation.graders.{name} is not a grader (near.evaluation.graders.base.Grader); inherit it"
            )
        grader.unsafe = evaluation.get("unsafe") is True
        grader.check()
    return graders


def check_evaluation(cfg: DictConfig, sharded: bool = False) -> None:
    """UserError if an evaluation of `cfg` is not possible; before anything is computed."""
    graders_of(cfg.evaluation)
    check_backend(cfg, sharded)
    check_benchmarks(cfg.evaluation, sharded)


def measure_all(
    measure_one: Callable[[Rows], tuple[SetMetrics, list[dict]]], sets: Sets
) -> tuple[ModelMetrics, list[dict]]:
    """One model's metrics on the target, with those of further sets under `more`, and its answers on all sets."""
    target, answers = measure_one(sets.target)
    answers = [{"set": "target", **a} for a in answers]
    more = {}
    for name, rows in sets.more.items():
        more[name], others = measure_one(rows)
        answers += [{"set": name, **a} for a in others]
    return ModelMetrics(**vars(target), more=more), answers


def measure(
    model, tokenizer, rows: Rows, settings: EvalSettings, lenient: bool = False, answer: Answerer | None = None
) -> tuple[SetMetrics, list[dict]]:
    """Evaluate a model: target loss, the mean over all answer tokens in nats, and graded greedy answers.

    Args:
        lenient: if a grader fails (a judge is unreachable, say), log it and leave its scores out instead of raising.
        answer: generates the answers (near/evaluation/generation.py); None: the model does.

    Returns:
        metrics; a record for each row, as in answers.jsonl.
    """
    started, was_training = time.perf_counter(), model.training
    evaluation, data = settings.evaluation, settings.data
    model.eval()
    ids, chats, coded, encoder = encoded(tokenizer, rows, data)
    with_answers = evaluation.answers and not any(map(is_plain, chats))  # plain text has no question
    graders = graders_of(evaluation) if with_answers else {}
    with torch.no_grad():  # in inference_mode, weights that ZeRO-3 gathers could not be trained afterwards
        budget = loss_budget(model, settings)
        loss_sums, counts = losses(model, tokenizer, coded, budget, evaluation.batch_size)
        prompts = [encoder.prompt_ids(chat[:-1])[-data.cutoff_len :] for chat in chats] if with_answers else []
        if not with_answers:
            answers = None
        elif answer is None:
            answers = with_transformers(model, tokenizer, prompts, evaluation)
        else:
            answers = answer(prompts)
    model.train(was_training)
    records = []
    for at, (row, chat) in enumerate(zip(ids, chats, strict=True)):
        record = {
            "row": int(row),
            "question": "\n".join(m["content"] for m in chat[:-1] if m["role"] not in ("tools", "system")),
            "reference": chat[-1]["content"],
            "loss": float(loss_sums[at] / max(counts[at], 1)),
            "tokens": int(counts[at]),
        }
        if answers is not None:
            record |= {"answer": answers[at], "scores": {}, "details": {}, "no_answer": []}
        records.append(record)
    scores: dict[str, Score] = {}
    if answers is not None and is_main():
        scores = _graded(graders, records, rows, settings, lenient)
    loss = float(loss_sums.sum() / counts.sum())
    interval = over_examples(loss_sums, counts)
    metrics = SetMetrics(
        target_loss=loss,
        target_loss_interval=interval,
        perplexity=_exp(loss),
        perplexity_interval=None if interval is None else [_exp(x) for x in interval],
        rows=len(records),
        tokens=int(counts.sum()),
        answers_right=scores["exact"].right if "exact" in scores else None,
        scores=scores,
        evaluated_on=rows.name,
        eval_fingerprint=rows.fingerprint,
        columns_fingerprint=graded_columns(evaluation, data, rows, settings.cache_dir),
        evaluation_seconds=round(time.perf_counter() - started, 3),
        batch_tokens=budget.tokens,
    )
    return metrics, records


def encoded(tokenizer, rows: Rows, data: DictConfig) -> tuple[np.ndarray, list, list[Encoded], Encoder]:
    """Encode the eligible rows, with labels only on answers, whatever data.train_on_prompt is.

    Returns:
        row ids int64 (n,); their messages; their tokens; the encoder.

    Raises:
        UserError: the chat template fails on a row; with data.on_error=skip such rows are left out and logged.
    """
    encoder = Encoder(tokenizer, {**data, "train_on_prompt": False})
    ids, chats, coded, faults = [], [], [], []
    every = rows.eligible()
    for row, chat in zip(every, rows.chats(every), strict=True):
        try:
            coded.append(encoder.encode(chat))
        except (UserError, TemplateError) as error:
            faults.append(f"row {row}: {one_line(error)}")
            continue
        ids.append(row)
        chats.append(chat)
    if faults and data.on_error != "skip" or not ids:
        raise UserError(f"data.{rows.name}, {faults[0]}; use another template, or data.on_error=skip")
    if faults:
        log.info(
            f"{rows.name}: {plural(len(faults), 'row is', 'rows are')} not evaluated, as the chat template "
            f"fails; {faults[0]}"
        )
    return np.array(ids, dtype=np.int64), chats, coded, encoder


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def loss_of(model, tokenizer, rows: Rows, settings: EvalSettings) -> float:
    """The target loss, without answers."""
    _, sums, counts = row_losses(model, tokenizer, rows, settings)
    return float(sums.sum() / counts.sum())


def row_losses(model, tokenizer, rows: Rows, settings: EvalSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row ids int64 (n,), and of each row what `losses` returns."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        (ids, _, coded, _), budget = encoded(tokenizer, rows, settings.data), loss_budget(model, settings)
        sums, counts = losses(model, tokenizer, coded, budget, settings.evaluation.batch_size)
    model.train(was_training)
    return ids, sums, counts


def losses(model, tokenizer, coded: list[Encoded], budget: Budget, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row's negative log likelihood summed over its answer tokens, float64 (n,), and their number, int64 (n,)."""
    collate = Collator(tokenizer.pad_token_id)
    sums, counts = np.zeros(len(coded)), np.zeros(len(coded), dtype=np.int64)

    def work(part: np.ndarray) -> list[np.ndarray]:
        batch = {k: v.to(model.device) for k, v in collate([vars(coded[i]) for i in part]).items()}
        row_losses = by_row(*answer_losses(model, batch, padding_free=True), len(part))
        return [values.cpu().numpy() for values in row_losses]

    lengths = [len(c.input_ids) for c in coded]
    for part, (row_sums, row_counts) in budget.run(lengths, work, budget.rows(batch_size)):
        sums[part], counts[part] = row_sums, row_counts
    return sums, counts


def loss_budget(model, settings: EvalSettings) -> Budget:
    """The tokens of a batch of losses."""
    name, fix = "evaluation.batch_tokens", "use a smaller data.cutoff_len"
    alone = world_size() == 1  # sharded weights are gathered by all processes, so that all need the same batches
    option = settings.evaluation.get("batch_tokens", "auto")
    return budget_for(model, option, LOSS_TOKENS, name, "losses", settings.cache_dir, fix, alone)


def _graded(
    graders: dict[str, Grader], records: list[dict], rows: Rows, settings: EvalSettings, lenient: bool
) -> dict[str, Score]:
    """Write grades into `records`; returns each grader's score."""
    raw = {}
    if any(grader.columns for grader in graders.values()):
        ids = np.array([record["row"] for record in records])
        raw = dict(raw_rows(settings.data, rows, ids, settings.cache_dir))
    answers = [Answer(r["row"], r["question"], r["reference"], r["answer"], raw.get(r["row"])) for r in records]
    scores = {}
    for name, grader in graders.items():
        try:
            grades = checked_grades(name, grader.grade(answers, settings.cache_dir), answers)
        except UserError as error:
            if not lenient:
                raise
            log.warning(f"answers are not graded by {name}: {error}; later: python eval.py run=RUN")
            grades = [Grade(None)] * len(answers)
        for record, grade in zip(records, grades, strict=True):
            record["scores"][name] = grade.score
            if grade.detail is not None:
                record["details"][name] = grade.detail
            if grade.no_answer:
                record["no_answer"].append(name)
        known = np.array([grade.score for grade in grades if grade.score is not None])
        scores[name] = Score(
            mean=float(known.mean()) if len(known) else None,
            interval=over_examples(known, np.ones(len(known))),
            graded=len(known),
            right=int((known == 1).sum()),
            no_answer=sum(grade.no_answer for grade in grades),
            extra=grader.metadata(),
        )
        _log_ungraded(name, scores[name], rows)
    return scores


def _log_ungraded(name: str, score: Score, rows: Rows) -> None:
    """Log how many answers and references had nothing to compare."""
    if score.no_answer:
        log.info(
            f"{name}: {score.no_answer} of {plural(score.graded, 'answer')} without anything to grade, counted as wrong"
        )
    if 0 < score.graded < (count := len(rows.eligible())):
        log.info(f"{name}: {count - score.graded} of {count} references have nothing to grade and are left out")
