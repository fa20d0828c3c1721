"""Merge an adapter into its base model, and prove that the merged model answers as the adapter did."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from near.errors import UserError, one_line
from near.files import folder_aside, provenance, read_json, write_json
from near.hub import model_folder
from near.model import load_base, load_tokenizer, with_adapter
from near.tokens import render

log = logging.getLogger(__name__)

PROBES = (
    "What is the capital of France?",
    "Convert 1927-05-17 to a sentence with weekday, month, day and year.",
    "Write a Python function that returns the n-th Fibonacci number.",
)


def merge(cfg: DictConfig, output_dir: Path) -> None:
    """What merge.py does: the merged model, its tokenizer and chat template in `export_dir`, whole or not at all."""
    export_dir, adapter = Path(cfg.export_dir), Path(cfg.adapter_name_or_path)
    export_dir.parent.mkdir(parents=True, exist_ok=True)
    if export_dir.exists() and (not export_dir.is_dir() or any(export_dir.iterdir())):
        raise UserError(f"export_dir={export_dir} is not empty; name another folder or empty it")
    base, revision = (cfg.model_name_or_path, None) if cfg.model_name_or_path else _base_of(adapter)
    model_cfg = OmegaConf.create(
        {
            "name_or_path": base,
            "revision": revision,
            "dtype": "float32",  # sums of half-precision weights would round each weight once more
            "trust_remote_code": cfg.trust_remote_code,
            "template": cfg.template,
        }
    )
    model_folder("model_name_or_path", base, revision, cfg.cache_dir, "model=smollm2")
    tokenizer = load_tokenizer(model_cfg, cfg.cache_dir)
    device = "cuda" if cfg.export_device == "auto" and torch.cuda.is_available() else "cpu"
    adapted = with_adapter(load_base(model_cfg, cfg.cache_dir, device), adapter).eval()
    before = _logits(adapted, tokenizer)
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"{adapter} cannot be merged ({one_line(error)[:160]})") from error
    difference = max(float((a - b).abs().max()) for a, b in zip(before, _logits(merged, tokenizer), strict=True))
    if not difference <= cfg.tolerance:
        raise UserError(
            f"the merged model's logits differ from the adapter's by {difference:.2g}, more than "
            f"tolerance={cfg.tolerance}; nothing was exported"
        )
    with folder_aside(export_dir) as new:
        _write(merged.to(getattr(torch, cfg.export_dtype)), new, cfg)
        tokenizer.save_pretrained(new)
    write_json(
        output_dir / "merge.json",
        {"base": model_cfg.name_or_path, "adapter": str(adapter), "export_dir": str(export_dir)}
        | {"max_logit_difference": difference, "dtype": cfg.export_dtype, **provenance()},
    )
    log.info(f"wrote {export_dir} ({cfg.export_dtype}; logits differ from the adapter's by {difference:.1e} at most)")


def _base_of(adapter: Path) -> tuple[str, str | None]:
    """The base model that an adapter names, and its revision."""
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise UserError(f"adapter_name_or_path={adapter}: no adapter_config.json there; give a run's adapter folder")
    config = read_json(path)
    if not config.get("base_model_name_or_path"):
        raise UserError(f"{path} names no base model; set model_name_or_path")
    return config["base_model_name_or_path"], config.get("revision")


@torch.inference_mode()
def _logits(model, tokenizer) -> list[torch.Tensor]:
    """Logits of every position of the probes, float32 (1, T, vocabulary) each."""
    found = []
    for probe in PROBES:
        text = render(tokenizer, [{"role": "user", "content": probe}], prompt_only=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
        found.append(model(input_ids=ids).logits.float().cpu())
    return found


def _write(model, folder: Path, cfg: DictConfig) -> None:
    size = f"{cfg.export_size}GB"
    if not cfg.export_legacy_format:
        model.save_pretrained(folder, max_shard_size=size)
        return
    from huggingface_hub import save_torch_state_dict

    model.config.dtype = cfg.export_dtype
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    save_torch_state_dict(
        model.state_dict(),
        folder,
        filename_pattern="pytorch_model{suffix}.bin",
        max_shard_size=size,
        safe_serialization=False,
        shared_tensors_to_discard=list(model.all_tied_weights_keys or []),
    )
