"""Evaluation: target loss on held-out rows, and greedy answers compared with the references."""

import contextlib
import copy
import logging
import math
import time
import unicodedata
from pathlib import Path

import numpy as np
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from tqdm import tqdm
from transformers import TrainerCallback

from near.batches import batches
from near.config import public
from near.data import Rows, given, load
from near.errors import UserError, one_line
from near.files import cache_folder, digest, folder_aside, folder_digest, provenance, read_json, write_json, write_jsonl
from near.formats import is_plain
from near.hub import wanted_dtype
from near.losses import answer_losses, by_row
from near.model import base_folder, load_base, load_tokenizer, with_adapter
from near.processes import is_main
from near.tokens import Collator, encode, render

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


def evaluate(cfg: DictConfig, output_dir: Path) -> None:
    """What eval.py does: metrics.json and answers.jsonl of a model, of a model with an adapter, or of a run."""
    adapter, described, base_model = cfg.adapter_name_or_path, {"selector": None, "seed": None}, cfg.model
    if cfg.run is not None:
        config, adapter, described = _run_parts(Path(cfg.run))
        cfg = _with_run(cfg, config)
        base_model = cfg.model
        if adapter is None:
            cfg = OmegaConf.merge(cfg, {"model": {"name_or_path": str(Path(cfg.run) / "model")}})
    elif not cfg.overwrite and (output_dir / "train_metrics.json").exists():
        raise UserError(f"{output_dir} is a run of train.py; evaluate it with run={output_dir}")
    rows, seen = evaluation_rows(cfg)
    if adapter is None:
        metrics, answers = base_metrics(cfg, cfg.model, rows)
    else:
        _look_for_adapter(adapter)
        tokenizer = load_tokenizer(cfg.model, cfg.cache_dir)
        metrics, answers = measure(with_adapter(load_base(cfg.model, cfg.cache_dir), adapter), tokenizer, rows, cfg)
    described |= {"model": str(base_model.name_or_path), "adapter": adapter, "selection_saw_them": seen}
    if adapter is not None or cfg.run is not None:
        described["base"], _ = base_metrics(cfg, base_model, rows)
    write_metrics(output_dir, {**described, **metrics}, answers, cfg)
    log.info(f"{summary(metrics)}; wrote {output_dir}")


def _run_parts(folder: Path) -> tuple[DictConfig, str | None, dict]:
    """A run's configuration, its adapter (None: every weight was trained) and what its metrics say of it."""
    if not (folder / "train_metrics.json").is_file():
        raise UserError(f"run={folder}: no train_metrics.json there; give the output_dir of a finished train.py")
    trained = read_json(folder / "train_metrics.json")
    try:
        config = OmegaConf.create(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        kept = {"selector": trained["selector"], "seed": config.seed, "max_K": config.max_K, "run": str(folder)}
    except (OSError, ValueError, KeyError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"run={folder}: its config.yaml is damaged ({one_line(error)})") from error
    for name in ("adapter", "model"):
        if (folder / name).is_dir():
            return config, str(folder / name) if name == "adapter" else None, kept
    raise UserError(f"run={folder}: neither adapter/ nor model/ is there; train it again")


def _with_run(cfg: DictConfig, run: DictConfig) -> DictConfig:
    """`cfg` with the run's data, model and evaluation settings, under what the command itself names."""
    typed = OverridesParser.create().parse_overrides(HydraConfig.get().overrides.task)
    groups = {override.key_or_group for override in typed}
    cfg = copy.deepcopy(cfg)
    for part in ("data", "model", "evaluation"):
        if part not in groups:
            cfg[part] = run[part]
            for override in typed:
                if override.key_or_group.startswith(f"{part}."):
                    OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=True)
    return cfg


def _look_for_adapter(path: str) -> None:
    if not (Path(path) / "adapter_config.json").is_file():
        raise UserError(f"adapter_name_or_path={path}: no adapter_config.json there; give a run's adapter folder")


def evaluation_rows(cfg: DictConfig) -> tuple[Rows, bool]:
    """The rows that are evaluated, and whether selection saw them (no data.eval: the queries)."""
    if given(cfg.data, "eval"):
        return load(cfg.data, "eval", cfg.cache_dir), False
    log.info("data.eval is not set: the queries are evaluated on, which selection saw")
    return load(cfg.data, "queries", cfg.cache_dir), True


