"""surrogate_less: few gradients, a regression for the rest, and how far the choice is exact LESS's."""

import dataclasses

import numpy as np
import pytest
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.common.records import SelectionManifest
from near.common.run_folder import RunFolder
from near.selection.cost import Scored
from near.selection.select import select
from near.selection.selectors import surrogate_less as module
from near.selection.selectors.less import Less
from near.selection.selectors.ridge import KernelRidge, widths
from near.selection.selectors.surrogate_less import Errors, SurrogateLess, in_words
from near.selection.similarity import VectorSimilarity
from near.training.train import train
from tests.conftest import configured
from tests.scored import FakeScorer, Queries, round_for

ROWS, DIM = 2000, 24


class Vectors:
    """Vectors in memory."""

    largest = 1.01

    def __init__(self, values: np.ndarray):
        self.values, self.n, self.dim = values, *values.shape

    def read(self, rows, out):
        out[:] = self.values[rows]


def made(noise: float, seed: int = 0):
    """Embeddings, and unit gradients that are a linear function of them, and noise."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    gradients = embeddings @ rng.normal(size=(DIM, 48)) + noise * rng.normal(size=(ROWS, 48))
    queries = gradients[rng.choice(ROWS, 6, replace=False)] + 0.1 * rng.normal(size=(6, 48))
    return embeddings, unit(gradients), unit(queries)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def rounds(noise: float, size: int = 50, tasks: str = "aaaaaa", seed: int = 0, **more):
    embeddings, pool, queries = made(noise, seed)
    scorer = FakeScorer(pool=[pool], queries=[queries])
    similarity = VectorSimilarity(Vectors(embeddings), embeddings[:1], np.arange(ROWS), ROWS, None)
    known = {"queries": Queries(list(tasks)), "eligible": np.arange(ROWS), "similarity": similarity}
    known |= {"trained": np.zeros(ROWS, dtype=np.int64), **more}
    return round_for(scorer, size, **known), scorer


def overlap(noise: float, selector: SurrogateLess, **more) -> tuple[float, dict, int]:
    """With exact LESS's rows; what the selector says; how many gradients it took."""
    round, scorer = rounds(noise, **more)
    subset = selector.select(round)
    requested = np.concatenate(scorer.requested)
    assert len(np.unique(requested)) == len(requested) == subset.fidelity["gradients"], "none twice"
    exact = Less(aggregate=selector.aggregate).select(rounds(noise, **more)[0])
    exact_scores = dict(zip(exact.ids.tolist(), exact.scores.tolist(), strict=True))
    for row, score in zip(subset.ids.tolist(), subset.scores.tolist(), strict=True):
        assert selector.aggregate == "vote" or exact_scores.get(row, score) == pytest.approx(score, abs=1e-6)
    return len(np.intersect1d(subset.ids, exact.ids)) / len(exact.ids), subset.fidelity, len(requested)


def test_where_embeddings_tell_the_gradients_a_tenth_is_enough():
    share, fidelity, count = overlap(0.05, SurrogateLess())
    assert count == 0.1 * ROWS and share >= 0.9 and fidelity["overlap"] >= 0.8
    assert fidelity["rank_correlation"] > 0.8


def test_below_the_bound_it_takes_more_gradients_by_itself():
    few, said, count = overlap(4.0, SurrogateLess(min_overlap=None))
    assert count == 0.1 * ROWS and few < 0.6 and said["overlap"] < 0.6
    more, fidelity, count = overlap(4.0, SurrogateLess())
    assert count > 0.3 * ROWS and more > few and fidelity["overlap"] >= 0.8
    assert more >= 0.6
    everything, fidelity, count = overlap(4.0, SurrogateLess(min_overlap=1.0))
    assert (everything, count) == (1.0, ROWS) and fidelity["overlap_interval"] == [1.0, 1.0]


def test_the_overlap_that_it_says_is_right_on_average():
    """Over 20 pools each: the mean error is small, and most intervals hold the true overlap."""
    for noise in (0.5, 1.5):
        pairs = [overlap(noise, SurrogateLess(min_overlap=None), seed=seed)[:2] for seed in range(20)]
        errors = [said["overlap"] - true for true, said in pairs]
        assert abs(np.mean(errors)) < 0.12, errors
        held = [
            said["overlap_interval"][0] - 0.02 <= true <= said["overlap_interval"][1] + 0.02 for true, said in pairs
        ]
        assert sum(held) >= 16


