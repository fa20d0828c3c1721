"""The training of a DataFlex or LLaMA-Factory file: component, folder, processes and arguments."""

import json
import re
from pathlib import Path

from near.app.from_yaml.components import selector, weighter
from near.app.from_yaml.file import File
from near.app.from_yaml.keys import TRAIN, family
from near.app.from_yaml.optimizers import optimizer
from near.app.from_yaml.schedule import BATCH, has_rounds, most, options
from near.common.errors import UserError, as_user_error
from near.common.secrets import is_secret
from near.common.signature import keywords
from near.training.options import REFUSED

FIELDS = "transformers.training_args.TrainingArguments"
# defaults of transformers and LLaMA-Factory where near's differ
ARGS = {
    **BATCH,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "logging_steps": 500,
    "save_steps": 500,
    "save_total_limit": None,
}
RENAMED = {"warmup_ratio": "warmup_steps", "evaluation_strategy": "eval_strategy", "no_cuda": "use_cpu"}
RENAMED |= {"enable_liger_kernel": "use_liger_kernel"}
ARGUMENTS = {*RENAMED, "ddp_timeout", *REFUSED}  # of the table's keys, those that become arguments


def component(file: File, mode: str, name: str, rows: int | None) -> None:
    """Translate the component `name` of components.yaml. `rows`: of the pool, None where they can't be counted."""
    if mode == "static":
        file.put("selector", name)
        for key in ("component_name", "components_cfg_file"):  # only dynamic training reads them
            file.take(key)
        return
    if mode == "dynamic_weight":
        weighter(file, name)
        return
    largest = most(file, (file.typed_value("selector") or name).split(","), rows)
    if largest is not None:
        file.put("max_K", largest)
    if file.typed_value("selector") is None:
        selector(file, name)
    else:
        file.take("components_cfg_file")


def place(file: File) -> None:
    """Translate seed and folder, and whether a run is resumed or replaced."""
    file.put("seed", file.number("seed", 42))
    if folder := file.take("output_dir"):
        file.put("output_dir", str(folder))
    if file.take("overwrite_output_dir"):
        file.put("overwrite", True)
    resume = file.take("resume_from_checkpoint")
    if isinstance(resume, str):
        file.put("resume", resume)
    if file.values.get("data_seed") == file.seed:
        file.take("data_seed")


def parallel(file: File) -> None:
    """Translate how processes share the model; UserError for options of DeepSpeed that can't be read."""
    deepspeed = file.take("deepspeed")
    if file.typed_value("parallel") is not None:
        file.take("fsdp")
        return
    if fsdp := file.take("fsdp"):
        file.put("parallel", "fsdp")
        unknown = set(re.findall(r"\w+", str(fsdp))) - {"True", "full_shard", "auto_wrap"}
        if unknown:
            file.skip_always("fsdp", f"{', '.join(sorted(unknown))}: set parallel.fsdp_config")
    if deepspeed is None:
        return
    path = file.locate(deepspeed) if isinstance(deepspeed, str) else None
    options = deepspeed if isinstance(deepspeed, dict) else {}
    if path is not None:
        what = f"{file.path}: deepspeed={path} can't be read as JSON"
        with as_user_error((OSError, ValueError), what, "give DeepSpeed's JSON file"):
            options = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        if not isinstance(options, dict):
            raise UserError(f"{file.path}: deepspeed={path} is not a mapping; give DeepSpeed's JSON file")
    named = re.search(r"z(?:ero)?[_-]?([0-3])", str(deepspeed))
    stage = (options.get("zero_optimization") or {}).get("stage", int(named[1]) if named and not options else 0)
    if not options and not named:
        raise UserError(
            f"{file.path}: deepspeed={deepspeed} does not exist; name a JSON file, or type parallel=deepspeed_z2"
        )
    if stage not in (0, 1, 2, 3):
        raise UserError(f"{file.path}: deepspeed: stage={stage} is not one of 0, 1, 2, 3; use one")
    file.put("parallel", f"deepspeed_z{2 if stage == 1 else stage}")
    if options:
        file.put("parallel.deepspeed", path or deepspeed)
    else:
        file.notes.append(f"deepspeed={deepspeed} does not exist: the options are those of parallel=deepspeed_z{stage}")


def arguments(file: File, mode: str, lora: bool) -> None:
    """Translate the fields of transformers' TrainingArguments. `mode`: the trainer."""
    fields, args = keywords(FIELDS) or set(), dict(ARGS)
    for key in sorted(file.values, key=RENAMED.__contains__):
        name = RENAMED.get(key, key)
        if name not in fields or is_secret(key) or family(key) or key in TRAIN and key not in ARGUMENTS:
            continue
        if key in REFUSED and has_rounds(mode):
            continue
        value = file.take(key)
        if value is None:
            continue
        if key == "ddp_timeout" and isinstance(value, bool):
            file.skip_always(key, f"{str(value).lower()} is not a number of seconds")
        elif mode != "static" and name.endswith("_strategy") and value == "epoch":
            file.skip_always(key, "epoch would count parts of rounds; use steps")
        elif key == name or not file.values.get(name):  # else the newer name takes precedence, as there
            args[name] = value
    args |= optimizer(file, lora) | _order(file, mode)
    listed = options(mode).args
    for name, value in args.items():
        file.put(f"trainer.args.{name}", value, added=name not in listed)


def _order(file: File, mode: str) -> dict[str, object]:
    """Translate the order of rows: of a plain training by TrainingArguments; rounds shuffle by the seed."""
    order = str(file.take("train_sampling_strategy", "random"))
    order = "group_by_length" if file.take("group_by_length") else order
    order = "sequential" if file.take("disable_shuffling") else order
    if mode == "static":
        return {} if order == "random" else {"train_sampling_strategy": order}
    if any(word.key == "order" for word in file.words):
        if order == "group_by_length":
            file.skip_always("group_by_length", "it would undo the order, in DataFlex too")
        return {}
    if order == "group_by_length" and has_rounds(mode):
        file.put("trainer.group_by_length", True)
    elif order == "group_by_length":
        return {"train_sampling_strategy": order}
    elif order != "random":
        key = "disable_shuffling" if file.take("disable_shuffling") else "train_sampling_strategy"
        file.skip_always(key, "rows are shuffled by the seed")
    return {}
