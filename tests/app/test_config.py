"""The check of a composed configuration, and what is written of it."""

import copy
import errno
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from near.app.check.check import check, check_sources
from near.app.faults import fault_line
from near.app.jobs import Sweeps
from near.common.config import choices_with, folder_name, identity, job_name, public, swept_keys
from near.common.errors import UserError
from near.common.files import folder_digest
from near.common.signature import keywords
from near.models.hub import SKIPPED
from tests.conftest import composed, configured


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
        ("index.block_rows=null", "index.block_rows=None is not a whole number"),
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
        ("data.reasoning=some", "data.reasoning=some is not one of keep, drop"),
        ("data.mask_history=maybe", "data.mask_history=maybe is not true or false"),
        ("model.enable_thinking=maybe", "model.enable_thinking=maybe is not true or false"),
        ("data.default_system=[a]", "data.default_system=['a'] is not a text"),
        ("data.candidates=pool.jsonl", "data.candidates=pool.jsonl is not a group of options"),
        ("+data.candidates.colums=x", "data.candidates.colums is not in the configuration; did you mean"),
        ("+foo=1", "foo is not in the configuration"),
        ("+trainer.job=1", "trainer.job is set by the program; leave it out"),
        (
            "+trainer.args.hub_token=abc",
            "trainer.args.hub_token is a literal secret; put it into an environment variable",
        ),
        ("embedder._target_=3", "embedder._target_=3 is not a dotted path"),
        ("selector._target_=near.selection.selectors.nowhere.X", "cannot be loaded"),
        ("selector._target_=near.selection.selectors.near.Nearest", "cannot be loaded"),
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
    assert public(cfg)["cache"] == "${oc.env:HOME,.cache}"


def test_job_names_are_folders():
    assert job_name("selector-near_seed-0") == "selector-near_seed-0"
    assert job_name("a-/x/y z").startswith("a--x-y-z-")
    assert job_name("a-/x/y z") != job_name("a-/x-y z"), "two jobs, two folders"
    assert job_name("") == "default"
    long = job_name("k-" + "v" * 300)
    assert len(long) < 100
    assert long != job_name("k-" + "v" * 301)


@pytest.mark.parametrize(
    ("words", "left_out", "name"),
    [
        (["selector=near", "seed=0", "data=files"], ["data"], "selector-near_seed-0"),
        (["seed=0", "selector=near"], [], "selector-near_seed-0"),
        (["max_K=5", "+trainer.args.optim=sgd", "seed=3"], [], "max_K-5_+trainer.args.optim-sgd_seed-3"),
        (["seed=1"], [], "seed-1"),
        (["sweeps=smoke", "trainer.update_step=2"], ["sweeps"], "trainer.update_step-2"),
        ([], [], "default"),
    ],
)
def test_folders_are_named_by_what_is_swept(words, left_out, name):
    assert folder_name(words, left_out) == name


def test_a_job_that_an_earlier_version_named_otherwise_keeps_its_folder(tmp_path):
    words = ["data=files", "selector=near", "seed=0"]
    old = tmp_path / "data-files_seed-0_selector-near" / ".hydra"
    old.mkdir(parents=True)
    (old / "overrides.yaml").write_text("- seed=0\n- selector=near\n- data=files\n- overwrite=true\n")
    assert folder_name(words, ["data"], str(tmp_path)) == "data-files_seed-0_selector-near"
    assert folder_name([*words[:2], "seed=1"], ["data"], str(tmp_path)) == "selector-near_seed-1", "another job"
    (tmp_path / "selector-near_seed-0").mkdir()
    assert folder_name(words, ["data"], str(tmp_path)) == "selector-near_seed-0", "there under its own name"


@pytest.mark.parametrize(
    ("typed", "sweeper", "keys"),
    [
        (["selector=near,random", "seed=0,1", "max_K=5"], {}, ["selector", "seed"]),
        (["seed=7"], {"params": {"seed": "1,2", "selector": "near,random"}}, ["selector"]),
        (["max_K=range(1,4)", "n=choice(1)"], {"params": None}, ["max_K", "n"]),
        (
            ["selector=near"],
            {"params": {"selector.temperature": "tag(log,interval(0.01,1.0))"}},
            ["selector.temperature"],
        ),
        (["seed=1"], {"search_space": {"max_K": {}}}, ["max_K"]),
        (["'data.candidates.path=[a,b]'", "+trainer.args.optim=sgd,adamw_torch"], {}, ["trainer.args.optim"]),
        (["selector=near"], {}, []),
    ],
)
def test_what_is_swept(typed, sweeper, keys):
    assert swept_keys([word.strip("'") for word in typed], sweeper) == keys


