"""DataFlex's and LLaMA-Factory's files: what they become, what is named, and that the printed command is the same."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir

from near.dataflex.components import PARAMS
from near.dataflex.file import written
from near.dataflex.keys import TRAIN
from near.dataflex.page import MARK, PAGE, tables
from near.errors import UserError
from near.from_yaml import expanded, left, translated
from near.signature import keywords
from tests.conftest import ROOT, configured, process, write_rows

COMMON = """
### model
model_name_or_path: builtin:tiny
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
lora_rank: 4
lora_alpha: 8

### dataset
dataset: colours
template: llama3
cutoff_len: 64
# max_samples: 100000000
overwrite_cache: true
preprocessing_num_workers: 1
dataloader_num_workers: 0
seed: 42

### output
output_dir: saves/run
logging_steps: 10
save_steps: 100
plot_loss: true
save_only_model: false
overwrite_output_dir: true

### train
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]
per_device_train_batch_size: 2
gradient_accumulation_steps: 1
learning_rate: 1.0e-3
num_train_epochs: 1.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000

### Dataflex args
train_type: dynamic_select
components_cfg_file: src/dataflex/configs/components.yaml
warmup_step: 2
update_step: 3
update_times: 2
"""
COMPONENTS = {
    "near": {"indices_path": "./top_indices.npy", "cache_dir": "../saves/near_output"},
    "less": {"cache_dir": "x", "gradient_type": "adam", "proj_dim": 64, "seed": 123, "save_interval": 16},
    "loss": {"cache_dir": "x", "focus": "medium", "score_batch_size": 8},
    "delta_loss": {"cache_dir": "x", "window_size": 0.3, "score_batch_size": 8},
    "tsds": {"probs_path": "./tsds_probs.npy", "cache_dir": "x"},
    "random": {"cache_dir": "x", "seed": 42, "replacement": False},
}
TARGETED = ("near", "less", "tsds", "nice", "cluster_less")


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    """A folder laid out as DataFlex's examples take it, and the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    rows = [{"instruction": f"name colour {i}", "input": "", "output": f"shade {i * i}"} for i in range(30)]
    (tmp_path / "data" / "colours.json").write_text(json.dumps(rows))
    sums = [{"instruction": f"add {i} to {i}", "input": "", "output": str(2 * i)} for i in range(5)]
    write_rows(tmp_path / "data" / "sums.jsonl", sums)
    entries = {
        "colours": {"file_name": "colours.json"},
        "sums": {"file_name": "sums.jsonl"},
        "hub": {"hf_hub_url": "a/b"},
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(entries))
    configs = tmp_path / "src" / "dataflex" / "configs"
    configs.mkdir(parents=True)
    held = {name: {"name": name, "params": params} for name, params in COMPONENTS.items()}
    (configs / "components.yaml").write_text(yaml.safe_dump({"selectors": held}))
    return tmp_path


def wrote(component: str, text: str = "", without: tuple = ()) -> Path:
    """A file in the form of DataFlex's examples/train_lora/selectors, with `text` at its end."""
    lines = [line for line in COMMON.splitlines() if line.split(":")[0] not in without]
    lines += [f"component_name: {component}"] if component else []
    lines += ["eval_dataset: sums"] * (component in TARGETED and "eval_dataset" not in without)
    path = Path(f"{component or 'file'}.yaml")
    path.write_text("\n".join(lines) + "\n" + text)
    return path


def words(file) -> dict[str, str]:
    return {f"{'+' * word.added}{word.key}": word.text for word in file.words}


def told(component: str, text: str = "", typed: tuple = (), script: str = "train", without: tuple = ()):
    file = translated(script, wrote(component, text, without), list(typed))
    return words(file), file


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
    with pytest.raises(UserError, match="holds a password") as caught:
        written("http://me:hunter2@host/x", "near.yaml: model_name_or_path")
    assert "hunter2" not in str(caught.value)


