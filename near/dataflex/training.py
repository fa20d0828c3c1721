"""How a DataFlex or LLaMA-Factory file trains: its trainer and length, where it writes, who watches, its arguments."""

import json
import math
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from near.config import CONF
from near.dataflex.components import TARGETLESS, mixer, selector, weighter
from near.dataflex.file import File, is_secret
from near.dataflex.keys import TRAIN, family
from near.errors import UserError, did_you_mean, one_line
from near.processes import world_size
from near.signature import keywords

FIELDS = "transformers.training_args.TrainingArguments"
# transformers' and LLaMA-Factory's own, where ours are other values
ARGS = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "logging_steps": 500,
    "save_steps": 500,
    "save_total_limit": None,
}
RENAMED = {"warmup_ratio": "warmup_steps", "evaluation_strategy": "eval_strategy", "no_cuda": "use_cpu"}
RENAMED |= {"enable_liger_kernel": "use_liger_kernel"}
ASKED = {*RENAMED, "ddp_timeout"}  # of the table's keys, those that become arguments


def _draws(file: File) -> int:
    """Rows that an optimizer step trains, over all processes."""
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
    return math.prod(file.whole(key, ARGS[key], 1) for key in sizes) * world_size()


def _options(mode: str) -> DictConfig:
    """What conf/trainer/<mode>.yaml lists below `trainer`; of a mode made of rounds, what dynamic_select does."""
    own = OmegaConf.load(CONF / "trainer" / f"{mode}.yaml")
    own = own.get("trainer", own)
    return own if "args" in own else OmegaConf.load(CONF / "trainer" / "dynamic_select.yaml")


def trainer(file: File, mode: str, rows: int | None) -> None:
    """The trainer and the length of its training.

    Raises UserError for a schedule that trains nothing, or whose length hangs on rows that can't be counted.
    """
    file.put("trainer", mode)
    passes = file.number("num_train_epochs", 3)
    if mode == "static":
        file.put("trainer.args.num_train_epochs", passes)
        if (steps := file.take("max_steps", -1)) != -1:
            file.put("trainer.args.max_steps", steps)
        return
    file.take("max_steps")
    warmup, step = file.whole("warmup_step", 0), file.whole("update_step", 0)
    times, total = file.whole("update_times", 1, -math.inf), file.whole("train_step", 0)
    if "update_step" not in _options(mode):
        _weighted(file, warmup, total, passes, rows)
        return
    if step < 1:
        raise UserError(f"{file.path}: update_step={step} trains no round; use update_step: 1 or more")
    cycles = 1
    if times < 1:
        if not total and rows is None:
            raise UserError(
                f"{file.path}: update_times={times} goes by the rows, which can't be counted; give train_step"
            )
        total = total or math.ceil(passes * math.ceil(rows / _draws(file)))
        times = max(1, math.ceil((total - warmup) / step))
    else:
        cycles = max(1, math.ceil(total / (warmup + step * times) if total else passes))
        total = total or math.ceil(passes * (warmup + step * times))
    if total != cycles * (warmup + step * times):
        file.said.append(f"a round is trained whole: {cycles * (warmup + step * times)} steps in place of {total}")
    for key, value in (("warmup_step", warmup), ("update_step", step), ("update_times", times), ("cycles", cycles)):
        file.put(f"trainer.{key}", value)


def _weighted(file: File, warmup: int, total: int, passes: float, rows: int | None) -> None:
    """The length of training that has no rounds: train_step, or passes over the pool."""
    if not total and rows is None:
        raise UserError(f"{file.path}: train_step is missing, and the rows can't be counted; give it")
    for key in ("update_step", "update_times"):
        file.take(key)
    file.put("trainer.warmup_step", warmup)
    file.put("trainer.train_step", total or math.ceil(passes * math.ceil(rows / _draws(file))))


def component(file: File, mode: str, name: str, rows: int | None) -> None:
    """What `name` of components.yaml becomes. `rows`: of the pool, where they could be counted."""
    if mode == "static":
        file.put("selector", name)
        file.take("components_cfg_file")
        return
    if mode != "dynamic_select":
        {"dynamic_weight": weighter, "dynamic_mix": mixer}[mode](file, name)
        return
    most = _most(file, (file.typed_value("selector") or name).split(","), rows)
    if most is not None:
        file.put("max_K", most)
    if file.typed_value("selector") is None:
        selector(file, name)
    else:
        file.take("components_cfg_file")


