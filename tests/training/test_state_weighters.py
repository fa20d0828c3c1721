"""Weighters by hidden states: their formulas by hand, and runs of a model of random weights."""

import numpy as np
import pytest
import torch

from near.common.errors import UserError
from near.models.tokens import IGNORED
from near.training.row_states import pooled
from near.training.train import train
from near.training.weighters.adapt import Adapt
from near.training.weighters.joint_update_aware import JointUpdateAware
from near.training.weighting import DynamicWeightTrainer
from tests.conftest import RANKS, configured, process
from tests.training.test_training import history
from tests.training.test_weighting import close, weighted

pytestmark = pytest.mark.model
EVEN = torch.full((4,), 5.0)


def units(rows: int, seed: int = 0) -> torch.Tensor:
    vectors = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def test_pooling_by_hand():
    states = torch.tensor([[[1.0], [2.0], [6.0]], [[3.0], [5.0], [99.0]]])
    mask, labels = torch.tensor([[1, 1, 1], [1, 1, 0]]), torch.tensor([[IGNORED, 7, 7], [IGNORED, IGNORED, IGNORED]])
    assert pooled(states, mask, labels, "last_token").tolist() == [[6], [5]]
    assert pooled(states, mask, labels, "mean").tolist() == [[4], [4]]  # the second has no answer: of all tokens
    weighted_means = pooled(states, mask, labels, "weighted_mean")[:, 0].tolist()
    assert weighted_means == pytest.approx([(1 * 1 + 2 * 2 + 3 * 6) / 6, (1 * 3 + 2 * 5) / 3])


def test_adapt_row_by_row():
    rows, anchors = units(4), units(3, seed=1)
    cosines = [[float(row @ anchor) for anchor in anchors] for row in rows]
    for tau in (1.0, 0.1):
        expected = [1 / (1 + np.exp(-np.mean(line) / tau)) for line in cosines]
        got = Adapt(tau=tau).factors(rows, anchors.mean(dim=0), EVEN)
        assert got.tolist() == pytest.approx(expected, rel=1e-5)
        clipped = Adapt(tau=tau, clip=0.5).factors(rows, anchors.mean(dim=0), EVEN)
        assert clipped.tolist() == pytest.approx([min(0.5, value) for value in expected], rel=1e-5)


def objective(w: np.ndarray, s: np.ndarray, gram: np.ndarray, beta: float, tau: float) -> float:
    return s @ w - beta / 2 * w @ gram @ w - tau * np.sum(w * np.log(np.maximum(w, 1e-30)))


@pytest.mark.parametrize(("beta", "tau", "damping"), [(0.1, 0.05, 1.0), (2.0, 0.3, 0.3), (0.0, 1.0, 1.0)])
def test_joint_weights_are_the_best_of_the_simplex(beta, tau, damping):
    rows, target = units(4), units(1, seed=1)[0]
    weighter = JointUpdateAware(beta=beta, tau=tau, iterations=200, damping=damping)
    gram = rows @ rows.T
    w = weighter.solved(rows @ target, gram, EVEN > 0).double().numpy()
    assert w.sum() == pytest.approx(1, rel=1e-5)
    known = (rows @ target).double().numpy(), gram.double().numpy(), beta, tau
    best, rng = objective(w, *known), np.random.default_rng(0)
    near_by = [w * np.exp(rng.normal(size=4) * scale) for scale in (0.01, 0.1, 1.0) for _ in range(500)]
    assert max(objective(v / v.sum(), *known) for v in near_by) <= best + 1e-7
    # the weights of few iterations, step by step
    slow = np.full(4, 0.25)
    for _ in range(3):
        score = known[0] - beta * known[1] @ slow
        slow = (1 - damping) * slow + damping * np.exp(score / tau) / np.exp(score / tau).sum()
    few = JointUpdateAware(beta=beta, tau=tau, iterations=3, damping=damping)
    assert few.solved(rows @ target, gram, EVEN > 0).tolist() == pytest.approx(slow.tolist(), rel=1e-4)


def test_joint_by_hand():
    """Rows 0 and 1 are the target's direction, row 2 is at a right angle to it."""
    rows, target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([3.0, 0.0])
    three = torch.full((3,), 4.0)
    aligned = JointUpdateAware(objective="align", tau=1.0).factors(rows, target, three)
    exps = np.exp([1, 1, 0])
    assert aligned.tolist() == pytest.approx((3 * exps / exps.sum()).tolist())
    diverse = JointUpdateAware(objective="diverse", beta=1.0, tau=1.0, iterations=1).factors(rows, target, three)
    exps = np.exp([-2 / 3, -2 / 3, -1 / 3])
    assert diverse.tolist() == pytest.approx((3 * exps / exps.sum()).tolist())
    tokens = torch.tensor([4.0, 0.0, 8.0])  # the second has no answer: as if it were not there
    factors = JointUpdateAware(objective="diverse").factors(rows, target, tokens)
    assert factors.tolist() == pytest.approx([1, 0, 1]) and (factors * tokens).sum() == pytest.approx(12)
    lengths = JointUpdateAware(objective="align", tau=1.0, normalise=False).factors(rows, target, three)
    exps = np.exp([3, 3, 0])
    assert lengths.tolist() == pytest.approx((3 * exps / exps.sum()).tolist())


