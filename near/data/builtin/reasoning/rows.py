"""The rows of data=reasoning: questions of reasoning-gym's tasks, one of which is the target.

Each row has `messages`, its labels task, family and difficulty, and `entry`, the JSON by which the library's scorer of
the task checks an answer. Left out are rows longer than data.longest, repeated questions, and rows whose own answer the
scorer does not call right once they are stored.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from near.common.errors import UserError
from near.common.extras import need
from near.common.files import digest, write_jsonl
from near.data.builtin.reasoning.arithmetic import is_harmless
from near.data.builtin.reasoning.options import ReasoningOptions
from near.data.builtin.reasoning.process import Died, LimitedProcess
from near.data.builtin.reasoning.tasks import TASKS

log = logging.getLogger(__name__)


def write_reasoning(options: ReasoningOptions, folder: Path) -> None:
    """Write pool.jsonl, queries.jsonl and eval.jsonl into `folder`.

    Raises:
        UserError: the package is missing, one of its tasks fails, or the target has too few rows.
    """
    need("data=reasoning", "reasoning")
    rng = np.random.default_rng(options.seed)
    log.info(f"making the rows of {len(options.tasks) + 1} tasks with reasoning-gym (once; up to some minutes)")
    with LimitedProcess("rows") as worker:
        maker = _Maker(worker, options)
        target = maker.rows(options.target, options.difficulty, options.queries + options.evals, (), "target")
        if len(target) < options.queries + options.evals:
            raise UserError(
                f"data.target={options.target} has {len(target)} different rows of at most {options.longest} "
                f"characters at data.difficulty={options.difficulty}, not {options.queries + options.evals}; use "
                "another target, fewer data.query_rows and data.eval_rows, or a larger data.longest"
            )
        prompts = [row["messages"][0]["content"] for row in target]
        pool = maker.spread(options.target, options.own, prompts)
        for task in options.tasks:
            pool += maker.spread(task, options.per_task, ())
    if not pool:
        raise UserError("data.tasks: no row of the pool is short enough; use a larger data.longest or other tasks")
    shown = ", ".join(f"{count:,} {reason}" for reason, count in sorted(maker.left_out.items()) if count)
    log.info(f"{len(pool):,} rows of {len({row['task'] for row in pool})} tasks; left out: {shown or 'none'}")
    order = rng.permutation(len(target))
    parts = {"queries": order[: options.queries], "eval": order[options.queries :]}
    write_jsonl(folder / "pool.jsonl", (pool[i] for i in rng.permutation(len(pool))))
    for name, chosen in parts.items():
        write_jsonl(folder / f"{name}.jsonl", (target[i] for i in chosen))


class _Maker:
    """Asks for rows and counts those left out."""

    def __init__(self, worker: LimitedProcess, options: ReasoningOptions):
        self.worker, self.options = worker, options
        self.left_out: Counter[str] = Counter()

    def rows(self, task: str, level: int, count: int, without: Iterable[str], part: str = "pool") -> list[dict]:
        """At most `count` rows of a task at a level for a part, without these questions."""
        seed = int(digest([self.options.seed, task, level, part])[:7], 16)
        job = {"task": task, "level": level, "seed": seed, "start": 0, "longest": self.options.longest}
        rows, prompts = [], list(without)
        while len(rows) < count:
            try:
                *results, end = self.worker.ask({**job, "count": count - len(rows), "without": prompts})
            except Died as error:
                raise UserError(
                    f"data=reasoning: task {task} failed in reasoning-gym ({error}); name others in data.tasks"
                ) from error
            job["start"] = end["next"]
            self.left_out.update(end["left_out"])
            for entry in [result["entry"] for result in results]:
                prompts.append(entry["question"])
                if is_harmless(task, entry, entry["answer"].strip()):
                    rows.append(_row(task, level, entry))
                else:
                    self.left_out["not checkable"] += 1
            if not results:
                break
        return rows

    def spread(self, task: str, count: int, without: Iterable[str]) -> list[dict]:
        """`count` rows over data.difficulties, the hardest first; what one lacks, an easier one has in addition."""
        rows: list[dict] = []
        prompts = list(without)
        for left, level in sorted(enumerate(self.options.difficulties, 1), reverse=True):
            more = self.rows(task, level, -(-(count - len(rows)) // left), prompts)
            prompts += [row["messages"][0]["content"] for row in more]
            rows += more
        return rows


def _row(task: str, level: int, entry: dict) -> dict:
    turns = [("user", entry["question"]), ("assistant", entry["answer"])]
    return {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "task": task,
        "family": TASKS[task],
        "difficulty": level,
        "entry": json.dumps(entry, ensure_ascii=False, sort_keys=True),
    }
