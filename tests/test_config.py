"""The check of a composed configuration, and what is written of it."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from near.config import check, job_name, public
from near.errors import UserError
from near.signature import keywords
from tests.conftest import ROOT, configured


def fault(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        configured("train", *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+selector.foo=1", "selector.foo is not an option of Near; there are: subset_size"),
        ("+trainer.args.learningrate=1", "did you mean learning_rate"),
        ("+finetuning.rank=1", "finetuning.rank is not an option of LoraConfig"),
        ("+embedder.modle=x", "did you mean model"),
        ("+index.block=1", "did you mean block_rows"),
        ("max_K=0", "max_K=0 is too small; use max_K>=1"),
        ("max_K=many", "max_K=many is not a whole number"),
        ("max_K=2.5", "max_K=2.5 is not a whole number"),
        ("seed=-1", "seed=-1 is too small"),
        ("seed=true", "seed=True is not a whole number"),
        ("trainer.update_step=0", "trainer.update_step=0 is too small; use trainer.update_step>=1"),
        ("trainer.warmup_step=-1", "trainer.warmup_step=-1 is too small"),
        ("data.cutoff_len=1", "data.cutoff_len=1 is too small"),
        ("data.on_error=ignore", "data.on_error=ignore is not one of raise, skip"),
        ("data.candidates.format=alpca", "data.candidates.format=alpca is not one of"),
        ("embedder.embed=question", "embedder.embed=question is not one of prompt, answer, both"),
        ("+trainer.args.max_steps=5", "use trainer.warmup_step, trainer.update_step and trainer.update_times"),
        ("+trainer.args.num_train_epochs=1", "use trainer.update_times"),
        ("+trainer.args.eval_strategy=epoch", "eval_strategy=epoch counts slices of rounds"),
        ("trainer.args.save_strategy=epoch", "save_strategy=epoch counts slices of rounds"),
        ("+trainer.args.dataloader_persistent_workers=true", "leave it false"),
        ("+trainer.args.report_to=wandb", "trainer.args.report_to is set by the schedule; use tracker"),
        ("data=files", "data.candidates.path is missing: set data.candidates.path=..."),
        ("selector._target_=near.selectors.nowhere.X", "cannot be loaded"),
        ("selector._target_=near.selectors.near.Nearest", "cannot be loaded"),
    ],
)
def test_one_line_names_the_thing_and_the_fix(override, says):
    line = fault(override)
    assert says in line
    assert "\n" not in line


def test_all_faults_come_at_once():
    line = fault("max_K=0", "+selector.foo=1", "trainer.update_step=0")
    assert all(part in line for part in ("max_K=0", "selector.foo", "trainer.update_step=0"))


def test_no_steps_at_all():
    assert "trains no step" in fault("trainer.warmup_step=0", "trainer.update_times=0")


def test_keywords_follow_imports_and_dataclasses():
    import inspect

    from peft import LoraConfig
    from transformers import TrainingArguments

    for target, cls in (
        ("peft.LoraConfig", LoraConfig),
        ("transformers.training_args.TrainingArguments", TrainingArguments),
    ):
        assert keywords(target) >= set(inspect.signature(cls).parameters) - {"self"}
        assert "no_such_option" not in keywords(target)


def test_keywords_that_the_source_does_not_tell():
    assert keywords("fractions.Fraction") >= {"numerator", "denominator"}  # its __new__ takes them
    assert keywords("types.SimpleNamespace") is None  # compiled, takes anything


def test_the_check_imports_nothing_heavy():
    code = (
        "import sys; from tests.conftest import configured; configured('train')\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_secrets_are_not_written(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    cfg = OmegaConf.create(
        {"hub": {"where": "${oc.env:HF_TOKEN}", "api_key": "sk-12345", "plain": "x"}, "cache": "${oc.env:HOME,.cache}"}
    )
    written = str(public(cfg))
    assert "verysecret" not in written
    assert "sk-12345" not in written
    assert public(cfg)["hub"]["plain"] == "x"
    assert not public(cfg)["cache"].startswith("${")


def test_job_names_are_folders():
    assert job_name("selector-near_seed-0") == "selector-near_seed-0"
    assert job_name("a-/x/y z") == "a--x-y-z"
    assert job_name("") == "default"
    long = job_name("k-" + "v" * 300)
    assert len(long) < 100
    assert long != job_name("k-" + "v" * 301)


def test_check_passes_a_plain_node():
    check(OmegaConf.create({"max_K": 3, "anything": {"else": [1, 2]}}))
