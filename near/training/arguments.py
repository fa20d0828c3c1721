"""TrainingArguments of a run: its configuration, what this project decides, and how processes share the model.

The keys of `parallel` are keywords of TrainingArguments: deepspeed, fsdp, fsdp_config.
"""

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

# optimizers with Adam's moments in full; others quantise or factor them, or have none
ADAM = ("adamw_torch", "adamw_torch_fused", "adamw_torch_npu_fused")


def check_training(needs: Needs, args: "TrainingArguments", scoring: DictConfig) -> None:
    """Check that a selector can use the model while it trains.

    Raises:
        UserError: weights or Adam's moments are sharded over processes, or the optimizer is not Adam.
    """
    if needs.requires == "gradients" and scoring.adam and not scoring.checkpoints and args.optim not in ADAM:
        raise UserError(
            f"trainer.args.optim={args.optim} has none of Adam's moments, which scale the gradients; use adamw_torch, "
            "or scoring.adam=false for plain gradients"
        )
    if needs.requires and (args.deepspeed or args.fsdp):
        library = "FSDP" if args.fsdp else "DeepSpeed"
        raise UserError(
            f"the selector needs {needs.requires} of single rows, which no process can compute alone because "
            f"{library} shards or rearranges weights and optimizer; use parallel=none (torchrun trains it with DDP)"
        )


def check_row_weights(args: "TrainingArguments") -> None:
    """Raise UserError for arguments under which rows can't have loss weights."""
    if args.label_smoothing_factor:
        raise UserError(
            f"trainer.args.label_smoothing_factor={args.label_smoothing_factor} can't be combined with "
            "data.candidates.columns.weight; leave one of them out"
        )
    if args.n_gpu > 1:
        raise UserError(
            f"data.candidates.columns.weight on {args.n_gpu} GPUs needs a process for each; start it with torchrun "
            f"--nproc_per_node={args.n_gpu} train.py ..."
        )


def check_keep(cfg: DictConfig, args: TrainingArguments) -> None:
    """Check that the best round can be kept. Raises UserError if no process has all weights."""
    if cfg.trainer.get("keep") == "best" and is_sharded(args):
        library = "FSDP" if args.fsdp else "ZeRO-3"
        raise UserError(
            f"trainer.keep=best saves all trained weights from one process, and {library} shards them; use "
            "trainer.keep=last (trainer.patience works), or parallel=none"
        )


log = logging.getLogger(__name__)

# `accelerate launch` sets these variables. Accelerator sets them too, and a later job of the process would see them.
MARKS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}
LAUNCHED_WITH = [name for mark, name in MARKS.items() if os.environ.get(mark) == "true"]

# The process group of a single process, for DeepSpeed; port 0: any free one.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def training_arguments(cfg: DictConfig, output_dir: Path) -> TrainingArguments:
    """The arguments of the run in `output_dir`. The process joins its process group if it is in none.

    Raises:
        UserError: transformers or accelerate refuse them.
    """
    args: functools.partial = instantiate(cfg.trainer.args)
    defaults = {"dataloader_pin_memory": torch.cuda.is_available(), "use_cpu": not torch.accelerator.is_available()}
    if computes_bfloat16() and "fp16" not in args.keywords and cfg.model.dtype != "float16":
        defaults["bf16"] = True
    fixed = {"output_dir": str(output_dir / "checkpoints"), "seed": cfg.seed}
    try:
        arguments = args(
            **{k: v for k, v in defaults.items() if k not in args.keywords},
            **fixed,
            **_parallel(cfg.parallel, use_cpu=args.keywords.get("use_cpu", defaults["use_cpu"])),
            report_to="none",
            remove_unused_columns=False,
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(f"trainer.args are refused: {one_line(error)[:200]}") from error
    if arguments.deepspeed:  # transformers would partition every model loaded from here on, the embedder's too;
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # `partitioned` sets it again for the model that is trained
    return arguments


def _parallel(parallel: DictConfig, use_cpu: bool) -> dict:
    """The keywords of `parallel`. Raises UserError if its library or its hardware is missing."""
    keywords = OmegaConf.to_container(parallel, resolve=True)
    if LAUNCHED_WITH:
        raise UserError(
            f"accelerate's configuration sets {LAUNCHED_WITH[0]}, but here parallel chooses it (parallel=deepspeed_z2, "
            "fsdp, ...); launch with plain processes (accelerate launch --multi_gpu, torchrun)"
        )
    for mark in MARKS:
        os.environ.pop(mark, None)
    if keywords.get("deepspeed") is not None and importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"parallel: DeepSpeed is not installed; {install('deepspeed')}")
    if keywords.get("fsdp") and (use_cpu or not torch.accelerator.is_available()):
        raise UserError(
            "parallel=fsdp needs an accelerator: on a CPU the Trainer would silently train with DDP; "
            "use parallel=none, or deepspeed_z3"
        )
    return keywords


def is_sharded(args: TrainingArguments) -> bool:
    """Whether no process has all weights while training: ZeRO-3 and FSDP."""
    return bool(args.fsdp or args.deepspeed and args.hf_deepspeed_config.is_zero3())


def partitioned(args: TrainingArguments) -> None:
    """Make transformers partition the next loaded model over the processes, under ZeRO-3."""
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
    """Log the data type of the computation and of the base weights."""
    if not args.should_log:
        return
    computed = "bfloat16" if args.bf16 else "float16" if args.fp16 else str(weights).removeprefix("torch.")
    where = args.device.type.upper()
    log.info(f"computing in {computed}, base weights in {str(weights).removeprefix('torch.')}, on {where}")
