"""What the options of a configuration may be.

An option of a class is typed by the class's signature, any other by the declarations below;
near/app/check/option_types.py reads both from source and holds every value to them. A number is finite and lies in
`bounds`.
"""

from typing import Literal, TypedDict

from typing_extensions import NotRequired

from near.data.templates.slots import TEMPLATES

Format = Literal["auto", "alpaca", "messages", "sharegpt", "prompt_completion", "question_answer", "text"]
Group = dict  # a choice of a configuration group: options of a class, or none


class Base(TypedDict):
    seed: int
    allow_targets: str | list[str] | None
    cache_dir: str
    output_dir: str
    sweep_name: str
    overwrite: bool


class Select(Base):
    output_dir: str | None
    data: "Data"
    embedder: Group
    index: Group
    selector: NotRequired[Group | None]
    mixer: NotRequired[Group | None]
    model: "Model"
    similarity: Group
    scoring: Group
    max_K: int | None
    n: int | None
    export: Literal["jsonl", "parquet"] | None
    dry_run: bool


class Train(Base):
    output_dir: str | None
    data: "Data"
    embedder: Group
    index: Group
    selector: Group
    mixer: NotRequired[Group | None]
    weighter: NotRequired[Group | None]
    model: "Model"
    finetuning: Group
    trainer: Group
    parallel: dict
    evaluation: "Evaluation"
    tracker: Group
    similarity: Group
    scoring: Group
    max_K: int | None
    indices_path: str | None
    dry_run: bool
    resume: str | None


class Merge(Base):
    model_name_or_path: str | None
    adapter_name_or_path: str | list[str]
    export_dir: str
    export_size: float
    export_dtype: Literal["float32", "bfloat16", "float16"]
    export_device: Literal["cpu", "auto"]
    export_legacy_format: bool
    trust_remote_code: bool
    tolerance: float
    rounding_tolerance: float
    template: str | None
    push_to_hub: str | None
    push_private: bool


class Eval(Base):
    data: "Data"
    model: "Model"
    evaluation: "Evaluation"
    run: str | None
    adapter_name_or_path: str | None


class Report(Base):
    runs: str
    row: int | None
    map: Literal["tsne", "pca"] | None
    map_rows: int
    queries: int
    neighbours: int
    answers: int


class Columns(TypedDict, total=False):
    """Of a field the source's column; false: it is not read."""

    source: str | bool | None
    instruction: str | bool | None
    input: str | bool | None
    output: str | bool | None
    system: str | bool | None
    tools: str | bool | None
    history: str | bool | None
    messages: str | bool | None
    conversations: str | bool | None
    prompt: str | bool | None
    completion: str | bool | None
    question: str | bool | None
    answer: str | bool | None
    text: str | bool | None


class Source(TypedDict):
    path: str | list | dict | None
    dataset_info: str | None
    name: str | None
    split: str | None
    revision: str | None
    key: str | None
    format: Format
    columns: Columns | None
    tags: dict[str, str | None] | None
    filter: dict | None
    limit: int | None


class Data(TypedDict):
    target: NotRequired[str]
    candidates: Source
    queries: Source
    eval: Source
    more_eval: dict | None
    cutoff_len: int
    train_on_prompt: bool
    mask_history: bool
    reasoning: Literal["keep", "drop"]
    default_system: str | None
    on_error: Literal["raise", "skip"]
    leakage: Literal["drop", "keep"]
    dedup: Literal["none", "exact", "near"]
    dedup_threshold: float
    num_proc: int | None
    refresh: bool


class Model(TypedDict):
    name_or_path: str
    revision: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    trust_remote_code: bool
    template: str | None
    enable_thinking: bool | None
    split_special_tokens: bool
    upcast_layernorm: bool
    quantization: Group | None


class LmEval(TypedDict):
    tasks: list[str] | None
    include_path: str | None
    num_fewshot: int | None
    limit: int | float | None
    batch_size: int
    apply_chat_template: bool


class Evaluation(TypedDict):
    batch_size: int
    answers: bool
    max_new_tokens: int
    graders: dict[str, Group] | None
    at_rounds: bool
    unsafe: bool
    backend: Literal["transformers", "vllm"]
    engine: dict | None
    lm_eval: LmEval


class Carried(TypedDict):
    """Options of the group trainer that are handed over beside those of its class."""

    loraplus: "LoraPlus"
    nonfinite_steps: int


class LoraPlus(TypedDict):
    lr_ratio: float | None
    lr_embedding: float


SCRIPTS = ("Select", "Train", "Merge", "Eval", "Report")

CARRIED = {"trainer": "near.app.check.allowed.Carried"}  # options that are handed over beside those of a group's class

