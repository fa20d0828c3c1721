"""TrainingArguments of a run: what its configuration says, what this project decides itself, and how its processes
share the model (`parallel`, whose keys are keywords of TrainingArguments: deepspeed, fsdp, fsdp_config)."""

import functools
import importlib.util
import logging
import os
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import TrainingArguments

from near.common.errors import UserError, one_line
from near.common.extras import install
from near.models.hub import computes_bfloat16
from near.selection.needs import Needs

# optimizers that keep Adam's moments as they are; others quantise or factor them, or have none
ADAM = ("adamw_torch", "adamw_torch_fused", "adamw_torch_npu_fused")


def check_training(needs: Needs, args: "TrainingArguments", scoring: DictConfig) -> None:
    """UserError where the model can't be asked while it trains: its weights or Adam's moments are spread over
    processes, or the optimizer is not Adam."""
    if needs.requires == "gradients" and scoring.adam and not scoring.checkpoints and args.optim not in ADAM:
        raise UserError(
            f"trainer.args.optim={args.optim} has no moments of Adam's to turn gradients by; use adamw_torch, or "
            "scoring.adam=false for plain gradients"
        )
    if needs.requires and (args.deepspeed or args.fsdp):
        spread = "FSDP spreads weights and optimizer" if args.fsdp else "DeepSpeed holds weights and Adam's moments"
        raise UserError(
            f"the selector asks the model for {needs.requires} of single rows, which no process can compute by "
            f"itself where {spread} in a form of its own; use parallel=none (torchrun trains it with DDP)"
        )


log = logging.getLogger(__name__)

# What `accelerate launch` asks for through the environment; Accelerator leaves the same marks for a later job to find.
MARKS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}
LAUNCHED_WITH = [name for mark, name in MARKS.items() if os.environ.get(mark) == "true"]

# One process's place among one, for DeepSpeed; port 0: any that is free.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def training_arguments(cfg: DictConfig, output_dir: Path) -> TrainingArguments:
    """The arguments of the run in `output_dir`; UserError where transformers or accelerate refuse them.

    It also joins the process to its process group, if it did not belong to one.
    """
    args: functools.partial = instantiate(cfg.trainer.args)
    defaults = {"dataloader_pin_memory": torch.cuda.is_available(), "use_cpu": not torch.accelerator.is_available()}
    if computes_bfloat16() and "fp16" not in args.keywords and cfg.model.dtype != "float16":
        defaults["bf16"] = True
    fixed = {"output_dir": str(output_dir / "checkpoints"), "seed": cfg.seed}
    try:
        made = args(
            **{k: v for k, v in defaults.items() if k not in args.keywords},
            **fixed,
            **_parallel(cfg.parallel, use_cpu=args.keywords.get("use_cpu", defaults["use_cpu"])),
            report_to="none",
            remove_unused_columns=False,
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(f"trainer.args are refused: {one_line(error)[:200]}") from error
    if made.deepspeed:  # from here on transformers would give every model's weights to ZeRO-3,
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # the embedder's, too: `partitioned` has it for the model that is trained
    return made


def _parallel(parallel: DictConfig, use_cpu: bool) -> dict:
    """The keywords of `parallel`; UserError where its library or its hardware is missing."""
    given = OmegaConf.to_container(parallel, resolve=True)
    if LAUNCHED_WITH:
        raise UserError(
            f"accelerate's configuration asks for {LAUNCHED_WITH[0]}, which is chosen by parallel here "
            "(parallel=deepspeed_z2, fsdp, ...); launch with plain processes (accelerate launch --multi_gpu, torchrun)"
        )
    for mark in MARKS:
        os.environ.pop(mark, None)
    if given.get("deepspeed") is not None and importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"parallel: DeepSpeed is not installed; {install('deepspeed')}")
    if given.get("fsdp") and (use_cpu or not torch.accelerator.is_available()):
        raise UserError(
            "parallel=fsdp needs an accelerator: on a CPU the Trainer would silently train with DDP; "
            "use parallel=none, or deepspeed_z3"
        )
    return given


def is_sharded(args: TrainingArguments) -> bool:
    """Whether no process holds all weights while training: ZeRO-3 and FSDP."""
    return bool(args.fsdp or args.deepspeed and args.hf_deepspeed_config.is_zero3())


def partitioned(args: TrainingArguments) -> None:
    """Have transformers spread the weights of the model that is loaded next over the processes, under ZeRO-3."""
    if not args.deepspeed:
        return
    import deepspeed
    from transformers.integrations.deepspeed import set_hf_deepspeed_config

    for name, value in ALONE.items():  # without torchrun DeepSpeed would look for MPI
        os.environ.setdefault(name, value)
    backend = "gloo" if args.device.type == "cpu" else None
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    set_hf_deepspeed_config(args.hf_deepspeed_config)


def log_precision(args: TrainingArguments, weights: torch.dtype) -> None:
    """Say in what numbers the run computes."""
    if not args.should_log:
        return
    computed = "bfloat16" if args.bf16 else "float16" if args.fp16 else str(weights).removeprefix("torch.")
    where = args.device.type.upper()
    log.info(f"computing in {computed}, base weights in {str(weights).removeprefix('torch.')}, on {where}")
