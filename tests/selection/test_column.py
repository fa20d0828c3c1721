"""selector=column: rows by a number that they have."""

import json
import logging

import numpy as np
import pytest

import near
from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.selection.round import Round
from near.selection.select import select
from near.selection.selectors.column import Column
from near.selection.selectors.parts import LeftOut, Quantile
from near.training.train import train
from tests.conftest import configured, write_rows

VALUES = [0.5, None, "0.9", True, "good", float("nan"), float("inf"), -2, 0, 0.5, 10**400, "1e-1", [1], 3]
#         0    1     2      3     4       5             6             7   8  9    10       11      12  13
NUMBERS = {0: 0.5, 2: 0.9, 7: -2, 8: 0, 9: 0.5, 11: 0.1, 13: 3}
ELIGIBLE = np.arange(13)  # row 13, the best, is not


def round_of(size: int = 5, **changed) -> Round:
    context = {"columns": {"score": VALUES}, **changed}
    return Round.alone(size, context.pop("seed", 0), context.pop("eligible", ELIGIBLE), len(VALUES), **context)


@pytest.mark.parametrize(("pick", "rows"), [("highest", [2, 0, 9, 11, 8]), ("lowest", [7, 8, 11, 0, 9])])
def test_by_value_and_ties_by_lower_id(pick, rows):
    subset = Column(pick=pick).select(round_of())
    assert subset.ids.tolist() == rows
    np.testing.assert_allclose(subset.scores, [NUMBERS[row] * (-1 if pick == "lowest" else 1) for row in rows])
    assert Column(pick=pick).select(round_of(2)).ids.tolist() == rows[:2]
    assert len(Column(pick=pick).select(round_of(50)).ids) == 6  # rows with a number


def test_a_band_has_its_ends_and_is_drawn_anew_each_round():
    band = Column(pick="band", band=(0, 0.5))
    assert sorted(band.select(round_of(50)).ids) == [0, 8, 9, 11]
    orders = {tuple(band.select(round_of(2, seed=seed)).ids) for seed in range(20)}
    assert len(orders) > 4 and orders <= {(a, b) for a in (0, 8, 9, 11) for b in (0, 8, 9, 11) if a != b}
    assert band.select(round_of(3)).ids.tolist() == band.select(round_of(3)).ids.tolist()


def test_weights_draw_in_proportion():
    """0.9, 0.5, 0.5 and 0.1 of 2; neither 0 nor the negative one is ever drawn."""
    picked = [Column(pick="weights").select(round_of(1, seed=seed)).ids[0] for seed in range(2000)]
    for row, weight in {0: 0.5, 2: 0.9, 9: 0.5, 11: 0.1}.items():
        expected = 2000 * weight / 2
        assert abs(picked.count(row) - expected) < 5 * (expected * (1 - weight / 2)) ** 0.5
    assert set(picked) == {0, 2, 9, 11}
    assert sorted(Column(pick="weights").select(round_of(50)).ids) == [0, 2, 9, 11]


@pytest.mark.parametrize(
    ("pick", "reasons"),
    [
        ("highest", "7 rows of 13 left out (1 without a value, 6 without a finite number)"),
        ("weights", "8 rows of 13 left out (1 without a value, 6 without a finite number, 1 with a negative number)"),
    ],
)
def test_rows_without_a_number_are_counted(caplog, pick, reasons):
    caplog.set_level(logging.INFO)
    Column(pick=pick).check_columns({"score": VALUES}, ELIGIBLE)
    assert f"selector.column=score: {reasons}" in caplog.text


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        ({}, ["a", None, True], "no row that may be selected has a finite number there (one has a)"),
        ({}, [None, None, None], "no row that may be selected has a finite number there"),
        ({"pick": "weights"}, [0, -1, 0], "no number is above 0; they are 0 to 0"),
        ({"pick": "weights"}, [-3, -1, -2], "no row that may be selected"),
        ({"pick": "band", "band": (2, 3)}, [1, "4", 5], "no number is in selector.band=[2, 3]; they are 1 to 5"),
    ],
)
def test_columns_of_no_use_are_refused(options, values, message):
    with pytest.raises(UserError) as fault:
        Column(**options).check_columns({"score": values}, np.arange(3))
    assert message in str(fault.value)