def test_a_round_has_all_the_rows_that_it_asks_for():
    """More than a tenth of the pool: as many gradients; more than half: exact LESS."""
    share, fidelity, count = overlap(0.5, SurrogateLess(min_overlap=None), size=600)
    assert count == fidelity["gradients"] == 600 and 0.5 < share < 1
    share, fidelity, count = overlap(0.5, SurrogateLess(min_overlap=None), size=1100)
    assert (share, count, fidelity["overlap"], fidelity["gradients"]) == (1.0, ROWS, 1.0, ROWS)
    assert SurrogateLess().scored_rows(10_000, 100) == 1000 and SurrogateLess().scored_rows(10_000, 3000) == 3000


def test_a_dry_run_counts_the_gradients_that_it_takes():
    cfg = configured("train", "selector=surrogate_less")
    assert Scored.of(cfg, SurrogateLess(), 10_000) == Scored(1000, "selector.shortlist", False)
    assert Scored.of(cfg, SurrogateLess(shortlist={"selector": "near", "size": 500}), 10_000).rows == 51
    assert Scored.of(cfg, Less(), 10_000).rows == 10_000


def test_a_preconditioner_is_refused():
    with pytest.raises(UserError, match="scoring.precondition=fisher is of all rows' gradients"):
        SurrogateLess().check(None, OmegaConf.create({"precondition": "fisher"}))


def test_budgets_that_end_early_waste_no_gradients():
    """Behind the rows that budgets take, gradients go to those with high predictions, not to low row numbers."""
    budgets = {"a": 5, "b": 5, "c": 5}
    round, scorer = rounds(0.05, size=40, tasks="aabbcc")
    SurrogateLess(budgets=budgets, min_overlap=None).select(round)
    last = np.concatenate(scorer.requested[-4:])
    assert np.median(last) > 0.2 * ROWS


def test_errors_of_rows_alike():
    """Rows with a low prediction have no errors, those with a high one have errors of 1 or -1."""
    predictions = np.linspace(0, 1, 400)[None]
    errors = np.where(predictions > 0.5, np.resize([1.0, -1.0], 400), 0.0)
    held = np.arange(400) % 4 == 0  # all of these are 0 or 1
    of = Errors(predictions, errors, held, np.array([[0.0, 0.2, 0.8, 1.0]]))
    rng = np.random.default_rng(0)
    drawn = np.concatenate([of.alike(rng) for _ in range(400)])  # (400, 4)
    assert (drawn[:, :2] == 0).all() and set(drawn[:, 2:].ravel()) == {1.0, -1.0}
    assert np.abs(drawn[:, 2:].mean(axis=0)).max() < 0.2
    drawn = np.concatenate([of.normal(rng) for _ in range(400)])
    assert drawn.mean() == pytest.approx(errors[:, held].mean(), abs=0.03)
    assert drawn.std() == pytest.approx(errors[:, held].std(), abs=0.05)


def test_errors_of_tasks_stay_together():
    """Two tasks whose errors are opposite: no draw mixes errors of two rows."""
    errors = np.random.default_rng(1).normal(size=60)
    of = Errors(np.zeros((2, 60)), np.stack([errors, -errors]), np.ones(60, dtype=bool), np.zeros((2, 500)))
    for draw in (of.alike, of.normal):
        drawn = draw(np.random.default_rng(2))
        assert drawn.shape == (2, 500) and drawn[0] == pytest.approx(-drawn[1], abs=1e-6)


def test_random_rows_at_equal_cost_find_what_they_must():
    """The surrogate finds more of exact LESS's rows than as many random gradients, which find their share."""
    share, _, count = overlap(1.0, SurrogateLess(min_overlap=None))
    assert share > 3 * count / ROWS


@pytest.mark.parametrize("how", ["max", "mean", "vote"])
def test_several_tasks(how):
    share, fidelity, _ = overlap(0.05, SurrogateLess(aggregate=how), tasks="aabbcc")
    assert share >= 0.7 and fidelity["rank_correlation"] > 0.8


def test_budgets_add_up():
    round, _ = rounds(0.05, size=40, tasks="aabbcc")
    subset = SurrogateLess(budgets={"a": 20, "b": 10, "c": 10}).select(round)
    exact = Less(budgets={"a": 20, "b": 10, "c": 10}).select(rounds(0.05, size=40, tasks="aabbcc")[0])
    assert len(subset.ids) == 40 and len(np.intersect1d(subset.ids, exact.ids)) >= 32


def test_a_sample_covers_all_clusters_and_all_rows_are_as_likely():
    round, _ = rounds(0.5)
    counts, selector = np.zeros(ROWS), SurrogateLess()
    clusters = round.similarity.clusters(80, round.seed)
    for index in range(100):
        sample = selector._sampled(dataclasses.replace(round, index=index), np.arange(ROWS), 80)
        assert len(np.unique(sample)) == 80
        counts[sample] += 1
        sizes = np.bincount(clusters, minlength=80) * 80 / ROWS
        assert (np.abs(np.bincount(clusters[sample], minlength=80) - sizes) < 2).all()
    assert counts.sum() == 8000 and counts.max() < 16 and abs(counts[:1000].sum() - 4000) < 300


