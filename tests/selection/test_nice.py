"""NICE: its query features are policy gradients, and its judge's replies are read with care."""

import numpy as np
import pytest
import torch

from near.common.errors import UserError
from near.models.chat_judge import Judge
from near.models.tokens import IGNORED
from near.selection.selectors.nice import Nice, answer_row
from tests import scored
from tests.judging import chat, serve  # noqa: F401 - a fixture
from tests.scored import Queries, round_for

CHATS = [
    [{"role": "user", "content": f"what is {a}?"}, {"role": "assistant", "content": str(a)}]
    for a in range(scored.QUERIES)
]


@pytest.fixture()
def made(tmp_path, cache):
    model, optimizer, tokenizer = scored.model_and_optimizer(cache)
    scorer = scored.scorer(tmp_path, tokenizer, dim=64, adam=False)
    known = {"model": model, "optimizer": optimizer, "queries": Queries(["a"] * scored.QUERIES, CHATS)}
    return lambda **more: round_for(scorer, 4, **{**known, **more})


def rewarding(monkeypatch, rule) -> list[list[dict]]:
    """Have `rule` (query, sample) give the rewards; returns the rows that were answered."""
    seen, whole = [], Nice._answered

    def answered(self, round, ids, seed):
        rows, rewards = whole(self, round, ids, seed)
        seen.append(rows)
        return rows, np.array([rule(q, s) for q in ids for s in range(self.samples)], dtype=np.float32)

    monkeypatch.setattr(Nice, "_answered", answered)
    return seen


@pytest.mark.model
def test_query_features_are_the_policy_gradient(made, monkeypatch):
    """Mean over the samples of reward times the gradient of the answer's summed negative log likelihood."""
    seen = rewarding(monkeypatch, lambda query, sample: float(query == 1 or query == 3 and sample == 0))
    round, selector = made(), Nice(samples=3, max_new_tokens=6)
    features = selector.features(round)
    assert (features.norms > 0).tolist() == [False, True, False, True, False]
    model, rows = round.model, seen[0]
    model.eval()
    for query, used in ((1, [3, 4, 5]), (3, [9])):
        total = 0
        for i in used:
            row = {**rows[i], "labels": rows[i]["labels"]}
            count = int((row["labels"][1:] != IGNORED).sum())
            total = total + scored.gradient(model, row) * count / 3
        from near.selection.scoring.gradients import PerExample, Projection

        projection = Projection(*round.scorer.projection)

        with PerExample(model, projection) as per_example:
            out = projection.zeros(1, {n: w.numel() for n, w in per_example.weights.items()}, "cpu")
            start = 0
            for name, weight in per_example.weights.items():
                projection.add(out, name, total[None, start : start + weight.numel()])
                start += weight.numel()
        expected = projection.finished(out)[0]
        assert features.norms[query] == pytest.approx(expected.norm().item(), rel=1e-3)
        np.testing.assert_allclose(features.matrix()[query], (expected / expected.norm()).numpy(), atol=2e-3)


@pytest.mark.model
def test_answers_are_drawn_once_by_seed_and_round(made, monkeypatch):
    seen = rewarding(monkeypatch, lambda query, sample: 1.0)
    selector = Nice(samples=2, max_new_tokens=4)
    first = selector.select(made())
    again = Nice(samples=2, max_new_tokens=4).select(made())
    assert len(seen) == 1  # found in the cache
    np.testing.assert_array_equal(first.ids, again.ids)
    selector.features(made(seed=1))
    selector.features(made(index=1))
    texts = [[row["input_ids"].tolist() for row in rows] for rows in seen]
    assert len(seen) == 3 and texts[0] != texts[1] and texts[0] != texts[2]
    assert texts[0][0] != texts[0][1]  # two samples of one query


@pytest.mark.model
def test_without_any_reward_rows_are_random_with_a_warning(made, monkeypatch, caplog):
    rewarding(monkeypatch, lambda query, sample: 0.0)
    with caplog.at_level("WARNING", logger="near"):
        subset = Nice(samples=1, max_new_tokens=2).select(made())
    assert len(set(subset.ids.tolist())) == 4 and subset.scores is None
    assert "no answer of the model is rewarded" in caplog.text


