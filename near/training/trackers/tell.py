"""What a tracker is told of a job: its rounds, the rows they pick, its evaluation, its files."""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from near.common.errors import printable
from near.common.files import write_npy
from near.common.run_folder import ROUNDS, RunFolder
from near.selection.round import Subset
from near.training.rounds.record import proportions
from near.training.trackers.base import Run, named

if TYPE_CHECKING:
    from near.data.rows import Rows
    from near.searching.neighbours import Neighbours

ROUND = ("rows", "mean_score", "overlap", "never_seen", "select_seconds", "tokens")  # of a line of rounds.jsonl
TARGET = ("target_loss", "perplexity", "answers_right")  # of metrics.json


def tell_round(run: Run, line: dict, subset: Subset, pool: "Rows") -> None:
    """A round as it begins: its line of rounds.jsonl, and the first of its rows."""
    told = {f"selection/{name}": line[name] for name in ROUND if line.get(name) is not None}
    if line.get("target_loss") is not None:
        told["target/target_loss"] = line["target_loss"]
    run.log(told | proportions(line), line["step"])
    if run.wanted.table_rows:
        rows = table(subset, pool, run.wanted.table_rows, run.wanted.table_chars)
        run.table(line["round"], line["step"], rows)


def table(subset: Subset, pool: "Rows", most: int, chars: int) -> list[dict]:
    """The first `most` rows of `subset` in the selector's order, each with its similarity (the score that the selector
    gives it; None where it gives none), source and, with `chars`, the beginning of its prompt."""
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


def tell_outcome(run: Run, metrics: dict, step: int) -> None:
    """The evaluation at a run's end: the target's, and the loss on every further set."""
    told = {f"target/{name}": metrics[name] for name in TARGET if metrics.get(name) is not None}
    told |= {f"target/{name}": score["mean"] for name, score in (metrics.get("scores") or {}).items()}
    told |= {f"more/{name}_loss": found["target_loss"] for name, found in (metrics.get("more") or {}).items()}
    run.log({name: value for name, value in told.items() if value is not None and math.isfinite(value)}, step)


def tell_files(run: Run, output_dir: Path, neighbours: "Neighbours | None") -> None:
    """The rows of all rounds with the neighbours they were picked from, and what was trained, where they are wanted."""
    if run.wanted.log_indices:
        with tempfile.TemporaryDirectory() as folder:
            paths = [output_dir / ROUNDS]
            for name in ("ids", "scores") if neighbours is not None else ():
                paths.append(Path(folder) / f"top_{'indices' if name == 'ids' else name}.npy")
                write_npy(paths[-1], np.asarray(getattr(neighbours, name)))
            run.files("indices", paths)
    if run.wanted.log_adapter:
        kind, weights = RunFolder(output_dir).weights()
        run.files(kind, [weights])


def tell_before(run: Run, folder: Path, rounds: list[dict], history: list[dict], pool: "Rows") -> None:
    """What a twin did (near/training/twins.py), or this job before it was killed, as if it were trained now: lines of
    rounds.jsonl and of the Trainer's history; `folder`: the run's, with its rounds/. Without what the run has kept."""
    told = [(line["step"], 0, line) for line in history if line["step"] > run.kept]
    told += [(line["step"], 1, line) for line in rounds if line["step"] > run.kept]
    for step, is_round, line in sorted(told, key=lambda x: x[:2]):
        if is_round:
            tell_round(run, line, _subset(RunFolder(folder), line["round"]), pool)
        else:
            found = {k: v for k, v in line.items() if k != "step" and isinstance(v, int | float) and math.isfinite(v)}
            run.log({named(name): value for name, value in found.items()}, step)


def _subset(files: RunFolder, index: int) -> Subset:
    """A round's, of its files."""
    ids, scores = files.round_ids(index), files.round_ids(index, "scores")
    return Subset(ids, scores if scores is not None and len(scores) == len(ids) else None)