@pytest.mark.parametrize(
    "options", [{"pick": "band"}, {"pick": "band", "band": (1, 0)}, {"pick": "band", "band": (1,)}, {"band": (0, 1)}]
)
def test_a_band_and_its_pick_go_together(options):
    with pytest.raises(UserError, match="selector.band="):
        Column(**options)


def test_parts_of_it():
    """The first third of its ranking, and its choice without the best rows."""
    for pick, best in (("highest", [2, 0, 9]), ("lowest", [7, 8, 11])):
        third = Quantile(Column(pick=pick), quantile=1, quantiles=4).select(round_of(50))
        assert set(third.ids) >= set(best)
        assert LeftOut(Column(pick=pick), count=2).select(round_of(3)).ids.tolist() == best[2:]
    with pytest.raises(UserError, match="name another column"):
        LeftOut(Column()).check_columns({"score": ["a"] * 3}, np.arange(3))


# select.py and train.py


@pytest.fixture()
def scored(tmp_path, cache) -> list[str]:
    rows = [{"instruction": f"q{i}", "output": "a b", "reward": {"model": (i * 7) % 30 / 10}} for i in range(30)]
    rows[3]["reward"] = None
    paths = {"candidates": rows, "queries": [{"instruction": "q", "output": "c"}]}
    files = [f"data.{part}.path={write_rows(tmp_path / f'{part}.jsonl', of)}" for part, of in paths.items()]
    return ["data=files", *files, f"cache_dir={cache}", "selector=column", "selector.column=reward.model"]


def test_select(tmp_path, scored):
    out = tmp_path / "out"
    select(configured("select", *scored, "n=4", "export=jsonl"), out)
    best = sorted(range(30), key=lambda i: -((i * 7) % 30) if i != 3 else 99)[:4]
    assert np.load(out / "subset.npy").tolist() == best
    lines = [json.loads(line) for line in (out / "subset.jsonl").read_text().splitlines()]
    assert [round(line["score"], 6) for line in lines] == [line["reward"]["model"] for line in lines]
    with pytest.raises(UserError, match="another subset"):
        select(configured("select", *scored, "n=4", "selector.pick=lowest"), out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["selector.column=reward.modl"], "no row has a column 'reward.modl'"),
        (["selector.column=instruction"], "has a finite number there (one has q0)"),
        (["selector.pick=band", "selector.band=[7,9]"], "no number is in selector.band=[7, 9]; they are 0 to 2.9"),
    ],
)
def test_a_column_of_no_use_is_refused_and_nothing_written(tmp_path, scored, words, message):
    with pytest.raises(UserError) as fault:
        select(configured("select", *scored, *words, "n=4"), tmp_path / "out")
    assert message in str(fault.value) and not (tmp_path / "out").exists()


def test_fewer_rows_than_n(tmp_path, scored, caplog):
    words = ["selector.pick=band", "selector.band=[0,0.5]", "n=20"]
    select(configured("select", *scored, *words), tmp_path / "out")
    assert "selector column picked 6 rows, fewer than n=20" in caplog.text


def test_train(tmp_path, scored, tiny):
    shape = [word for word in tiny if word.startswith(("model", "finetuning", "+trainer", "trainer", "evaluation"))]
    train(configured("train", *scored, *shape, "selector.pick=lowest", f"output_dir={tmp_path}/run"), tmp_path / "run")
    assert "candidates.columns" in RunFolder(tmp_path / "run").training.identity.fingerprints
    orders = [np.load(path) for path in sorted((tmp_path / "run" / "rounds").glob("*_order.npy"))[1:]]
    lowest = sorted((i for i in range(30) if i != 3), key=lambda i: (i * 7) % 30)
    assert orders and all(set(order) == set(lowest[: len(set(order))]) for order in orders)


def test_the_library(tmp_path):
    rows = [{"text": f"row {i}", "score": i % 5} for i in range(10)]
    assert near.select([{"text": "x"}], rows, 3, selector="column", cache_dir=tmp_path).ids.tolist() == [4, 9, 3]
    with pytest.raises(UserError, match="give rows"):
        near.select(np.eye(3), np.eye(3), 1, selector="column", cache_dir=tmp_path)