STEPS = ["trainer.train_step=6", "weighter.refresh=2", "finetuning.lora_dropout=0.1"]
KINDS = {
    "adapt": ["weighter.tau=0.1"],
    "joint_update_aware": ["weighter.pooling=mean", "weighter.layer=1", "weighter.target_rows=3"],
}


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_is_the_weighted_sum_by_hand(tiny, tmp_path, monkeypatch, name):
    """Each row's states by the model alone, without padding and dropout; the target's at the refreshes before."""
    seen, targets, compute = [], {}, DynamicWeightTrainer.compute_loss

    def vector(model, row: dict) -> torch.Tensor:
        row = {k: torch.as_tensor(v)[None] for k, v in row.items()}
        states = model(**{k: v for k, v in row.items() if k != "labels"}, output_hidden_states=True).hidden_states
        if name == "adapt":
            weights = torch.arange(1, row["input_ids"].shape[1] + 1.0)
            mean = (states[-1][0] * weights[:, None]).sum(0) / weights.sum()
            return mean / mean.norm()
        return states[1][0][row["labels"][0] != IGNORED].mean(0)

    def watching(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        step = self.state.global_step
        if not model.training or step < self.warmup_step:
            return compute(self, model, inputs, return_outputs, num_items_in_batch)
        model.eval()  # so that the loss has no dropout either
        with torch.no_grad():
            table, count = self.job.target.table, len(self.job.target.eligible)
            rows = [table[i] for i in range(count)]
            rows = [{"input_ids": r["input_ids"], "labels": r["labels"]} for r in rows]
            if step % 2 == 0:  # refreshed
                first = 0 if name == "adapt" else 3 * (step // 2 - 1) % count
                part = rows if name == "adapt" else [rows[(first + i) % count] for i in range(3)]
                targets[step] = torch.stack([vector(model, row) for row in part]).mean(0)
            target = targets[step - step % 2]
            singles, means = [], []
            for i in range(len(inputs["labels"])):
                length = int(inputs["attention_mask"][i].sum())
                row = {k: inputs[k][i][:length] for k in ("input_ids", "labels")}
                singles.append(vector(model, row))
                means.append(model(**{k: v[None] for k, v in row.items()}).loss)
            tokens = (inputs["labels"][:, 1:] != IGNORED).sum(1)
            if name == "adapt":
                weights = torch.stack([torch.sigmoid(one @ target / 0.1) for one in singles])
            else:
                units = torch.stack([one / one.norm() for one in singles])
                s, gram, w = units @ (target / target.norm()), units @ units.T, torch.full((4,), 0.25)
                for _ in range(5):
                    w = torch.softmax((s - 0.1 * gram @ w) / 0.05, dim=0)
                weights = w * tokens.sum() / (tokens * w).sum()
            expected = (weights * tokens * torch.stack(means)).sum() / num_items_in_batch
        model.training = True  # of the outermost module alone: no dropout
        loss = compute(self, model, inputs, return_outputs, num_items_in_batch)
        model.train()
        seen.append((loss.item(), expected.item()))
        return loss

    monkeypatch.setattr(DynamicWeightTrainer, "compute_loss", watching)
    settings = [word for word in STEPS if "dropout" not in word]
    train(configured("train", *weighted(tiny, name, *settings, *KINDS[name])), tmp_path)
    assert len(seen) == 4 and sorted(targets) == [2, 4]
    assert [a for a, _ in seen] == pytest.approx([b for _, b in seen], rel=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tiny, tmp_path, monkeypatch, name):
    """Stopped between two refreshes: the target's vector is the checkpoint's."""
    more = [*STEPS, *KINDS[name], "trainer.args.save_steps=5", "weighter.refresh=3"]
    settings = weighted(tiny, name, *more, "trainer.args.gradient_accumulation_steps=2", "trainer.whole_step=true")
    train(configured("train", *settings), tmp_path / "whole")
    save = DynamicWeightTrainer._save_checkpoint

    def stopping(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DynamicWeightTrainer, "_save_checkpoint", stopping)
        train(configured("train", *settings), tmp_path / "broken")
    train(configured("train", *settings), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    weights = [(tmp_path / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_a_target_is_needed(tiny):
    with pytest.raises(UserError, match="the target's rows, which weighter Adapt compares rows with"):
        from near.app.check.check import check_sources

        check_sources(configured("train", *weighted(tiny, "adapt", "data.queries.path=null")))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("name", KINDS)
def test_two_processes_weigh_all_their_rows_together(tiny, tmp_path, name):
    more = [word for word in STEPS if "dropout" not in word] + KINDS[name]
    two = weighted(tiny, name, *more, "trainer.args.per_device_train_batch_size=2")
    ran = process(*RANKS, "train.py", *two, f"output_dir={tmp_path / 'two'}", env={"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr[-2000:]
    train(configured("train", *weighted(tiny, name, *more)), tmp_path / "one")
    close(tmp_path / "two", tmp_path / "one")
