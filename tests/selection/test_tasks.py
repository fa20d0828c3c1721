"""Budgets of tasks: every selector that knows the queries' tasks takes rows for each in turn."""

import dataclasses

import numpy as np
import pytest

from near.common.errors import UserError
from near.searching.neighbours import Neighbours
from near.searching.vectors import ArrayVectors
from near.selection.round import Round, Subset
from near.selection.select import select
from near.selection.selectors.doubly_greedy import DoublyGreedy
from near.selection.selectors.less import Less
from near.selection.selectors.mean_sim import MeanSim
from near.selection.selectors.near import Near
from near.selection.selectors.parts import LeftOut
from near.selection.selectors.tasks import check_budgets, in_turn, rows_of
from near.selection.selectors.tsds import KnnUniform, Tsds
from near.selection.selectors.uot import Uot
from near.selection.similarity import VectorSimilarity
from near.training.train import train
from tests.conftest import configured, write_rows
from tests.scored import FakeScorer, Queries


@pytest.mark.parametrize(
    ("budgets", "size", "expected"),
    [
        ("equal", 9, {"a": 3, "b": 3, "c": 3}),
        ("equal", 10, {"a": 4, "b": 3, "c": 3}),
        ("equal", 2, {"a": 1, "b": 1, "c": 0}),
        ({"c": 0.5}, 10, {"c": 5, "a": 3, "b": 2}),
        ({"c": 4}, 10, {"c": 4, "a": 3, "b": 3}),
        ({"b": 0.2, "c": 3}, 10, {"b": 2, "c": 3, "a": 5}),
        ({"a": 0.33, "b": 0.33, "c": 0.33}, 100, {"a": 34, "b": 33, "c": 33}),
        ({"a": 0.29, "b": 0.01, "c": 0.7}, 100, {"a": 29, "b": 1, "c": 70}),
        ({"a": 1.0}, 7, {"a": 7, "b": 0, "c": 0}),
        ({"a": 1}, 7, {"a": 1, "b": 3, "c": 3}),
        ({"a": 2, "b": 0, "c": 3}, 10, {"a": 2, "b": 0, "c": 3}),  # numbers may leave some of a round
    ],
)
def test_rows_of_each_task(budgets, size, expected):
    rows = rows_of(budgets, ["a", "b", "c"], size)
    assert rows == expected and list(rows) == list(expected)


def test_budgets_add_up():
    rng = np.random.default_rng(0)
    for _ in range(300):
        tasks, size = [f"t{i}" for i in range(rng.integers(1, 8))], int(rng.integers(1, 200))
        shares = rng.dirichlet(np.ones(len(tasks)))
        part = dict(zip(tasks, map(float, shares), strict=True))
        some = dict(list(part.items())[: rng.integers(0, len(tasks) + 1)])
        for budgets in (part, some, "equal"):
            rows = rows_of(budgets, tasks, size)
            assert sum(rows.values()) == size and set(rows) == set(tasks)
            named = {} if budgets == "equal" else budgets
            assert all(abs(rows[task] - share * size) <= 1 for task, share in named.items())


RANKINGS = {"a": [5, 2, 7, 1], "b": [5, 9, 2, 1], "c": [9, 5, 2]}


def test_tasks_take_turns_and_a_shared_row_is_the_firsts():
    rank = lambda task: Subset(np.array(RANKINGS[task]), np.arange(4, 0, -1, dtype=np.float32)[: len(RANKINGS[task])])  # noqa: E731
    subset = in_turn("equal", ["a", "b", "c"], 5, rank)
    assert subset.ids.tolist() == [5, 9, 2, 7, 1] and subset.scores.tolist() == [4, 3, 2, 2, 1]
    assert in_turn({"b": 3, "a": 2}, ["a", "b"], 5, rank).ids.tolist() == [5, 2, 9, 7, 1]
    assert in_turn({"c": 1.0}, ["a", "b", "c"], 5, rank).ids.tolist() == [9, 5, 2]  # no others fill its budget


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ({"mahts": 0.5}, "no query is of the task 'mahts' (data.queries.columns.source); did you mean maths?"),
        ({"maths": 0.5, "law": 0.3}, "the shares of all tasks add up to 0.8; make it 1"),
        ({"maths": 0.9, "law": 0.9}, "the shares of all tasks add up to 1.8; make it 1"),
        ({"maths": 11}, "add up to 11 rows, more than the 10 of a round"),
        ({"maths": 6, "law": 5}, "add up to 11 rows, more than the 10 of a round"),
        ({"maths": 6, "law": 0.5}, "add up to 11 rows, more than the 10 of a round"),
        ({"maths": 0, "law": 0}, "are all 0"),
    ],
)
def test_budgets_that_do_not_fit(budgets, message):
    with pytest.raises(UserError) as fault:
        check_budgets(budgets, ["law", "maths"], [20, 10])
    assert message in str(fault.value)


# every selector: rows 0 to 9 are near task a's two queries, rows 10 to 19 near task b's one

POOL = np.zeros((20, 4), dtype=np.float32)
POOL[:10, 0], POOL[10:, 1] = 1, 1
POOL[np.arange(20), 2] = np.linspace(0, 0.9, 20)
POOL /= np.linalg.norm(POOL, axis=1, keepdims=True)
QUERIES = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0.1]], dtype=np.float32)
QUERIES /= np.linalg.norm(QUERIES, axis=1, keepdims=True)


def round_of(size: int = 8) -> Round:
    scores = QUERIES @ POOL.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    neighbours = Neighbours(order, np.take_along_axis(scores, order, axis=1), {})
    similarity = VectorSimilarity(ArrayVectors(POOL), QUERIES, np.arange(20), 20, neighbours)
    context = {"neighbours": neighbours, "similarity": similarity, "queries": Queries(["a", "b", "a"])}
    scorer = FakeScorer((), [POOL], [QUERIES])
    return dataclasses.replace(Round.alone(size, 0, np.arange(20), 20, **context), scorer=scorer)