# --- training files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", COMPONENTS)
def test_files_compose(folder, component):
    found, file = told(component)
    cfg = configured("train", *map(str, file.words))
    assert (cfg.model.name_or_path, cfg.model.template, cfg.model.trust_remote_code) == ("builtin:tiny", "llama3", True)
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
    assert found["selector"] == component
    if component in TARGETED:
        assert (cfg.data.queries.path, cfg.data.eval.path) == ("sums", None)
    else:
        assert (cfg.data.queries.path, cfg.data.eval.path, cfg.data.eval.limit) == (None, "colours", 100)
        assert cfg.data.leakage == "keep" and "first 100 rows of the pool" in file.said[0]


def test_components(folder):
    found, file = told("less")
    assert (found["scoring.adam"], found["scoring.dim"], found["scoring.seed"]) == ("true", "64", "123")
    assert file.skipped == {}
    found, _ = told("loss")
    assert found["selector.focus"] == "medium"
    found, _ = told("delta_loss")
    assert found["selector.window_size"] == "0.3"
    _, file = told("tsds")
    assert list(file.skipped) == ["tsds.probs_path"]
    found, file = told("near")
    assert "./top_indices.npy is not there: the matrix is made here" in file.skipped["near.indices_path"]
    assert (found["max_K"], "indices_path" in found) == ("6", False)  # as many as a round takes
    (folder / "top_indices.npy").write_bytes(b"theirs")
    assert "has no manifest.json that says whose rows" in told("near")[1].skipped["near.indices_path"]
    (folder / "manifest.json").write_text(json.dumps({"max_K": 17}))
    found, file = told("near")
    assert (found["indices_path"], found["max_K"], file.skipped) == ("top_indices.npy", "17", {})


def test_what_a_component_can_not_have_is_named(folder):
    def with_params(name, **params):
        path = folder / "mine.yaml"
        path.write_text(yaml.safe_dump({"selectors": {name: {"params": params}}}))
        return told(name, "components_cfg_file: mine.yaml\n", without=("components_cfg_file",))

    _, file = with_params("random", seed=7, replacement=True)
    assert set(file.skipped) == {"random.seed", "random.replacement"}
    _, file = with_params("loss", focuss="low")
    assert file.skipped == {"loss.focuss": "unknown param; did you mean focus?"}
    found, file = with_params("less", gradient_type="sign")
    assert (file.skipped, found["scoring.dim"]) == ({"less.gradient_type": "adam and sgd only"}, "8192")
    api = {"api_url": "http://127.0.0.1:8000/v1/chat/completions", "model_name": "judge", "api_key": "DF_API_KEY"}
    found, file = with_params("nice", reward_model_backend="api", reward_backend_params={"api": api}, mc_samples=2)
    assert found["selector.judge.server.url"] == "http://127.0.0.1:8000/v1"
    assert (found["selector.judge.server.api_key_env"], found["selector.samples"]) == ("DF_API_KEY", "2")
    api["api_key"] = "sk-abc"
    found, file = with_params("nice", reward_model_backend="api", reward_backend_params={"api": api})
    assert "nice.api_key" in file.skipped and "sk-abc" not in str(file.words) + str(file.skipped)
    _, file = with_params("nice", reward_model_backend="local_vllm")
    assert "selector.judge.server.url" in file.skipped["nice.reward_model_backend"]
    found, _ = with_params("cluster_less", num_clusters=9, samples_per_cluster=2)
    assert (found["selector.clusters"], found["selector.members"]) == ("9", "2")


def test_a_components_file_that_is_elsewhere(folder, monkeypatch):
    """It is looked for above the file, as a checkout of DataFlex has it; else DataFlex's own values are taken."""
    inner = folder / "examples" / "train_lora"
    inner.mkdir(parents=True)
    path = wrote("delta_loss").rename(inner / "delta_loss.yaml")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    file = translated("train", path, [])
    assert words(file)["selector.window_size"] == "0.3"
    assert words(file)["data.candidates.dataset_info"] == str(folder / "data" / "dataset_info.json")
    (folder / "src" / "dataflex" / "configs" / "components.yaml").unlink()
    file = translated("train", path, [])
    assert words(file)["selector.window_size"] == "0.2"
    assert "is not there: the values of DataFlex's own are taken" in file.skipped["components_cfg_file"]


