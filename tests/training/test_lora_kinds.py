"""What an installed library does by one argument: PiSSA, LoRA+, norms in float32, optimizers of other packages."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.models.loading import add_finetuning, load_base, with_adapter
from near.models.optimizers import PACKAGES, optimizer_faults, package_of
from near.models.pissa import save_as_lora
from near.training.train import train
from tests.conftest import configured, evaluate

pytestmark = pytest.mark.model
IDS = torch.arange(20)[None]


def tiny_base(*overrides: str, **more: object):
    """The tiny model, by a configuration's part `model` with `more` in it."""
    cfg = configured("train", "model=tiny", *overrides)
    return load_base(OmegaConf.merge(cfg.model, more), cfg.cache_dir, "cpu"), cfg


@pytest.mark.parametrize(
    "options",
    ["", "+finetuning.use_rslora=true", "+finetuning.use_dora=true", "+finetuning.rank_pattern={q_proj: 2}"],
)
@pytest.mark.parametrize("how", ["pissa", "pissa_niter_4"])
def test_a_pissa_adapter_answers_on_the_base_as_it_was(tmp_path, how, options):
    words = ["finetuning.r=4", f"+finetuning.init_lora_weights={how}", *filter(None, [options])]
    base, cfg = tiny_base(*words)
    untouched = base(IDS).logits.detach()
    model = add_finetuning(base, cfg.finetuning).eval()
    assert torch.allclose(model(IDS).logits, untouched, atol=1e-4)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.02 * torch.randn_like(weight)
    trained = model(IDS).logits.detach()
    model.save_pretrained(str(tmp_path))
    save_as_lora(model, tmp_path)
    torch.manual_seed(1)
    again = with_adapter(tiny_base()[0], tmp_path).eval()(IDS).logits
    assert (trained - untouched).abs().max() > 0.05
    assert torch.allclose(again, trained, atol=1e-5)
    assert torch.equal(model(IDS).logits, trained)  # the model itself stays


def test_a_run_saves_pissa_as_lora(tiny, tmp_path):
    """And what it evaluated is what its adapter gives."""
    words = [*tiny, "selector=random", "evaluation.answers=false", "trainer.args.learning_rate=0.02", "finetuning.r=4"]
    loss = train(configured("train", *words, "+finetuning.init_lora_weights=pissa_niter_4"), tmp_path)
    adapter = OmegaConf.load(tmp_path / "adapter" / "adapter_config.json")
    assert (adapter.r, adapter.init_lora_weights, adapter.base_model_name_or_path) == (8, True, "builtin:tiny")
    cache = next(word for word in tiny if word.startswith("cache_dir="))
    evaluate(configured("eval", f"run={tmp_path}", cache, "evaluation.answers=false"), tmp_path / "again")
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["target_loss"] == pytest.approx(loss, abs=1e-5)


def test_loraplus_gives_b_its_learning_rate(tiny, tmp_path, monkeypatch):
    from near.training.trainer import DynamicSelectTrainer

    seen, create = [], DynamicSelectTrainer.create_optimizer

    def spying(self, model=None):
        made = create(self, model)
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        seen.append({names[id(w)]: group["lr"] for group in made.param_groups for w in group["params"]})
        return made

    monkeypatch.setattr(DynamicSelectTrainer, "create_optimizer", spying)
    words = [*tiny, "selector=random", "evaluation.answers=false", "trainer.args.learning_rate=0.001"]
    words += ["trainer.args.lr_scheduler_type=constant", "trainer.args.warmup_steps=0"]
    train(configured("train", *words, "trainer.loraplus.lr_ratio=16"), tmp_path / "plus")
    train(configured("train", *words), tmp_path / "plain")
    plus, plain = seen
    assert plus.keys() == plain.keys() and set(plain.values()) == {0.001}
    assert all(rate == (0.016 if "lora_B" in name else 0.001) for name, rate in plus.items())
    files = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("plus", "plain")]
    assert files[0] != files[1]


def test_loraplus_needs_an_adapter():
    for trainer in ("static", "dynamic_select"):
        with pytest.raises(UserError, match=r"trainer.loraplus.lr_ratio is of adapters, and finetuning=full has none"):
            configured("train", f"trainer={trainer}", "finetuning=full", "trainer.loraplus.lr_ratio=16")
    with pytest.raises(UserError, match="trainer.loraplus.lr_ratio=0"):
        configured("train", "trainer.loraplus.lr_ratio=0")


def test_norms_in_float32():
    plain, upcast = (
        tiny_base("model.dtype=bfloat16")[0],
        tiny_base("model.dtype=bfloat16", "model.upcast_layernorm=true")[0],
    )
    kinds = {name: weight.dtype for name, weight in upcast.named_parameters()}
    assert all((kind == torch.float32) == ("norm" in name) for name, kind in kinds.items())
    assert sum(kind == torch.float32 for kind in kinds.values()) >= 3
    logits = upcast(IDS).logits
    assert logits.dtype == torch.bfloat16 and torch.allclose(logits, plain(IDS).logits, atol=0.05)
    assert upcast.generate(IDS, max_new_tokens=2, do_sample=False).shape[1] > IDS.shape[1]


@pytest.mark.parametrize(
    ("optim", "package"),
    [
        *((name, None) for name in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad")),
        *(
            (name, "bitsandbytes")
            for name in ("adamw_8bit", "paged_adamw_32bit", "rmsprop_bnb", "lion_8bit", "ademamix")
        ),
        *(("galore_adamw_layerwise", "galore"), ("apollo_adamw", "apollo"), ("adalomo", "lomo")),
        *(("schedule_free_sgd", "schedule_free"), ("adamw_torch_8bit", "torchao"), ("stable_adamw", "stable_adamw")),
    ],
)
def test_an_optimizer_of_a_package_that_is_missing_is_refused_at_once(optim, package, packages):
    assert package_of(optim) == package
    packages(**{module: False for module, _ in PACKAGES.values()})
    faults = optimizer_faults(optim)
    assert len(faults) == (package is not None)
    assert all(f"trainer.args.optim={optim} needs " in fault and "which is not installed" in fault for fault in faults)


def test_every_optimizer_of_transformers_is_thought_of():
    from transformers.training_args import OptimizerNames

    names = {one.value for one in OptimizerNames}
    built_in = {name for name in names if package_of(name) is None}
    expected = {"adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "sgd"}
    assert built_in == expected | {"adagrad", "rmsprop"}
