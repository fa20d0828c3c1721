"""The contract over every selector under conf/, and what each one is for."""

import contextlib
import sys

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from near.app.faults import fault_line
from near.common.errors import UserError
from near.searching.neighbours import Neighbours
from near.searching.vectors import ArrayVectors
from near.selection.round import Round, Subset, checked
from near.selection.selectors.base import selector_of
from near.selection.selectors.full import Full
from near.selection.selectors.near import Near
from near.selection.selectors.random import Random
from near.selection.similarity import Similarity
from near.training.rounds.sampler import draws
from tests.app.test_configs import choices
from tests.conftest import configured
from tests.scored import FakeScorer, Queries

POOL = 40
ELIGIBLE = np.array([i for i in range(POOL) if i % 7])


class RandomVectors(Similarity):
    """Of random unit vectors: as good as any for the contract."""

    def __init__(self, neighbours: Neighbours):
        super().__init__(neighbours, ELIGIBLE, POOL)

    @contextlib.contextmanager
    def opened(self):
        vectors = np.random.default_rng(1).normal(size=(len(ELIGIBLE), 5)).astype(np.float32)
        yield ArrayVectors(vectors, normalise=True), vectors[:4] / np.linalg.norm(vectors[:4], axis=1, keepdims=True)


class Scored(FakeScorer):
    """Random losses and gradients of a model, the same every time."""

    def __init__(self):
        rng = np.random.default_rng(2)
        losses, vectors = rng.random(POOL), rng.normal(size=(POOL, 3))
        super().__init__([losses] * 9, [vectors], [vectors[:4]])

    def folder(self, model, key_parts):
        raise AssertionError("nice answers with a real model: tests/selection/test_nice.py")


def matrix(seed=0, queries=4, k=10) -> Neighbours:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(POOL)[:k] for _ in range(queries)])
    return Neighbours(ids, np.sort(rng.random((queries, k)).astype(np.float32))[:, ::-1], {})


def round_of(size=8, index=1, seed=0, previous=(), neighbours=None, eligible=ELIGIBLE, trained=None) -> Round:
    trained = np.zeros(POOL, dtype=np.int64) if trained is None else trained
    return Round(
        index=index,
        count=4,
        step=index * 5,
        size=size,
        seed=seed,
        eligible=eligible,
        draws=size,
        trained=trained,
        previous=tuple(previous),
        neighbours=neighbours or matrix(),
        similarity=RandomVectors(neighbours or matrix()),
        update=max(0, index - 1),
        updates=3,
        queries=Queries(["a", "b", "a", "b"]),
        columns={"score": [i * 7 % POOL for i in range(POOL)]},
        pool=Queries(["ab"[i % 3 // 2] for i in range(POOL)]),
        scorer=Scored(),
    )


@pytest.fixture(params=[name for name in choices("selector") if name != "nice"])
def make(request):
    return lambda: instantiate(configured("train", f"selector={request.param}").selector)


@pytest.mark.parametrize("size", [1, 8, 34, 1000])
def test_distinct_eligible_at_most_the_size(make, size):
    round = round_of(size)
    subset = checked(make().select(round), round, "it")
    assert subset.scores is None or subset.scores.shape == subset.ids.shape


def test_same_seed_same_rows(make):
    np.testing.assert_array_equal(make().select(round_of(seed=3)).ids, make().select(round_of(seed=3)).ids)


def test_another_process_picks_the_same(make):
    """A restart hands over a new selector with the state of the old one."""
    old, new = make(), make()
    first = old.select(round_of(index=1))
    new.load_state_dict(old.state_dict())
    later = round_of(index=2, previous=[first.ids])
    np.testing.assert_array_equal(old.select(later).ids, new.select(later).ids)


@pytest.mark.parametrize("cls", [Random, Full])
def test_another_seed_other_rows(cls):
    assert set(cls().select(round_of(seed=1)).ids) != set(cls().select(round_of(seed=2)).ids)


def test_near_walks_column_by_column():
    ids = np.array([[5, 2, 7], [5, 9, 2]])
    scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]], dtype=np.float32)
    round = round_of(3, neighbours=Neighbours(ids, scores, {}), eligible=np.arange(10))
    subset = Near().select(round)
    assert subset.ids.tolist() == [5, 2, 9]
    np.testing.assert_allclose(subset.scores, [0.9, 0.8, 0.6])  # each row's highest similarity to any query


def test_near_skips_what_is_not_eligible_and_gives_what_there_is():
    ids = np.array([[5, 2, 7], [5, 9, 2]])
    round = round_of(8, neighbours=Neighbours(ids, ids.astype(np.float32), {}), eligible=np.array([2, 7, 9]))
    assert Near().select(round).ids.tolist() == [2, 9, 7]


