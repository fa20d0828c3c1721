"""Mixers by hand, their contract, and how proportions become draws."""

import dataclasses

import numpy as np
import pytest
from hydra.utils import instantiate

from near.common.errors import UserError
from near.selection.mixers.base import Mixer, Sources
from near.selection.mixers.doremi import Doremi, updated
from near.selection.mixers.measured import Sample
from near.selection.mixers.odm import Odm, exploration, policy, rewarded
from near.selection.mixers.random import Random
from near.selection.mixers.selector import Mix, counts, least_trained
from near.selection.mixers.static import Static
from near.selection.round import Round, checked
from near.training.rounds.record import proportions
from tests.app.test_configs import choices
from tests.conftest import configured
from tests.scored import Adapted, FakeScorer, Queries

LABELS = ["code"] * 2 + ["law"] * 10 + ["maths"] * 30  # 42 rows
ELIGIBLE = np.array([i for i in range(42) if i not in (2, 20)])  # 2, 9 and 29 of them
POOL = Queries(LABELS)
SOURCES = Sources.of(POOL, ELIGIBLE)


def round_of(draws: int = 20, index: int = 1, seed: int = 0, losses=(), trained=None, step: int | None = None) -> Round:
    """A round whose scorer tells `losses`, one array of the pool's rows for each question."""
    trained = np.zeros(len(LABELS), dtype=np.int64) if trained is None else trained
    return dataclasses.replace(
        Round.alone(draws, seed, ELIGIBLE, len(LABELS)),
        index=index,
        step=index * 5 if step is None else step,
        update=max(0, index - 1),
        updates=9,
        trained=trained,
        pool=POOL,
        scorer=FakeScorer(losses),
        model=Adapted(),
    )


def random_losses(seed: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((12, len(LABELS))))


def test_sources_are_the_labels_of_eligible_rows():
    assert SOURCES.names == ("code", "law", "maths")
    assert SOURCES.sizes.tolist() == [2, 9, 29]
    assert 2 not in SOURCES.rows[1] and 20 not in SOURCES.rows[2]
    with pytest.raises(UserError, match=r"all 2 eligible rows are of one source \(code\), so there is nothing to mix"):
        Sources.of(POOL, np.arange(2))


@pytest.fixture(params=choices("mixer"))
def make(request):
    return lambda: instantiate(configured("train", "trainer=dynamic_mix", f"mixer={request.param}").mixer)


def test_proportions_are_shares(make):
    mixer = make()
    assert isinstance(mixer, Mixer)
    for index in range(1, 5):
        shares = mixer.proportions(round_of(index=index, losses=random_losses(index)), SOURCES)
        assert shares.shape == (3,) and shares.dtype == np.float64
        assert (shares >= 0).all() and shares.sum() == pytest.approx(1, abs=1e-12)
        assert all(values.shape == (3,) for values in mixer.metrics().values())


def test_a_restart_changes_nothing(make):
    """Through the state that goes into checkpoints, at every round."""
    going, trained = make(), np.zeros(len(LABELS), dtype=np.int64)
    for index in range(1, 6):
        again = make()
        again.load_state_dict(going.state_dict())
        one, other = (
            Mix(m).select(round_of(index=index, losses=random_losses(index), trained=trained)) for m in (going, again)
        )
        np.testing.assert_array_equal(one.order, other.order)
        assert one.mix == other.mix
        np.add.at(trained, one.order, 1)


@pytest.mark.parametrize("draws", [1, 7, 60, 500])
def test_mix_keeps_a_selectors_contract(make, draws):
    round = round_of(draws, losses=random_losses())
    subset = checked(Mix(make()).select(round), round, "mix")
    assert list(dict.fromkeys(subset.order.tolist())) == subset.ids.tolist()
    assert sum(subset.mix["draws"].values()) == draws


def test_static_by_hand():
    shares = Static({"law": 3, "maths": 1}).proportions(round_of(), SOURCES)
    assert shares.tolist() == [0, 0.75, 0.25]
    assert Static().proportions(round_of(), SOURCES) == pytest.approx(np.array([2, 9, 29]) / 40)
    roots = np.sqrt([2, 9, 29])
    assert Static(temperature=2).proportions(round_of(), SOURCES) == pytest.approx(roots / roots.sum())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            {"low": 1},
            "mixer.proportions.low: the pool has no source of that name; did you mean law?",
        ),
        ({"law": 0}, "gives no source a share"),
        ({}, "gives no source a share"),
    ],
)
def test_proportions_that_can_not_be_are_refused(numbers, message):
    with pytest.raises(UserError) as caught:
        Mix(Static(numbers)).check_pool(POOL, ELIGIBLE)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("proportions={law:-1}", "mixer.proportions.law=-1 is too small"),
        ("proportions={law:much}", "mixer.proportions.law=much is not a number"),
        ("proportions=[0.5,0.5]", r"mixer.proportions=\[0.5, 0.5\] is not a mapping"),
        ("initial={law:nan}", "mixer.initial.law=nan is not a finite number"),
        ("initial={law:true}", "mixer.initial.law=True is not a number"),
    ],
)
def test_proportions_of_another_kind_are_refused(option, line):
    with pytest.raises(UserError, match=line):
        configured("train", "data=files", "trainer=dynamic_mix", "mixer=static", f"mixer.{option}")


