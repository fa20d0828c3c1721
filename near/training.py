"""What train.py does: data, selection, model, training, and the evaluation at its end."""

import logging
import os
import time
from pathlib import Path

import numpy as np
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.config import identity, public
from near.data import Rows, load
from near.errors import UserError
from near.evaluate import base_metrics, evaluation_rows, measure, summary, write_metrics
from near.files import aside, provenance, read_json, write_json
from near.model import add_finetuning, base_folder, load_base, load_tokenizer
from near.selection import Neighbours, find_neighbours, read_neighbours
from near.selectors.base import Selector
from near.tokens import Collator, Tokens, tokenize

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


def train(cfg: DictConfig, output_dir: Path) -> None:
    """Train one run into `output_dir`: adapter/ or model/, rounds/, train_metrics.json, metrics.json, answers.jsonl."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list
    from transformers import set_seed

    state = PartialState(cpu=on_cpu(cfg))
    output_dir = Path(broadcast_object_list([str(output_dir)])[0])
    selector: Selector = instantiate(cfg.selector)
    name = HydraConfig.get().runtime.choices.get("selector") or type(selector).__name__
    name = name if "update_step" in cfg.trainer else "static"
    with state.main_process_first():
        candidates = load(cfg.data, "candidates", cfg.cache_dir)
        eval_rows, seen = evaluation_rows(cfg)
        queries = _queries(cfg, seen)
        run_identity = _identity(cfg, candidates, queries, eval_rows)
        if _finished(output_dir, run_identity, cfg.overwrite):
            return
        folder = base_folder(cfg.model, cfg.cache_dir)
        tokenizer = load_tokenizer(folder, cfg.model.trust_remote_code)
        tokens = _tokens(cfg, candidates, tokenizer)
        _check_subset(selector, tokens)
        neighbours = _neighbours(cfg, candidates, queries) if selector.needs_neighbours else None
    resume = _checkpoint(cfg.resume, output_dir)
    if resume is None and state.is_main_process:
        _clear(output_dir)
    _write_config(cfg, output_dir, state.is_main_process)
    model = load_base(cfg.model, cfg.cache_dir)
    with state.main_process_first():
        base, _ = base_metrics(cfg, cfg.model, eval_rows, model)
    set_seed(cfg.seed)  # the adapter's first weights
    model = add_finetuning(model, cfg.finetuning)
    tracker = instantiate(cfg.tracker)
    with tracker.run(cfg, output_dir, state.is_main_process) as track:
        trainer, seconds = _fit(
            cfg,
            output_dir,
            selector,
            name,
            candidates,
            tokens,
            tokenizer,
            model,
            neighbours,
            run_identity,
            track,
            resume,
        )
        trained = trainer.accelerator.unwrap_model(trainer.model)
        _save(
            trainer,
            tokenizer,
            output_dir,
            "adapter" if "_target_" in cfg.finetuning else "model",
            cfg.model.name_or_path,
        )
        if state.is_main_process:
            metrics, answers = measure(trained, tokenizer, eval_rows, cfg)
            track(
                {
                    f"target/{k}": metrics[k]
                    for k in ("target_loss", "perplexity", "answers_right")
                    if metrics[k] is not None
                },
                trainer.state.global_step,
            )
            _write_metrics(cfg, output_dir, name, trainer, seconds, run_identity, metrics, answers, base, seen)
            log.info(f"base: {summary(base)}")
            log.info(f"{name}: {summary(metrics)}; wrote {output_dir}")
    state.wait_for_everyone()


def on_cpu(cfg: DictConfig) -> bool:
    """Whether training runs without an accelerator; accelerate joins processes through gloo only if it is told so."""
    import torch

    return bool(cfg.trainer.args.get("use_cpu")) or not torch.accelerator.is_available()


def _queries(cfg: DictConfig, evaluated: bool) -> Rows:
    rows = load(cfg.data, "queries", cfg.cache_dir, answer=evaluated or cfg.embedder.embed != "prompt")
    if rows is None:
        raise UserError("data.queries.path is null: name the target's rows")
    return rows


def _identity(cfg: DictConfig, candidates: Rows, queries: Rows, eval_rows: Rows) -> dict:
    """What must be the same for two runs to have the same outcome."""
    prints = {r.name: r.fingerprint for r in (eval_rows, queries, candidates)}
    return {"config": identity(cfg), "fingerprints": prints}


def _finished(output_dir: Path, run_identity: dict, overwrite: bool) -> bool:
    """Whether the same run is done already; UserError where another one is in its place."""
    path = output_dir / "metrics.json"
    if overwrite or not path.is_file() or not (output_dir / "train_metrics.json").is_file():
        return False
    from near.trainer import _differences

    differing = _differences(read_json(output_dir / "train_metrics.json")["identity"], run_identity)
    if differing:
        raise UserError(
            f"{output_dir} holds a finished run with another configuration ({differing[0]}); "
            "set overwrite=true or another output_dir"
        )
    log.info(f"{output_dir} is done already: {summary(read_json(path))}")
    return True


def _tokens(cfg: DictConfig, candidates: Rows, tokenizer) -> Tokens:
    return tokenize(candidates, tokenizer, cfg.data.cutoff_len, cfg.cache_dir, cfg.data.num_proc, cfg.data.refresh)


def _check_subset(selector: Selector, tokens: Tokens) -> None:
    size, n = selector.subset_size, len(tokens.eligible)
    if size is not None and not 1 <= size <= n:
        raise UserError(f"selector.subset_size={size} is not between 1 and the {n} eligible rows of the pool")


def _neighbours(cfg: DictConfig, candidates: Rows, queries: Rows) -> Neighbours:
    if cfg.indices_path is not None:
        return read_neighbours(cfg.indices_path, candidates, queries)
    return find_neighbours(cfg, candidates, queries)


def _checkpoint(resume: str | None, output_dir: Path) -> Path | None:
    """The checkpoint to go on from: the one named, or for `auto` the newest whole one of `output_dir`."""
    if resume is None:
        return None
    if resume != "auto":
        if not (Path(resume) / "trainer_state.json").is_file():
            raise UserError(f"resume={resume} is not a whole checkpoint (no trainer_state.json); try resume=auto")
        return Path(resume)
    folders = sorted((output_dir / "checkpoints").glob("checkpoint-*"), key=lambda p: -int(p.name.split("-")[1]))
    for folder in folders:
        if (folder / "trainer_state.json").is_file():
            log.info(f"resuming from {folder}")
            return folder
        log.info(f"passed over {folder}: it was not written to its end")
    log.info("resume=auto: no checkpoint yet, starting at step 0")
    return None


def _clear(output_dir: Path) -> None:
    """Remove what an earlier run left in its output folder, so that the files there are of one run."""
    import shutil

    for name in ("metrics.json", "train_metrics.json", "answers.jsonl"):
        (output_dir / name).unlink(missing_ok=True)
    for name in ("checkpoints", "rounds", "adapter", "model"):
        shutil.rmtree(output_dir / name, ignore_errors=True)


def _write_config(cfg: DictConfig, output_dir: Path, write: bool) -> None:
    if write:
        with aside(output_dir / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(public(cfg), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _fit(
    cfg, output_dir, selector, name, candidates, tokens, tokenizer, model, neighbours, run_identity, track, resume
):
    from near.trackers.base import LogCallback
    from near.trainer import Job

    job = Job(
        selector=selector,
        selector_name=name,
        tokens=tokens,
        sources=candidates.sources(),
        collator=Collator(tokenizer.pad_token_id),
        seed=cfg.seed,
        output_dir=output_dir,
        identity=run_identity,
        neighbours=neighbours,
        callbacks=[LogCallback(track)],
    )
    trainer = instantiate(cfg.trainer)(model=model, job=job)
    if resume is not None:
        trainer.restore(resume)
    begun = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer, time.perf_counter() - begun


def _save(trainer, tokenizer, output_dir: Path, name: str, base_name: str) -> None:
    """The adapter or model, whole or not at all."""
    trainer.save_model(str(output_dir / f".{name}.part"))
    if trainer.args.should_save:
        if name == "model":
            tokenizer.save_pretrained(output_dir / f".{name}.part")
        (output_dir / f".{name}.part" / "training_args.bin").unlink(missing_ok=True)  # a pickle
        if name == "adapter":  # while training its base was a folder of this machine
            path = output_dir / f".{name}.part" / "adapter_config.json"
            write_json(path, {**read_json(path), "base_model_name_or_path": base_name})
        os.rename(output_dir / f".{name}.part", output_dir / name)


def _write_metrics(cfg, output_dir, name, trainer, seconds, run_identity, metrics, answers, base, seen) -> None:
    history = [line for line in trainer.state.log_history if "loss" in line]
    select_seconds = sum(r["select_seconds"] for r in trainer.record.rounds)
    trained = trainer.subsets if hasattr(trainer, "subsets") else []
    _plot(history, output_dir / "loss.png")
    write_json(
        output_dir / "train_metrics.json",
        {
            "schema_version": SCHEMA_VERSION,
            "selector": name,
            "seed": cfg.seed,
            "steps": trainer.state.global_step,
            "distinct_rows": int(len(np.unique(np.concatenate(trained)))) if trained else None,
            "train_seconds": round(seconds - select_seconds, 3),
            "select_seconds": round(select_seconds, 3),
            "history": history,
            "identity": run_identity,
            **provenance(),
        },
    )
    described = {"selector": name, "seed": cfg.seed, "max_K": cfg.max_K, "model": cfg.model.name_or_path}
    write_metrics(output_dir, {**described, **metrics, "base": base, "selection_saw_them": seen}, answers, cfg)


def _plot(history: list[dict], path: Path) -> None:
    """The loss curve as a picture beside the run."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([line["step"] for line in history], [line["loss"] for line in history])
    axes.set(xlabel="optimizer step", ylabel="training loss")
    with aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
