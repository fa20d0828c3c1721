"""What the evaluations of a run would take, from a few rows and answers that are computed."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from near.common.batches import batches, spread
from near.common.cost import StageCost
from near.common.files import digest
from near.common.timing import ENOUGH, MARGIN, Clock, Rate, measured
from near.data.formats.formats import is_plain
from near.data.rows import Rows
from near.evaluation.base_model import cached_metrics
from near.evaluation.generation import GREEDY
from near.evaluation.measure import Sets, encoded, loss_budget, losses
from near.evaluation.settings import EvalSettings
from near.models.budget import clock_of
from near.models.encoding import IGNORED
from near.models.generation import generated
from near.models.tokens import stop_ids


@dataclass(frozen=True)
class _Set:
    """Rows of a set as tokens: of each, whole, of its prompt and of its reference; `coded`: see `encoded`."""

    rows: Rows
    coded: list
    prompts: list[list[int]]
    references: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row.input_ids) for row in self.coded], dtype=np.int64)


def evaluation_stages(
    settings: EvalSettings, model: Any, tokenizer: Any, sets: Sets, base: DictConfig, at_rounds: int, validated: int = 0
) -> dict[str, StageCost]:
    """The evaluation of the untrained model, and those of the run: the target loss `at_rounds` times, the loss on the
    validation rows `validated` times, and all at its end.

    Args:
        model: the untrained one.
        base: the configuration's `model`.
    """
    evaluation, clock, was_training = settings.evaluation, clock_of(model.device), model.training
    parts = [_read(rows, tokenizer, settings) for rows in sets.all()]
    model.eval()
    with torch.no_grad():
        rate = _losses(model, tokenizer, parts, settings, clock)
        answers = None
        if evaluation.answers and evaluation.backend == "transformers":
            answers = _answers(model, tokenizer, parts, evaluation, clock)
    model.train(was_training)
    todo = [part for part in parts if cached_metrics(settings, base, part.rows) is None]
    key = digest(["base", [part.rows.fingerprint for part in parts], settings.key_parts, dict(base)])
    untrained = _stage(todo, [], rate, answers, "untrained")
    stored = len(parts) - len(todo)
    note = f"{stored} of {len(parts)} sets in the cache already" if stored else ""
    stages = {"evaluation of the base": dataclasses.replace(untrained, note=note, key=key)}
    more = [(parts[0], at_rounds)]
    if sets.validation is not None and validated:
        more.append((_read(sets.validation, tokenizer, settings), validated))
    stages["evaluation"] = _stage(parts, more, rate, answers, "trained")
    return stages


def _read(rows: Rows, tokenizer: Any, settings: EvalSettings) -> _Set:
    _, chats, coded, encoder = encoded(tokenizer, rows, settings.data)
    prompts: list[list[int]] = []
    if settings.evaluation.answers and not any(map(is_plain, chats)):
        prompts = [encoder.prompt_ids(chat[:-1])[-settings.data.cutoff_len :] for chat in chats]
    references = np.array([int((np.asarray(row.labels) != IGNORED).sum()) for row in coded], dtype=np.int64)
    return _Set(rows, coded, prompts, references)


def _losses(model: Any, tokenizer: Any, parts: list[_Set], settings: EvalSettings, clock: Clock) -> Rate:
    """Seconds for a token of a row whose loss is taken."""
    coded = [row for part in parts for row in part.coded]
    lengths, budget = np.concatenate([part.lengths for part in parts]), loss_budget(model, settings)

    def work(count: int) -> float:
        part = spread(lengths, count)
        losses(model, tokenizer, [coded[i] for i in part], budget, settings.evaluation.batch_size)
        return float(lengths[part].sum())

    return measured(work, len(coded), clock)


@dataclass(frozen=True)
class _Answers:
    """Seconds of a decoding step of a batch, and the steps of a batch of the untrained model."""

    step: float
    steps: float
    batch_size: int
    most: int
    memory: int


def _answers(model: Any, tokenizer: Any, parts: list[_Set], evaluation: DictConfig, clock: Clock) -> _Answers | None:
    """Answers to one batch of prompts, or to two where one is quick."""
    prompts = [prompt for part in parts for prompt in part.prompts]
    if not prompts:
        return None
    groups = batches(list(map(len, prompts)), evaluation.batch_size)
    ends, seconds, steps, done, memory = stop_ids(model, tokenizer), 0.0, 0, 0, 0
    for group in [groups[len(groups) // 2], groups[len(groups) // 4]][: len(groups)]:
        clock.start()
        options = {**GREEDY, "max_new_tokens": evaluation.max_new_tokens}
        answers = [tokens for _, tokens in generated(model, tokenizer, prompts, [group], **options)]
        took, used = clock.stop()
        seconds, memory = seconds + took, max(memory, used)
        steps += max(_length(tokens, ends) for tokens in answers)
        done += 1
        if took >= ENOUGH:
            break
    return _Answers(seconds / max(steps, 1), steps / done, evaluation.batch_size, evaluation.max_new_tokens, memory)


def _length(tokens: list[int], ends: list[int]) -> int:
    """Tokens of an answer, its end token included."""
    return next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))


def _stage(
    parts: list[_Set], more: list[tuple[_Set, int]], rate: Rate, answers: _Answers | None, how: str
) -> StageCost:
    """The stage of an evaluation of all sets, and of the loss alone on `more`: sets, and how many times.

    How long a trained model's answers will be is not known: from the references' lengths to those of the untrained
    model's answers.
    """
    counted = [(part, 1) for part in parts] + more
    tokens = sum(times * int(part.lengths.sum()) for part, times in counted)
    rows = sum(times * len(part.coded) for part, times in counted)
    each, memory = rate.seconds(tokens), rate.memory
    if answers is not None:
        few = many = 0.0
        for part in parts:
            for group in batches(list(map(len, part.prompts)), answers.batch_size):
                many += answers.steps
                few += min(answers.most, int(part.references[group].max()))
        few, middle, many = sorted((few, many, (few + many) / 2)) if how == "trained" else (many, many, many)
        each["seconds"] += answers.step * middle
        each["low"] += answers.step * few * (1 - MARGIN)
        each["high"] += answers.step * many * (1 + MARGIN)
        memory = max(memory, answers.memory)
    return StageCost(rows=rows, tokens=tokens, memory=memory, disk=0, **each)
