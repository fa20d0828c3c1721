"""How often graders read a text as a person does, compared with lm-eval's filters.

    python bench/graders.py [GSM8K.jsonl ...]

First on the cases of tests/, each with its reason; then, for files in GSM8K's form, on the solutions without their last
line ("#### 42"), and with "The answer is 42. It took 7 steps." instead of it.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import re
from collections.abc import Callable
from fractions import Fraction

from bench import common
from near.common.errors import UserError
from near.evaluation.graders.choice import letters
from near.evaluation.graders.number import final_number
from tests import graded_choices, graded_numbers, lm_eval_filters

Reads = dict[str, Callable[[str], object]]


def as_number(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


NUMBERS: Reads = {
    "number": final_number,
    "lm-eval's strict-match": lambda text: as_number(lm_eval_filters.gsm8k_strict(text)),
    "lm-eval's flexible-extract": lambda text: as_number(lm_eval_filters.gsm8k_flexible(text)),
}
LETTERS: Reads = {
    "choice": lambda text: "".join(sorted(letters(text) or "")) or None,
    "lm-eval's strict-match": lambda text: lm_eval_filters.mmlu_strict(text) or None,
    "lm-eval's flexible-extract": lambda text: lm_eval_filters.mmlu_flexible(text) or None,
    "lm-eval's generative": lambda text: lm_eval_filters.mmlu_generative(text) or None,
}


def table(title: str, reads: Reads, cases: list[tuple[str, object]]) -> None:
    print(f"{title}, {len(cases)} texts:")
    for name, read in reads.items():
        print(f"  {name}: {sum(read(text) == expected for text, expected in cases)}")


def solutions_of(path: str) -> list[tuple[str, Fraction]]:
    """Solutions of a file in GSM8K's form without their last line, and the number in it."""
    solutions = []
    try:
        for line in Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"):
            solution, _, number = json.loads(line)["answer"].rpartition("####")
            text = re.sub(r"<<.*?>>", "", solution).strip()
            solutions.append((text, Fraction(number.strip().replace(",", "").replace("$", ""))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file in GSM8K's form ({type(error).__name__}: {error})") from error
    return solutions


def main(*files: str) -> None:
    solutions = [solution for file in files for solution in solutions_of(file)]
    numbers = [(text, number) for text, number, _ in graded_numbers.CASES]
    table("numbers", NUMBERS, numbers)
    whole = [(t, n) for t, n in numbers if n is not None and Fraction(str(n)).denominator == 1]
    table("whole numbers", NUMBERS, whole)
    choices = [(text, chosen) for text, chosen, _ in graded_choices.CASES if chosen is None or len(chosen) == 1]
    table("one letter or none", LETTERS, choices)
    if solutions:
        table("solutions", NUMBERS, solutions)
        stated = [(f"{text}\nThe answer is {number}. It took 7 steps.", number) for text, number in solutions]
        table("solutions that go on", NUMBERS, stated)


if __name__ == "__main__":
    common.script(main)