def test_random_is_new_each_round_and_flat():
    result = np.array([Random().proportions(round_of(index=i), SOURCES) for i in range(2000)])
    assert result.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert result.std(axis=0) == pytest.approx([np.sqrt(1 / 18)] * 3, abs=0.02)
    assert not np.array_equal(result[0], result[1])


def test_exploration_falls_with_the_root_of_steps():
    assert exploration(3, 1) == 1 / 3  # sqrt(ln 3 / 3) = 0.605
    assert exploration(3, 3) == 1 / 3 and exploration(3, 4) < 1 / 3  # 3 ln 3 = 3.3
    assert exploration(2, 50) == pytest.approx(0.083255, abs=1e-6)


def test_odm_by_hand():
    """Two sources with shares 0.25 and 0.75, losses 2 and 3, alpha 0.9: rewards 0.1 x 8 and 0.1 x 4."""
    rewards = rewarded(np.zeros(2), np.array([2.0, 3.0]), np.array([0.25, 0.75]), 0.9)
    assert rewards == pytest.approx([0.8, 0.4])
    assert rewarded(np.ones(2), np.array([2.0, 3.0]), np.array([0.0, 1.0]), 0.9) == pytest.approx([1.0, 1.2])
    shares = policy(rewards, 0.5, 0.1)  # exp(0.4), exp(0.2): 0.549834 and 0.450166 of 0.8, and 0.1 each
    assert shares == pytest.approx([0.539867, 0.460133], abs=1e-6)
    assert policy(np.array([5e4, 0.0]), 0.5, 0.1) == pytest.approx([0.9, 0.1])


def test_odm_round_by_round():
    losses = np.select([np.array(LABELS) == name for name in SOURCES.names], [1.0, 2.0, 4.0])
    mixer = Odm(alpha=0.5, sample=4)
    first, second, third = (round_of(index=i, losses=[losses], step=step) for i, step in ((1, 7), (2, 9), (3, 107)))
    assert mixer.proportions(first, SOURCES).tolist() == [1 / 3] * 3
    assert not first.scorer.requested and mixer.metrics() == {}
    assert mixer.proportions(second, SOURCES) == pytest.approx([1 / 3] * 3)  # two steps: exploration is all there is
    assert mixer.metrics()["losses"] == pytest.approx([1, 2, 4])
    assert mixer.metrics()["rewards"] == pytest.approx([1.5, 3, 6])
    shares = mixer.proportions(third, SOURCES)
    assert len(third.scorer.requested[0]) == 2 + 4 + 4
    rewards = np.array([2.25, 4.5, 9.0])  # half of what they were and half of 3, 6, 12
    rate, gibbs = np.sqrt(np.log(3) / 300), np.exp(rewards / 3)
    assert shares == pytest.approx((1 - 3 * rate) * gibbs / gibbs.sum() + rate)


def test_a_step_of_doremi_by_hand():
    """Shares 0.5 and 0.5, excess 0 and ln 3, eta 1: 0.25 and 0.75; then 0.1 of equal shares."""
    assert updated(np.array([0.5, 0.5]), np.array([0.0, np.log(3)]), 1.0, 0.1) == pytest.approx([0.275, 0.725])
    assert updated(np.array([0.5, 0.5]), np.array([0.0, 5e4]), 1.0, 0.1) == pytest.approx([0.05, 0.95])


def test_excess_is_clipped_token_by_token():
    """A row whose losses are one above and one below the reference's has an excess, though its mean has none."""
    now, before = np.zeros((42, 2)), np.zeros((42, 2))
    now[:2], before[:2] = [2, 1], [1, 2]  # code
    now[2:12], before[2:12] = [1, 1], [3, 3]  # law: below the reference
    mixer = Doremi(eta=2.0, c=0.0)
    shares = mixer.proportions(round_of(losses=[now, before]), SOURCES)
    assert mixer.metrics()["excess"].tolist() == [0.5, 0, 0]
    assert shares == pytest.approx(np.array([np.e, 1, 1]) / (np.e + 2))
    again = mixer.proportions(round_of(index=2, losses=[before, before]), SOURCES)
    assert again == pytest.approx(shares)
    assert mixer.metrics()["average"] == pytest.approx(shares)


def test_a_sources_loss_is_the_mean_over_its_tokens():
    sample = Sample(np.array([4, 5, 6]), np.array([0, 1, 1]))
    losses = np.array([[1, 2, 3], [4, 0, 0], [1, 1, 0]], dtype=np.float32)
    assert sample.means(losses, np.array([3, 1, 2]), 2).tolist() == [2, 2]


