"""Rows and scores by reasoning-gym, for another process: `python worker.py rows|scores`, with jobs as JSON lines.

A process of its own, because rows depend on the order of Python's sets (PYTHONHASHSEED), tasks seed global generators
and print, and a scorer may not return on a hostile answer. It imports nothing of near.
"""

import faulthandler
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Iterator
from types import FrameType

TRIES = 3  # indices tried for each row that is wanted, and FIRST more
MEMORY = 4 << 30  # bytes of address space
FIRST = 12  # a task whose first rows are all left out is given up


def rows(job: dict) -> Iterator[dict]:
    """Rows of one task, then how many were left out, by reason.

    Args:
        job: task, level (0: the library's defaults, else of its curriculum), seed, start (the first index), count (rows
            that are wanted), longest (characters of a row), without (questions of earlier rows).

    Yields:
        {"entry": {"question", "answer", "metadata"}}; at the end {"next": the index after these, "left_out": {reason:
        count}}.
    """
    seen, left_out, taken = set(job["without"]), dict.fromkeys(("failed", "long", "not checkable", "repeated"), 0), 0
    dataset, index = _dataset(job), job["start"]
    while dataset is not None and taken < job["count"] and index < len(dataset):
        entry, reason = _made(dataset, index, job["longest"], seen)
        index += 1
        if reason:
            left_out[reason] += 1
        else:
            seen.add(entry["question"])
            taken += 1
            yield {"entry": {key: entry[key] for key in ("question", "answer", "metadata")}}
        if index == FIRST == left_out["long"] + left_out["failed"]:
            break
    yield {"next": index, "left_out": left_out}


def _dataset(job: dict):
    """The task's data at a level; None if the task has no such level."""
    from reasoning_gym.factory import CURRICULA, DATASETS

    random.seed(job["seed"])
    cls, config = DATASETS[job["task"]]
    options = {"seed": job["seed"], "size": job["start"] + TRIES * job["count"] + FIRST}
    if not job["level"]:
        return cls(config=config(**options))
    if job["task"] not in CURRICULA:
        return None
    curriculum = CURRICULA[job["task"]]()
    curriculum.set_global_level(job["level"])
    try:
        return cls(config=curriculum.generate_configuration(options))
    except AssertionError:  # a level that the task's own checks refuse
        return None


def _made(dataset, index: int, longest: int, seen: set[str]) -> tuple[dict, str | None]:
    """A row, and why it is left out."""
    try:
        entry = dataset[index]
    except Exception:  # some tasks give up on some indices ("no valid expression after 100 attempts")
        return {}, "failed"
    question, answer = entry["question"], entry["answer"]
    if not isinstance(answer, str) or not answer.strip():
        return entry, "not checkable"
    if len(question) + len(answer) > longest:
        return entry, "long"
    if question in seen:
        return entry, "repeated"
    try:
        stored = json.loads(json.dumps(entry))
        return entry, None if dataset.score_answer(answer.strip(), stored) == 1 else "not checkable"
    except Exception:  # metadata that JSON can't hold, such as fractions, or that the scorer can't read again
        return entry, "not checkable"


def scores(job: dict) -> Iterator[dict]:
    """The library's score of one answer: job has task, entry, answer, seconds; yields {"score": 0 to 1}."""
    from reasoning_gym.factory import DATASETS

    cls, config = DATASETS[job["task"]]
    signal.alarm(job["seconds"])
    faulthandler.dump_traceback_later(2 * job["seconds"] + 1, exit=True)  # where C code does not notice the alarm
    try:
        score = float(cls(config=config()).score_answer(job["answer"], job["entry"]))
    except Exception:  # an answer that the scorer can't read, or on which it takes too long, is wrong
        score = 0.0
    signal.alarm(0)
    faulthandler.cancel_dump_traceback_later()
    yield {"score": min(1.0, max(0.0, score)) if score == score else 0.0}


class _Late(Exception):
    """A scorer took too long."""


def _late(signum: int, frame: FrameType | None) -> None:
    raise _Late


def main() -> None:
    """Answer each job's line on standard input with lines of results and an empty line."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some tasks print
    import reasoning_gym  # noqa: F401 - registers all tasks

    work = {"rows": rows, "scores": scores}[sys.argv[1]]
    signal.signal(signal.SIGALRM, _late)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        for result in work(json.loads(line)):
            results.write(json.dumps(result) + "\n")
        results.write("\n")
        results.flush()


if __name__ == "__main__":
    main()
