"""Files with which other trainers train on trained.jsonl in its order, with a run's options.

The names of options are those of TRL 1.16, LLaMA-Factory 0.9.5 and axolotl 0.19. What a trainer does otherwise is said
in its file.
"""

import logging
import math
import pprint
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import DictConfig, OmegaConf

from near.common.config import public
from near.common.errors import UserError
from near.common.files import aside, write_json
from near.common.text import plural
from near.models.loading import base_folder, load_tokenizer
from near.selection.draws import Content, Draws
from near.selection.plan.kinds import stage_kinds

log = logging.getLogger(__name__)

DATA, TOKENIZER = "near_rounds", "tokenizer"
# arguments of a run that the exported order decides, or that need rows to evaluate on
LEFT_OUT = ("max_steps", "num_train_epochs", "group_by_length", "eval_strategy", "eval_steps", "eval_on_start")
LEFT_OUT += ("load_best_model_at_end", "train_sampling_strategy", "per_device_eval_batch_size")
# arguments of a run that axolotl has as options of other names, or decides itself (bf16: auto)
AXOLOTL_OTHERS = ("per_device_train_batch_size", "lr_scheduler_type", "warmup_steps", "optim", "seed")
AXOLOTL_OTHERS += ("bf16", "fp16", "use_cpu", "disable_tqdm")
# options of peft that both trainers know, and what they say if they are not set
LORA = ("task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_dora", "use_rslora")
NOT_SET = (None, False, "none", [], {})
# further options of peft that axolotl knows, with the prefix peft_
PEFT_LISTS = ("layers_to_transform", "layers_pattern")
# arguments of transformers that axolotl knows by the same name
AXOLOTL = ("gradient_accumulation_steps", "learning_rate", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2")
AXOLOTL += (
    "adam_epsilon",
    "logging_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "dataloader_num_workers",
    "ddp_timeout",
)


@dataclass
class Recipe:
    """The options of a run that other trainers need.

    Attributes:
        cfg: the run's configuration, public values.
        content: what the rows are like.
        model: the base's name, or the absolute path of its folder.
        args: of transformers' TrainingArguments, for one pass over the exported rows.
        processes: of the run.
        planned: optimizer steps of the run's schedule.
        steps: those that it trained.
    """

    cfg: dict[str, Any]
    content: Content
    model: str
    args: dict[str, Any]
    processes: int
    planned: int
    steps: int

    @classmethod
    def of(cls, draws: Draws, content: Content, cache_dir: str) -> "Recipe":
        cfg: DictConfig = draws.cfg
        plain = public(cfg)
        args = {k: v for k, v in plain["trainer"]["args"].items() if not k.startswith("_") and k not in LEFT_OUT}
        name = cfg.model.name_or_path
        is_folder = str(name).startswith("builtin:") or Path(name).expanduser().is_dir()
        model = Path(base_folder(cfg.model, cache_dir)).absolute() if is_folder else name
        per_process = args.get("per_device_train_batch_size", 8) * args.get("gradient_accumulation_steps", 1)
        trainer = cfg.trainer
        planned = trainer.cycles * (trainer.warmup_step + trainer.update_step * trainer.update_times)
        if 0 < (share := args.get("warmup_steps") or 0) < 1:  # of all steps, which trainers write differently
            args["warmup_steps"] = math.ceil(share * planned)
        args["seed"] = cfg.seed
        processes = max(1, draws.rounds[0].draws_per_step // per_process)
        return cls(plain, content, str(model), args, processes, planned, draws.steps)

    @property
    def lora(self) -> dict[str, Any] | None:
        """The options of peft's configuration; None for full fine-tuning."""
        options = self.cfg["finetuning"]
        return {k: v for k, v in options.items() if k != "_target_"} if "_target_" in options else None

    @property
    def is_plain(self) -> bool:
        return self.content.plain > 0

    def notes(self, *more: str) -> list[str]:
        """What differs from the run, whatever the trainer."""
        count, longest = plural(self.processes, "process", "processes"), self.cfg["data"]["cutoff_len"]
        notes = [
            f"The run had {count}: use as many, so that steps have the same rows.",
            f"A row longer than {longest} tokens loses its end; in near it loses the start of its prompt.",
        ]
        if self.steps < self.planned:
            notes.append(
                f"The run trained {self.steps} of {self.planned} steps: here the learning rate decays sooner, as the "
                "schedule ends with the rows."
            )
        if (self.cfg["trainer"].get("loraplus") or {}).get("lr_ratio") is not None:
            notes.append("LoRA+ (trainer.loraplus) is left out.")
        for part in ("candidates", "queries"):
            if ((self.cfg["data"].get(part) or {}).get("columns") or {}).get("weight"):
                notes.append(f"The loss weights of rows (data.{part}.columns.weight) are left out; `weight` has them.")
        kinds = stage_kinds(OmegaConf.create(self.cfg.get("plan") or {}))
        for name in (name for name, kind in kinds.items() if kind == "weigh"):
            notes.append(f"The weights of plan.{name} are left out: all rows of a batch count alike.")
        if self.cfg["model"].get("adapter") is not None:  # its path may have any characters
            notes.append(
                "The run started from an adapter (model.adapter), and this starts from the base alone: merge it with "
                "merge.py, and name its export as the model here."
            )
        return notes + list(more)

    def lost(self, group: str, options: dict[str, Any] | None, *known: str) -> list[str]:
        """A note that names the options of `group` that are set and that a trainer does not know, if there are any."""
        names = sorted(name for name, value in (options or {}).items() if name not in known and value not in NOT_SET)
        verb = "is" if len(names) == 1 else "are"
        return [f"{', '.join(f'{group}.{name}' for name in names)} {verb} left out."] if names else []

    @property
    def bits(self) -> int | None:
        """Of a quantised base: 4 or 8; None: it is not quantised."""
        options = self.cfg["model"].get("quantization")
        return None if not options else 8 if options.get("load_in_8bit") else 4


def write_for(names: list[str], draws: Draws, content: Content, folder: Path, cache_dir: str) -> None:
    """Write the files of the trainers `names` to `folder`, beside trained.jsonl, and the run's tokenizer.

    Raises:
        UserError: texts and chats are mixed, which none of these trainers takes in one data set.
    """
    if 0 < content.plain < content.rows:
        raise UserError(
            f"export_for: {content.plain} of {content.rows} rows are texts without a question, and the others chats, "
            "which these trainers do not take in one data set; leave export_for out"
        )
    recipe = Recipe.of(draws, content, cache_dir)
    load_tokenizer(draws.cfg.model, cache_dir).save_pretrained(folder / TOKENIZER)
    for name in names:
        WRITERS[name](recipe, folder)


def _trl(recipe: Recipe, folder: Path) -> None:
    data, content = recipe.cfg["data"], recipe.content
    masked = "completion"
    if data.get("train_on_prompt") or recipe.is_plain:
        masked = "nothing"
    elif content.untrained or content.several and not data.get("mask_history"):
        masked = "answers"
    more = []
    if masked != "nothing":
        more.append("TRL also trains on what the chat template writes after an answer's end token, often a newline.")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["python"] = lambda value: pprint.pformat(value, width=100, sort_dicts=False)
    model, dtype = recipe.cfg["model"], recipe.cfg["model"]["dtype"]
    if dtype == "auto":  # as near/models/loading.py; weights that are trained stay in float32
        dtype = "float32" if recipe.lora is None else "bfloat16 if bf16 else torch.float32"
    text = environment.get_template("trl_train.jinja").render(
        recipe=recipe,
        notes=recipe.notes(*more),
        masked=masked,
        encoded=masked == "answers" or content.sparse > 0,  # a table gives all messages the same keys
        last=masked == "completion" or bool(data.get("mask_history")),
        peft=recipe.cfg["finetuning"].get("_target_", "").rpartition(".")[2],
        lora=recipe.lora,
        quantization={k: v for k, v in (model.get("quantization") or {}).items() if k != "_target_"},
        options={"max_length": data["cutoff_len"], **recipe.args},
        model=model,
        dtype=f"torch.{dtype}",
        tokenizer=TOKENIZER,
    )
    _write(folder / "trl_train.py", text)


def _llamafactory(recipe: Recipe, folder: Path) -> None:
    data, lora, content = recipe.cfg["data"], recipe.lora, recipe.content
    more = ["Thinking in `reasoning_content` is not read."]
    entry: dict[str, Any] = {"file_name": "trained.jsonl"}
    if recipe.is_plain:
        entry["columns"] = {"prompt": "text"}
    else:
        # "openai" alone reads calls, and adds a system text ("detailed thinking off") to rows without tools
        entry |= {"formatting": "openai" if content.calls else "sharegpt", "columns": {"messages": "messages"}}
        if content.tools:
            entry["columns"]["tools"] = "tools"
        tags = {"role": "role", "content": "content", "user": "user", "assistant": "assistant", "system": "system"}
        entry["tags"] = {
            f"{tag}_tag": name for tag, name in {**tags, "observation": "tool", "function": "function_call"}.items()
        }
    write_json(folder / "dataset_info.json", {DATA: entry})
    options = {
        "model_name_or_path": recipe.model,
        "model_revision": recipe.cfg["model"].get("revision"),
        "trust_remote_code": recipe.cfg["model"].get("trust_remote_code"),
        "stage": "pt" if recipe.is_plain else "sft",
        "do_train": True,
        "finetuning_type": "full" if lora is None else "lora",
        "dataset_dir": ".",
        "dataset": DATA,
        "template": recipe.cfg["model"].get("template"),
        "cutoff_len": data["cutoff_len"],
        "disable_shuffling": True,
        "packing": False,
        "train_on_prompt": bool(data.get("train_on_prompt")),
        "mask_history": bool(data.get("mask_history")),
        "num_train_epochs": 1.0,
        "output_dir": "llamafactory-output",
    }
    if lora is not None:
        targets = lora.get("target_modules")
        options |= {
            "lora_rank": lora.get("r"),
            "lora_alpha": lora.get("lora_alpha"),
            "lora_dropout": lora.get("lora_dropout"),
            "lora_target": "all" if targets in (None, "all-linear") else ",".join(_list(targets)),
            "additional_target": ",".join(lora.get("modules_to_save") or ()) or None,
        }
        more += recipe.lost("finetuning", lora, *LORA)
        if isinstance(targets, str) and not re.fullmatch(r"[\w-]+", targets):
            del options["lora_target"]
            more.append(
                "finetuning.target_modules is a regular expression, which LLaMA-Factory does not take: name the layers "
                "in lora_target; without it all linear layers are adapted."
            )
        options |= {name: True for name in ("use_dora", "use_rslora") if lora.get(name)}
    if recipe.bits is not None:
        options["quantization_bit"] = recipe.bits
    if options["template"] is None:
        more.append("template: null makes LLaMA-Factory guess it from the tokenizer; better name the model's.")
    if content.untrained:
        more.append(
            f"{plural(content.untrained, 'row')} with answers that near does not train on: they are trained on."
        )
    head = f"llamafactory-cli train llamafactory.yaml (in this folder; the rows are {DATA} in dataset_info.json)"
    _write_yaml(folder / "llamafactory.yaml", head, recipe.notes(*more), options | recipe.args)


def _axolotl(recipe: Recipe, folder: Path) -> None:
    data, lora, args = recipe.cfg["data"], recipe.lora, recipe.args
    rows: dict[str, Any] = {"path": "trained.jsonl", "ds_type": "json"}
    if recipe.is_plain:
        rows |= {"type": "completion", "field": "text"}
    else:
        rows |= {"type": "chat_template", "field_messages": "messages"}
        rows |= {"message_property_mappings": {"role": "role", "content": "content"}}
        rows |= {"roles_to_train": ["assistant"], "train_on_eos": "turn"}
        if recipe.content.untrained:
            rows["message_field_training"] = "train"
        if recipe.content.tools:
            rows["field_tools"] = "tools"
    options = {
        "base_model": recipe.model,
        "revision_of_model": recipe.cfg["model"].get("revision"),
        "trust_remote_code": recipe.cfg["model"].get("trust_remote_code"),
        "tokenizer_config": TOKENIZER,
        "chat_template": None if recipe.is_plain else "tokenizer_default",
        "datasets": [rows],
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,
        "sample_packing": False,
        "train_on_inputs": bool(data.get("train_on_prompt")),
        "sequence_len": data["cutoff_len"],
        "excess_length_strategy": "truncate",
        "val_set_size": 0,
        "num_epochs": 1,
        "micro_batch_size": args.get("per_device_train_batch_size", 8),
        "lr_scheduler": args.get("lr_scheduler_type"),
        "warmup_steps": args.get("warmup_steps"),
        "optimizer": args.get("optim", "adamw_torch"),
        "bf16": "auto",
        "seed": args["seed"],
        "output_dir": "axolotl-output",
    }
    options |= {name: args[name] for name in AXOLOTL if args.get(name) is not None}
    more = recipe.lost("trainer.args", args, *AXOLOTL, *AXOLOTL_OTHERS)
    if lora is not None:
        options["adapter"] = "qlora" if recipe.bits == 4 else "lora"  # as axolotl calls them
        if recipe.bits is not None:
            options[f"load_in_{recipe.bits}bit"] = True
        options |= {
            "lora_r": lora.get("r"),
            "lora_alpha": lora.get("lora_alpha"),
            "lora_dropout": lora.get("lora_dropout"),
            "lora_modules_to_save": lora.get("modules_to_save"),
            "peft_init_lora_weights": lora.get("init_lora_weights"),
            **{f"peft_{name}": _list(lora[name]) for name in PEFT_LISTS if lora.get(name) is not None},
        }
        more += recipe.lost("finetuning", lora, *LORA, "init_lora_weights", *PEFT_LISTS)
        options |= {f"peft_{name}": True for name in ("use_dora", "use_rslora") if lora.get(name)}
        targets = lora.get("target_modules")
        options |= {"lora_target_linear": True} if targets == "all-linear" else {"lora_target_modules": targets}
    if data.get("mask_history"):
        more.append("All answers of a chat are trained on; near trained on the last one (data.mask_history).")
    _write_yaml(folder / "axolotl.yaml", "axolotl train axolotl.yaml (in this folder)", recipe.notes(*more), options)


def _list(values: Any) -> list:
    return list(values) if isinstance(values, list) else [values]


def _write_yaml(path: Path, head: str, notes: list[str], options: dict[str, Any]) -> None:
    """Write options as YAML, without those that are null, but for `template`."""
    options = {k: v for k, v in options.items() if v is not None or k == "template"}
    lines = "".join(
        f"# {line}\n" for line in [head, "Written by near; the rows stay in the order of the file.", *notes]
    )
    _write(path, lines + yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def _write(path: Path, text: str) -> None:
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info(f"wrote {path}")


WRITERS: dict[str, Callable[[Recipe, Path], None]] = {
    "trl": _trl,
    "llamafactory": _llamafactory,
    "axolotl": _axolotl,
}