SELECTORS = [Near, DoublyGreedy, MeanSim, Uot, Less]


@pytest.mark.parametrize("cls", [*SELECTORS, Tsds, KnnUniform])
@pytest.mark.parametrize(("budgets", "of_a"), [("equal", 4), ({"b": 0.75}, 2), ({"a": 1}, 1), ({"b": 0}, 8)])
def test_each_task_gets_its_budget(cls, budgets, of_a):
    more = {"alpha": 0.0} if cls in (Tsds, KnnUniform) else {}  # over as many rows as there are
    subset = cls(budgets=budgets, **more).select(round_of())
    assert (np.sum(subset.ids < 10), len(subset.ids)) == (of_a, 8)


@pytest.mark.parametrize("cls", SELECTORS)
def test_a_task_has_what_its_queries_alone_select(cls):
    """Row 0 is best for task a, row 10 for task b; with one task, budgets change nothing."""
    assert cls(budgets="equal").select(round_of()).ids.tolist() == [0, 10, 1, 11, 2, 12, 3, 13]
    alone = dataclasses.replace(round_of(), queries=Queries(["a", "a", "a"]))
    fresh = dataclasses.replace(round_of(), queries=Queries(["a", "a", "a"]))
    np.testing.assert_array_equal(cls(budgets={"a": 1.0}).select(alone).ids, cls().select(fresh).ids)


def test_random_rows_of_near_come_on_top():
    subset = Near(budgets={"b": 1.0}, mix=0.5).select(round_of())
    assert subset.ids[:4].tolist() == [10, 11, 12, 13] and np.isnan(subset.scores[4:]).all() and len(subset.ids) == 8


def test_part_of_a_selector_with_budgets():
    part = LeftOut(Near(budgets={"b": 0.75}), count=1)
    assert set(part.select(round_of()).ids) == {1, 10, 11, 12, 13, 14, 15}  # without row 0, of the highest score
    with pytest.raises(UserError, match="no query is of the task 'c'"):
        LeftOut(Near(budgets={"c": 1})).check_queries(Queries(["a"]), [8])


# select.py and train.py


@pytest.fixture()
def tasks(tmp_path, cache) -> list[str]:
    """One query of task b, eight of task a; rows of both."""
    rows = [{"instruction": f"{'sum up' if i % 2 else 'sort out'} {i}", "output": "x y"} for i in range(40)]
    queries = [{"instruction": f"sort out q{i}", "output": "z", "task": "a"} for i in range(8)]
    queries.append({"instruction": "sum up q", "output": "z", "task": "b"})
    paths = {"candidates": rows, "queries": queries}
    files = [f"data.{part}.path={write_rows(tmp_path / f'{part}.jsonl', of)}" for part, of in paths.items()]
    return ["data=files", *files, "data.queries.columns.source=task", f"cache_dir={cache}", "embedder=hashing"]


@pytest.mark.parametrize(("budgets", "odd"), [("equal", 6), ("{b: 0.75}", 9), ("{a: 2}", 10)])
def test_select(tmp_path, tasks, budgets, odd):
    select(configured("select", *tasks, "selector=near", f"selector.budgets={budgets}", "n=12"), tmp_path)
    ids = np.load(tmp_path / "subset.npy")
    assert (np.sum(ids % 2 == 1), len(ids)) == (odd, 12)


def test_other_budgets_or_tasks_are_another_subset(tmp_path, tasks):
    words = [*tasks, "selector=near", "n=12", "selector.budgets={b: 0.75}"]
    select(configured("select", *words), tmp_path / "out")
    select(configured("select", *words), tmp_path / "out")
    with pytest.raises(UserError, match="another subset"):
        select(configured("select", *words[:-1], "selector.budgets={b: 0.5}"), tmp_path / "out")
    path = tmp_path / "queries.jsonl"
    path.write_text(path.read_text().replace('"a"', '"b"', 1))
    with pytest.raises(UserError, match="another subset"):
        select(configured("select", *words), tmp_path / "out")


def test_an_unknown_task_is_refused_before_anything_is_written(tmp_path, tasks):
    words = [*tasks, "selector=near", "n=12", "selector.budgets={c: 3}"]
    with pytest.raises(UserError, match="no query is of the task 'c'"):
        select(configured("select", *words), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_matrix_is_wide_enough_for_each_task(tmp_path, tasks, monkeypatch):
    """Task b's one query needs as many columns as its budget; all queries together have enough rows before."""
    for module in ("near.searching.find", "near.selection.gradient_similarity"):
        monkeypatch.setattr(f"{module}.AS_NEEDED", 3)
    select(configured("select", *tasks, "selector=near", "selector.budgets={b: 1.0}", "n=12"), tmp_path)
    assert len(np.load(tmp_path / "subset.npy")) == 12


def test_train(tmp_path, tasks, tiny):
    shape = [word for word in tiny if word.startswith(("model", "finetuning", "+trainer", "trainer", "evaluation"))]
    words = [*tasks, *shape, "selector=near", f"output_dir={tmp_path}/run"]
    with pytest.raises(UserError, match="no query is of the task 'c'"):
        train(configured("train", *words, "selector.budgets={c: 0.5}"), tmp_path / "run")
    train(configured("train", *words, "selector.budgets={b: 1.0}"), tmp_path / "run")
    orders = [np.load(path) for path in sorted((tmp_path / "run" / "rounds").glob("*_order.npy"))[1:]]
    assert orders and all((order % 2 == 1).all() for order in orders)
