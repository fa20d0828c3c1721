"""The records that scripts leave: a run's rounds.jsonl, train_metrics.json and metrics.json, and a selection's
manifest.json."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from near.common.files import append_jsonl, read_jsonl, write_jsonl
from near.common.schema import JsonRecord, container, only_if_set

Interval = Sequence[float] | None  # low and high end of a 95% interval

WARMUP = "warm-up"  # the selector of a round of random rows, in rounds.jsonl


@dataclass(frozen=True, kw_only=True)
class RoundRecord(JsonRecord):
    """A line of rounds/rounds.jsonl: a round, or (of a run without rounds) all that is trained.

    Args:
        round: its index, from 0.
        selector: of its rows; "warm-up" for random rows before the first selection.
        step: optimizer steps before it.
        steps: its optimizer steps; None without rounds.
        rows: distinct rows of its subset.
        draws: rows that are trained, counting repeats; None if the Trainer shuffles.
        draws_per_step: rows of an optimizer step, over all processes; None without rounds.
        mean_score: the selector's score, a mean over the rows that have one; None without scores.
        overlap: with the round before, a Jaccard index from 0 to 1; None for the first.
        never_seen: share of its rows, from 0 to 1, that no earlier round had.
        sources: rows by source, most first.
        mix: of rows by source: numbers by source, by what they are (proportions, draws, ...).
        stages: of a plan (docs/plans.md): for each stage in turn its name, kind, by (its component's class), acted
            (whether it acted anew in this round), rows_before and rows_after (that may be, or are, drawn) and seconds;
            of a draw under a mix also unranked_draws, those of sources of which it ranks no row, if there are any.
        fidelity: of a selector that approximates LESS by fewer gradients: rows and gradients (numbers of rows),
            rank_correlation of its predictions with exact scores and overlap of its rows with exact LESS's (both
            estimated on rows that the prediction left out), and rank_correlation_interval, overlap_interval: 95%.
        select_seconds: that selecting took.
        seconds: of training and selecting before it, without evaluations.
        tokens: of its draws, without padding.
        target_loss: at its start, nats a token; None if it is not evaluated then.
        validation_loss: the same on the validation rows; absent without them.
        evaluate_seconds: that this evaluation took.
        sha256: of its arrays' files, by name.
    """

    schema_version: int = 1
    round: int
    selector: str
    step: int
    steps: int | None = None
    rows: int
    draws: int | None = None
    draws_per_step: int | None = None
    mean_score: float | None = None
    overlap: float | None = None
    never_seen: float | None = None
    sources: dict[str, int] = container(dict, default_factory=dict)
    select_seconds: float = 0.0
    mix: dict[str, dict[str, float]] | None = container(dict, default=None)
    stages: list[dict[str, Any]] | None = only_if_set()
    fidelity: dict[str, Any] | None = only_if_set()
    seconds: float | None = None
    tokens: int | None = None
    target_loss: float | None = None
    validation_loss: float | None = only_if_set()
    evaluate_seconds: float | None = None
    sha256: dict[str, str] | None = container(dict, only_if_set=True, default=None)


def read_rounds(path: Path) -> list[RoundRecord]:
    """The whole lines of a rounds.jsonl; [] if it is missing."""
    return [RoundRecord.from_json(line, path) for line in read_jsonl(path, growing=True)] if path.is_file() else []


def write_rounds(path: Path, rounds: Sequence[RoundRecord]) -> None:
    write_jsonl(path, (line.to_json() for line in rounds))


def append_round(path: Path, line: RoundRecord) -> None:
    """Add a line to a rounds.jsonl whose earlier lines this process wrote."""
    append_jsonl(path, line.to_json())


@dataclass(frozen=True, kw_only=True)
class Provenance(JsonRecord):
    """Who wrote a file: time, command, package versions, and the commit of near's code (near/common/files.py)."""

    created: str | None = None
    command: str | None = None
    versions: dict[str, str] = container(dict, default_factory=dict)
    commit: str | None = only_if_set()


@dataclass(frozen=True, kw_only=True)
class RunIdentity(JsonRecord):
    """What decides the outcome of a run, and binds its files to it.

    Args:
        config: the options that decide it (near/common/config.py).
        fingerprints: of all rows and local files that it reads, by name (near/training/fingerprints.py).
        processes: that trained it; in checkpoints only.
    """

    config: dict[str, Any] = container(dict, default_factory=dict)
    fingerprints: dict[str, str] = container(dict, default_factory=dict)
    processes: int | None = only_if_set()