def test_what_a_file_leaves_out_has_their_default(folder):
    gone = ("lora_rank", "lora_alpha", "cutoff_len", "learning_rate", "lr_scheduler_type", "warmup_ratio", "save_steps")
    gone += ("per_device_train_batch_size", "num_train_epochs", "overwrite_output_dir", "logging_steps", "template")
    found, file = told("random", without=gone)
    assert (found["finetuning.r"], found["finetuning.lora_alpha"], found["data.cutoff_len"]) == ("8", "16", "2048")
    args = ("learning_rate", "lr_scheduler_type", "warmup_steps", "per_device_train_batch_size", "save_steps")
    assert [found[f"trainer.args.{name}"] for name in args] == ["5e-05", "linear", "0", "8", "500"]
    assert (found["trainer.cycles"], "overwrite" in found, "model.template" in found) == ("3", False, False)


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
        ("template: qwen", ("template",), {}),
        ("pure_bf16: true", (), {"model.dtype": "bfloat16"}),
        ("num_train_epochs: 2", ("num_train_epochs",), {"trainer.cycles": "2"}),
        ("train_step: 24", (), {"trainer.cycles": "3"}),
        ("update_times: 0\ntrain_step: 17", ("update_times",), {"trainer.update_times": "5"}),
        ("update_times: -1", ("update_times",), {"trainer.update_times": "5"}),  # 30 rows in steps of 2: 15
        ("learning_rate: 1e-4", ("learning_rate",), {"trainer.args.learning_rate": "0.0001"}),
        ("warmup_steps: 7", (), {"trainer.args.warmup_steps": "7"}),
        ("lr_scheduler_kwargs: {min_lr: 1.0e-6}", (), {"+trainer.args.lr_scheduler_kwargs": "{min_lr:1e-06}"}),
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
def test_what_keys_become(folder, text, without, expected):
    found, file = told("random", text, without=without)
    assert {key: found.get(key) for key in expected} == expected
    assert not file.skipped
    configured("train", *map(str, file.words))


