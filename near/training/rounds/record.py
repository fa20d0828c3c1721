"""The record of what a run trained on, round by round: a folder `rounds/`, readable during the run and after it.

000.npy         ids of round 0's subset, int64 (rows,), in the selector's order
000_scores.npy  the selector's score of each of them, float32 (rows,), if it returns scores
000_order.npy   ids in the order of training, int64 (draws,): the first `draws_per_step` are those of its first step
rounds.jsonl    one line a round (near/common/records.py)
pool_keys.npy   a hash of every row of the pool, uint64 (n_pool, 2), written when training has ended
"""

import dataclasses
import logging
import re
from pathlib import Path

import numpy as np

from near.common.files import file_digest, write_npy
from near.common.records import WARMUP, RoundRecord, append_round, write_rounds
from near.common.run_folder import LINES, round_file
from near.data.rows import Rows
from near.selection.round import Subset
from near.training.rounds.schedule import Phase

log = logging.getLogger(__name__)


def overlap(ids: np.ndarray, others: np.ndarray) -> float:
    """Jaccard index of two arrays of distinct ids: size of the intersection by size of the union."""
    both = len(np.intersect1d(ids, others, assume_unique=True))
    return both / (len(ids) + len(others) - both)


class Record:
    """The rounds of a run so far, and their files in `folder`.

    Args:
        name: of the selector.
        draws_per_step: rows of an optimizer step; None without rounds.
        write: write the files (one process does).
    """

    def __init__(self, folder: Path, name: str, pool: Rows, draws_per_step: int | None, write: bool):
        self.folder, self.name, self.pool, self.write = folder, name, pool, write
        self.draws_per_step = draws_per_step
        self.rounds: list[RoundRecord] = []
        self._before: np.ndarray | None = None
        self._seen = np.zeros(len(pool), dtype=bool)

    def add(
        self, phase: Phase, subset: Subset, seconds: float, order: np.ndarray | None, measured: dict | None = None
    ) -> RoundRecord:
        """Record and log a round.

        Args:
            seconds: that selecting took.
            order: its draws; None if the Trainer shuffles.
            measured: further fields of its record (tokens, target_loss at its start).
        """
        ids, scores = subset.ids, subset.scores
        scored = scores is not None and bool(np.isfinite(scores).any())
        sources, counts = np.unique(self.pool.sources(ids).astype(str), return_counts=True)
        line = RoundRecord(
            round=phase.index,
            selector=WARMUP if phase.warmup else self.name,
            step=phase.start,
            steps=phase.steps,
            rows=len(ids),
            draws=None if order is None else len(order),
            draws_per_step=self.draws_per_step,
            mean_score=round(float(np.nanmean(scores)), 6) if scored else None,
            overlap=None if self._before is None else round(overlap(ids, self._before), 6),
            never_seen=round(1 - float(self._seen[ids].mean()), 6),
            sources={str(sources[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")},
            select_seconds=round(seconds, 4),
            mix=subset.mix,
            stages=subset.stages,
            fidelity=subset.fidelity,
            **(measured or {}),
        )
        if self.write:
            self._write(phase.index, ids, order)
            if scores is not None:
                write_npy(round_file(self.folder, phase.index, "scores"), np.asarray(scores, dtype=np.float32))
            paths = [round_file(self.folder, phase.index, part) for part in _parts(order, scores)]
            line = dataclasses.replace(line, sha256={path.name: file_digest(path) for path in paths})
        self.rounds.append(line)
        self._note(ids)
        if self.write:
            if len(self.rounds) == 1:  # in place of the lines of a run that it replaces
                write_rounds(self.folder / LINES, self.rounds)
            else:
                append_round(self.folder / LINES, line)
            log.info(summary(line))
        return line

    def restore(self, lines: list[RoundRecord], subsets: list[np.ndarray], orders: list[np.ndarray | None]) -> None:
        """Restore the rounds of a checkpoint, and write their files.

        Args:
            lines, subsets, orders: of each round, as in `add`.
        """
        self.rounds = lines
        for ids in subsets:
            self._note(ids)
        if self.write:
            for index, (ids, order) in enumerate(zip(subsets, orders, strict=True)):
                self._write(index, ids, order)
            write_rounds(self.folder / LINES, lines)

    def _note(self, ids: np.ndarray) -> None:
        self._before = ids
        self._seen[ids] = True

    def _write(self, index: int, ids: np.ndarray, order: np.ndarray | None) -> None:
        write_npy(round_file(self.folder, index), ids)
        if order is not None:
            write_npy(round_file(self.folder, index, "order"), order)


def _parts(order: np.ndarray | None, scores: np.ndarray | None) -> list[str]:
    """The parts of a round (near/common/run_folder.py) that have a file."""
    return ["", *(["order"] if order is not None else []), *(["scores"] if scores is not None else [])]


def proportions(mix: dict[str, dict[str, float]] | None) -> dict[str, float]:
    """A round's mix as metrics, mix/SOURCE: sources without characters that trackers refuse, numbered if equal."""
    metrics: dict[str, float] = {}
    for source, share in (mix or {}).get("proportions", {}).items():
        name = "mix/" + (re.sub(r"[^\w.-]+", "-", source).strip("-") or "source")
        metrics[f"{name}-{len(metrics)}" if name in metrics else name] = share
    return metrics


def summary(line: RoundRecord) -> str:
    """One line for the log: a round, or the rows that a run without rounds draws from."""
    rows, draws = line.rows, line.draws
    parts = [f"draws from {rows} rows" if draws is None else f"{rows} distinct rows, {draws / rows:.1f} passes"]
    if line.mean_score is not None:
        parts.append(f"mean score {line.mean_score:.3f}")
    if line.overlap is not None:
        parts.append(f"overlap with the round before {line.overlap:.2f}, {line.never_seen:.0%} never seen before")
    shares = {source: count / rows for source, count in line.sources.items()}
    if line.mix:  # shares of the draws, which may repeat a small source many times
        shares = dict(sorted(line.mix["proportions"].items(), key=lambda pair: -pair[1]))
    for stage in line.stages or ():
        if stage["kind"] == "filter":
            kept = "" if stage["acted"] else " as before"
            parts.append(f"{stage['name']} left {stage['rows_after']} of {stage['rows_before']} rows{kept}")
    parts.append(", ".join(f"{source} {share:.0%}" for source, share in list(shares.items())[:3]))
    if line.target_loss is not None:
        parts.append(f"target loss so far {line.target_loss:.4f}")
    if line.validation_loss is not None:
        parts.append(f"validation loss {line.validation_loss:.4f}")
    name = line.selector if draws is None else f"round {line.round} ({line.selector}) at step {line.step}"
    return f"{name}: {'; '.join(parts)}"
