"""The options of train.py, bounds for those of transformers and peft, and those that other options decide."""

from typing import Annotated, Literal, NotRequired, TypedDict

from near.common.bounds import Share, between
from near.common.options import Group
from near.evaluation.options import Evaluation
from near.selection.options import Search

Steps = Annotated[float, between(1e-9, 1e9)]  # below 1: a share of all steps


class Train(Search):
    selector: Group
    weighter: NotRequired[Group | None]
    order: NotRequired[Group | None]
    plan: NotRequired[Group | None]
    finetuning: Group
    trainer: Group
    parallel: dict
    evaluation: Evaluation
    tracker: Group
    indices_path: str | None
    resume: str | None
    dry_run: bool | Literal["count", "forecast"]


class LoraPlus(TypedDict):
    lr_ratio: Annotated[float, between(1e-3, 1e9)] | None
    lr_embedding: float


class Carried(TypedDict):
    """Options of the group trainer beside those of its class; the job carries them."""

    loraplus: LoraPlus
    nonfinite_steps: int
    padding_free: bool
    keep: NotRequired[Literal["best", "last"]]
    patience: NotRequired[Annotated[int, between(1, 1_000_000)] | None]


class ArgumentBounds(TypedDict):
    """Bounds for transformers' TrainingArguments."""

    per_device_train_batch_size: Annotated[int, between(1, 1_000_000)]
    gradient_accumulation_steps: Annotated[int, between(1, 1_000_000)]
    learning_rate: Annotated[float, between(0, 1e6)]
    max_steps: Annotated[int, between(-1, 100_000_000)]
    num_train_epochs: Annotated[float, between(1e-9, 1e6)]
    warmup_steps: Annotated[float, between(0, 100_000_000)]
    eval_steps: Steps | None
    logging_steps: Steps
    save_steps: Steps
    adam_beta1: Annotated[float, between(0, 0.999999)]
    adam_beta2: Annotated[float, between(0, 0.99999999)]
    adam_epsilon: Share
    label_smoothing_factor: Share
    dataloader_num_workers: Annotated[int, between(0, 4096)]


class AdapterBounds(TypedDict):
    """Bounds for peft's LoraConfig."""

    r: Annotated[int, between(1, 1_000_000)]
    lora_alpha: Annotated[float, between(0, 1e6)]  # peft says int, and takes fractions as well
    lora_dropout: Share


# Training arguments that another option decides, and which.
ELSEWHERE = {
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "report_to": "tracker",
    "resume_from_checkpoint": "resume",
    "remove_unused_columns": "data.*.columns",
    "deepspeed": "parallel=deepspeed_z2 with parallel.deepspeed (options, or the path of a JSON file)",
    "fsdp": "parallel=fsdp",
    "fsdp_config": "parallel.fsdp_config",
}

# Training arguments that the schedule of rounds decides, and the options to use instead.
SCHEDULED = {
    "max_steps": "trainer.warmup_step, trainer.update_step and trainer.update_times",
    "num_train_epochs": "trainer.update_times (or trainer.cycles)",
    "train_sampling_strategy": "trainer.group_by_length",
    "load_best_model_at_end": "trainer.keep=best with data.eval.validation",
}

# Training arguments that break the slices of rounds.
REFUSED = ("auto_find_batch_size", "ignore_data_skip", "dataloader_persistent_workers", "dataloader_drop_last")