def test_deepspeed_by_its_file(folder):
    for stage, parallel in ((0, "z0"), (1, "z2"), (2, "z2"), (3, "z3")):
        (folder / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        found, file = told("random", "deepspeed: ds.json")
        assert (found["parallel"], found["parallel.deepspeed"]) == (f"deepspeed_{parallel}", "ds.json")
        assert configured("train", *map(str, file.words)).parallel.deepspeed == "ds.json"


def test_static_is_llama_factory(folder):
    """Without train_type: an ordinary LLaMA-Factory file."""
    gone = ("train_type", "warmup_step", "update_step", "update_times", "components_cfg_file")
    found, file = told("", "max_steps: 5\ngroup_by_length: true", without=gone)
    assert (found["trainer"], found["selector"], found["trainer.args.max_steps"]) == ("static", "full", "5")
    assert found["+trainer.args.train_sampling_strategy"] == "group_by_length"
    assert found["trainer.args.num_train_epochs"] == "1"
    assert not file.skipped
    configured("train", *map(str, file.words))


def test_what_is_not_honoured_is_named_and_no_secret_shown(folder, capsys):
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
lora_rnk: 3
save_strategy: epoch
run_name: mine
data_seed: 42
mix_strategy: concat
"""
    path = wrote("random", text)
    assert expanded(["train.py", f"from_yaml={path}"])[0] == "train.py"
    printed = capsys.readouterr().out
    for secret in ("AnLWTM", "ff10a391", "hf_abc", "hf_def"):
        assert secret not in printed
    file = translated("train", path, [])
    named = {"neat_packing", "flash_attn", "use_galore", "galore_rank", "swanlab_api_key", "hf_hub_token", "hub_token"}
    named |= {
        "swanlab_lark_webhook_url",
        "early_stopping_steps",
        "image_max_pixels",
        "lora_rnk",
        "save_strategy",
        "run_name",
    }
    assert named <= set(file.skipped)
    assert set(file.skipped) - named <= {"report_to=swanlab", "swanlab_project"}  # unless tracker=swanlab is there
    assert file.skipped["lora_rnk"].startswith("unknown key; did you mean lora_rank")
    assert file.skipped["hub_token"] == "a secret: put it into the environment"
    for key, why in file.skipped.items():
        assert f"  {key}: {why}" in printed


def test_a_tracker_that_is_there_is_taken(folder):
    found, file = told("random", "report_to: [mlflow2, wandb, tensorboard]\nproject: p", without=("report_to",))
    assert (found["tracker"], found["tracker.project"]) == ("wandb", "p")
    assert set(file.skipped) == {"report_to=mlflow2", "report_to=tensorboard"}


MODES = [
    ("dynamic_weight", "loss", {"strategy": "quadratic", "delta": 0.5}),
    ("dynamic_mix", "random", {"seed": 42}),
    ("dynamic_mix", "static", {"proportions": [0.25, 0.75]}),
    ("dynamic_mix", "odm", {"alpha": 0.8, "reward_scale": 15.0}),
    ("dynamic_mix", "doremi", {"reference_model_path": "/nowhere", "reweight_eta": 0.1, "reweight_eps": 0.01}),
]


@pytest.mark.parametrize(("mode", "component", "params"), MODES)
def test_modes_are_taken_where_they_are_there(folder, mode, component, params):
    kind = {"dynamic_weight": "weighters", "dynamic_mix": "mixers"}[mode]
    Path("c.yaml").write_text(yaml.safe_dump({kind: {component: {"params": params}}}))
    text = f"train_type: {mode}\ntrain_step: 16\ncomponents_cfg_file: c.yaml\ndataset: colours,sums\n"
    gone = ("train_type", "components_cfg_file", "dataset")
    if not (ROOT / "conf" / "trainer" / f"{mode}.yaml").is_file():
        with pytest.raises(UserError, match=f"train_type={mode} is not available in this version"):
            told(component, text, without=gone)
        return
    found, file = told(component, text, without=gone)
    assert found["trainer"] == mode and "selector" not in found
    cfg = configured("train", *map(str, file.words))
    if mode == "dynamic_weight":
        assert (found["weighter"], found["weighter.delta"], cfg.trainer.train_step) == ("quadratic", "0.5", 16)
    else:
        assert (found["mixer"], cfg.trainer.update_step, cfg.trainer.cycles) == (component, 3, 2)
    named = {"odm": {"odm.reward_scale"}, "doremi": {"doremi.reference_model_path"}}
    assert set(file.skipped) == named.get(component, set())


@pytest.mark.parametrize(
    ("text", "without", "says"),
    [
        ("stage: dpo", ("stage",), "stage=dpo is not trained here; only sft is"),
        ("train_type: dynamic_lego", ("train_type",), "train_type=dynamic_lego is not trained here"),
        (
            "finetuning_type: freeze",
            ("finetuning_type",),
            "finetuning_type=freeze is not trained here; use lora or full",
        ),
        ("quantization_bit: 3", (), "quantization_bit=3 can't be had; use 4 or 8"),
        (
            "dataset: colors",
            ("dataset",),
            "dataset=colors is no entry of data/dataset_info.json; did you mean colours?",
        ),
        ("eval_dataset: summs", (), "eval_dataset=summs is no entry of data/dataset_info.json; did you mean sums?"),
        ("dataset_dir: nowhere", (), "dataset_dir=nowhere holds no dataset_info.json"),
        ("", ("dataset",), "dataset is missing"),
        ("", ("model_name_or_path",), "model_name_or_path is missing"),
        ("", ("update_step",), "update_step=0 trains no round; use update_step: 1 or more"),
        ("update_step: 2.5", ("update_step",), "update_step=2.5 is not a whole number"),
        ("do_train: false", ("do_train",), "it asks for no training (do_train); python eval.py run=RUN"),
        ("do_predict: true", ("do_train",), "it asks for no training"),
        ("lora_rank: big", ("lora_rank",), "lora_rank=big is not a number from 1 up"),
        ("dataset: hub\nupdate_times: 0", ("dataset", "update_times"), "can't be counted; give train_step"),
        ("deepspeed: nowhere.json", (), "deepspeed=nowhere.json is not there"),
        (
            "model_name_or_path: http://me:hunter2@host/x",
            ("model_name_or_path",),
            "model.name_or_path holds a password",
        ),
    ],
)
def test_faults_are_one_line(folder, text, without, says):
    with pytest.raises(UserError) as caught:
        told("random", text, without=without)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "from_yaml=my.yaml can't be read (no such file or directory); did you mean me.yaml?"),
        ("a: [1,\nb: 2", "from_yaml=my.yaml is not YAML, line 2"),
        ("just text", "holds no keys"),
        ("", "holds no keys"),
        ("a: !!python/object/apply:os.system ['touch pwned']", "is not YAML, line 1"),
    ],
)
def test_files_that_are_none(folder, content, says):
    Path("me.yaml").write_text("a: 1")
    if content is not None:
        Path("my.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        expanded(["train.py", "from_yaml=my.yaml"])
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("pwned").exists()


def test_a_target_is_asked_for(folder):
    with pytest.raises(
        UserError, match="eval_dataset is missing, the target that rows are selected by; name it, or type"
    ):
        told("near", without=("eval_dataset",))
    found, _ = told("near", typed=("data.queries.path=mine.jsonl",), without=("eval_dataset",))
    assert not [key for key in found if key.startswith(("data.queries", "data.eval"))]
    found, file = told("near", "val_size: 4", without=("eval_dataset",))
    assert (found["data.queries.path"], found["data.queries.limit"]) == ("colours", "4")
    assert "the first 4 rows of each data set, in place of random ones" in file.said[0]


def test_component_names(folder):
    with pytest.raises(UserError, match="component_name=icons is no selector here; there are: cluster_less"):
        told("icons")
    with pytest.raises(UserError, match="component_name is missing"):
        told("")
    with pytest.raises(UserError, match="component_name=nice is not among the selectors of src/dataflex"):
        told("nice")


# --- beside what is typed -------------------------------------------------------------------------------------------


def test_what_is_typed_wins(folder):
    path = wrote("less")

    def line(*typed: str) -> list[str]:
        found = expanded(["train.py", f"from_yaml={path}", *typed])[1:]
        assert found[-len(typed) :] == [word for word in typed if "=" in word] + [w for w in typed if "=" not in w]
        return [word for word in found if word != "-m"]

    assert "seed=42" not in line("-m", "seed=0,1")
    found = line("-m", "selector=near,random", "seed=0,1")
    assert not [word for word in found if word.startswith("selector=less") or word.startswith("seed=42")]
    found = line("trainer=static", "trainer.args.max_steps=3")
    assert "trainer.warmup_step=2" not in found and "trainer.args.learning_rate=0.001" in found
    found = line("data.candidates.path=mine.jsonl")
    assert not [word for word in found[:-1] if word.startswith("data.candidates.")]
    assert not [word for word in line("data=demo")[:-1] if word.startswith("data.")]
    assert "+trainer.args.bf16=true" not in line("+trainer.args.bf16=false")
    assert "+trainer.args.bf16=true" in line("trainer.args.bf16=false")  # an added one is there to be overridden
    assert not [word for word in line("sweeps=selectors") if word.startswith(("selector=", "seed="))]
    for typed in (["seed=7"], ["trainer.args.bf16=false"], ["finetuning=full"], ["selector=random"], ["data=demo"]):
        configured("train", *line(*typed))
    cfg = configured("train", *line("selector=random"))
    assert "max_K=30" in line("-m", "selector=near,tsds")  # no more than there are rows
    near = expanded(["train.py", f"from_yaml={wrote('near')}"])
    assert "max_K=6" in near
    assert "max_K=30" in expanded(["train.py", "from_yaml=near.yaml", "trainer.update_step=9"])
    assert (cfg.data.queries.path, cfg.data.eval.path) == (None, "sums")


def test_the_word_itself(folder, capsys):
    path = wrote("random")
    assert expanded(["train.py", "seed=1"]) == ["train.py", "seed=1"]
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="is for train.py, merge.py, select.py, not for eval.py"):
        expanded(["eval.py", f"from_yaml={path}"])
    with pytest.raises(UserError, match="takes one file"):
        expanded(["train.py", f"from_yaml={path}", f"from_yaml={path}"])
    expanded(["train.py", f"from_yaml={path}", "--cfg", "job"])
    assert capsys.readouterr().out == ""  # what is asked for is the configuration
    argv = expanded(["dir/train.py", f"from_yaml={path}", "-m", "seed=0,1"])
    printed = capsys.readouterr().out.splitlines()
    assert shlex.split(printed[1]) == ["python", *argv]
    assert left([], []) == []


# --- merge.py and select.py -----------------------------------------------------------------------------------------

MERGE_FILE = """
### model
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
adapter_name_or_path: saves/run
template: qwen
trust_remote_code: true

### export
export_dir: saves/merged
export_size: 5
export_device: cpu  # choices: [cpu, auto]
export_legacy_format: false
"""


def test_merge_files(folder):
    path = Path("merge.yaml")
    path.write_text(MERGE_FILE + "export_quantization_bit: 4\ninfer_dtype: bfloat16\n")
    file = translated("merge", path, [])
    found = words(file)
    assert (found["adapter_name_or_path"], found["export_dir"], found["export_size"]) == (
        "saves/run",
        "saves/merged",
        "5",
    )
    assert (found["trust_remote_code"], found["export_dtype"]) == ("true", "bfloat16")
    assert list(file.skipped) == ["export_quantization_bit"]
    assert file.said == ["template=qwen: the tokenizer's own chat template is used"]
    configured("merge", *map(str, file.words))
    Path("saves/run/adapter").mkdir(parents=True)
    Path("saves/run/adapter/adapter_config.json").write_text("{}")
    assert words(translated("merge", path, []))["adapter_name_or_path"] == "saves/run/adapter"
    path.write_text(MERGE_FILE.replace("saves/run", "a,b"))
    with pytest.raises(UserError, match="names 2 adapters"):
        translated("merge", path, [])


OFFLINE_CODE = """
import os
near = offline_near_Selector(
    candidate_path="OpenDCAI/DataFlex-selector-openhermes-10w",
    query_path="OpenDCAI/DataFlex-selector-openhermes-10w",
    embed_model="Qwen/Qwen3-Embedding-0.6B",
    embed_method="sentence-transformer",
    batch_size=32,
    save_indices_path="out/top_indices.npy",
    max_K=1000,
)
near.selector()
"""


def test_the_offline_selector(folder):
    """Its keywords, from the Python file in which DataFlex has them or as YAML."""
    Path("offline.py").write_text(OFFLINE_CODE)
    file = translated("select", Path("offline.py"), [])
    cfg = configured("select", *map(str, file.words))
    assert (cfg.data.candidates.split, cfg.data.queries.split) == ("train", "validation")
    assert cfg.data.queries.path == cfg.data.candidates.path == "OpenDCAI/DataFlex-selector-openhermes-10w"
    assert (cfg.embedder.model, cfg.embedder.backend) == ("Qwen/Qwen3-Embedding-0.6B", "sentence-transformers")
    assert (cfg.embedder.batch_size, cfg.max_K, cfg.output_dir) == (32, 1000, "out")
    Path("offline.yaml").write_text("candidate_path: data/colours.json\nmax_K: 5\nembed_model: some/model\n")
    with pytest.raises(UserError, match="query_path is missing"):
        translated("select", Path("offline.yaml"), [])
    file = translated("select", Path("offline.yaml"), ["data.queries.path=data/sums.jsonl"])
    cfg = configured("select", *map(str, file.words), *file.typed)
    assert (cfg.data.candidates.path, cfg.data.candidates.split) == ("data/colours.json", None)
    assert (cfg.embedder.model, cfg.max_K) == ("some/model", 5)
    Path("other.py").write_text("print(1)")
    with pytest.raises(UserError, match="no call of an offline selector"):
        translated("select", Path("other.py"), [])


def test_select_takes_a_training_files_data(folder):
    file = translated("select", wrote("near"), [])
    cfg = configured("select", *map(str, file.words), "max_K=6")
    assert (cfg.data.candidates.path, cfg.data.queries.path) == ("colours", "sums")


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_target_is_an_option():
    """What the table says a param or key becomes is there."""
    for name, params in PARAMS.items():
        cfg = configured("train", f"selector={name}")
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
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(MARK)[1] == "\n" + tables(), "python -m near.dataflex.page"
    assert "docs/from_dataflex.md" in (ROOT / "README.md").read_text(encoding="utf-8")


# --- end to end -----------------------------------------------------------------------------------------------------


def same_runs(one: Path, two: Path) -> None:
    names = sorted(p.name for p in (one / "rounds").glob("*.npy"))
    assert len(names) == 6 and names == sorted(p.name for p in (two / "rounds").glob("*.npy"))
    for name in names:
        np.testing.assert_array_equal(np.load(one / "rounds" / name), np.load(two / "rounds" / name))
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (one, two)]
    assert weights[0] == weights[1]
    losses = [json.loads((run / "metrics.json").read_text())["target_loss"] for run in (one, two)]
    assert losses[0] == losses[1]


@pytest.mark.model
@pytest.mark.process
def test_a_near_yaml_trains_and_its_printed_command_is_the_same_to_the_bit(folder):
    path = wrote("near", "disable_tqdm: true\n")
    env = {"NEAR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    script, small = str(ROOT / "train.py"), "embedder=hashing"
    first = process(script, f"from_yaml={path}", small, cwd=folder, env=env)
    assert first.returncode == 0, first.stderr[-3000:]
    command = shlex.split(first.stdout.splitlines()[1])
    assert command[:2] == ["python", script] and not any("from_yaml" in word for word in command)
    run = folder / "saves" / "run"
    run.rename(folder / "first")
    env["NEAR_CACHE"] = str(folder / "another cache")
    second = process(*command[1:], cwd=folder, env=env)
    assert second.returncode == 0, second.stderr[-3000:]
    same_runs(folder / "first", run)
    assert [np.load(run / "rounds" / f"{i:03d}.npy").size for i in range(3)] == [4, 6, 6]

    Path("merge.yaml").write_text(MERGE_FILE.replace("Qwen/Qwen2.5-7B-Instruct", "builtin:tiny"))
    done = process(str(ROOT / "merge.py"), "from_yaml=merge.yaml", cwd=folder, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    command = shlex.split(done.stdout.splitlines()[1])
    (folder / "saves" / "merged").rename(folder / "first merged")
    assert process(*command[1:], cwd=folder, env=env).returncode == 0
    both = [folder / name / "model.safetensors" for name in ("first merged", "saves/merged")]
    assert both[0].read_bytes() == both[1].read_bytes()


@pytest.mark.model
@pytest.mark.process
def test_a_sweep_of_a_file(folder):
    """Flags may stand anywhere; jobs' folders are named by what was typed."""
    path, env = wrote("random", "disable_tqdm: true\n"), {"NEAR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    words = [f"from_yaml={path}", "output_dir=saves/sweep", "-m", "seed=0,1", "trainer.update_times=1"]
    done = process(str(ROOT / "train.py"), *words, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {path.parent.name for path in (folder / "saves" / "sweep").glob("*/metrics.json")}
    assert found == {"seed-0_trainer.update_times-1", "seed-1_trainer.update_times-1"}


@pytest.mark.process
def test_no_heavy_import_before_the_configuration_is_checked(folder):
    path = wrote("less")
    done = process("-X", "importtime", str(ROOT / "train.py"), f"from_yaml={path}", "--cfg", "job", cwd=folder)
    assert done.returncode == 0, done.stderr[-500:]
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "transformers", "datasets", "peft"}
    done = process(str(ROOT / "train.py"), "from_yaml=nothing.yaml", cwd=folder)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: from_yaml=nothing.yaml can't be read")
    assert sys.argv
