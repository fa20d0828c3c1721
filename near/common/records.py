"""The records that a run leaves as JSON: its rounds (rounds.jsonl), train_metrics.json and metrics.json.

The keys of a file are the names of the fields. Every file names its schema version; a file without one is of version 0.
Fields that an older version did not write read as their defaults. A newer version is refused. Keys that this version
does not know are kept in `extra` and written again, so that a copy of a record (a twin's, a checkpoint's) is complete.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

from near.common.errors import UserError
from near.common.files import read_json, read_jsonl, write_json, write_jsonl

Interval = Sequence[float] | None  # low and high end of a 95% interval
VERSION = "schema_version"


class ForeignRecord(UserError):
    """A file of the same name that another program wrote: it lacks a key that every version of near writes."""


def _container(kind: type, each: bool = False, **default: Any) -> Any:
    """A field whose JSON value is an object or a list, or null.

    Args:
        kind: dict, list, or the class of a nested record.
        each: the value is an object of such records, by name.
    """
    return field(metadata={"kind": kind, "each": each}, **default)


def _only_if_set() -> Any:
    """A field that is left out of the file while it is None."""
    return field(default=None, metadata={"only_if_set": True})


@dataclass(frozen=True, kw_only=True)
class Record:
    """A part of a file. extra: keys that this version does not know."""

    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Any, source: object) -> Self:
        """Read a record.

        Args:
            values: as `to_json` returns it, also of an older version.
            source: the file, for errors.

        Raises:
            UserError: `values` is no object, a part has another type, or the schema version is newer.
            ForeignRecord: a required key is missing.
        """
        _check_kind(values, dict, cls.__name__, source)
        rest, known = dict(values), {}
        for one in fields(cls):
            if one.name == VERSION:
                known[VERSION] = _checked_version(rest.pop(VERSION, 0), one.default, source)
            elif one.name != "extra" and one.name in rest:
                known[one.name] = _parsed(rest.pop(one.name), one, source)
            elif one.default is MISSING and one.default_factory is MISSING:
                raise ForeignRecord(f"{source} was not written by near (it has no {one.name})")
        return cls(**known, extra=rest)

    def to_json(self) -> dict[str, Any]:
        """The values for JSON: fields of the class first, then those of its bases, then `extra`."""
        names = [name for cls in type(self).__mro__ for name in vars(cls).get("__annotations__", ()) if name != "extra"]
        optional = {one.name for one in fields(self) if one.metadata.get("only_if_set")}
        values = {name: _plain(getattr(self, name)) for name in names}
        values = {name: value for name, value in values.items() if value is not None or name not in optional}
        return values | {name: value for name, value in self.extra.items() if name not in values}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a JSON file. Raises what from_json raises, and OSError if the file is missing."""
        return cls.from_json(read_json(path), path)

    def write(self, path: Path) -> None:
        write_json(path, self.to_json())