def test_near_against_a_slow_walk():
    neighbours = matrix(seed=5, queries=6, k=12)
    taken = []
    for column in range(12):
        for query in range(6):
            row = int(neighbours.ids[query, column])
            if row not in taken and row in ELIGIBLE and len(taken) < 15:
                taken.append(row)
    assert Near().select(round_of(15, neighbours=neighbours)).ids.tolist() == taken


def test_random_is_new_each_round_and_uniform():
    first, second = (Random().select(round_of(index=i)).ids for i in (1, 2))
    assert first.tolist() != second.tolist()
    counts = np.zeros(POOL)
    for index in range(2000):
        counts[Random().select(round_of(5, index=index)).ids] += 1
    expected = 2000 * 5 / len(ELIGIBLE)
    assert counts[::7].sum() == 0
    assert np.abs(counts[ELIGIBLE] - expected).max() < 6 * np.sqrt(expected)


@pytest.mark.parametrize("size", [7, 34, 40, 100])
def test_full_takes_every_row_once_before_any_twice(size):
    """Through the sampler, also where a round has more draws than the pool has rows."""
    trained = np.zeros(POOL, dtype=np.int64)
    trained[draws(Random().select(round_of(6, index=0)).ids, 6, 0, 0)] += 1
    for index in range(1, 12):
        ids = Full().select(round_of(size, index=index, trained=trained)).ids
        np.add.at(trained, draws(ids, size, 0, index), 1)
        assert trained[ELIGIBLE].max() - trained[ELIGIBLE].min() <= 1
    assert trained[::7].sum() == 0


def test_the_contract_is_enforced():
    round = round_of(3)

    def message(ids):
        with pytest.raises(UserError) as caught:
            checked(Subset(np.asarray(ids)), round, "mine")
        return str(caught.value)

    assert "returned 4 rows in round 1; it may return 1 to 3" in message([1, 2, 3, 4])
    assert "returned 0 rows" in message(np.empty(0, dtype=np.int64))
    assert "returned 1 row twice" in message([1, 1, 2])
    assert "returned row 7, which is not eligible" in message([1, 7])
    assert "must be int64" in message([1.0, 2.0])


@pytest.mark.parametrize(
    ("selector", "option", "choices"),
    [
        ("near", "policy=advanced", "repeat, advance, sample"),
        ("less", "aggregate=median", "max, mean, vote"),
        ("loss", "focus=hard", "low, medium, high"),
        ("nice", "reward=taste", "exact, judge"),
    ],
)
def test_an_unknown_choice_is_refused(selector, option, choices):
    with pytest.raises(UserError, match=f"selector.{option} is not one of {choices}"):
        configured("train", "data=files", f"selector={selector}", f"selector.{option}")