def test_a_missing_reference_is_refused(tmp_path):
    with pytest.raises(UserError, match="mixer.reference=/nowhere: no such folder"):
        Doremi("/nowhere")


def test_counts_are_within_one_and_exact_on_average():
    shares = np.array([0.9, 0.05, 0.05])
    assert counts(np.array([0.5, 0.3, 0.2]), 4, 0.9).tolist() == [2, 1, 1]
    result = np.array([counts(shares, 8, offset) for offset in np.linspace(0, 1, 4001)[:-1]])
    assert (result.sum(axis=1) == 8).all()
    assert (np.abs(result - 8 * shares) < 1).all()
    assert result.mean(axis=0) == pytest.approx(8 * shares, abs=1e-3)
    assert (counts(np.array([0.3, 0.7, 0.0]), 10, 1 - 1e-12)[2]) == 0


def test_within_a_source_rows_come_once_before_any_twice():
    trained = np.zeros(42, dtype=np.int64)
    trained[[3, 4]] = 1
    rows = SOURCES.rows[1]
    first = least_trained(rows, 7, trained, seed=0)
    assert sorted(first) == sorted(set(rows) - {3, 4})
    many = least_trained(rows, 25, trained, seed=0)
    assert sorted(many[:7]) == sorted(first)
    np.add.at(trained, many, 1)
    assert trained[rows].max() - trained[rows].min() <= 1
    assert len(least_trained(rows, 0, trained, seed=0)) == 0


def test_a_small_source_is_spread_over_the_round_and_over_rounds():
    """Half the draws of two rows: in every ten draws five, and as often in all rounds."""
    mixer = Mix(Static({"code": 1, "maths": 1}))
    trained = np.zeros(42, dtype=np.int64)
    for index in range(4):
        order = mixer.select(round_of(60, index=index, trained=trained)).order
        shares = np.isin(order, [0, 1]).reshape(6, 10).sum(axis=1)
        assert shares.sum() == 30 and (np.abs(shares - 5) <= 2).all()
        np.add.at(trained, order, 1)
    assert trained[[0, 1]].tolist() == [60, 60]
    maths = trained[SOURCES.rows[2]]
    assert maths.max() - maths.min() <= 1


def test_trackers_log_proportions_under_clean_names():
    line = {"mix": {"proportions": {"a b/c": 0.5, "a-b-c": 0.25, "数学": 0.25}}}
    assert proportions(line) == {"mix/a-b-c": 0.5, "mix/a-b-c-1": 0.25, "mix/数学": 0.25}
    assert proportions({"mix": None}) == {}


# --- warm-ups -------------------------------------------------------------------------------------------------------


def warm_up_shares(mixer: Mixer, draws: int = 40, rounds: int = 50) -> np.ndarray:
    """The mean share of each source over the warm-ups of `rounds` seeds."""
    labels, result = np.array(LABELS), np.zeros(3)
    for seed in range(rounds):
        subset = checked(Mix(mixer).warm_up(warm := round_of(draws, index=0, seed=seed)), warm, "mix")
        result += [np.mean(labels[subset.order] == name) for name in SOURCES.names]
    return result / rounds


def test_a_warm_up_draws_by_the_proportions_that_the_mixer_begins_with():
    numbers = {"code": 0.0, "law": 0.7, "maths": 0.3}
    assert warm_up_shares(Static(numbers)) == pytest.approx([0, 0.7, 0.3], abs=1e-9)
    assert warm_up_shares(Static()) == pytest.approx([2 / 40, 9 / 40, 29 / 40], abs=1e-9)
    assert warm_up_shares(Static(numbers, initial={"code": 1, "law": 1})) == pytest.approx([0.5, 0.5, 0], abs=1e-9)
    for mixer in (Odm(), Doremi()):  # no model is needed
        assert warm_up_shares(mixer) == pytest.approx([1 / 3] * 3, abs=1e-2)
    for mixer in (Odm(initial=numbers), Doremi(initial=numbers), Random(numbers)):
        assert warm_up_shares(mixer) == pytest.approx([0, 0.7, 0.3], abs=1e-9)
    warm = round_of(index=0, seed=4)
    assert Mix(Random()).warm_up(warm).mix["proportions"] == SOURCES.by_name(Random().proportions(warm, SOURCES))


def test_an_odd_initial_is_refused():
    for mixer in (Static, Random, Odm, Doremi):
        with pytest.raises(UserError, match="mixer.initial={'law': 0} gives no source a share"):
            mixer(initial={"law": 0})
    with pytest.raises(UserError, match="mixer.initial.laws: the pool has no source of that name; did you mean law?"):
        Mix(Odm(initial={"laws": 1})).check_pool(POOL, ELIGIBLE)
