"""A model that is sharded over processes, and one whose weights are quantised: DeepSpeed and bitsandbytes, on CPU
ranks. Run by `make test-extras`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from near.models.loading import add_finetuning, load_base
from near.models.tokens import Collator
from near.models.weights import trained
from near.selection.scoring.gradients import PerExample, Projection
from near.training.rounds.sampler import draws
from near.training.train import train
from tests import scored
from tests.conftest import RANKS, ROOT, configured, evaluate, process
from tests.training.test_training import history, stopped

pytestmark = pytest.mark.extras
CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
WRAPPED = {0: "", 2: "DeepSpeedZeroOptimizer", 3: "DeepSpeedZeroOptimizer_Stage3"}


def words(tiny: list[str], finetuning: str) -> list[str]:
    others = [w for w in tiny if not w.startswith("finetuning.")]
    more = [] if finetuning == "full" else ["finetuning.r=4", "finetuning.lora_dropout=0.1"]
    return [*others, f"finetuning={finetuning}", *more, "trainer.args.save_steps=5"]


def ranks(folder: Path, *command: str) -> str:
    done = process(*RANKS, "train.py", *command, f"output_dir={folder}", env=CPU)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(folder: Path) -> bytes:
    (path,) = [p for p in folder.glob("*/*.safetensors") if p.parent.name in ("adapter", "model")]
    return path.read_bytes()


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in json.loads((folder / "train_metrics.json").read_text())["history"]]


def back_to_step_5(folder: Path) -> None:
    """As a kill after the first checkpoint would have left it."""
    for name in ("metrics.json", "train_metrics.json", "answers.jsonl"):
        (folder / name).unlink()
    for name in ("checkpoints/checkpoint-10", "adapter", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict:
    """The same runs under DDP, by how they fine-tune."""
    return {}


@pytest.mark.parametrize(("stage", "finetuning"), [(0, "lora"), (2, "lora"), (3, "lora"), (3, "full"), (3, "qlora")])
def test_two_ranks_under_deepspeed(tiny, tmp_path, plain, stage, finetuning):
    """It is what DDP computes, each row trained by one rank; and stopped at step 5 it goes on to the bit."""
    command = [*words(tiny, finetuning), "evaluation.max_new_tokens=3"]
    run, ddp = tmp_path / "run", tmp_path / "ddp"
    if finetuning not in plain:  # then ZeRO-3 also evaluates the base model, which is not in the cache
        base = [w for w in command if not w.startswith("cache_dir=")]
        ranks(ddp, *base, f"cache_dir={tmp_path}/cache")
        plain[finetuning] = (losses(ddp), json.loads((ddp / "metrics.json").read_text()))
    sharing = [f"parallel=deepspeed_z{stage}", "trainer._target_=tests.spy.Wrapped"]
    if stage == 3:  # by itself it leaves weights as small as these whole
        sharing.append("+parallel.deepspeed.zero_optimization.stage3_param_persistence_threshold=0")
    output = ranks(run, *command, *sharing)
    assert "computing in float32" in output
    np.testing.assert_allclose(losses(run), plain[finetuning][0], rtol=2e-5)
    metrics, expected = json.loads((run / "metrics.json").read_text()), plain[finetuning][1]
    assert metrics["target_loss"] == pytest.approx(expected["target_loss"], rel=1e-5)
    assert metrics["base"]["target_loss"] == pytest.approx(expected["base"]["target_loss"], rel=1e-6)
    for rank in (0, 1):
        wrapped = json.loads((run / f"wrapped-{rank}.json").read_text())
        assert (wrapped["wrapped"], wrapped["stage"]) == ("DeepSpeedEngine", stage)
        assert wrapped["optimizer"].startswith(WRAPPED[stage])
        assert (wrapped["elements"] == 0) == (stage == 3)
    batches = [[json.loads(x) for x in (run / f"trained-{r}.jsonl").read_text().splitlines()] for r in (0, 1)]
    ids = np.load(run / "rounds" / "001.npy")
    trained = [row for rank in batches for batch in rank[2:6] for row in batch]
    assert sorted(trained) == sorted(draws(ids, 16, 42, 1).tolist())

    whole = (history(run) if stage else losses(run), weights(run))
    back_to_step_5(run)
    output = ranks(run, *command, *sharing)
    assert "resuming from" in output and "checkpoint-5" in output
    assert whole == (history(run) if stage else losses(run), weights(run))


def test_a_checkpoint_with_a_damaged_shard_is_passed_over(tiny, tmp_path):
    command = [*words(tiny, "lora"), "parallel=deepspeed_z2", "trainer.args.save_steps=4"]
    ranks(tmp_path / "run", *command)
    whole = history(tmp_path / "run")
    for name in ("metrics.json", "train_metrics.json"):
        (tmp_path / "run" / name).unlink()
    (shard, *_) = sorted((tmp_path / "run" / "checkpoints" / "checkpoint-10").glob("global_step10/*rank_1*optim*"))
    shard.write_bytes(shard.read_bytes()[:200])
    output = ranks(tmp_path / "run", *command)
    assert "skipped a checkpoint" in output and "checkpoint-8" in output
    assert history(tmp_path / "run") == whole


def test_one_process_needs_no_launcher_and_a_file_of_options_will_do(tiny, tmp_path):
    options = {**yaml.safe_load((ROOT / "conf" / "parallel" / "deepspeed_z2.yaml").read_text())["deepspeed"]}
    (tmp_path / "ds.json").write_text(json.dumps(options))
    sharing = ["parallel=deepspeed_z2", f"parallel.deepspeed={tmp_path}/ds.json"]
    for name, more in (("plain", []), ("z3", ["parallel=deepspeed_z3"]), ("file", sharing)):
        done = process("train.py", *tiny, *more, f"output_dir={tmp_path / name}", env=CPU)
        assert done.returncode == 0, done.stderr[-3000:]
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "plain"), rtol=2e-5)


def test_qlora_trains_on_four_bits_resumes_and_is_evaluated_on_them(tiny, tmp_path, monkeypatch):
    import bitsandbytes

    settings = words(tiny, "qlora")
    seen = []
    from near.training import train as training

    made = training._trainer
    monkeypatch.setattr(training, "_trainer", lambda *a: seen.append(a[2]) or made(*a))
    train(configured("train", *settings), tmp_path / "whole")
    layers = [m for m in seen[0].modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14 and not any(layer.weight.requires_grad for layer in layers)
    stopped(monkeypatch, settings, tmp_path / "broken")
    train(configured("train", *settings), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    train(configured("train", *words(tiny, "lora")), tmp_path / "lora")
    metrics = {n: json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("whole", "lora")}
    assert 0 < abs(metrics["whole"]["base"]["target_loss"] - metrics["lora"]["base"]["target_loss"]) < 0.1
    evaluate(configured("eval", f"run={tmp_path}/whole", *tiny[-1:], *[w for w in tiny if "cache_dir" in w]), tmp_path)
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["target_loss"] == pytest.approx(metrics["whole"]["target_loss"], rel=1e-6)


def test_gradients_on_four_bits_are_right(tiny, tmp_path):
    """LESS under QLoRA: gradients of the adapter's layers as one backward pass for each row gives them."""
    cfg = configured("train", *words(tiny, "qlora"), "selector=less", f"output_dir={tmp_path}")
    train(cfg, tmp_path)
    assert len(np.load(tmp_path / "rounds" / "001.npy")) == 8
    torch.manual_seed(0)
    model = add_finetuning(load_base(cfg.model, cfg.cache_dir, "cpu"), cfg.finetuning).eval()
    with torch.no_grad():
        for weight in trained(model).values():
            weight.add_(torch.randn_like(weight) * 0.1)
    rows = list(scored.tokens(4, seed=3).table)
    with PerExample(model, Projection(None)) as per_example:
        gradients = per_example(Collator(0)(rows))
    expected = torch.stack([scored.gradient(model, row) for row in rows])
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["less", "loss"])
def test_selectors_that_ask_a_spread_model_are_refused(tiny, tmp_path, name):
    command = [*words(tiny, "lora"), "parallel=deepspeed_z3", f"selector={name}", f"output_dir={tmp_path}/run"]
    done = process("train.py", *command, env=CPU)
    assert done.returncode == 1 and "use parallel=none" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
