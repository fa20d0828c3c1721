"""The scorers of reasoning-gym's tasks (the extra `reasoning`), for data=reasoning."""

import json
from collections.abc import Mapping, Sequence

from near.common.extras import need
from near.data.builtin.reasoning.arithmetic import is_harmless
from near.data.builtin.reasoning.process import Died, LimitedProcess
from near.data.builtin.reasoning.tasks import TASKS
from near.evaluation.graders.base import Answer, Grade, Grader


class ReasoningGym(Grader):
    """The score, 0 to 1, that the library's scorer of a row's task gives; None for a row of another data set.

    Where the scorer evaluates an answer, only arithmetic with names of variables and functions is handed to it.

    Args:
        seconds: of one answer.
    """

    columns = ("task", "entry")

    def __init__(self, seconds: int = 10):
        self.seconds = seconds

    def check(self) -> None:
        need("evaluation.graders.reasoning_gym", "reasoning")

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        grades, left = {}, []
        for at, answer in enumerate(answers):
            job = self._job(answer)
            if job is None:
                grades[at] = Grade(None)
            elif not answer.text.strip():
                grades[at] = Grade(0.0, no_answer=True)
            elif not is_harmless(job["task"], job["entry"], job["answer"]):
                grades[at] = Grade(0.0, "no expression")
            else:
                left.append((at, job))
        while left:
            with LimitedProcess("scores") as worker:
                left = self._scored(worker, left, grades)
        return [grades[at] for at in range(len(answers))]

    def _scored(
        self, worker: LimitedProcess, jobs: list[tuple[int, dict]], grades: dict[int, Grade]
    ) -> list[tuple[int, dict]]:
        """Grade jobs until the worker dies over one, which then counts as wrong; return the jobs after that."""
        for done, (at, job) in enumerate(jobs):
            try:
                grades[at] = Grade(worker.ask(job)[0]["score"])
            except Died as error:
                grades[at] = Grade(0.0, f"the scorer failed: {error}")
                return jobs[done + 1 :]
        return []

    def _job(self, answer: Answer) -> dict | None:
        """What the worker needs to score an answer; None if its row has no task or no entry."""
        raw = answer.raw or {}
        try:
            entry = json.loads(raw.get("entry") or "null")
        except (TypeError, ValueError):
            entry = None
        if (
            str(raw.get("task")) not in TASKS
            or not isinstance(entry, Mapping)
            or not isinstance(entry.get("answer"), str)
        ):
            return None
        return {"task": raw["task"], "entry": entry, "answer": answer.text.strip(), "seconds": self.seconds}
