"""The check of a composed configuration, and what is written of it."""

import errno

import pytest
import yaml
from omegaconf import OmegaConf

from near.app import fault_line
from near.check import check
from near.config import identity, job_name, public
from near.errors import UserError
from near.files import folder_digest
from near.hub import SKIPPED
from near.signature import keywords
from tests.conftest import configured


def fault(*overrides: str) -> str:
    """What the check says of the default configuration under `overrides` (composed once: that is what takes time)."""
    cfg = configured("train")
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True, merge=False)
    with pytest.raises(UserError) as caught:
        check(cfg, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+selector.foo=1", "selector.foo is not an option of Near; there are: "),
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
        ("+trainer.args.auto_find_batch_size=true", "breaks the rounds"),
        ("+trainer.args.report_to=wandb", "trainer.args.report_to is decided elsewhere; use tracker"),
        ("max_K=null", "max_K=None is not a whole number"),
        ("seed=4294967296", "seed=4294967296 is too large"),
        ("seed=null", "seed=None is not a whole number"),
        ("trainer.update_step=null", "trainer.update_step=None is not a whole number"),
        ("trainer.args.per_device_train_batch_size=0", "use trainer.args.per_device_train_batch_size>=1"),
        ("trainer.args.gradient_accumulation_steps=1.5", "is not a whole number"),
        ("trainer.args.learning_rate=fast", "trainer.args.learning_rate=fast is not a number"),
        ("trainer.args=null", "trainer.args=None is not a group of options"),
        ("finetuning.lora_dropout=2", "finetuning.lora_dropout=2 is too large"),
        ("selector.subset_size=few", "selector.subset_size=few is not a number"),
        ("selector.policy=advanced", "selector.policy=advanced is not one of repeat, advance, sample"),
        ("selector.mix=1", "selector.mix=1 is too large"),
        ("selector.temperature=0", "selector.temperature=0 is too small"),
        ("selector.subset_size=0", "selector.subset_size=0 is too small"),
        ("selector.subset_size=1.5", "selector.subset_size=1.5 is not a whole number"),
        ("trainer.group_by_length=some", "trainer.group_by_length=some is not true or false"),
        ("+trainer.args.train_sampling_strategy=group_by_length", "use trainer.group_by_length"),
        ("model.trust_remote_code=maybe", "model.trust_remote_code=maybe is not true or false"),
        ("cache_dir=null", "cache_dir=None is not a path or name"),
        ("cache_dir=''", "cache_dir='' is not a path or name"),
        ("resume=true", "resume=True is not a path or name"),
        ("data.on_error=null", "data.on_error=None is not one of raise, skip"),
        ("data.candidates=pool.jsonl", "data.candidates=pool.jsonl is not a group of options"),
        ("+data.candidates.colums=x", "data.candidates.colums is not in the configuration; did you mean"),
        ("+foo=1", "foo is not in the configuration"),
        ("+trainer.job=1", "trainer.job is handed over by the program"),
        ("+trainer.args.hub_token=abc", "trainer.args.hub_token is a secret written out; put it into the environment"),
        ("embedder._target_=3", "embedder._target_=3 is not a dotted path"),
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


@pytest.mark.model
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


def test_secrets_are_not_written(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    cfg = OmegaConf.create(
        {
            "hub": {"where": "${oc.env:HF_TOKEN}", "head": "Bearer ${oc.env:HF_TOKEN,none} x", "plain": "x"},
            "cache": "${oc.env:HOME,.cache}",
        }
    )
    written = str(public(cfg))
    assert "verysecret" not in written
    assert public(cfg)["hub"]["head"] == "Bearer ${oc.env:HF_TOKEN,none} x"
    assert public(cfg)["hub"]["plain"] == "x"
    assert not public(cfg)["cache"].startswith("${")


def test_job_names_are_folders():
    assert job_name("selector-near_seed-0") == "selector-near_seed-0"
    assert job_name("a-/x/y z").startswith("a--x-y-z-")
    assert job_name("a-/x/y z") != job_name("a-/x-y z"), "two jobs, two folders"
    assert job_name("") == "default"
    long = job_name("k-" + "v" * 300)
    assert len(long) < 100
    assert long != job_name("k-" + "v" * 301)


def test_a_class_of_another_project(tmp_path, monkeypatch):
    """Its options are known also where its base is written as module.Class."""
    (tmp_path / "mylab.py").write_text(
        "from near.selectors import base\nclass Mine(base.Selector):\n    def select(self, round): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert keywords("mylab.Mine") == {"self", "subset_size"} - {"self"}


def test_numbers_that_are_whole_after_all():
    assert configured("train", "max_K=1e3").max_K == 1000


def test_check_passes_a_plain_node():
    check(OmegaConf.create({"max_K": 3, "anything": {"else": [1, 2]}}))


def test_a_run_of_another_served_model_is_another_run_and_another_address_is_not():
    cfg = configured("train")
    identities = []
    for key, value in (("url", "http://a/v1"), ("url", "http://b/v1"), ("model", "other")):
        OmegaConf.update(cfg, f"embedder.server.{key}", value)
        identities.append(identity(cfg))
    assert identities[0] == identities[1] != identities[2]


def test_a_password_in_an_address_is_refused():
    assert "embedder.server.url holds a password" in fault("embedder.server.url=http://me:pw@host/v1")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_or_quota_is_one_line(number):
    assert fault_line(OSError(number, "full", "/some/file")).startswith("no space left on the device of /some/file")


def test_a_models_digest_is_of_what_makes_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = folder_digest(tmp_path, SKIPPED)
    for name in ("onnx/m.onnx", ".cache/huggingface/x.metadata", "old.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert folder_digest(tmp_path, SKIPPED) == before
    (tmp_path / "config.json").write_text("{ }")
    assert folder_digest(tmp_path, SKIPPED) != before
