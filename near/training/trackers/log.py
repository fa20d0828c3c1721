"""Logs a job to a tracker: its rounds and their rows, its evaluation, its files."""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from near.common.errors import printable
from near.common.files import write_npy
from near.common.records import ModelMetrics, RoundRecord
from near.common.run_folder import ROUNDS, RunFolder
from near.selection.round import Subset
from near.training.rounds.record import proportions
from near.training.trackers.base import TrackerRun, named

if TYPE_CHECKING:
    from near.data.rows import Rows
    from near.searching.neighbours import Neighbours

ROUND = ("rows", "mean_score", "overlap", "never_seen", "select_seconds", "tokens")  # of a RoundRecord
TARGET = ("target_loss", "perplexity", "answers_right")  # of ModelMetrics


def log_round(run: TrackerRun, line: RoundRecord, subset: Subset, pool: "Rows") -> None:
    """Log a round as it starts: its line of rounds.jsonl, and the first of its rows."""
    metrics = {f"selection/{name}": getattr(line, name) for name in ROUND if getattr(line, name) is not None}
    if line.target_loss is not None:
        metrics["target/target_loss"] = line.target_loss
    if line.validation_loss is not None:
        metrics["target/validation_loss"] = line.validation_loss
    run.log(metrics | proportions(line.mix), line.step)
    if run.options.table_rows:
        rows = table(subset, pool, run.options.table_rows, run.options.table_chars)
        run.table(line.round, line.step, rows)


def table(subset: Subset, pool: "Rows", most: int, chars: int) -> list[dict]:
    """The first rows of a subset, in the selector's order.

    Args:
        most: how many rows.
        chars: characters of each prompt; 0: no prompts.

    Returns:
        For each row its place from 1, its id, its similarity (the selector's score; None where it has none), its source
        and its prompt.
    """
    ids = subset.ids[:most]
    scores = np.full(len(ids), np.nan) if subset.scores is None else subset.scores[:most]
    rows = [
        {"place": i, "row": int(row), "similarity": float(score) if np.isfinite(score) else None, "source": str(source)}
        for i, (row, score, source) in enumerate(zip(ids, scores, pool.sources(ids), strict=True), 1)
    ]
    if chars:
        for row, text in zip(rows, pool.texts(ids, "prompt"), strict=True):
            row["prompt"] = printable(text, chars)
    return rows


def log_metrics(run: TrackerRun, metrics: ModelMetrics, step: int) -> None:
    """Log the evaluation at a run's end: the target's, and the loss on every further set."""
    values = {f"target/{name}": getattr(metrics, name) for name in TARGET}
    values |= {f"target/{name}": score.mean for name, score in metrics.scores.items()}
    values |= {f"more/{name}_loss": more.target_loss for name, more in metrics.more.items()}
    run.log({name: value for name, value in values.items() if value is not None and math.isfinite(value)}, step)


def log_files(run: TrackerRun, output_dir: Path, neighbours: "Neighbours | None") -> None:
    """Log the rows of all rounds with their neighbours, and the trained weights, where the options ask for them."""
    if run.options.log_indices:
        with tempfile.TemporaryDirectory() as folder:
            paths = [output_dir / ROUNDS]
            for name in ("ids", "scores") if neighbours is not None else ():
                paths.append(Path(folder) / f"top_{'indices' if name == 'ids' else name}.npy")
                write_npy(paths[-1], np.asarray(getattr(neighbours, name)))
            run.files("indices", paths)
    if run.options.log_adapter:
        kind, weights = RunFolder(output_dir).weights()
        run.files(kind, [weights])


def log_earlier(run: TrackerRun, folder: Path, rounds: list[RoundRecord], history: list[dict], pool: "Rows") -> None:
    """Log what a twin trained (near/training/twins.py), or this job before it was killed, but for what the tracker has.

    Args:
        folder: the run's folder, with its rounds/.
        history: the Trainer's log history.
    """
    lines: list[tuple[int, RoundRecord | dict]] = [(line["step"], line) for line in history]
    lines += [(line.step, line) for line in rounds]
    for step, line in sorted(lines, key=lambda pair: pair[0]):  # stable: at one step the history first
        if step <= run.logged_until:
            continue
        if isinstance(line, RoundRecord):
            log_round(run, line, _subset(RunFolder(folder), line.round), pool)
        else:
            values = {k: v for k, v in line.items() if k != "step" and isinstance(v, int | float) and math.isfinite(v)}
            run.log({named(name): value for name, value in values.items()}, step)


def _subset(files: RunFolder, index: int) -> Subset:
    """A round's subset, read from its files."""
    ids, scores = files.round_ids(index), files.round_ids(index, "scores")
    return Subset(ids, scores if scores is not None and len(scores) == len(ids) else None)
