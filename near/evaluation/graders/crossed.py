"""Whether an answer is the list that a row of data=crossed asks for."""

import json
import re
from collections.abc import Sequence

from near.evaluation.graders.base import Answer, Grade, Grader

QUOTES = "\"'`“”‘’"
SEPARATORS = re.compile(r"[\s,;]+")


class Crossed(Grader):
    """1 if an answer has the items of column `answer` in their order and nothing else, else 0; None for a row without.

    In the form "plain" white space, commas, quotes and a final full stop do not count, upper and lower case do. In the
    form "json" the answer must be JSON, white space apart, with numbers as numbers.
    """

    columns = ("answer", "form")

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        return [self._grade(answer) for answer in answers]

    def _grade(self, answer: Answer) -> Grade:
        expected, form = ((answer.raw or {}).get(name) for name in self.columns)
        if not isinstance(expected, list) or form not in ("plain", "json"):
            return Grade(None)
        if not answer.text.strip():
            return Grade(0.0, no_answer=True)
        if form == "json":
            return Grade(float(same(expected, as_json(answer.text))))
        return Grade(float([str(item) for item in expected] == as_plain(answer.text)))


def as_plain(text: str) -> list[str]:
    """The items of `a, b, c`, in quotes or not."""
    items = (item.strip(QUOTES) for item in SEPARATORS.split(text.strip().removesuffix(".")))
    return [item for item in items if item]


def as_json(text: str) -> object:
    """The value of JSON text; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def same(expected: list, actual: object) -> bool:
    """Whether both are lists of equal items; the number 1 is neither true nor "1"."""
    return isinstance(actual, list) and list(map(repr, expected)) == list(map(repr, actual))
