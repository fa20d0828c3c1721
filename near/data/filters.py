"""Conditions that select rows of a source: data.candidates.filter={column: condition}.

A condition is a value, a comparison, a range or a list:

    2019, en, true, null            equal to it; a number also equals its text, as in CSV files
    ">0.5", ">=2019", "<3", "!=en"  a comparison: by number if it names one, else by text ("=x": equal to the text x,
                                    whatever x looks like); several must all be true: ">0.2 <0.8"
    "0.2..0.8", "2019..", "..3"     a range of numbers, ends included
    [a, b, "5..6"]                  any of these; comparisons in a list must all be true, too: ["!=a", "!=b"]

The conditions of all columns must be true. A value that can't be compared with the condition's number passes only "!=".
"""

import datetime
import decimal
import re
from collections.abc import Callable, Mapping

import numpy as np

from near.common.errors import UserError, did_you_mean, printable

Test = Callable[[object], bool]
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_COMPARISON = re.compile(r"\s*(>=|<=|!=|>|<|=)(.*)", re.DOTALL)
_SEVERAL = re.compile(rf"(?:\s*(?:>=|<=|!=|>|<)\s*{NUMBER}(?=\s|$|[<>!])){{2,}}\s*")
_ONE = re.compile(rf"(>=|<=|!=|>|<)\s*({NUMBER})")
_RANGE = re.compile(rf"\s*({NUMBER})?\s*\.\.\s*({NUMBER})?\s*")
SHOWN = 10  # distinct values of a column that are stored for error messages


class Filter:
    """The conditions of one source. `values`: up to SHOWN distinct values of each filtered column."""

    def __init__(self, conditions: Mapping[str, object], where: str):
        """where: the filter's key, for error messages. Raises UserError for a condition that can't be parsed."""
        self.tests = {str(column): _test(condition, f"{where}.{column}") for column, condition in conditions.items()}
        self.values: dict[str, list] = {column: [] for column in self.tests}

    def check(self, columns: list[str], where: str) -> None:
        """UserError if a filtered column is not one of `columns`."""
        for column in self.tests:
            if column not in columns:
                names = list(map(str, columns))
                raise UserError(
                    f"{where}: no column '{column}'; its columns: {', '.join(names) or 'none'}"
                    f"{did_you_mean(column, names)}"
                )

    def passes(self, raw: Mapping) -> bool:
        """Whether all conditions are true for a raw row."""
        passed = True
        for column, test in self.tests.items():
            value, values = raw.get(column), self.values[column]
            if len(values) < SHOWN and (shown := printable(value, 40)) not in values:
                values.append(shown)
            passed = passed and test(value)
        return passed


def _test(condition: object, where: str) -> Test:
    if isinstance(condition, list):
        tests = [(_test(one, where), isinstance(one, str) and bool(_COMPARISON.fullmatch(one))) for one in condition]
        anyone = [test for test, compares in tests if not compares]
        every = [test for test, compares in tests if compares]

        def listed(value: object) -> bool:
            if not all(test(value) for test in every):
                return False
            return any(test(value) for test in anyone) if anyone else bool(every)

        return listed
    if isinstance(condition, Mapping):
        raise UserError(f'{where}: a condition is a value, a text such as ">0.5" or "1..3", or a list of these')
    if not isinstance(condition, str):
        return lambda value: _equal(value, condition)
    if _SEVERAL.fullmatch(condition):
        parts = [_compared(sign, number, where) for sign, number in _ONE.findall(condition)]
        return lambda value: all(test(value) for test in parts)
    if match := _COMPARISON.fullmatch(condition):
        return _compared(match[1], match[2].strip(), where)
    match = _RANGE.fullmatch(condition)
    if match and (match[1] or match[2]):
        low, high = (number_of(text) for text in match.groups())
        if low is not None and high is not None and low > high:
            raise UserError(f"{where}={condition}: the range is empty; write {match[2]}..{match[1]}")
        return lambda value: (
            (number := number_of(value)) is not None
            and (low is None or number >= low)
            and (high is None or number <= high)
        )
    return lambda value: _equal(value, condition)


def _compared(sign: str, operand: str, where: str) -> Test:
    if not operand and sign not in ("!=", "="):
        raise UserError(f'{where}: "{sign}" compares with nothing; write for example "{sign}0.5"')
    limit = number_of(operand)
    if sign in ("!=", "="):

        def equal(value: object) -> bool:
            return value is not None and (_equal(value, operand) or limit is not None and number_of(value) == limit)

        return equal if sign == "=" else lambda value: not equal(value)
    order = {
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
    }[sign]

    def test(value: object) -> bool:
        if isinstance(value, datetime.date | datetime.time):
            return order(value.isoformat(), operand)
        if limit is not None:
            number = number_of(value)
            return number is not None and order(number, limit)
        return isinstance(value, str) and order(value, operand)

    return test


def _equal(value: object, expected: object) -> bool:
    if isinstance(expected, int | float) and not isinstance(expected, bool):
        return not isinstance(value, bool) and number_of(value) == expected
    if isinstance(expected, str) and isinstance(value, int | float | decimal.Decimal) and not isinstance(value, bool):
        return number_of(value) == number_of(expected) is not None
    if isinstance(expected, bool) and isinstance(value, str):
        return value.strip().lower() == str(expected).lower()
    if isinstance(value, datetime.date | datetime.time) and isinstance(expected, str):
        return value.isoformat() == expected
    if isinstance(expected, bool) != isinstance(value, bool):
        return False
    return bool(np.all(value == expected)) if isinstance(value, np.ndarray) else value == expected


def number_of(value: object) -> int | float | None:
    """`value` as a number if it is one or is the text of one; None for anything else, and for NaN."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        if not re.fullmatch(NUMBER, text):
            return None
        return int(text) if re.fullmatch(r"[+-]?\d{1,300}", text) else float(text)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, int | float | np.number):
        return value if value == value else None  # NaN is not; math.isnan can't read a whole number of 400 digits
    return None