def _parsed(value: Any, one: Any, source: object) -> Any:
    kind = one.metadata.get("kind")
    if kind is None:
        return value
    if value is None:
        return one.default_factory() if one.default is MISSING else one.default
    if not issubclass(kind, Record):
        _check_kind(value, kind, one.name, source)
        return value
    if not one.metadata["each"]:
        return kind.from_json(value, source)
    _check_kind(value, dict, one.name, source)
    return {name: kind.from_json(part, source) for name, part in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def _check_kind(value: Any, kind: type, name: str, source: object) -> None:
    if not isinstance(value, kind):
        raise UserError(
            f"{source} is damaged ({name} is a {type(value).__name__}, not a {kind.__name__}); delete it and run again"
        )


def _checked_version(version: Any, newest: int, source: object) -> int:
    """`version`; raises UserError if it is newer than this version of near reads."""
    if type(version) is not int or version < 0:
        raise UserError(f"{source} is damaged ({VERSION}={version!r} is not a whole number); delete it and run again")
    if version > newest:
        raise UserError(
            f"{source} has {VERSION}={version}, and this near reads versions up to {newest}; update near "
            "(pip install -U near)"
        )
    return version


@dataclass(frozen=True, kw_only=True)
class RoundRecord(Record):
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
        select_seconds: that selecting took.
        seconds: of training and selecting before it, without evaluations.
        tokens: of its draws, without padding.
        target_loss: at its start, nats a token; None if it is not evaluated then.
        evaluate_seconds: that this evaluation took.
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
    sources: dict[str, int] = _container(dict, default_factory=dict)
    select_seconds: float = 0.0
    mix: dict[str, dict[str, float]] | None = _container(dict, default=None)
    seconds: float | None = None
    tokens: int | None = None
    target_loss: float | None = None
    evaluate_seconds: float | None = None


def read_rounds(path: Path) -> list[RoundRecord]:
    """The lines of a rounds.jsonl; [] if it is missing."""
    return [RoundRecord.from_json(line, path) for line in read_jsonl(path)] if path.is_file() else []


def write_rounds(path: Path, rounds: Sequence[RoundRecord]) -> None:
    write_jsonl(path, (line.to_json() for line in rounds))


@dataclass(frozen=True, kw_only=True)
class Provenance(Record):
    """Who wrote a file: time, command and package versions (near/common/files.py)."""

    created: str | None = None
    command: str | None = None
    versions: dict[str, str] = _container(dict, default_factory=dict)


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
        identity: {"config": what decides the outcome, "fingerprints": of all that the run read}.
        training_key: equal for twins (near/training/twins.py); None outside a sweep.
        same_rows_as: the job of the sweep that trained the same rows, if it was not trained again.
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
    history: list[dict[str, Any]] = _container(list, default_factory=list)
    identity: dict[str, Any] = _container(dict, default_factory=dict)
    training_key: str | None = None
    same_rows_as: str | None = _only_if_set()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of all that the run read, by name (near/training/fingerprints.py)."""
        return self.identity.get("fingerprints") or {}


@dataclass(frozen=True, kw_only=True)
class Score(Record):
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
class SetMetrics(Record):
    """A model's evaluation on one set of rows.

    Args:
        target_loss: the mean over all answer tokens, nats; null in the file, and None here, if it was not finite.
        target_loss_interval, perplexity_interval: over examples.
        rows, tokens: numbers of evaluated rows and answer tokens.
        answers_right: by the grader `exact`; None without it.
        scores: by grader.
        evaluated_on: the set's name.
        eval_fingerprint: of the rows' messages; columns_fingerprint: of the columns that graders read.
    """

    target_loss: float
    target_loss_interval: Interval = None
    perplexity: float | None = None
    perplexity_interval: Interval = None
    rows: int
    tokens: int
    answers_right: int | None
    scores: dict[str, Score] = _container(Score, each=True, default_factory=dict)
    evaluated_on: str | None = None
    eval_fingerprint: str
    columns_fingerprint: str | None = None
    evaluation_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelMetrics(SetMetrics):
    """A model's evaluation on the target.

    Args:
        more: on further sets, by name.
        lm_eval: benchmarks, by task and metric (near/evaluation/benchmarks.py); None without tasks.
    """

    more: dict[str, SetMetrics] = _container(SetMetrics, each=True, default_factory=dict)
    lm_eval: dict[str, dict[str, Any]] | None = _container(dict, default=None)


@dataclass(frozen=True, kw_only=True)
class EvalMetrics(ModelMetrics, Provenance):
    """metrics.json: the evaluation of a run, or of another model that eval.py evaluated.

    Args:
        selector, seed, max_K: of the run; None for another model.
        run: the folder of the run that eval.py evaluated.
        model: name or path; `adapter`: the adapter's folder, if eval.py evaluated one.
        base: the untrained model's evaluation; None if there is none.
        selection_saw_them: whether the target's rows are the queries.
        same_rows_as: as in TrainMetrics.
        evaluation: the configuration's `evaluation`.
    """

    schema_version: int = 2
    selector: str | None
    seed: int | None = None
    max_K: int | None = _only_if_set()
    run: str | None = _only_if_set()
    model: str
    adapter: str | None = _only_if_set()
    base: ModelMetrics | None = _container(ModelMetrics, default=None)
    selection_saw_them: bool = False
    same_rows_as: str | None = _only_if_set()
    evaluation: dict[str, Any] = _container(dict, default_factory=dict)

    @classmethod
    def of(cls, measured: ModelMetrics, **described: Any) -> "EvalMetrics":
        """`measured` with the fields of this class, by name."""
        return cls(**{one.name: getattr(measured, one.name) for one in fields(ModelMetrics)}, **described)