def base_metrics(cfg: DictConfig, model: DictConfig, rows: Rows, loaded=None) -> tuple[dict, list[dict]]:
    """Metrics and answers of an untrained model, measured once and then found in the cache."""
    target = _base_folder(cfg, model, rows)
    found = _found(target)
    if found is not None:
        if is_main():
            log.info("base model: evaluation found in the cache")
        return found["metrics"], found["answers"]
    tokenizer = load_tokenizer(model, cfg.cache_dir)
    metrics, answers = measure(loaded or load_base(model, cfg.cache_dir), tokenizer, rows, cfg)
    if is_main():
        with folder_aside(target) as new:
            write_json(new / "base.json", {"metrics": metrics, "answers": answers})
    return metrics, answers


def _found(target: Path) -> dict | None:
    return read_json(target / "base.json") if (target / "base.json").is_file() else None


def _base_folder(cfg: DictConfig, model: DictConfig, rows: Rows) -> Path:
    """Where the evaluation of an untrained model is kept, by all that decides it."""
    made_of = [
        SCHEMA_VERSION,
        folder_digest(base_folder(model, cfg.cache_dir)),
        wanted_dtype(model.dtype),
        model.template,
        rows.fingerprint,
        cfg.data.cutoff_len,
        OmegaConf.to_container(cfg.evaluation),
    ]
    if model.get("quantization") is not None:
        made_of.append(OmegaConf.to_container(model.quantization))
    return cache_folder(cfg.cache_dir, "evaluations", digest(made_of))


class BaseMetrics(TrainerCallback):
    """`metrics` of the model before training; None where they are not known."""

    def __init__(self, cfg: DictConfig, rows: Rows):
        self.cfg, self.rows, self.metrics = cfg, rows, None

    def measure(self, model) -> None:
        self.metrics, _ = base_metrics(self.cfg, self.cfg.model, self.rows, model)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Measure a model whose weights are spread over all processes, without its adapter."""
        adapted = "_target_" in self.cfg.finetuning
        if not adapted and state.global_step:  # resumed: these are not the base's weights any more
            found = _found(_base_folder(self.cfg, self.cfg.model, self.rows))
            self.metrics = None if found is None else found["metrics"]
            return
        with torch.random.fork_rng(), model.disable_adapter() if adapted else contextlib.nullcontext():
            self.measure(model)


def measure(model, tokenizer, rows: Rows, cfg: DictConfig) -> tuple[dict, list[dict]]:
    """Target loss (mean over all answer tokens, natural log) and greedy answers of `model` on `rows`."""
    begun, was_training = time.perf_counter(), model.training
    model.eval()
    ids = rows.eligible()
    chats = rows.chats(ids)
    asked = cfg.evaluation.answers and not any(map(is_plain, chats))  # plain text asks for no answer
    with torch.no_grad():  # not inference_mode: weights that ZeRO-3 gathers under it can't be trained afterwards
        loss_sums, counts = _losses(model, tokenizer, chats, cfg)
        answers = _answers(model, tokenizer, chats, cfg) if asked else None
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


LOSS_TOKENS = 1024  # of a batch whose logits are held: float32 over the vocabulary, several times over


def _losses(model, tokenizer, chats: list, cfg: DictConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the negative log likelihood over each chat's answer tokens, and their number; float64, int64 (n,)."""
    coded = [encode(chat, tokenizer, cfg.data.cutoff_len) for chat in chats]
    collate = Collator(tokenizer.pad_token_id)
    sums, counts = np.zeros(len(coded)), np.zeros(len(coded), dtype=np.int64)
    for part in batches([len(c["input_ids"]) for c in coded], cfg.evaluation.batch_size, LOSS_TOKENS):
        batch = {k: v.to(model.device) for k, v in collate([coded[i] for i in part]).items()}
        found = by_row(*answer_losses(model, batch), len(part))
        sums[part], counts[part] = (values.cpu().numpy() for values in found)
    return sums, counts


def _answers(model, tokenizer, chats: list, cfg: DictConfig) -> list[str]:
    """Greedy answers to each chat's last turn, at most `max_new_tokens` long."""
    prompts = [tokenizer(render(tokenizer, chat[:-1], True), add_special_tokens=False)["input_ids"] for chat in chats]
    prompts = [p[-cfg.data.cutoff_len :] for p in prompts]
    if isinstance(model, FSDPModule) and "generate" not in vars(model):
        register_fsdp_forward_method(model, "generate")  # else it would bypass what gathers the outermost weights
    answers = [""] * len(chats)
    for part in tqdm(batches(list(map(len, prompts)), cfg.evaluation.batch_size), desc="answering", mininterval=1):
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
