"""LESS and its relatives: scores by hand, and against a reference without batches and projections."""

import numpy as np
import pytest
import torch

from near.models.weights import trained
from near.selection.selectors.less import Less, aggregated
from tests import scored
from tests.scored import FakeScorer, Queries, round_for

POOL = [[1, 0], [0, 1], [0.5, 0.75**0.5], [-1, 0], [0.8, 0.6]]
TARGET = [[1, 0], [1, 0], [0, 1]]  # two queries of task a, one of task b
CLOSE = {"max": [1, 1, 0.75**0.5, 0, 0.8], "mean": [2 / 3, 1 / 3, (1 + 0.75**0.5) / 3, -2 / 3, 11 / 15]}


def chosen(aggregate: str, size: int, **scorer) -> list[int]:
    known = {"queries": Queries(["a", "a", "b"]), "eligible": np.arange(5)}
    scorer = FakeScorer(pool=[POOL], queries=[TARGET], **scorer)
    return Less(aggregate=aggregate).select(round_for(scorer, size, **known)).ids.tolist()


def test_scores_by_hand():
    """Rows 0 and 1 each match one task; 2 and 4 match both somewhat; ties go to the lower id."""
    assert chosen("max", 4) == [0, 1, 2, 4]
    assert chosen("mean", 5) == [4, 0, 2, 1, 3]
    # the best two of task a: 0 and 4; of task b: 1 and 2: a vote each, then by the mean over tasks
    assert chosen("vote", 2) == [4, 2]
    assert chosen("vote", 4) == [4, 2, 0, 1]


def test_scores_are_the_aggregates():
    known = {"queries": Queries(["a", "a", "b"]), "eligible": np.arange(5)}
    for how, expected in CLOSE.items():
        subset = Less(aggregate=how).select(round_for(FakeScorer(pool=[POOL], queries=[TARGET]), 5, **known))
        result = np.empty(5)
        result[subset.ids] = subset.scores
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_checkpoints_are_summed_by_their_weights():
    pools = [POOL, np.roll(POOL, 1, axis=0)]
    scorer = FakeScorer(pool=pools, queries=[TARGET, TARGET], weights=(0.25, 0.75))
    known = {"queries": Queries(["a"] * 3), "eligible": np.arange(5)}
    subset = Less().select(round_for(scorer, 5, **known))
    expected = sum(w * (np.asarray(p) @ np.asarray(TARGET).T).mean(1) for w, p in zip((0.25, 0.75), pools, strict=True))
    np.testing.assert_allclose(subset.scores, np.sort(expected)[::-1], atol=1e-6)
    np.testing.assert_array_equal(subset.ids, np.argsort(-expected, kind="stable"))


def test_votes_never_lose_to_means():
    means = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.8], [0.0, 0.3, 0.2]])
    result = aggregated(means, np.array([1, 1, 1]), "vote", 1)
    assert result.argsort()[::-1].tolist() == [1, 0, 2] and result[1] > 2 and result[2] < 1
    assert aggregated(np.zeros((2, 3)), np.array([1, 1]), "vote", 3).tolist() == [2, 2, 2]


def test_only_eligible_rows_are_scored():
    scorer = FakeScorer(pool=[POOL], queries=[TARGET])
    known = {"queries": Queries(["a", "a", "b"]), "eligible": np.array([1, 3, 4])}
    assert set(Less().select(round_for(scorer, 2, **known)).ids) == {1, 4}
    assert scorer.requested[0].tolist() == [1, 3, 4]


@pytest.mark.parametrize("aggregate", ["max", "vote"])
def test_a_task_without_a_direction_has_no_say(aggregate):
    """As one whose answers were never rewarded (nice): its zeros would win over rows that point away."""
    known = {"queries": Queries(["a", "b"]), "eligible": np.arange(5)}
    scorer = FakeScorer(pool=[POOL], queries=[[[0, 0], [-1, -0.1]]])
    subset = Less(aggregate=aggregate).select(round_for(scorer, 2, **known))
    assert subset.ids.tolist() == [3, 1]


def reference(model, optimizer, epsilon: str) -> np.ndarray:
    """Cosines of every row's gradient in Adam's direction with every query's, (rows, queries), one by one."""
    states = [optimizer.state[weight] for weight in trained(model).values()]
    first, second = (torch.cat([s[key].flatten() for s in states]).double() for key in ("exp_avg", "exp_avg_sq"))
    steps = int(states[0]["step"]) + 1
    pool, queries = scored.tokens(scored.ROWS, 1).table, scored.tokens(scored.QUERIES, 2).table
    target = torch.stack([scored.gradient(model, row).double() for row in queries])
    result = []
    for row in pool:
        g = scored.gradient(model, row).double()
        m, v = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        if epsilon == "inside":
            direction = m / torch.sqrt(v + 1e-8)
        else:
            direction = m / (1 - 0.9**steps) / ((v / (1 - 0.999**steps)).sqrt() + 1e-8)
        result.append(torch.nn.functional.cosine_similarity(direction[None], target))
    return torch.stack(result).numpy()


@pytest.mark.model
@pytest.mark.parametrize("epsilon", ["outside", "inside"])
def test_equal_to_a_reference_without_batches_and_projection(tmp_path, cache, epsilon):
    model, optimizer, tokenizer = scored.model_and_optimizer(cache)
    expected = reference(model, optimizer, epsilon)
    scorer = scored.scorer(tmp_path, tokenizer, epsilon=epsilon)
    sources = ["a", "b", "a", "b", "b"]
    subset = Less().select(round_for(scorer, scored.ROWS, model=model, optimizer=optimizer, queries=Queries(sources)))
    task = np.array(sources) == "a"
    scores = np.maximum(expected[:, task].mean(1), expected[:, ~task].mean(1))
    np.testing.assert_allclose(subset.scores, scores[subset.ids], atol=2e-3)  # float16 features
    assert abs(np.corrcoef(subset.scores, scores[subset.ids])[0, 1]) > 0.9999


@pytest.mark.model
def test_projected_scores_are_close(tmp_path, cache):
    model, optimizer, tokenizer = scored.model_and_optimizer(cache)
    expected = reference(model, optimizer, "outside").mean(1)
    scorer = scored.scorer(tmp_path, tokenizer, dim=4096)
    subset = Less().select(round_for(scorer, scored.ROWS, model=model, optimizer=optimizer))
    assert np.abs(subset.scores - expected[subset.ids]).max() < 4 / 4096**0.5