OLD_SELECTOR = """
from near.selection.round import Subset
from near.selection.selectors.base import Selector

class Mine(Selector):
    asks_model = "losses"

    def select(self, round):
        return Subset(round.eligible[: round.size])
"""
OLD_MIXIN = OLD_SELECTOR.replace("class Mine(Selector):", "class Mixin:").replace(
    "    def select", "class Mine(Mixin, Selector):\n    def select"
)
OLD_ATTRIBUTE = OLD_SELECTOR.replace(
    '    asks_model = "losses"', "    def __init__(self):\n        super().__init__()\n        self.asks_model = None"
)
OLD_IMPORT = "from near.selection.selectors.asking import AskingSelector"
OLD_MIXER = """
from near.selection.mixers.base import Mixer

class Mine(Mixer):
    def told(self):
        return {}
"""


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (OLD_SELECTOR, "old_class.Mine: asks_model is now requires; rename it"),
        (OLD_MIXIN, "old_class.Mine: asks_model is now requires; rename it"),
        (OLD_ATTRIBUTE, "old_class.Mine: asks_model is now requires; rename it"),
        (OLD_MIXER, "old_class.Mine: told is now metrics; rename it"),
        (OLD_IMPORT, "near.selection.selectors.asking is now near.selection.selectors.model; change the import"),
        ("from near.selectors.base import Selector", "near.selectors is now near.selection.selectors; change"),
    ],
)
def test_a_users_class_with_an_old_name_is_one_line(source, line, tmp_path, monkeypatch):
    (tmp_path / "old_class.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "old_class", raising=False)
    with pytest.raises(InstantiationException) as caught:
        selector_of(OmegaConf.create({"_target_": "old_class.Mine"}))
    assert line in fault_line(caught.value) and "\n" not in fault_line(caught.value)


def test_a_class_for_both_versions_is_taken():
    class Mine(Random):
        asks_model = requires = "losses"

    assert Mine().requires == "losses"


def rows_of(policy, previous=(), size=4, index=1, seed=0, neighbours=None, **options) -> list[int]:
    round = round_of(size, index=index, seed=seed, previous=previous, neighbours=neighbours)
    return checked(Near(policy=policy, **options).select(round), round, policy).ids.tolist()


def test_repeat_takes_the_same_rows_every_round():
    first = rows_of("repeat")
    assert rows_of("repeat", [np.array(first)], index=2) == first


def test_advance_takes_the_next_unused_rows_and_then_begins_anew():
    """By hand: the walk is 5 2 9 7 11 (columns of [[5 2 7] [5 9 11]]); the warm-up took 2."""
    ids = np.array([[5, 2, 7], [5, 9, 11]])
    neighbours = Neighbours(ids, np.zeros(ids.shape, dtype=np.float32), {})
    eligible, previous, picked = np.arange(POOL), [np.array([2, 30])], []
    for index in range(1, 5):
        round = round_of(2, index=index, previous=previous, neighbours=neighbours, eligible=eligible)
        picked.append(Near(policy="advance").select(round).ids.tolist())
        previous.append(np.array(picked[-1]))
    # all five once (2 by the warm-up); then the least taken from the beginning of the walk
    assert picked == [[5, 9], [7, 11], [5, 2], [9, 7]]


def test_advance_over_all_rounds_takes_every_row_of_the_matrix_before_any_twice():
    previous, neighbours = [], matrix(seed=3)
    distinct = len(np.intersect1d(neighbours.ids, ELIGIBLE))
    for index in range(12):
        previous.append(np.array(rows_of("advance", previous, 5, index, neighbours=neighbours)))
        counts = np.bincount(np.concatenate(previous), minlength=POOL)[np.intersect1d(neighbours.ids, ELIGIBLE)]
        assert counts.max() - counts.min() <= 1
    assert len(np.unique(np.concatenate(previous))) == distinct


def test_sample_draws_in_proportion_to_exp_of_similarity_over_temperature():
    """The first row drawn has probability exp(s / t) / sum, s being the highest similarity to any query."""
    ids = np.array([[1, 2, 3], [3, 1, 4]])
    scores = np.array([[0.9, 0.8, 0.5], [0.7, 0.6, 0.55]], dtype=np.float32)
    best = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.55}
    expected = np.exp(np.array(list(best.values())) / 0.2)
    expected /= expected.sum()
    counts = np.zeros(5)
    for index in range(4000):
        round = round_of(2, index=index, neighbours=Neighbours(ids, scores, {}), eligible=np.arange(POOL))
        subset = Near(policy="sample", temperature=0.2).select(round)
        assert subset.scores.tolist() == pytest.approx([best[i] for i in subset.ids.tolist()])
        counts[subset.ids[0]] += 1
    np.testing.assert_allclose(counts[1:] / 4000, expected, atol=4 * np.sqrt(0.25 / 4000))


def test_sample_is_new_every_round_and_nearest_when_cold():
    assert rows_of("sample", index=1) != rows_of("sample", index=2)
    ids, scores = matrix().ids.ravel(), matrix().scores.ravel()
    best = {int(row): float(scores[(ids == row)].max()) for row in np.intersect1d(ids, ELIGIBLE)}
    assert rows_of("sample", size=6, temperature=1e-4) == sorted(best, key=lambda row: -best[row])[:6]


@pytest.mark.parametrize("policy", ["repeat", "advance", "sample"])
@pytest.mark.parametrize(("mix", "size", "random"), [(0.25, 8, 2), (0.5, 3, 2), (0.1, 4, 0), (0.9, 1, 0)])
def test_mix_keeps_a_share_random(policy, mix, size, random):
    inside = set(matrix().ids.ravel().tolist())
    first, second = (rows_of(policy, size=size, index=i, mix=mix) for i in (1, 2))
    assert len(first) == size
    if random:
        assert first[size - random :] != second[size - random :]
    if policy == "repeat":
        assert first[: size - random] == second[: size - random] == rows_of("repeat", size=size - random)
    assert set(first[: size - random]) <= inside


def test_mix_stays_a_share_where_the_matrix_is_short():
    neighbours = matrix(queries=1, k=6)
    near = len(np.intersect1d(neighbours.ids, ELIGIBLE))
    assert len(rows_of("repeat", size=30, neighbours=neighbours, mix=0.5)) == 2 * near


@pytest.mark.parametrize(("size", "rows"), [(None, None), (7, 7), (0.1, 3), (0.001, 1), (1.0, 34)])
def test_subset_size_is_rows_or_a_share(size, rows):
    assert Random(subset_size=size).most(34) == rows
