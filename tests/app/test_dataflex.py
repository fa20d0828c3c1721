"""What keys of DataFlex's and LLaMA-Factory's files become, and what is named as not honoured."""

import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from near.app.from_yaml.expanded import expanded, translated
from near.app.from_yaml.file import written
from near.app.from_yaml.keys import COMPONENTS as TRANSLATED
from near.app.from_yaml.keys import TABLES, TRAIN
from near.app.from_yaml.page import MARK, PAGE, tables
from near.app.pages import page_to_write
from near.common.errors import UserError
from near.common.signature import keywords
from tests.conftest import ROOT, configured
from tests.dataflex_files import COMPONENTS, TARGETED, TRAIN_PY, translate, words, wrote

# --- values on a command line ---------------------------------------------------------------------------------------

VALUES = ["a b", "x=y", "é/ü.yaml", "~/x", "a,b", "${oc.env:HOME}", 'say "hi"', "it's", "end\\", 'b\\"c', "\\${x}"]
VALUES += ["1e5", "null", "5", "", ".5", "..", "[x]", "{a}", "a#b", "nan", "a:b", "-1", "*.json", "a'\"b", "/a/b-c_1.0"]
VALUES += [1e-5, 5, 1.0, True, None, ["q_proj", "x y"], {"min_lr": 1e-6, "k": [1, True]}]


def test_every_value_comes_back_from_hydra(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({f"k{i}": None for i in range(len(VALUES))}))
    overrides = [f"k{i}={written(value, 'k')}" for i, value in enumerate(VALUES)]
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose("c", overrides)
    assert [cfg[f"k{i}"] for i in range(len(VALUES))] == VALUES
    with pytest.raises(UserError, match="contains a password") as caught:
        written("http://me:hunter2@host/x", "near.yaml: model_name_or_path")
    assert "hunter2" not in str(caught.value)


def test_code_of_the_model_is_run_by_no_file(dataflex):
    path, lines = Path("near.yaml"), ("model_name_or_path: builtin:tiny", "dataset: colours", "stage: sft")
    path.write_text("\n".join([*lines, "do_train: true", "template: llama3", "trust_remote_code: true"]))
    file = translated("train", path, ["data.eval.path=sums"])
    assert "type model.trust_remote_code=true" in file.skipped["trust_remote_code"]
    assert not any("trust_remote_code" in str(word) for word in file.words)


# --- training files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", COMPONENTS)
def test_files_compose(dataflex, component):
    options, file = translate(component)
    cfg = configured("train", *map(str, file.words))
    assert (cfg.model.name_or_path, cfg.model.template, cfg.model.trust_remote_code) == (
        "builtin:tiny",
        "llama3",
        False,
    )
    lora = cfg.finetuning
    assert (lora.r, lora.lora_alpha, lora.target_modules, lora.lora_dropout) == (4, 8, "all-linear", 0)
    assert (cfg.data.cutoff_len, cfg.data.num_proc, cfg.data.refresh, cfg.seed) == (64, 1, True, 42)
    assert (cfg.data.candidates.path, cfg.data.candidates.dataset_info) == ("colours", "data/dataset_info.json")
    schedule = cfg.trainer
    assert (schedule.warmup_step, schedule.update_step, schedule.update_times, schedule.cycles) == (2, 3, 2, 1)
    args = schedule.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.learning_rate) == (2, 1, 1e-3)
    assert (args.warmup_steps, args.lr_scheduler_type, args.bf16, args.ddp_timeout) == (0.1, "cosine", True, 180000000)
    assert (args.save_steps, args.logging_steps, args.save_total_limit, args.save_only_model) == (100, 10, None, False)
    assert (cfg.output_dir, cfg.overwrite, cfg.resume, cfg.evaluation.answers) == ("saves/run", True, "auto", False)
    assert options["selector"] == component
    if component in TARGETED:
        assert (cfg.data.queries.path, cfg.data.eval.path) == ("sums", None)
    else:
        assert (cfg.data.queries.path, cfg.data.eval.path, cfg.data.eval.limit) == (None, "colours", 100)
        assert cfg.data.leakage == "keep" and "first 100 rows of the pool" in file.notes[0]


