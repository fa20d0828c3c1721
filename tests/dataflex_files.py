"""Files like DataFlex's examples, and the folder in which they run."""

import json
from pathlib import Path

import yaml

from near.app.from_yaml.expanded import translated
from near.app.from_yaml.file import File
from near.common.command_line import Command
from tests.conftest import write_rows

TRAIN_PY = Command("train", ("python", "train.py"))

COMMON = """
### model
model_name_or_path: builtin:tiny

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


def lay_out(folder: Path) -> Path:
    """data/ with a dataset_info.json and two data sets, and components.yaml where DataFlex has it."""
    (folder / "data").mkdir()
    rows = [{"instruction": f"name colour {i}", "input": "", "output": f"shade {i * i}"} for i in range(30)]
    (folder / "data" / "colours.json").write_text(json.dumps(rows))
    sums = [{"instruction": f"add {i} to {i}", "input": "", "output": str(2 * i)} for i in range(5)]
    write_rows(folder / "data" / "sums.jsonl", sums)
    entries = {
        "colours": {"file_name": "colours.json"},
        "sums": {"file_name": "sums.jsonl"},
        "hub": {"hf_hub_url": "a/b"},
    }
    (folder / "data" / "dataset_info.json").write_text(json.dumps(entries))
    configs = folder / "src" / "dataflex" / "configs"
    configs.mkdir(parents=True)
    entries = {name: {"name": name, "params": params} for name, params in COMPONENTS.items()}
    (configs / "components.yaml").write_text(yaml.safe_dump({"selectors": entries}))
    return folder


def wrote(component: str, text: str = "", without: tuple = ()) -> Path:
    """A file in the form of DataFlex's examples/train_lora/selectors, with `text` at its end."""
    lines = [line for line in COMMON.splitlines() if line.split(":")[0] not in without]
    lines += [f"component_name: {component}"] if component else []
    lines += ["eval_dataset: sums"] * (component in TARGETED and "eval_dataset" not in without)
    path = Path(f"{component or 'file'}.yaml")
    path.write_text("\n".join(lines) + "\n" + text)
    return path


def words(file: File) -> dict[str, str]:
    """The overrides of a translated file, by key; an added one has its plus."""
    return {f"{'+' * word.added}{word.key}": word.text for word in file.words}


def translate(
    component: str, text: str = "", typed: tuple = (), script: str = "train", without: tuple = ()
) -> tuple[dict[str, str], File]:
    """The overrides of such a file, and the translated file."""
    file = translated(script, wrote(component, text, without), list(typed))
    return words(file), file
