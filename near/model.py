"""The base model, its tokenizer, and adapters on it."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open

from near.errors import UserError, one_line
from near.hub import model_folder, wanted_dtype
from near.templates import set_template


def base_folder(cfg: DictConfig, cache_dir: str) -> str:
    """Where the base model's files are."""
    return model_folder("model.name_or_path", cfg.name_or_path, cfg.revision, cache_dir, "model=smollm2")


def load_tokenizer(cfg: DictConfig, cache_dir: str):
    """The base model's tokenizer, with its chat template and a padding token (without its own, the end-of-text one)."""
    from transformers import AutoTokenizer

    folder = base_folder(cfg, cache_dir)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=cfg.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no tokenizer could be loaded from {folder} ({one_line(error)[:160]})") from error
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {folder} is not a fast one, which is needed to find answers in a chat")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_template(tokenizer, cfg.template)
    return tokenizer


def load_base(cfg: DictConfig, cache_dir: str, device: str | None = None):
    """The base causal language model in `cfg.dtype`, on `device` (None: the accelerator, where there is one)."""
    import torch
    from transformers import AutoModelForCausalLM

    folder, dtype = base_folder(cfg, cache_dir), wanted_dtype(cfg.dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), trust_remote_code=cfg.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"model.name_or_path={cfg.name_or_path} could not be loaded ({one_line(error)[:160]})"
        ) from error
    if device is None and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    return model if device is None else model.to(device)


def add_finetuning(model, finetuning: DictConfig):
    """`model` with the adapter of `finetuning` (a peft config), or as it is when every weight is trained."""
    if "_target_" not in finetuning:
        return model
    from peft import get_peft_model

    try:
        return get_peft_model(model, instantiate(finetuning, _convert_="all"))
    except (ValueError, TypeError) as error:
        raise UserError(f"finetuning: peft refuses these values ({one_line(error)[:200]})") from error


def with_adapter(model, path: str | Path):
    """`model` with the adapter in folder `path`; UserError where it was made for another model."""
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    path = Path(path)
    weights = path / "adapter_model.safetensors"
    if not (path / "adapter_config.json").is_file() or not weights.is_file():
        raise UserError(f"adapter_name_or_path={path}: no adapter_config.json and adapter_model.safetensors there")
    misfit = f"adapter_name_or_path={path} does not fit the model {model.name_or_path}"
    try:
        adapted = PeftModel.from_pretrained(model, str(path))
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{misfit} ({one_line(error)[:160]}); name the base it was trained on") from error
    with safe_open(weights, framework="numpy") as file:
        stored = set(file.keys())
    known = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if stored != known:
        odd = sorted(stored ^ known)[0]
        raise UserError(
            f"{misfit} ({len(stored ^ known)} weights differ, first {odd}); name the base it was trained on"
        )
    return adapted