def test_components(dataflex):
    options, file = translate("less")
    assert (options["scoring.adam"], options["scoring.dim"], options["scoring.seed"]) == ("true", "64", "123")
    assert file.skipped == {}
    options, _ = translate("loss")
    assert options["selector.focus"] == "medium"
    options, _ = translate("delta_loss")
    assert options["selector.window_size"] == "0.3"
    _, file = translate("tsds")
    assert list(file.skipped) == ["tsds.probs_path"]
    options, file = translate("near")
    assert "./top_indices.npy does not exist: the matrix is computed here" in file.skipped["near.indices_path"]
    assert (options["max_K"], "indices_path" in options) == ("6", False)  # as many as a round takes
    (dataflex / "top_indices.npy").write_bytes(b"theirs")
    assert "has no manifest.json that names its rows" in translate("near")[1].skipped["near.indices_path"]
    (dataflex / "manifest.json").write_text(json.dumps({"max_K": 17}))
    options, file = translate("near")
    assert (options["indices_path"], options["max_K"], file.skipped) == ("top_indices.npy", "17", {})


def test_what_a_component_can_not_have_is_named(dataflex):
    def with_params(name, **params):
        path = dataflex / "mine.yaml"
        path.write_text(yaml.safe_dump({"selectors": {name: {"params": params}}}))
        return translate(name, "components_cfg_file: mine.yaml\n", without=("components_cfg_file",))

    _, file = with_params("random", seed=7, replacement=True)
    assert set(file.skipped) == {"random.seed", "random.replacement"}
    _, file = with_params("loss", focuss="low")
    assert file.skipped == {"loss.focuss": "unknown param; did you mean focus?"}
    options, file = with_params("less", gradient_type="sign")
    assert (file.skipped, options["scoring.dim"]) == ({"less.gradient_type": "only adam and sgd are supported"}, "8192")
    api = {"api_url": "http://127.0.0.1:8000/v1/chat/completions", "model_name": "judge", "api_key": "DF_API_KEY"}
    options, file = with_params("nice", reward_model_backend="api", reward_backend_params={"api": api}, mc_samples=2)
    assert options["selector.judge.server.url"] == "http://127.0.0.1:8000/v1"
    assert (options["selector.judge.server.api_key_env"], options["selector.samples"]) == ("DF_API_KEY", "2")
    api["api_key"] = "sk-abc"
    options, file = with_params("nice", reward_model_backend="api", reward_backend_params={"api": api})
    assert "nice.api_key" in file.skipped and "sk-abc" not in str(file.words) + str(file.skipped)
    _, file = with_params("nice", reward_model_backend="local_vllm")
    assert "selector.judge.server.url" in file.skipped["nice.reward_model_backend"]
    options, _ = with_params("cluster_less", num_clusters=9, samples_per_cluster=2)
    assert (options["selector.clusters"], options["selector.members"]) == ("9", "2")


def test_a_components_file_that_is_elsewhere(dataflex, monkeypatch):
    """It is searched above the file, as in a checkout of DataFlex; otherwise DataFlex's published params are used."""
    inner = dataflex / "examples" / "train_lora"
    inner.mkdir(parents=True)
    path = wrote("delta_loss").rename(inner / "delta_loss.yaml")
    (dataflex / "elsewhere").mkdir()
    monkeypatch.chdir(dataflex / "elsewhere")
    file = translated("train", path, [])
    assert words(file)["selector.window_size"] == "0.3"
    assert words(file)["data.candidates.dataset_info"] == str(dataflex / "data" / "dataset_info.json")
    (dataflex / "src" / "dataflex" / "configs" / "components.yaml").unlink()
    file = translated("train", path, [])
    assert words(file)["selector.window_size"] == "0.2"
    assert "does not exist: DataFlex's published params are used" in file.skipped["components_cfg_file"]