def test_an_option_of_another_choice_says_whose_it_is():
    assert choices_with("trainer", "warmup_step") == ["dynamic_mix", "dynamic_select", "dynamic_weight"]
    assert "near_advance" in choices_with("selector", "policy") and "random" not in choices_with("selector", "policy")
    assert choices_with("trainer", "update_stepp") == [] == choices_with("nosuch", "x")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "data.candidates.path is missing"),
        (["data.candidates.path=P"], "data.queries.path is missing, the target's rows, which selector Near needs"),
        (["data.candidates.path=P", "selector=less", "data.eval.path=P"], "selector Less needs"),
        (["data.candidates.path=P", "selector=queries", "data.eval.path=P"], "selector Queries needs"),
        (["data.candidates.path=P", "selector=tsds", "data.eval.path=P"], "selector Tsds needs"),
        (["data.candidates.path=P", "selector=random"], "the evaluation rows where data.eval.path is not set"),
        (["data.candidates.path=P", "trainer=static"], "the evaluation rows where data.eval.path is not set"),
        (["data.candidates.path=P", "selector=random", "data.eval.path=P"], None),
        (["data.candidates.path=P", "trainer=static", "data.eval.path=P"], None),
        (["data.candidates.path=P", "data.queries.path=Q.jsonl"], "data.queries.path=Q.jsonl: no such file"),
        (["data.candidates.path=[P,Q.jsonl]", "data.queries.path=P"], "data.candidates.path=Q.jsonl: no such file"),
        (["data.candidates.path={a: no/q.json}", "data.queries.path=P"], "there is no folder no either"),
        (["data.candidates.path=org/set", "data.queries.path=P"], None),
        (["data.candidates.path=*.jsonl", "data.queries.path=builtin:x/y.jsonl"], None),
    ],
)
def test_sources_that_are_not_there_are_said_before_anything_is_loaded(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("P.jsonl").write_text("{}\n")
    cfg = configured(
        "train", "data=files", *(word.replace("=P", "=P.jsonl").replace("[P", "[P.jsonl") for word in words)
    )
    if says is None:
        return check_sources(cfg)
    with pytest.raises(UserError, match=re.escape(says)):
        check_sources(cfg)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "whose nearest candidates are searched"),
        (["selector=uot", "n=2"], "which selector Uot needs"),
        (["selector=random", "n=2"], None),
    ],
)
def test_what_a_selection_can_not_do_without(words, says, tmp_path):
    (tmp_path / "p.jsonl").write_text("{}\n")
    cfg = configured("select", "data=files", f"data.candidates.path={tmp_path}/p.jsonl", *words)
    if says is None:
        return check_sources(cfg)
    with pytest.raises(UserError, match=says):
        check_sources(cfg)


def test_a_class_of_another_project(tmp_path, monkeypatch):
    """Its options are known also where its base is written as module.Class."""
    (tmp_path / "mylab.py").write_text(
        "from near.selection.selectors import base\nclass Mine(base.Selector):\n    def select(self, round): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert keywords("mylab.Mine") == {"self", "subset_size"} - {"self"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("super().__init__(**options)", {"mine", "size"}),
        ("super().__init__(options.pop('other'), **options)", None),  # which others it takes can't be read
        ("self.options = options", None),
    ],
)
def test_options_that_are_passed_on_are_those_of_the_base(tmp_path, monkeypatch, body, expected):
    base = "class Base:\n    def __init__(self, size: int): ...\n"
    mine = f"class Mine(Base):\n    def __init__(self, mine=1, **options):\n        {body}\n"
    name = f"passing_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(base + mine)
    monkeypatch.syspath_prepend(tmp_path)
    assert keywords(f"{name}.Mine") == expected


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


@pytest.mark.parametrize(("typed", "named"), [("seed=1", True), ("selector=less", True), ("data.rows=600", False)])
def test_what_a_sweep_file_sweeps_stays_in_the_names_when_it_is_typed(typed, named, monkeypatch, tmp_path):
    whole = copy.deepcopy(composed("train", ("sweeps=targets", f"hydra.sweep.dir={tmp_path}", typed))[0])
    OmegaConf.set_readonly(whole.hydra, False)
    for attribute in ("folder", "before"):
        monkeypatch.setattr(Sweeps, attribute, getattr(Sweeps, attribute))
    Sweeps().on_multirun_start(whole)
    assert (f"'{typed.partition('=')[0]}'" not in whole.hydra.overrides.hydra[-1]) == named


def test_one_job_of_a_sweep_file_is_named_as_among_others(monkeypatch, tmp_path):
    """Its folder is the one that the job has where others run beside it."""
    typed = ["sweeps=targets", "data.target=sort-0", "selector=less", "seed=1", "data.rows=600"]
    whole = copy.deepcopy(composed("train", (*typed, f"hydra.sweep.dir={tmp_path}"))[0])
    OmegaConf.set_readonly(whole.hydra, False)
    for attribute in ("folder", "before"):
        monkeypatch.setattr(Sweeps, attribute, getattr(Sweeps, attribute))
    Sweeps().on_multirun_start(whole)
    left_out = whole.hydra.overrides.hydra[-1].partition("[")[2].rstrip("]").replace("'", "").split(",")
    assert folder_name(typed, left_out) == "data.target-sort-0_selector-less_seed-1"
