"""Evaluation: target loss on held-out rows, and greedy answers compared with the references."""

import logging
import math
import time
import unicodedata
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from near.config import public
from near.data import Rows, load
from near.errors import UserError
from near.files import digest, folder_aside, folder_digest, provenance, read_json, write_json, write_jsonl
from near.model import base_folder, load_base, load_tokenizer, with_adapter
from near.tokens import IGNORED, Collator, encode, render

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


def evaluate(cfg: DictConfig, output_dir: Path) -> None:
    """What eval.py does: metrics.json and answers.jsonl of a model, of a model with an adapter, or of a run."""
    adapter, model = cfg.adapter_name_or_path, cfg.model
    described: dict = {"selector": None, "seed": None}
    if cfg.run is not None:
        config, adapter, model_folder = _run_parts(Path(cfg.run))
        cfg = OmegaConf.merge(cfg, _not_overridden(config))
        model = cfg.model
        if model_folder is not None:
            model = OmegaConf.merge(model, {"name_or_path": str(model_folder)})
        described = {"selector": config.selector_name, "seed": config.seed, "run": str(cfg.run)}
    elif not cfg.overwrite and (output_dir / "train_metrics.json").exists():
        raise UserError(f"{output_dir} is a run of train.py; evaluate it with run={output_dir}")
    rows, seen = evaluation_rows(cfg)
    base = base_metrics(cfg, model, rows) if adapter is None else None
    if base is not None:
        metrics, answers = base
    else:
        loaded = with_adapter(load_base(model, cfg.cache_dir), adapter)
        tokenizer = load_tokenizer(base_folder(model, cfg.cache_dir), model.trust_remote_code)
        metrics, answers = measure(loaded, tokenizer, rows, cfg)
    described |= {"model": str(model.name_or_path), "adapter": adapter}
    write_metrics(output_dir, {**described, **metrics, "selection_saw_them": seen}, answers, cfg)
    log.info(summary(metrics))


def _run_parts(folder: Path) -> tuple[DictConfig, str | None, Path | None]:
    """A run's configuration and what it trained: an adapter or a whole model."""
    if not (folder / "train_metrics.json").is_file():
        raise UserError(f"run={folder}: no train_metrics.json there; give the output_dir of a finished train.py")
    config = OmegaConf.load(folder / "config.yaml")
    trained = read_json(folder / "train_metrics.json")
    config.selector_name = trained["selector"]
    if (folder / "adapter").is_dir():
        return config, str(folder / "adapter"), None
    return config, None, folder / "model"


def _not_overridden(config: DictConfig) -> DictConfig:
    """The data and model of a run, unless the command names others."""
    from hydra.core.hydra_config import HydraConfig

    typed = [o.lstrip("+~").split("=")[0].split(".")[0] for o in HydraConfig.get().overrides.task]
    return OmegaConf.create({key: config[key] for key in ("data", "model") if key not in typed})


def evaluation_rows(cfg: DictConfig) -> tuple[Rows, bool]:
    """The rows that are evaluated, and whether selection saw them (no data.eval: the queries)."""
    rows = load(cfg.data, "eval", cfg.cache_dir)
    if rows is not None:
        return rows, False
    log.info("data.eval is not set: the queries are evaluated on, which selection saw")
    return load(cfg.data, "queries", cfg.cache_dir), True


def base_metrics(cfg: DictConfig, model: DictConfig, rows: Rows, loaded=None) -> tuple[dict, list[dict]]:
    """Metrics and answers of an untrained model, measured once and then found in the cache."""
    folder = base_folder(model, cfg.cache_dir)
    settings = OmegaConf.to_container(cfg.evaluation)
    made_of = [SCHEMA_VERSION, folder_digest(folder), model.dtype, rows.fingerprint, cfg.data.cutoff_len, settings]
    target = Path(cfg.cache_dir).expanduser().resolve() / "evaluations" / digest(made_of)
    if (target / "base.json").is_file():
        log.info("base model: evaluation found in the cache")
        found = read_json(target / "base.json")
        return found["metrics"], found["answers"]
    tokenizer = load_tokenizer(folder, model.trust_remote_code)
    metrics, answers = measure(loaded or load_base(model, cfg.cache_dir), tokenizer, rows, cfg)
    with folder_aside(target) as new:
        write_json(new / "base.json", {"metrics": metrics, "answers": answers})
    return metrics, answers


