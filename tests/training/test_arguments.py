"""TrainingArguments and how processes share a model, as far as a CPU without DeepSpeed goes."""

import logging

import pytest

from near.common.errors import UserError
from near.searching import material
from near.training import arguments
from near.training import train as training
from near.training.arguments import is_sharded, training_arguments
from near.training.train import train
from tests.conftest import RANKS, ROOT, configured, process
from tests.training.test_training import history

pytestmark = pytest.mark.model


def test_sharing_that_is_impossible_here_is_refused_before_loading(tiny, tmp_path, monkeypatch, packages):
    monkeypatch.setattr(training, "load_start", lambda *a: pytest.fail("loaded a model"))
    monkeypatch.setattr(material, "find_neighbours", lambda *a: pytest.fail("embedded"))
    packages(deepspeed=False, bitsandbytes=False)

    def refused(*overrides: str) -> str:
        settings = [w for w in tiny if "finetuning=full" not in overrides or not w.startswith("finetuning.")]
        with pytest.raises(UserError) as caught:
            train(configured("train", *settings, *overrides), tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert 'pip install "near[deepspeed]"' in refused("parallel=deepspeed_z3")
    assert "would silently train with DDP" in refused("parallel=fsdp")
    assert 'pip install "near[qlora]"' in refused("finetuning=qlora")
    packages(bitsandbytes=True)
    message = refused("finetuning=full", "+model.quantization._target_=transformers.BitsAndBytesConfig")
    assert "finetuning=full can't train quantised weights" in message
    assert "trainer.args are refused: sometimes" in refused("trainer.args.save_strategy=sometimes")
    monkeypatch.setattr(arguments, "LAUNCHED_WITH", ["FSDP"])
    assert "accelerate's configuration sets FSDP, but here parallel chooses it" in refused()


def test_the_precision_is_logged_once(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(configured("train", *tiny), tmp_path)
    assert caplog.text.count("computing in float32, base weights in float32, on CPU") == 1


def test_nothing_is_sharded_by_default(tiny, tmp_path):
    args = training_arguments(configured("train", *tiny), tmp_path)
    assert not is_sharded(args) and not args.bf16 and args.report_to == []


def test_gradient_checkpointing_changes_no_loss(tiny, tmp_path):
    train(configured("train", *tiny), tmp_path / "plain")
    train(configured("train", *tiny, "+trainer.args.gradient_checkpointing=true"), tmp_path / "saving")
    assert [line["loss"] for line in history(tmp_path / "saving")] == pytest.approx(
        [line["loss"] for line in history(tmp_path / "plain")], rel=1e-6
    )


FSDP2 = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from near.data.loading import load
from near.evaluation.measure import measure
from near.evaluation.settings import EvalSettings
from near.models.loading import add_finetuning, load_base, load_tokenizer
from tests.conftest import configured

dist.init_process_group("gloo")
mesh = dist.init_device_mesh("cpu", (2,))
cfg = configured("train", *sys.argv[1:])
rows = load(cfg.data, "eval", cfg.cache_dir)
tokenizer = load_tokenizer(cfg.model, cfg.cache_dir)

def trained(shard: bool):
    torch.manual_seed(0)
    model = add_finetuning(load_base(cfg.model, cfg.cache_dir), cfg.finetuning)
    if shard:
        for layer in model.base_model.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        part = torch.arange(64).reshape(2, 32) + step
        part = part[dist.get_rank() :][:1] if shard else part
        model(input_ids=part, labels=part).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    settings = EvalSettings.of(cfg, cfg.cache_dir)
    with model.disable_adapter():
        base, _ = measure(model, tokenizer, rows, settings)
    return *measure(model, tokenizer, rows, settings), base.target_loss, sum(p.numel() for p in model.parameters())

whole, sharded = trained(False), trained(True)
assert abs(whole[0].target_loss - sharded[0].target_loss) < 1e-5, (whole[0], sharded[0])
assert [a["answer"] for a in whole[1]] == [a["answer"] for a in sharded[1]]
assert abs(whole[2] - sharded[2]) < 1e-6 and abs(whole[2] - whole[0].target_loss) > 1e-3
print("ok")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_model_under_fully_shard_trains_and_is_evaluated_by_all_ranks_together(tiny, tmp_path):
    """FSDP2's wrapping on gloo: what `parallel=fsdp` relies on where there are GPUs."""
    path = tmp_path / "program.py"
    path.write_text(FSDP2)
    done = process(*RANKS, str(path), *tiny, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("ok") == 2


@pytest.mark.slow
def test_a_failing_rank_ends_the_job_with_its_error(tiny, tmp_path):
    words = ["train.py", *tiny, "selector._target_=tests.spy.FailsOnRank1", f"output_dir={tmp_path}/run"]
    done = process(*RANKS, *words, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == "error: selector.policy=repeat is refused by rank 1 alone"
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_accelerate_launch_is_torchrun(tiny, tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]
    for name, launcher in (("accelerate", launch), ("torchrun", RANKS)):
        words = [*launcher, "train.py", *tiny, "trainer._target_=tests.spy.SpyTrainer", f"output_dir={tmp_path / name}"]
        done = process(*words, env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        assert (tmp_path / name / "trained-1.jsonl").exists()
    assert history(tmp_path / "accelerate") == history(tmp_path / "torchrun")
