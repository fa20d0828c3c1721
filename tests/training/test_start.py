"""Training that goes on from an adapter: model.adapter, trained further or merged beneath a new one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.export.lineage import adapters_of
from near.models.loading import load_base, load_start, with_adapter
from near.training.train import train
from tests.conftest import configured, evaluate, report
from tests.merging import IDS, logits, merged, tiny_base, write_adapter

pytestmark = pytest.mark.model

# eight steps of two rows in their order; plain SGD, which has no state, at a constant rate
STATELESS = [
    *("trainer=static", "trainer.args.max_steps=8", "data.candidates.limit=16"),
    *("+trainer.args.optim=sgd", "trainer.args.lr_scheduler_type=constant", "trainer.args.warmup_steps=0"),
    *("trainer.args.learning_rate=0.5", "+trainer.args.train_sampling_strategy=sequential"),
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two adapters are equal to the bit."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture()
def quick(tiny) -> list[str]:
    """A run without answers and with few steps."""
    left = [word for word in tiny if not word.startswith(("trainer.warmup_step", "trainer.update"))]
    return [*left, "evaluation.answers=false", "trainer.args.learning_rate=0.02"]


@pytest.fixture()
def rounds(quick) -> list[str]:
    words = ("trainer.warmup_step=1", "trainer.update_step=1", "trainer.update_times=1")
    return [*quick, "selector=random", *words]


@pytest.fixture()
def trained(rounds, tmp_path) -> Path:
    """A run that trained an adapter."""
    train(configured("train", *rounds), tmp_path / "one")
    return tmp_path / "one"


def test_eight_and_eight_steps_are_sixteen_where_the_optimizer_has_no_state(quick, tmp_path):
    words = [*quick, *STATELESS]
    train(configured("train", *words), tmp_path / "first")
    train(configured("train", *words, f"model.adapter={tmp_path}/first"), tmp_path / "second")
    train(configured("train", *words, "trainer.args.max_steps=16"), tmp_path / "whole")
    assert same(tmp_path / "second" / "adapter", tmp_path / "whole" / "adapter")
    assert not same(tmp_path / "second" / "adapter", tmp_path / "first" / "adapter")
    first, second = (RunFolder(tmp_path / name).metrics for name in ("first", "second"))
    assert second.base.target_loss == first.target_loss  # what it began with, to the bit
    assert first.base.target_loss != first.target_loss
    assert second.start == f"{tmp_path}/first" and first.start is None


def test_with_the_optimizers_state_resume_continues_to_the_bit(rounds, tmp_path):
    """The adapter alone has another optimizer: its steps differ."""
    words = [*rounds, "trainer.update_times=3", "trainer.args.save_steps=2"]
    train(configured("train", *words), tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "checkpoint-2"
    train(configured("train", *words, f"resume={half}"), tmp_path / "resumed")
    assert same(tmp_path / "whole" / "adapter", tmp_path / "resumed" / "adapter")
    train(configured("train", *words, "trainer.update_times=1", f"model.adapter={half}"), tmp_path / "further")
    assert not same(tmp_path / "whole" / "adapter", tmp_path / "further" / "adapter")


def test_a_new_adapter_on_a_merged_one_is_one_on_the_export(rounds, trained, cache, tmp_path):
    """Training on the adapter merged in memory and on merge.py's files give the same bits; the exports answer alike."""
    export = tmp_path / "export"
    merged(trained / "adapter", cache, export)
    words = [*rounds, "seed=7"]
    train(configured("train", *words, f"model.name_or_path={export}"), tmp_path / "on_export")
    stacked = tmp_path / "stacked"
    loss = train(configured("train", *words, f"model.adapter={trained}", "model.adapter_mode=stack"), stacked)
    assert same(tmp_path / "on_export" / "adapter", stacked / "adapter")
    assert RunFolder(stacked).metrics.base.target_loss == RunFolder(tmp_path / "on_export").metrics.base.target_loss
    assert "on its base model with another adapter" in (stacked / "adapter" / "README.md").read_text()

    alone = logits(merged(stacked / "adapter", cache, tmp_path / "a" / "out"))
    paths = [f"{trained}/adapter", f"{stacked}/adapter"]
    assert [str(one.path) for one in adapters_of(paths)] == [str(one.path) for one in adapters_of(paths[1])] == paths
    twice = logits(merged(tmp_path / "on_export" / "adapter", cache, tmp_path / "c" / "out"))
    cfg = configured("train", *words, f"model.adapter={trained}", "model.adapter_mode=stack")
    in_memory = logits(with_adapter(load_base(cfg.model, str(cache)), stacked / "adapter").eval())
    assert torch.equal(alone, twice)
    assert torch.allclose(alone, in_memory, atol=1e-5)
    plain = logits(tiny_base(cache))
    assert (alone - plain).abs().max() > 1e-3
    record = json.loads((tmp_path / "a" / "merge.json").read_text())
    assert record["adapters"] == [f"{trained}/adapter", f"{stacked}/adapter"]
    card = (tmp_path / "a" / "out" / "README.md").read_text()
    assert "fine-tuning of `one`, then `stacked` merged" in card and "before training: base model with one" in card

    shutil.move(trained, tmp_path / "moved")  # the run has a copy
    first, second = adapters_of(paths[1])
    assert (first.path, second.path) == (stacked / "start", stacked / "adapter")
    evaluate(configured("eval", f"run={stacked}", f"cache_dir={cache}", "evaluation.answers=false"), tmp_path / "again")
    again = RunFolder(tmp_path / "again").metrics
    assert again.target_loss == pytest.approx(loss, abs=1e-6)
    assert again.base.target_loss == RunFolder(stacked).metrics.base.target_loss
    with pytest.raises(UserError, match="was trained on top of another adapter, which is not merged into this model"):
        with_adapter(tiny_base(cache), stacked / "adapter")
    for more in ((), ("model.adapter_mode=stack",)):
        with pytest.raises(UserError, match=r"training goes on from one adapter; merge both first: python merge.py"):
            train(configured("train", *rounds, f"model.adapter={stacked}", *more), tmp_path / "third")