RUNTIME = {"embedder": ("cache_dir",), "trainer": ("model", "job")}  # keywords that are handed over at the call
NAMES = {"template": tuple(TEMPLATES)}  # of options whose texts are names out of a long list
MAY_BE_EMPTY = ("prompt", "query_prompt", "document_prompt", "default_system")  # texts

# The least and largest value of a number where it isn't 1 to a billion for a whole one, 0 to a billion for another (0
# for one whose default is 0). The longest end of an option's name that stands here counts.
TOKENS, STEPS, SHARE = (1, 10_000_000), (0, 100_000_000), (0, 1)
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "row": (0, 2**40),
    "tolerance": (0, 1e6),
    "rounding_tolerance": (0, 1e6),
    "export_size": (1e-5, 1e6),
    "map_rows": (2, 10_000_000),
    "queries": (0, 1_000_000),
    "neighbours": (0, 1_000_000),
    "answers": (0, 1_000_000),
    "data.cutoff_len": (2, 10_000_000),
    "data.num_proc": (1, 4096),
    "data.dedup_threshold": SHARE,
    "workers": (1, 100_000),
    "server.concurrency": (1, 1000),
    "server.retries": (0, 1000),
    "server.timeout": (0.001, 86_400),
    "index.M": (2, 512),
    "index.ef_construction": (1, 1_000_000),
    "index.ef_search": (1, 2**31 - 1),
    "embedder.dim": (1, 1_000_000),
    "embedder.max_length": TOKENS,
    "batch_tokens": (1, 2**31 - 1),
    "max_new_tokens": (1, 1_000_000),
    "subset_size": (1e-9, 1e9),
    "selector.temperature": (1e-4, 1e6),
    "selector.mix": (0, 0.999),
    "selector.focus_weight": (1e-9, 1e9),
    "selector.quantiles": SHARE,
    "selector.window_size": (1e-9, 1),
    "selector.alpha": SHARE,
    "selector.C": (1e-9, 1e9),
    "selector.epsilon": (1e-9, 1e9),
    "selector.reg_queries": (1e-12, 1e9),
    "selector.reg_rows": (1e-12, 1e9),
    "selector.samples": (1, 10_000),
    "pass_at_1.seconds": (0.1, 3600),
    "pass_at_1.memory_mb": (64, 16_000_000),
    "pass_at_1.workers": (1, 1000),
    "scoring.dim": (8, 10_000_000),
    "scoring.hashes": (1, 64),
    "scoring.seed": (0, 2**32 - 1),
    "trainer.warmup_step": STEPS,
    "trainer.update_step": (1, 100_000_000),
    "trainer.update_times": (0, 1_000_000),
    "trainer.cycles": (1, 1_000_000),
    "trainer.train_step": (1, 100_000_000),
    "loraplus.lr_ratio": (1e-3, 1e9),
    "weighter.delta": (1e-6, 1e6),
    "weighter.r": (1e-3, 1e6),
    "mixer.temperature": (1e-2, 1e6),
    "mixer.alpha": SHARE,
    "mixer.eta": (0, 1e6),
    "mixer.c": SHARE,
    "evaluation.batch_size": (1, 1_000_000),
    "lm_eval.num_fewshot": (0, 1000),
    "lm_eval.limit": (1e-6, 1e9),
    "lm_eval.batch_size": (1, 1_000_000),
    "tracker.table_rows": (0, 10_000),
    "finetuning.r": (1, 1_000_000),
    "finetuning.lora_alpha": (0, 1e6),
    "finetuning.lora_dropout": SHARE,
    "args.per_device_train_batch_size": (1, 1_000_000),
    "args.gradient_accumulation_steps": (1, 1_000_000),
    "args.learning_rate": (0, 1e6),
    "args.max_steps": (-1, 100_000_000),
    "args.num_train_epochs": (1e-9, 1e6),
    "args.eval_steps": (1e-9, 1e9),
    "args.warmup_steps": STEPS,
    "args.logging_steps": (1e-9, 1e9),
    "args.save_steps": (1e-9, 1e9),
    "args.adam_beta1": (0, 0.999999),
    "args.adam_beta2": (0, 0.99999999),
    "args.adam_epsilon": (0, 1),
    "args.label_smoothing_factor": SHARE,
    "args.dataloader_num_workers": (0, 4096),
}
FRACTIONS = ("finetuning.lora_alpha",)  # typed as whole in their library, which takes others as well

# Training arguments that are decided elsewhere, and where.
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
SCHEDULED = {
    "max_steps": "trainer.warmup_step, trainer.update_step and trainer.update_times",
    "num_train_epochs": "trainer.update_times (or trainer.cycles)",
    "train_sampling_strategy": "trainer.group_by_length",
}
# Training arguments that would break the slices which rounds are made of.
REFUSED = ("auto_find_batch_size", "ignore_data_skip", "dataloader_persistent_workers", "dataloader_drop_last")