@pytest.mark.model
def test_training_goes_on_as_if_nothing_had_been_drawn(made, monkeypatch):
    rewarding(monkeypatch, lambda query, sample: 1.0)
    round, state = made(), torch.random.get_rng_state()
    Nice(samples=1, max_new_tokens=2).select(round)
    assert torch.equal(torch.random.get_rng_state(), state) and round.model.training


@pytest.mark.model
def test_an_exact_answer_is_rewarded(made, monkeypatch):
    """The model is made to say the reference of query 2, in another case and with a full stop."""
    round = made()
    reply = round.scorer.tokenizer("2. ", add_special_tokens=False)["input_ids"]

    def generate(input_ids, **_):
        return torch.cat([input_ids, torch.tensor([reply + [2]] * len(input_ids))], dim=1)

    monkeypatch.setattr(round.model, "generate", generate)
    rows, rewards = Nice(samples=2)._answered(round, np.arange(5), (0,))
    assert rewards.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert rows[0]["labels"][rows[0]["start"] :].tolist() == reply + [2]
    assert (rows[0]["labels"][: rows[0]["start"]] == IGNORED).all()


def test_an_answer_ends_at_its_first_end():
    row = answer_row([5, 6], [7, 2, 2, 9], [2])
    assert row["input_ids"].tolist() == [5, 6, 7, 2] and row["labels"].tolist() == [IGNORED, IGNORED, 7, 2]
    assert answer_row([5], [7, 8], [2, 3])["input_ids"].tolist() == [5, 7, 8]
    assert answer_row([5], [7, 3, 8], [2, 3])["labels"].tolist() == [IGNORED, 7, 3]


# the judge


@pytest.fixture()
def judge(serve):  # noqa: F811
    def make(say, **options):
        server, server_options = serve(say)
        return Judge(server_options, **options), server

    return make


def test_verdicts_come_in_order_and_braces_of_the_data_stay(judge):
    def say(body, _):
        text = body["messages"][0]["content"]
        return 200, chat("Yes." if "right" in text.split("Answer to judge:")[1] else "**No**, it does not")

    asker, server = judge(say)
    cases = [("q {answer}", "r", f"{'right' if i % 3 else 'wrong'} {i}") for i in range(7)]
    assert asker.verdicts(cases) == [bool(i % 3) for i in range(7)]
    path, key, body = server.requests[0]
    assert path == "/v1/chat/completions" and key == "Bearer a-key"
    assert body["model"] == "wise" and body["temperature"] == 0 and "q {answer}" in body["messages"][0]["content"]


def test_a_busy_judge_gets_the_request_again(judge):
    asker, server = judge(lambda body, count: (503, {}) if count < 3 else (200, chat("yes")))
    assert asker.verdicts([("q", "r", "a")]) == [True] and len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ((200, chat("perhaps")), "replies 'perhaps', neither yes nor no"),
        ((200, {"choices": []}), "did not return a chat completion"),
        ((200, []), "did not return a chat completion"),
        ((401, {}), "put it into the environment variable JUDGE_API_KEY"),
        ((500, {}), "did not answer in 3 tries"),
    ],
)
def test_a_judge_that_talks_nonsense_is_one_line(judge, reply, line):
    asker, _ = judge(lambda body, count: reply)
    with pytest.raises(UserError, match=line):
        asker.verdicts([("q", "r", "a")])


def test_a_judge_needs_an_address_and_a_name():
    with pytest.raises(UserError, match="judge.server.url is missing"):
        Nice(reward="judge", judge={"server": {"url": None, "model": "x"}})
    with pytest.raises(UserError, match="judge.server.model is missing"):
        Nice(reward="judge", judge={"server": {"url": "http://x/v1", "concurrency": 1}})
    assert Nice(judge={"server": {"url": None}}).judge is None


@pytest.mark.model
def test_the_judge_rewards(made, monkeypatch):
    class Yes:
        model = "wise"

        def verdicts(self, cases):
            assert cases[0][:2] == ("what is 0?", "0")
            return [number % 2 == 0 for number in range(len(cases))]

    selector = Nice(samples=2, max_new_tokens=2)
    selector.judge = Yes()
    _, rewards = selector._answered(made(), np.arange(3), (0,))
    assert rewards.tolist() == [1, 0, 1, 0, 1, 0]