def test_an_adapter_trained_further_is_one_adapter_on_the_base(rounds, trained, cache, tmp_path, capsys):
    further = tmp_path / "further"
    words = [*rounds, "seed=7", f"model.adapter={trained}"]
    train(configured("train", *words), further)
    cfg = configured("train", *words)
    assert torch.equal(
        logits(load_start(cfg.model, str(cache)).eval()), logits(with_adapter(tiny_base(cache), trained / "adapter"))
    )
    model = merged(further / "adapter", cache, tmp_path / "out")
    expected = logits(with_adapter(tiny_base(cache), further / "adapter").eval())
    assert torch.allclose(logits(model), expected, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(part in card for part in ("## Training of one", "## Training of further", "Further training of adapter"))
    assert json.loads((tmp_path / "merge.json").read_text())["further_training_of"] == [[f"{trained}/adapter"]]
    # the report shows what it began with
    report(configured("report", f"runs={tmp_path}"), tmp_path / "report")
    out = capsys.readouterr().out
    assert " start " in out and " base " in out and "the adapter that training went on from" in out
    # another adapter at the same place is another run; the copy is the same one
    shutil.copytree(trained, tmp_path / "kept")
    shutil.rmtree(trained / "adapter")
    with pytest.raises(UserError, match=f"model.adapter={trained} has no adapter_config.json"):
        train(configured("train", *words), further)
    train(configured("train", *rounds, "seed=7", f"model.adapter={further}/start"), further)  # done already
    write_adapter(trained / "adapter", tiny_base(cache), lora_alpha=16)
    with pytest.raises(UserError, match="another configuration.*model.adapter"):
        train(configured("train", *words), further)


def test_it_resumes_to_the_bit_while_its_start_is_the_same(rounds, trained, cache, tmp_path):
    words = [*rounds, f"model.adapter={trained}", "trainer.args.save_steps=1", "trainer.args.save_total_limit=null"]
    train(configured("train", *words), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("adapter", "checkpoints/checkpoint-2"):
        shutil.rmtree(tmp_path / "cut" / name)
    for name in ("metrics.json", "train_metrics.json"):
        (tmp_path / "cut" / name).unlink()
    shutil.copytree(trained, tmp_path / "kept")
    write_adapter(trained / "adapter", tiny_base(cache), lora_alpha=16)
    with pytest.raises(UserError, match="belongs to another run: .*model.adapter"):
        train(configured("train", *words), tmp_path / "cut")
    shutil.rmtree(trained)
    own = [word for word in words if not word.startswith("model.adapter")]
    train(configured("train", *own, f"model.adapter={tmp_path}/cut/start"), tmp_path / "cut")
    assert same(tmp_path / "whole" / "adapter", tmp_path / "cut" / "adapter")