def test_what_a_file_leaves_out_has_their_default(dataflex):
    gone = ("lora_rank", "lora_alpha", "cutoff_len", "learning_rate", "lr_scheduler_type", "warmup_ratio", "save_steps")
    gone += ("per_device_train_batch_size", "num_train_epochs", "overwrite_output_dir", "logging_steps", "template")
    options, file = translate("random", without=gone)
    assert (options["finetuning.r"], options["finetuning.lora_alpha"], options["data.cutoff_len"]) == (
        "8",
        "16",
        "2048",
    )
    args = ("learning_rate", "lr_scheduler_type", "warmup_steps", "per_device_train_batch_size", "save_steps")
    assert [options[f"trainer.args.{name}"] for name in args] == ["5e-05", "linear", "0", "8", "500"]
    assert (options["trainer.cycles"], "overwrite" in options, "model.template" in options) == ("3", False, False)


@pytest.mark.parametrize(
    ("text", "without", "expected"),
    [
        ("use_dora: true", (), {"finetuning": "dora"}),
        ("use_rslora: true", (), {"+finetuning.use_rslora": "true"}),
        ("lora_target: q_proj,v_proj", ("lora_target",), {"finetuning.target_modules": "[q_proj,v_proj]"}),
        ("pissa_init: true", (), {"+finetuning.init_lora_weights": "pissa_niter_16"}),
        ("additional_target: embed_tokens,lm_head", (), {"+finetuning.modules_to_save": "[embed_tokens,lm_head]"}),
        ("finetuning_type: full", ("finetuning_type",), {"finetuning": "full"}),
        ("quantization_bit: 4", (), {"finetuning": "qlora"}),
        ("quantization_bit: 8", (), {"+model.quantization.load_in_8bit": "true"}),
        ("template: chatml", ("template",), {"model.template": "chatml"}),
        ("pure_bf16: true", (), {"model.dtype": "bfloat16"}),
        ("num_train_epochs: 2", ("num_train_epochs",), {"trainer.cycles": "2"}),
        ("train_step: 24", (), {"trainer.cycles": "3"}),
        ("update_times: 0\ntrain_step: 17", ("update_times",), {"trainer.update_times": "5"}),
        ("update_times: -1", ("update_times",), {"trainer.update_times": "5"}),  # 30 rows in steps of 2: 15
        ("learning_rate: 1e-4", ("learning_rate",), {"trainer.args.learning_rate": "0.0001"}),
        ("warmup_steps: 7", (), {"trainer.args.warmup_steps": "7"}),
        ("lr_scheduler_kwargs: {min_lr: 1.0e-6}", (), {"+trainer.args.lr_scheduler_kwargs": "{min_lr:1e-06}"}),
        ("lr_scheduler_kwargs: {min_lr: 1e-6}", (), {"+trainer.args.lr_scheduler_kwargs": "{min_lr:1e-06}"}),
        ("lr_scheduler_kwargs: {'min_lr': '1e-6'}", (), {"+trainer.args.lr_scheduler_kwargs": "{min_lr:1e-06}"}),
        ("lr_scheduler_kwargs: {a: [{b: 2E3}]}", (), {"+trainer.args.lr_scheduler_kwargs": "{a:[{b:2000.0}]}"}),
        ("evaluation_strategy: steps\neval_steps: 5", (), {"+trainer.args.eval_strategy": "steps"}),
        ("weight_decay: 0.1\nmax_grad_norm: 0.5", (), {"+trainer.args.weight_decay": "0.1"}),
        ("group_by_length: true", (), {"trainer.group_by_length": "true"}),
        ("resume_from_checkpoint: saves/run/checkpoint-4", (), {"resume": "saves/run/checkpoint-4"}),
        ("max_samples: 9", (), {"data.candidates.limit": "9", "data.eval.limit": "100"}),
        ("val_size: 4", (), {"data.eval.path": "colours", "data.eval.limit": "4"}),
        ("val_size: 0.1", (), {"data.eval.path": "colours", "data.eval.limit": "3"}),
        ("eval_dataset: sums", (), {"data.eval.path": "sums"}),
        ("dataset: colours, sums", ("dataset",), {"data.candidates.path": "[colours,sums]"}),
        ("dataset_dir: ONLINE\neval_dataset: c/d", (), {"data.eval.path": "c/d", "data.eval.split": "train"}),
        ("report_to: wandb", ("report_to",), {"tracker": "wandb"}),
        ("report_to: [tensorboard]", ("report_to",), {"tracker": "tensorboard"}),
        ("predict_with_generate: true", (), {"evaluation.answers": "true"}),
        ("deepspeed: examples/deepspeed/ds_z3_config.json", (), {"parallel": "deepspeed_z3"}),
        ("fsdp: full_shard auto_wrap", (), {"parallel": "fsdp"}),
        ("model_revision: abc", (), {"model.revision": "abc"}),
    ],
)  # fmt: skip
def test_what_keys_become(dataflex, text, without, expected):
    options, file = translate("random", text, without=without)
    assert {key: options.get(key) for key in expected} == expected
    assert not file.skipped
    if any(key.startswith(("+", "finetuning", "parallel", "data.candidates.path")) for key in expected):
        configured("train", *map(str, file.words))  # the others' keys are in every file