def measure(model, tokenizer, rows: Rows, cfg: DictConfig) -> tuple[dict, list[dict]]:
    """Target loss (mean over all answer tokens, natural log) and greedy answers of `model` on `rows`."""
    begun, was_training = time.perf_counter(), model.training
    model.eval()
    ids = rows.eligible()
    chats = [rows.messages(i) for i in ids]
    with torch.inference_mode():
        loss_sums, counts = _losses(model, tokenizer, chats, cfg)
        answers = _answers(model, tokenizer, chats, cfg) if cfg.evaluation.answers else None
    model.train(was_training)
    records = []
    for at, (row, chat) in enumerate(zip(ids, chats, strict=True)):
        record = {
            "row": int(row),
            "prompt": "\n".join(m["content"] for m in chat[:-1] if m["role"] != "system"),
            "reference": chat[-1]["content"],
            "loss": float(loss_sums[at] / max(counts[at], 1)),
            "tokens": int(counts[at]),
        }
        if answers is not None:
            record |= {"answer": answers[at], "right": normalise(answers[at]) == normalise(chat[-1]["content"])}
        records.append(record)
    loss = float(loss_sums.sum() / counts.sum())
    metrics = {
        "target_loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "rows": len(records),
        "tokens": int(counts.sum()),
        "answers_right": None if answers is None else sum(r["right"] for r in records),
        "evaluated_on": rows.name,
        "eval_fingerprint": rows.fingerprint,
        "evaluation_seconds": round(time.perf_counter() - begun, 3),
    }
    return metrics, records


def _batches(lengths: list[int], size: int):
    """Positions in batches of rows alike in length, the longest first."""
    order = np.argsort([-n for n in lengths], kind="stable")
    return [order[i : i + size] for i in range(0, len(order), size)]


def _losses(model, tokenizer, chats: list, cfg: DictConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the negative log likelihood over each chat's answer tokens, and their number; float64, int64 (n,)."""
    coded = [encode(chat, tokenizer, cfg.data.cutoff_len) for chat in chats]
    collate = Collator(tokenizer.pad_token_id)
    sums, counts = np.zeros(len(coded)), np.zeros(len(coded), dtype=np.int64)
    for part in _batches([len(c["input_ids"]) for c in coded], cfg.evaluation.batch_size):
        batch = {k: v.to(model.device) for k, v in collate([coded[i] for i in part]).items()}
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        sums[part] = losses.double().sum(1).cpu().numpy()
        counts[part] = (labels != IGNORED).sum(1).cpu().numpy()
    return sums, counts


def _answers(model, tokenizer, chats: list, cfg: DictConfig) -> list[str]:
    """Greedy answers to each chat's last turn, at most `max_new_tokens` long."""
    prompts = [tokenizer(render(tokenizer, chat[:-1], True), add_special_tokens=False)["input_ids"] for chat in chats]
    prompts = [p[-cfg.data.cutoff_len :] for p in prompts]
    answers = [""] * len(chats)
    for part in tqdm(_batches(list(map(len, prompts)), cfg.evaluation.batch_size), desc="answering", mininterval=1):
        batch = tokenizer.pad({"input_ids": [prompts[i] for i in part]}, padding_side="left", return_tensors="pt").to(
            model.device
        )
        made = model.generate(
            **batch,
            max_new_tokens=cfg.evaluation.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(part, texts, strict=True):
            answers[i] = text.strip()
    return answers


def normalise(text: str) -> str:
    """For exact match: Unicode NFKC, case folded, white space collapsed, closing punctuation dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(".!。 ")


def write_metrics(folder: Path, metrics: dict, answers: list[dict], cfg: DictConfig) -> None:
    """metrics.json last: where it is, the evaluation is whole."""
    write_jsonl(folder / "answers.jsonl", answers)
    write_json(
        folder / "metrics.json",
        {"schema_version": SCHEMA_VERSION, **metrics, **provenance(), "evaluation": public(cfg.evaluation)},
    )


def summary(metrics: dict) -> str:
    right = "" if metrics["answers_right"] is None else f", answers right {metrics['answers_right']}/{metrics['rows']}"
    return f"target loss {metrics['target_loss']:.4f} on {metrics['rows']} {metrics['evaluated_on']} rows{right}"
