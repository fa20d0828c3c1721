"""PiSSA adapters, saved as LoRA ones.

A PiSSA adapter (Meng et al. 2024, arXiv:2404.02948) starts with the largest singular values of the weights; the base is
the rest. It works only on a base that was changed in the same way, by an approximation with random numbers. Therefore
the difference that training made is saved, for the unchanged base and at twice the rank:

    W + dW = W_res + B A,  W = W_res + B0 A0,  so  dW = B A - B0 A0 = [B | -B0] [A ; A0]
"""

import math
from pathlib import Path

from near.common.files import read_json, write_json


def keep_initial(model) -> None:
    """Store the initial weights of a PiSSA adapter as `model.initial_adapter`; no effect for other adapters."""
    from peft.utils import get_peft_model_state_dict

    if str(getattr(model.active_peft_config, "init_lora_weights", "")).startswith("pissa"):
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        model.initial_adapter = {name: weight.detach().cpu().clone() for name, weight in state.items()}


def save_as_lora(model, folder: Path) -> None:
    """Rewrite the PiSSA adapter saved in `folder` as an equivalent LoRA adapter for the unchanged base.

    No effect if `model` has no PiSSA adapter.
    """
    import torch
    from safetensors.torch import load_file, save_file

    initial = getattr(model, "initial_adapter", None)
    if initial is None:
        return
    state = load_file(folder / "adapter_model.safetensors")
    for name, weight in state.items():
        if "lora_A" in name:  # (r, in)
            state[name] = torch.cat([weight, initial[name].to(weight.dtype)], dim=0)  # (2r, in)
        elif "lora_B" in name:  # (out, r)
            state[name] = torch.cat([weight, -initial[name].to(weight.dtype)], dim=1)  # (out, 2r)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = read_json(folder / "adapter_config.json")
    # keeps the scaling, which is alpha / r, or alpha / sqrt(r) with rslora
    wider = math.sqrt(2) if config.get("use_rslora") else 2
    for key, by in (("r", 2), ("lora_alpha", wider)):
        config[key] = config[key] * by
        pattern = "rank_pattern" if key == "r" else "alpha_pattern"
        config[pattern] = {name: value * by for name, value in (config.get(pattern) or {}).items()}
    write_json(folder / "adapter_config.json", {**config, "init_lora_weights": True})
