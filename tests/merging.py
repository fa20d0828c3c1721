"""Generated adapters, and the result of merging one."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from near.export.merge import merge
from near.models.loading import load_base, with_adapter
from tests.conftest import configured

IDS = torch.arange(3, 43)[None]


def tiny_base(cache):
    """The tiny model as the base of an adapter."""
    return load_base(configured("train", "model=tiny", f"cache_dir={cache}").model, str(cache)).eval()


def write_adapter(folder: Path, model, seed: int = 0, base: str = "builtin:tiny", **options) -> torch.Tensor:
    """Write an adapter of random weights, large enough to have an effect, to `folder`; returns its logits on IDS."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    adapted = get_peft_model(model, LoraConfig(**options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens", "magnitude")):
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    adapted.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    with torch.no_grad():
        return adapted(IDS).logits


def merged(adapter, cache, folder: Path, *more: str):
    """The export of `adapter` (a path, or another value of adapter_name_or_path), as transformers loads it."""
    cfg = configured("merge", f"adapter_name_or_path={adapter}", f"export_dir={folder}", f"cache_dir={cache}", *more)
    merge(cfg, folder.parent)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(IDS).logits


@torch.no_grad()
def adapted_logits(adapter, cache) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the tiny model without and with the adapter in a folder."""
    base = tiny_base(cache)
    plain = base(IDS).logits
    return plain, with_adapter(base, adapter).eval()(IDS).logits
