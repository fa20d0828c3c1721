"""Conditions of data.*.filter, on values of JSON, CSV and Parquet files."""

import datetime
import decimal

import numpy as np
import pytest

from near.common.errors import UserError
from near.data.filters import Filter
from near.data.loading import load
from tests.conftest import configured, write_rows

DAY = datetime.date(2020, 5, 1)


@pytest.mark.parametrize(
    ("condition", "passing", "failing"),
    [
        (
            2019,
            [2019, 2019.0, "2019", " 2019 ", decimal.Decimal(2019), np.int64(2019)],
            [2020, "2019x", None, True, ""],
        ),
        (0.5, ["0.50", 0.5, "5e-1"], ["half", 0.51]),
        ("2019", ["2019", 2019], ["02019 ", 2020]),
        ("en", ["en"], ["EN", None, 3, ["en"]]),
        (True, [True, "true", "True"], [False, 1, "yes", None]),
        (1, [1, "1"], [True]),
        (None, [None], ["", 0]),
        (">0.5", [0.6, "0.6", "1e3", np.float32(0.75)], [0.5, "0.5", None, "", "high", float("nan"), [1]]),
        (">=2019", [2019, "2020", DAY], [2018, "x", datetime.date(2018, 1, 1)]),
        ("<3", [-1, "2.9"], [3, "3"]),
        ("<= 3", [3, "3"], [3.1]),
        ("!=en", ["de", None, 3], ["en"]),
        ("!=3", ["x", 4, None], [3, "3", "3.0"]),
        ("=>0.5", [">0.5"], [0.6]),
        (">=2020-01-01", ["2020-05-01", DAY], ["2019-12-31", None]),
        (">0.2 <0.8", [0.5, "0.3"], [0.2, 0.8, "x"]),
        (">0.2<0.8", [0.5], [0.9]),
        ("0.2..0.8", [0.2, "0.8", 0.5], [0.1, "0.9", "x", None]),
        ("2019..", [2019, "2030"], [2018]),
        ("..3", [3, -7], [4]),
        ("-5..-3", [-4, "-3"], [3, -6]),
        ("see ..", ["see .."], ["see"]),
        (["a", "b"], ["a", "b"], ["c", None]),
        ([1, "5..6"], [1, "1", 5.5], [2, 7]),
        (["!=a", "!=b"], ["c", None], ["a", "b"]),
        ([">0.2", "<0.8"], [0.5], [0.1, 0.9]),
        ([2018, 2019, "!=2019"], [2018], [2019, 2020]),
        ([], [], ["a", None]),
        (2**60 + 1, [2**60 + 1, str(2**60 + 1)], [2**60]),
    ],
)
def test_conditions(condition, passing, failing):
    test = Filter({"c": condition}, "data.candidates.filter")
    assert [value for value in passing if not test.passes({"c": value})] == []
    assert [value for value in failing if test.passes({"c": value})] == []


@pytest.mark.parametrize(
    ("condition", "match"),
    [(">", "compares with nothing"), ("0.8..0.2", "write 0.2..0.8"), ({"min": 3}, "a condition is a value")],
)
def test_conditions_that_are_none(condition, match):
    with pytest.raises(UserError, match=match):
        Filter({"c": condition}, "data.candidates.filter")


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl"])
@pytest.mark.parametrize(("condition", "ids"), [(2019, [1, 3]), (">=2020", [2]), ("2018..2019", [0, 1, 3])])
def test_text_compares_as_numbers_do(tmp_path, cache, name, condition, ids):
    years = [2018, 2019, 2020, 2019]
    if name == "p.jsonl":
        write_rows(tmp_path / name, [{"question": f"q{i}", "answer": "a", "year": y} for i, y in enumerate(years)])
    else:
        lines = [f"q{i}\ta\t{y}" for i, y in enumerate(years)]
        text = "\n".join(["question\tanswer\tyear", *lines])
        (tmp_path / name).write_text(text if name == "p.tsv" else text.replace("\t", ","))
    cfg = configured("select", "data=files", f"data.candidates.path={tmp_path / name}")
    cfg.data.candidates.filter = {"year": condition}
    assert load(cfg.data, "candidates", str(cache)).eligible().tolist() == ids


def test_a_filter_that_leaves_nothing_says_what_there_is(tmp_path, cache):
    rows = [{"question": f"q{i}", "answer": "a", "year": 2018 + i % 3, "lang": "en"} for i in range(9)]
    cfg = configured("select", "data=files", f"data.candidates.path={write_rows(tmp_path / 'p.jsonl', rows)}")
    cfg.data.candidates.filter = {"year": 2035}
    with pytest.raises(UserError, match="matches no row; widen it; the rows have year: 2018, 2019, 2020$"):
        load(cfg.data, "candidates", str(cache))
    cfg.data.candidates.filter = {"lnag": "en"}
    with pytest.raises(UserError, match="no column 'lnag'.*did you mean lang"):
        load(cfg.data, "candidates", str(cache))