def _most(file: File, selectors: list[str], rows: int | None) -> int | None:
    """max_K, which must not be more than there are rows: for near as many as a round draws, as it can take no more of a
    query's nearest. None: the script's own."""
    if all(name in TARGETLESS for name in selectors):
        return None
    sizes = ("update_step", "args.per_device_train_batch_size", "args.gradient_accumulation_steps")
    if selectors == ["near"] and all(file.typed_value(f"trainer.{key}") is None for key in sizes):
        return min(1000, file.whole("update_step", 0) * _draws(file))
    return None if rows is None else min(1000, rows)


def place(file: File) -> None:
    """Seed and folder, and whether the run begins anew."""
    file.put("seed", file.number("seed", 42))
    if folder := file.take("output_dir"):
        file.put("output_dir", str(folder))
    if file.take("overwrite_output_dir"):
        file.put("overwrite", True)
    resume = file.take("resume_from_checkpoint")
    if isinstance(resume, str):
        file.put("resume", resume)
    if file.take("data_seed", file.seed) == file.seed:
        file.values.pop("data_seed", None)


def parallel(file: File) -> None:
    """How processes share the model; UserError for options of DeepSpeed that can't be read."""
    told = file.take("deepspeed")
    if file.take("fsdp"):
        file.put("parallel", "fsdp")
    if told is None:
        return
    path = file.found(told) if isinstance(told, str) else None
    options = told if isinstance(told, dict) else {}
    if path is not None:
        try:
            options = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file.path}: deepspeed={path} can't be read as JSON ({one_line(error)})") from error
        if not isinstance(options, dict):
            raise UserError(f"{file.path}: deepspeed={path} holds no options by name")
    named = re.search(r"z(?:ero)?[_-]?([0-3])", str(told))
    stage = (options.get("zero_optimization") or {}).get("stage", int(named[1]) if named and not options else 0)
    if not options and not named:
        raise UserError(f"{file.path}: deepspeed={told} is not there; name a JSON file, or type parallel=deepspeed_z2")
    if stage not in (0, 1, 2, 3):
        raise UserError(f"{file.path}: deepspeed: stage={stage} is none of 0, 1, 2, 3")
    file.put("parallel", f"deepspeed_z{2 if stage == 1 else stage}")
    if options:
        file.put("parallel.deepspeed", path or told)
    else:
        file.said.append(f"deepspeed={told} is not there: the options of parallel=deepspeed_z{stage}")


def tracker(file: File) -> None:
    """Who watches the run: the first of report_to and use_swanlab that is there."""
    there = {path.stem for path in (CONF / "tracker").glob("*.yaml")}
    asked = [name for name in file.names("report_to") if name != "none"]
    asked += ["swanlab"] * bool(file.take("use_swanlab") and "swanlab" not in asked)
    chosen = next((name for name in asked if name in there), "none")
    for name in asked:
        if name != chosen:
            why = "one tracker a run" if name in there else f"no such tracker{did_you_mean(name, there)}"
            file.skip(f"report_to={name}", why)
    if asked:
        file.put("tracker", chosen)
    listed = OmegaConf.load(CONF / "tracker" / f"{chosen}.yaml")
    prefix = "swanlab_" if chosen == "swanlab" else ""
    for key in ("project", "workspace", "mode", "logdir"):
        for name in {f"swanlab_{key}", *(["project"] if key == "project" else [])} & set(file.values):
            value = file.take(name)
            value = "online" if name == "swanlab_mode" and value == "cloud" else value
            if key in listed and name == f"{prefix}{key}":
                file.put(f"tracker.{key}", value)
            else:
                file.skip(name, f"not an option of tracker={chosen}", value)


def arguments(file: File, mode: str) -> None:
    """What goes to transformers' TrainingArguments."""
    fields, given = keywords(FIELDS) or set(), dict(ARGS)
    for key in list(file.values):
        name = RENAMED.get(key, key)
        if name in fields and not is_secret(key) and not family(key) and (key not in TRAIN or key in ASKED):
            value = file.take(key)
            if value is None:
                continue
            if key == "ddp_timeout" and isinstance(value, bool):
                file.skip(key, f"{str(value).lower()} is no number of seconds")
            elif mode != "static" and name.endswith("_strategy") and value == "epoch":
                file.skip(key, "epoch would count slices of rounds; use steps")
            elif not (key == "warmup_ratio" and file.values.get("warmup_steps")):
                given[name] = value
    order = file.take("train_sampling_strategy", "random")
    grouped = file.take("group_by_length") or order == "group_by_length"
    if order not in ("random", "group_by_length"):
        file.skip("train_sampling_strategy", "rows are shuffled by the seed")
    if grouped and mode != "static":
        file.put("trainer.group_by_length", True)
    elif grouped:
        given["train_sampling_strategy"] = "group_by_length"
    listed = _options(mode).args
    for name, value in given.items():
        file.put(f"trainer.args.{name}", value, added=name not in listed)