@dataclass(frozen=True, kw_only=True)
class ValidationRecord(JsonRecord):
    """What the validation rows decided in a run with rounds.

    Args:
        rows: their ids.
        losses: [step, loss] pairs at the start of every round and at the end of training, nats a token; null if not
            finite.
        kept_round: the last round that the kept weights were trained on; kept_step: their optimizer steps.
        steps: of the schedule.
        saved_steps: of the schedule, that trainer.patience left out; None if training was not ended early.
        saved_tokens, saved_seconds: of these, estimated from the steps before.
    """

    rows: list[int] = container(list, default_factory=list)
    losses: list[list[Any]] = container(list, default_factory=list)
    kept_round: int
    kept_step: int
    steps: int
    saved_steps: int | None = only_if_set()
    saved_tokens: int | None = only_if_set()
    saved_seconds: float | None = only_if_set()


@dataclass(frozen=True, kw_only=True)
class TrainMetrics(Provenance):
    """train_metrics.json: what training took.

    Args:
        selector, seed, max_K: of the run; max_K is the number of columns of the neighbours, if there are any.
        steps: optimizer steps.
        distinct_rows: rows of all rounds' subsets, each counted once.
        rows_trained: draws: a row that is trained twice counts twice.
        tokens_trained: of these draws, without padding; None without rounds.
        train_seconds, select_seconds: of training, and of all rounds' selections; evaluations are in neither.
        embed_seconds, search_seconds: of the neighbours, in this run or in an earlier one; None without neighbours.
        history: lines of the Trainer's log that have a loss.
        training_key: equal for twins (near/training/twins.py); None outside a sweep.
        same_rows_as: the job of the sweep that trained the same rows, if it was not trained again.
        contamination: counts of contaminated.jsonl; None if the pool was not compared.
        validation: None without a validation part, or without rounds.
    """

    schema_version: int = 1
    selector: str | None = None
    seed: int | None = None
    max_K: int | None = None
    steps: int | None = None
    distinct_rows: int | None = None
    rows_trained: int | None = None
    tokens_trained: int | None = None
    rows_per_second: float | None = None
    train_seconds: float | None = None
    select_seconds: float | None = None
    embed_seconds: float | None = None
    search_seconds: float | None = None
    history: list[dict[str, Any]] = container(list, default_factory=list)
    identity: RunIdentity = container(RunIdentity, default_factory=RunIdentity)
    training_key: str | None = None
    same_rows_as: str | None = only_if_set()
    contamination: Any = only_if_set()
    validation: ValidationRecord | None = container(ValidationRecord, only_if_set=True, default=None)


@dataclass(frozen=True, kw_only=True)
class Score(JsonRecord):
    """A grader's score on a set of rows; `extra` is the grader's metadata.

    Args:
        mean: over the graded answers, from 0 to 1; None without any.
        interval: of the mean.
        graded, right: numbers of answers: graded, and with score 1.
        no_answer: how many had nothing to grade; None in files of older versions.
    """

    mean: float | None = None
    interval: Interval = None
    graded: int = 0
    right: int = 0
    no_answer: int | None = None


@dataclass(frozen=True, kw_only=True)
class SetMetrics(JsonRecord):
    """A model's evaluation on one set of rows.

    Args:
        target_loss: the mean over all answer tokens, nats; null in the file, and None here, if it was not finite.
        target_loss_interval, perplexity_interval: over examples.
        rows, tokens: numbers of evaluated rows and answer tokens.
        answers_right: by the grader `exact`; None without it.
        scores: by grader.
        evaluated_on: the set's name.
        eval_fingerprint: of the rows' messages; columns_fingerprint: of the columns that graders read.
        batch_tokens: of a batch of losses, as chosen.
    """

    target_loss: float
    target_loss_interval: Interval = None
    perplexity: float | None = None
    perplexity_interval: Interval = None
    rows: int
    tokens: int
    answers_right: int | None
    scores: dict[str, Score] = container(Score, each=True, default_factory=dict)
    evaluated_on: str | None = None
    eval_fingerprint: str
    columns_fingerprint: str | None = None
    evaluation_seconds: float | None = None
    batch_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelMetrics(SetMetrics):
    """A model's evaluation on the target.

    Args:
        more: on further sets, by name.
        lm_eval: benchmarks, by task and metric (near/evaluation/benchmarks.py); None without tasks.
    """

    more: dict[str, SetMetrics] = container(SetMetrics, each=True, default_factory=dict)
    lm_eval: dict[str, dict[str, Any]] | None = container(dict, default=None)


