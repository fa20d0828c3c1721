"""The files of a finished run: its adapter or model, train_metrics.json, its loss curve and its evaluation."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from near.common.config import public
from near.common.files import aside, naming_full_disk, provenance, read_json, write_json, write_npy
from near.common.outputs import MODEL, POOL_KEYS, list_files, remove_folder
from near.common.records import EvalMetrics, ModelMetrics, TrainMetrics
from near.common.run_folder import ROUNDS, START, TRAINING
from near.data.contamination import write_overlaps
from near.evaluation.eval import write_metrics
from near.models.pissa import save_as_lora
from near.models.start import mode_of
from near.training.twins import register

if TYPE_CHECKING:
    from near.training.base_metrics import BaseMetrics
    from near.training.inputs import Inputs


def save(trainer, tokenizer, target: Path, model: DictConfig) -> None:
    """Save the adapter or model to the folder `target`, all of it or nothing. `model`: the configuration's."""
    part = target.with_name(f".{target.name}.part")
    if trainer.args.should_save:
        remove_folder(part, MODEL)
    with naming_full_disk(target.parent):
        trainer.save_model(str(part))
    if not trainer.args.should_save:
        return
    save_as_lora(trainer.accelerator.unwrap_model(trainer.model), part)
    (part / "training_args.bin").unlink(missing_ok=True)  # a pickle
    if target.name == "model":
        tokenizer.save_pretrained(part)
    else:  # during training its base was a folder of this machine
        path = part / "adapter_config.json"
        base = {"base_model_name_or_path": model.name_or_path, "revision": model.revision}
        write_json(path, {**read_json(path), **base})
        if mode_of(model) == "stack":
            _say_beneath(part / "README.md", model.adapter)
    list_files(part)
    remove_folder(target, MODEL)
    os.rename(part, target)


def _say_beneath(card: Path, adapter: str) -> None:
    """Say in the card of an adapter, which goes with it when it is copied, what it was trained on top of."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    with aside(card) as temporary:
        temporary.write_text(
            f"{text}\n\n# What it needs\n\nThis adapter was trained on its base model with another adapter merged into "
            f"it ({Path(adapter).name}; a copy is in the run's folder, in {START}/). On the base model alone it gives "
            "another model. near's merge.py merges both, if the adapter lies in its run's folder.\n",
            encoding="utf-8",
        )


def write_outcome(
    cfg: DictConfig,
    output_dir: Path,
    trainer,
    inputs: "Inputs",
    metrics: ModelMetrics,
    answers: list[dict],
    base: "BaseMetrics",
) -> None:
    """Write train_metrics.json, loss.png, and the evaluation's files (metrics.json last).

    Args:
        metrics, answers: of the trained model (near/evaluation/measure.py).
        base: of the untrained model.
    """
    write_npy(output_dir / ROUNDS / POOL_KEYS, inputs.candidates.content_keys())
    history = [line for line in trainer.state.log_history if "loss" in line]
    rounds = trainer.record.rounds
    select_seconds = sum(line.select_seconds for line in rounds)
    train_seconds = trainer.spent - select_seconds
    # of the search for the neighbours, in this run or in an earlier one
    figures = inputs.neighbours.manifest.figures if inputs.neighbours else {}
    plot(history, output_dir / "loss.png")
    trained = trainer.state.global_step * trainer.draws_per_step
    if trainer.schedule is None:  # the last batch of an epoch of the plain Trainer may be short
        trained = round(trainer.state.epoch * len(inputs.tokens.eligible))
    described = {"selector": trainer.job.selector_name, "seed": cfg.seed, "max_K": inputs.width(cfg)}
    TrainMetrics(
        **described,
        steps=trainer.state.global_step,
        distinct_rows=len(np.unique(np.concatenate(trainer.subsets))) if trainer.subsets else None,
        rows_trained=trained,
        tokens_trained=sum(line.tokens or 0 for line in rounds) if trainer.schedule is not None else None,
        rows_per_second=round(trained / max(1e-9, train_seconds), 3),
        train_seconds=round(train_seconds, 3),
        select_seconds=round(select_seconds, 3),
        embed_seconds=figures.get("embed_seconds"),
        search_seconds=figures.get("search_seconds"),
        history=history,
        identity=inputs.identity,
        training_key=trainer.job.training_key,
        contamination=write_overlaps(output_dir, inputs.candidates),
        validation=trainer.validation_record(),
        **provenance(),
    ).write(output_dir / TRAINING)
    if trainer.job.training_key is not None:
        register(output_dir, trainer.job.training_key)
    described |= {"model": public(cfg.model, decisive=True)["name_or_path"], "base": base.metrics}
    described["start"] = cfg.model.get("adapter")
    described["selection_saw_them"] = inputs.sets.seen
    write_metrics(output_dir, EvalMetrics.of(metrics, **described), answers, base.answers, cfg)


def plot(history: list[dict], path: Path) -> None:
    """Draw the loss curve into the PNG file `path`. history: lines of the Trainer's log."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([line["step"] for line in history], [line["loss"] for line in history])
    axes.set(xlabel="optimizer step", ylabel="training loss")
    with aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