def test_deepspeed_by_its_file(dataflex):
    for stage, parallel in ((0, "z0"), (1, "z2"), (2, "z2"), (3, "z3")):
        (dataflex / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        options, file = translate("random", "deepspeed: ds.json")
        assert (options["parallel"], options["parallel.deepspeed"]) == (f"deepspeed_{parallel}", "ds.json")
        assert configured("train", *map(str, file.words)).parallel.deepspeed == "ds.json"


def test_static_is_llama_factory(dataflex):
    """Without train_type: an ordinary LLaMA-Factory file."""
    gone = ("train_type", "warmup_step", "update_step", "update_times", "components_cfg_file")
    options, file = translate("", "max_steps: 5\ngroup_by_length: true", without=gone)
    assert (options["trainer"], options["selector"], options["trainer.args.max_steps"]) == ("static", "full", "5")
    assert options["+trainer.args.train_sampling_strategy"] == "group_by_length"
    assert options["trainer.args.num_train_epochs"] == "1"
    assert not file.skipped
    configured("train", *map(str, file.words))


def test_what_is_not_honoured_is_named_and_no_secret_shown(dataflex, capsys):
    text = """
neat_packing: true
packing: false
mask_history: false
flash_attn: fa2
use_galore: true
galore_rank: 16
use_swanlab: true
swanlab_project: dynamic_sft
swanlab_api_key: AnLWTM
swanlab_lark_webhook_url: https://hook/ff10a391
hf_hub_token: hf_abc
hub_token: hf_def
early_stopping_steps: 3
image_max_pixels: 262144
save_strategy: epoch
run_name: mine
data_seed: 42
mix_strategy: concat
"""
    path = wrote("random", text)
    expanded(TRAIN_PY, [f"from_yaml={path}"])
    printed = capsys.readouterr().out
    assert "python train.py model" in printed
    for secret in ("AnLWTM", "ff10a391", "hf_abc", "hf_def"):
        assert secret not in printed
    file = translated("train", path, [])
    named = {"neat_packing", "flash_attn", "use_galore", "galore_rank", "swanlab_api_key", "hf_hub_token", "hub_token"}
    named |= {
        "swanlab_lark_webhook_url",
        "early_stopping_steps",
        "image_max_pixels",
        "save_strategy",
        "run_name",
    }
    assert named <= set(file.skipped)
    assert set(file.skipped) - named <= {"report_to=swanlab", "swanlab_project"}  # unless tracker=swanlab is there
    assert file.skipped["hub_token"] == "a secret: put it into an environment variable"
    for key, why in file.skipped.items():
        assert f"  {key}: {why}" in printed


def test_a_tracker_that_is_there_is_taken(dataflex):
    options, file = translate("random", "report_to: [mlflow2, wandb, tensorboard]\nproject: p", without=("report_to",))
    assert (options["tracker"], options["tracker.project"]) == ("wandb", "p")
    assert set(file.skipped) == {"report_to=mlflow2", "report_to=tensorboard"}
    for text in ("all", "[all]"):
        options, file = translate("random", f"report_to: {text}", without=("report_to",))
        assert options["tracker"] == "none"
        assert file.skipped["report_to=all"].startswith("a run has one tracker; name it: ")
        assert "wandb" in file.skipped["report_to=all"]
    options, file = translate("random", "report_to: [all, wandb]", without=("report_to",))
    assert options["tracker"] == "wandb" and set(file.skipped) == {"report_to=all"}


MODES = [
    ("dynamic_weight", "loss", {"strategy": "quadratic", "delta": 0.5}),
    ("dynamic_mix", "random", {"seed": 42}),
    ("dynamic_mix", "static", {"proportions": [0.25, 0.75]}),
    ("dynamic_mix", "odm", {"alpha": 0.8, "reward_scale": 15.0}),
    ("dynamic_mix", "doremi", {"reference_model_path": "/nowhere", "reweight_eta": 0.1, "reweight_eps": 0.01}),
]


@pytest.mark.parametrize(("mode", "component", "params"), MODES)
def test_modes_are_taken_where_they_are_there(dataflex, mode, component, params):
    kind = {"dynamic_weight": "weighters", "dynamic_mix": "mixers"}[mode]
    Path("c.yaml").write_text(yaml.safe_dump({kind: {component: {"params": params}}}))
    text = f"train_type: {mode}\ntrain_step: 16\ncomponents_cfg_file: c.yaml\ndataset: colours,sums\n"
    gone = ("train_type", "components_cfg_file", "dataset")
    options, file = translate(component, text, without=gone)
    assert options["trainer"] == mode and "selector" not in options
    cfg = configured("train", *map(str, file.words))
    if mode == "dynamic_weight":
        assert (options["weighter"], options["weighter.delta"], cfg.trainer.train_step) == ("quadratic", "0.5", 16)
    else:
        assert (options["mixer"], cfg.trainer.update_step, cfg.trainer.cycles) == (component, 3, 1)
        assert "train_step: the rounds decide the length, in DataFlex too" in file.notes
    named = {"odm": {"odm.reward_scale"}, "doremi": {"doremi.reference_model_path"}}
    assert set(file.skipped) == named.get(component, set())


@pytest.mark.parametrize(
    ("text", "without", "says"),
    [
        ("stage: dpo", ("stage",), "stage=dpo trains on preferences, which near does not; use sft or pt"),
        ("train_type: dynamic_legs", ("train_type",), "train_type=dynamic_legs is not known"),
        (
            "finetuning_type: freeze",
            ("finetuning_type",),
            "finetuning_type=freeze is not supported; use lora or full",
        ),
        ("quantization_bit: 3", (), "quantization_bit=3 is not supported; use 4 or 8"),
        (
            "dataset: colors",
            ("dataset",),
            "dataset=colors is not an entry of data/dataset_info.json; did you mean colours?",
        ),
        ("eval_dataset: summs", (), "eval_dataset=summs is not an entry of data/dataset_info.json; did you mean sums?"),
        ("dataset_dir: nowhere", (), "dataset_dir=nowhere contains no dataset_info.json"),
        ("", ("dataset",), "dataset is missing"),
        ("", ("model_name_or_path",), "model_name_or_path is missing"),
        ("", ("update_step",), "update_step=0 trains no round; use update_step: 1 or more"),
        ("update_step: 2.5", ("update_step",), "update_step=2.5 is not a whole number"),
        ("max_samples: few", (), "max_samples=few is not a number >=1"),
        ("num_train_epochs: .inf", ("num_train_epochs",), "num_train_epochs=inf is not a number"),
        ("do_train: false", ("do_train",), "it asks for no training (do_train); set do_train: true"),
        ("do_predict: true", ("do_train",), "it asks for no training"),
        ("lora_rank: big", ("lora_rank",), "lora_rank=big is not a number >=1"),
        ("dataset: hub\nupdate_times: 0", ("dataset", "update_times"), "can't be counted; give train_step"),
        ("deepspeed: nowhere.json", (), "deepspeed=nowhere.json does not exist"),
        (
            "model_name_or_path: http://me:hunter2@host/x",
            ("model_name_or_path",),
            "model.name_or_path contains a password",
        ),
    ],
)
def test_faults_are_one_line(dataflex, text, without, says):
    with pytest.raises(UserError) as caught:
        translate("random", text, without=without)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "from_yaml=my.yaml can't be read (no such file or directory); did you mean me.yaml?"),
        ("a: [1,\nb: 2", "from_yaml=my.yaml is not YAML, line 2"),
        ("a: 1e-4\nb: 2\na: 1e-3", "from_yaml=my.yaml is not YAML, line 3 (found duplicate key a); fix it"),
        ("a: {b: 1, c: 2,\n  b: 3}", "from_yaml=my.yaml is not YAML, line 2 (found duplicate key b); fix it"),
        ('{"a": 1, "a": 1}', "from_yaml=my.yaml is not YAML, line 1 (found duplicate key a); fix it"),
        ("just text", "has no keys"),
        ("", "has no keys"),
        ("a: !!python/object/apply:os.system ['touch pwned']", "is not YAML, line 1"),
    ],
)
def test_files_that_are_none(dataflex, content, says):
    Path("me.yaml").write_text("a: 1")
    if content is not None:
        Path("my.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        expanded(TRAIN_PY, ["from_yaml=my.yaml"])
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("pwned").exists()


def test_a_target_is_needed(dataflex):
    with pytest.raises(UserError, match="eval_dataset is missing, the target of the selection; name it, or type"):
        translate("near", without=("eval_dataset",))
    options, _ = translate("near", typed=("data.queries.path=mine.jsonl",), without=("eval_dataset",))
    assert not [key for key in options if key.startswith(("data.queries", "data.eval"))]
    options, file = translate("near", "val_size: 4", without=("eval_dataset",))
    assert (options["data.queries.path"], options["data.queries.limit"]) == ("colours", "4")
    assert "the first 4 rows of each data set, in place of random ones" in file.notes[0]


def test_component_names(dataflex):
    with pytest.raises(UserError, match="component_name=zeroth is not a selector here; there are: cluster_less"):
        translate("zeroth")
    with pytest.raises(UserError, match="component_name is missing"):
        translate("")
    with pytest.raises(UserError, match="component_name=nice is not among the selectors of src/dataflex"):
        translate("nice")


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_target_is_an_option():
    """What the table says a param or key becomes is there."""
    for name, params in TRANSLATED["selectors"].items():
        own = TABLES["names"].get(name, {}).get("selectors", name)
        cfg = configured("train", f"selector={own}")
        for key in params.values():
            target = key.becomes.split(",")[0].split(" ")[0]
            group, _, option = target.partition(".")
            assert not target or ":" in target or group == "indices_path" or option.split(".")[0] in cfg[group], (
                name,
                target,
            )
    fields = keywords("transformers.training_args.TrainingArguments")
    for key, known in TRAIN.items():
        if known.becomes.startswith("trainer.args."):
            assert known.becomes.split(",")[0].removeprefix("trainer.args.") in fields, key


def test_the_page_is_in_step():
    text = page_to_write(PAGE).read_text(encoding="utf-8")
    assert text.split(MARK)[1] == "\n" + tables(), "python -m near keys"
    assert "docs/from_dataflex.md" in (ROOT / "README.md").read_text(encoding="utf-8")