@dataclass(frozen=True, kw_only=True)
class EvalMetrics(ModelMetrics, Provenance):
    """metrics.json: the evaluation of a run, or of another model that eval.py evaluated.

    Args:
        selector, seed, max_K: of the run; None for another model.
        run: the folder of the run that eval.py evaluated.
        model: name or path; `adapter`: the adapter's folder, if eval.py evaluated one.
        base: the evaluation of the model before training; None if there is none.
        start: the adapter that was merged into or trained further by that model (model.adapter); None without one.
        selection_saw_them: whether the target's rows are the queries.
        same_rows_as: as in TrainMetrics.
        evaluation: the configuration's `evaluation`.
    """

    schema_version: int = 2
    selector: str | None
    seed: int | None = None
    max_K: int | None = None
    run: str | None = only_if_set()
    model: str
    adapter: str | None = None
    base: ModelMetrics | None = container(ModelMetrics, default=None)
    start: str | None = only_if_set()
    selection_saw_them: bool = False
    same_rows_as: str | None = only_if_set()
    evaluation: dict[str, Any] = container(dict, default_factory=dict)

    @classmethod
    def of(cls, measured: ModelMetrics, **described: Any) -> "EvalMetrics":
        """`measured` with the fields of this class, by name."""
        return cls(**{one.name: getattr(measured, one.name) for one in fields(ModelMetrics)}, **described)


@dataclass(frozen=True, kw_only=True)
class Overlap(JsonRecord):
    """A line of contaminated.jsonl: a row of the pool that resembles a part of a held-out row.

    Args:
        row: id of the pool's row.
        set: of the held-out row: queries, eval, more_eval.NAME or benchmarks.NAME.
        held_out_row: its id.
        kind: exact, 13-gram, 8-gram or embedding.
        part: of the held-out row: prompt, answer, or text (of plain text); None for an embedding.
        share: of the part's n-grams that the row has, templates aside; 1 if exact; None for an embedding.
        other_numbers: whether they overlap only if numbers are masked.
        words: the overlapping words, as in the held-out row; None for an embedding.
        cosine: of the two rows' vectors; None unless kind is embedding.
        left_out: whether the row was left out of the pool, for whatever reason.
    """

    row: int
    set: str
    held_out_row: int
    kind: str
    part: str | None = None
    share: float | None = None
    other_numbers: bool = False
    words: str | None = None
    cosine: float | None = None
    left_out: bool = False


@dataclass(frozen=True, kw_only=True)
class RowsRecord(JsonRecord):
    """Rows that a selection was made from, or for.

    Args:
        fingerprint: of their messages.
        rows: their number.
        eligible: how many may be selected; of candidates.
        eligible_digest: which rows are eligible, if not all; of queries.
    """

    fingerprint: str | None = None
    rows: int | None = None
    eligible: int | None = only_if_set()
    eligible_digest: str | None = only_if_set()


@dataclass(frozen=True, kw_only=True)
class SelectionManifest(Provenance):
    """manifest.json of select.py, of a run that `near manifest` describes, and of a matrix in the cache: what it was
    made from.

    Args:
        candidates, queries: queries is None for a selection that needs none.
        eligible_digest: which candidates may be selected.
        embedder, index: what decides the vectors and the search; None without a matrix of vectors.
        similarity: what decides a matrix without vectors (similarity=bm25).
        searched_max_K, max_K: columns that were searched, and those of the matrix.
        key: of the matrix, or of the pool if there is none.
        figures: numbers and seconds of embedding and searching.
        sha256: of the files beside it, by name; in the cache of the matrix's alone.
        subset: what the subset was selected by, its number of rows, and `content`, the digest of their content; None if
            there is none.
        contamination: counts of contaminated.jsonl; None if the pool was not compared.
        config: the configuration; None for a run, which has config.yaml.
        verdict: of a run, what the report of its sweep says of its selection (near/report/record.py).
    """

    schema_version: int = 3
    candidates: RowsRecord | None = container(RowsRecord, default=None)
    eligible_digest: str | None = only_if_set()
    queries: RowsRecord | None = container(RowsRecord, default=None)
    embedder: dict[str, Any] | None = container(dict, default=None)
    index: dict[str, Any] | None = container(dict, default=None)
    similarity: Any = only_if_set()
    searched_max_K: int | None = only_if_set()
    max_K: int | None = only_if_set()
    key: str | None = only_if_set()
    figures: dict[str, Any] = container(dict, default_factory=dict)
    sha256: Any = only_if_set()
    subset: Any = only_if_set()
    contamination: Any = only_if_set()
    config: Any = only_if_set()
    verdict: Any = only_if_set()
