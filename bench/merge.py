"""Peak memory of a merge, compared with peft's merge_and_unload and save_pretrained in float32.

    python bench/merge.py [layers=13 width=1536 dtype=bfloat16 smollm2=true]

Each runs in a separate process; memory is its peak (VmHWM), mapped files included. merge.py also compares logits and
reads the files back; peft does neither. First SmolLM2-135M with an adapter of random weights, then a model of `layers`
layers of `width` with random weights (13 of 1,536: 2.0 GB in float32, 35: 5.3 GB), on disk in `dtype`; `tokenizer`
names the folder or built-in of its tokenizer.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import os
import tempfile

from bench import common
from near.common.errors import UserError

SMOLLM2 = "builtin:SmolLM2-135M-Instruct"


def make(folder: str, layers: int, width: int, dtype: str, tokenizer: str) -> None:
    """Write a model of random weights to `folder`/base, and an adapter to `folder`/adapter."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoTokenizer.from_pretrained(resolved(tokenizer))
    config = LlamaConfig(
        vocab_size=len(loaded),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        dtype=dtype,
    )
    torch.set_default_dtype(getattr(torch, dtype))
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(f"{folder}/base")
    loaded.save_pretrained(f"{folder}/base")
    adapter(model, f"{folder}/adapter", f"{folder}/base")


def resolved(path: str) -> str:
    from near.data.builtin.assets import resolve

    return resolve(path, os.environ.get("NEAR_CACHE", ".cache"))


def adapt(folder: str, base: str) -> None:
    """Write an adapter for the model in `base` to `folder`/adapter."""
    from transformers import AutoModelForCausalLM

    adapter(AutoModelForCausalLM.from_pretrained(base), f"{folder}/adapter", base)


def adapter(model, folder: str, base: str) -> None:
    """Write an adapter of random weights to `folder`."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.01)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(folder)


def by_near(folder: str, base: str) -> int:
    """Peak memory of merge.py, in bytes."""
    import runpy

    words = [f"adapter_name_or_path={folder}/adapter", f"model_name_or_path={base}", f"export_dir={folder}/near"]
    sys.argv = ["merge.py", *words, f"output_dir={folder}/run"]
    runpy.run_path(str(common.ROOT / "merge.py"), run_name="__main__")
    return common.peak()


def by_peft(folder: str, base: str) -> int:
    """Peak memory of peft's merge, in bytes."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, f"{folder}/adapter").merge_and_unload()
    model.save_pretrained(f"{folder}/peft")
    AutoTokenizer.from_pretrained(base).save_pretrained(f"{folder}/peft")
    return common.peak()


def compare(name: str, folder: str, base: str) -> None:
    """Print the peak memory of both, and the model's size."""
    from near.export.weight_files import count_weights

    size = count_weights(base) * 4
    print(f"{name}: {size / 1e6:,.1f} MB in float32; the goal is at most {(size + 2e9) / 1e6:,.0f} MB", flush=True)
    for kind, worker in (("peft", by_peft), ("near", by_near)):
        seconds, most = common.timed(lambda worker=worker: common.apart(worker, folder, base))
        print(f"  {kind}: {most / 1e6:,.0f} MB, {(most - size) / 1e6:+,.0f} MB; {seconds:.0f} s", flush=True)


def main(
    layers: int = 13, width: int = 1536, dtype: str = "bfloat16", smollm2: bool = True, tokenizer: str = SMOLLM2
) -> None:
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype={dtype}: use float32, bfloat16 or float16")
    if width % 16:
        raise UserError(f"width={width}: use a multiple of 16, the number of heads")
    if smollm2:
        with tempfile.TemporaryDirectory() as folder:
            common.apart(adapt, folder, resolved(SMOLLM2))
            compare("SmolLM2-135M in float32 on disk", folder, resolved(SMOLLM2))
    if layers:
        with tempfile.TemporaryDirectory() as folder:
            common.apart(make, folder, layers, width, dtype, tokenizer)
            compare(f"{layers} layers of {width} in {dtype} on disk", folder, f"{folder}/base")


if __name__ == "__main__":
    common.script(main, make, adapt, by_near, by_peft)