def test_a_regression_on_a_part_of_many_gradients(monkeypatch):
    """More gradients than a regression is fitted on: it holds the sample first, and all gradients count."""
    fitted = []
    monkeypatch.setattr(module, "FITTED", 100)

    def ridge(parts, *more):
        fitted.append(parts[0])
        return KernelRidge(parts, *more)

    monkeypatch.setattr(module, "KernelRidge", ridge)
    share, fidelity, count = overlap(0.05, SurrogateLess(sample=60, exact=140, min_overlap=None))
    assert [len(part) for part in fitted] == [77, 95, *[100] * 6] and count == 200
    first = set(map(bytes, fitted[0]))
    assert len(first & set(map(bytes, fitted[-1]))) >= 60 and share >= 0.8 and fidelity["rank_correlation"] > 0.8


def test_small_pools_are_exact():
    round, scorer = rounds(4.0, eligible=np.arange(16), size=10)
    subset = SurrogateLess().select(round)
    assert (subset.fidelity["gradients"], subset.fidelity["overlap"]) == (16, 1.0)
    assert len(np.concatenate(scorer.requested)) == 16


def test_scores_of_the_round_before_help_and_survive_a_restart():
    """Noise that embeddings can't tell: what the first round computed raises the second's rank correlation."""
    first, _ = rounds(2.0)
    alone = SurrogateLess(min_overlap=None)
    second = rounds(2.0, index=1)[0]
    without = alone.select(second).fidelity["rank_correlation"]
    going = SurrogateLess(min_overlap=None, sample=600)
    going.select(first)
    resumed = SurrogateLess(min_overlap=None, sample=600)
    resumed.load_state_dict(going.state_dict())
    one, two = going.select(second), resumed.select(rounds(2.0, index=1)[0])
    np.testing.assert_array_equal(one.ids, two.ids)
    assert one.fidelity == two.fidelity and one.fidelity["rank_correlation"] > without


def test_rows_left_out_by_the_closed_form_are_those_of_refits():
    rng = np.random.default_rng(1)
    parts, values = [rng.normal(size=(30, 5)), rng.normal(size=(30, 1))], rng.normal(size=(30, 2))
    width = widths(parts)
    ridge = KernelRidge(parts, values, width)

    def refit(rows, new):
        def kernel(a, b):
            return sum(
                np.exp(-((part[a][:, None] - part[b]) ** 2).sum(2) / w) for part, w in zip(parts, width, strict=True)
            )

        weights = np.linalg.solve(kernel(rows, rows) + ridge.penalty * np.eye(len(rows)), values[rows] - values.mean(0))
        return values.mean(0) + kernel(new, rows) @ weights

    everything = np.arange(30)
    np.testing.assert_allclose(ridge.predict(parts), refit(everything, everything), atol=1e-9)
    for row in range(3):
        rest = np.delete(everything, row)
        np.testing.assert_allclose(ridge.left_out[row], refit(rest, [row])[0], atol=1e-9)


def test_the_line_of_the_log():
    said = {"gradients": 2000, "rows": 20000, "overlap": 0.84, "overlap_interval": [0.7, 0.93], "rank_correlation": 0.7}
    assert in_words(said).startswith(
        "gradients of 2,000 of 20,000 rows; an estimated 84% [70%, 93%] of exact LESS's rows"
    )


@pytest.mark.model
def test_it_runs_in_both_scripts_and_says_how_far_it_is_less(tiny, tmp_path):
    """Trained for two rounds with the states of a tiny model; and selected with gradients of named layers."""
    words = [*(w for w in tiny if not w.startswith(("embedder", "max_K"))), f"cache_dir={tmp_path}/c"]
    words += ["embedder=answer_states", "embedder.prompt=true", "selector=surrogate_less", "selector.min_overlap=null"]
    words += ["selector.sample=16", "selector.exact=8", "seed=1"]
    train(configured("train", *words), tmp_path / "run")
    rounds = [line for line in RunFolder(tmp_path / "run").rounds if line.fidelity]
    assert [(line.fidelity["gradients"], line.fidelity["rows"]) for line in rounds] == [(24, 60)] * 2
    words = [w for w in words if not w.startswith(("trainer", "+trainer", "finetuning", "evaluation", "data.eval"))]
    words += ["scoring.modules=[q_proj]", "scoring.adam=false", "n=6"]
    select(configured("select", *words), tmp_path / "out")
    subset = SelectionManifest.read(tmp_path / "out" / "manifest.json").subset
    assert subset["fidelity"]["gradients"] == 24 and 0 <= subset["fidelity"]["overlap"] <= 1
    assert len(np.load(tmp_path / "out" / "subset.npy")) == 6
