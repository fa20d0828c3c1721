"""What a merge holds in memory, beside peft's merge_and_unload and save_pretrained in float32.

    python bench/merge.py [layers=13 dtype=bfloat16 smollm2=true]

Each is a process of its own; memory is the most that it held (VmHWM), the files it maps included. Ours also compares
logits and reads the files back; peft's does neither. First SmolLM2-135M with an adapter of random weights, then a
model of `layers` layers of 1,536 (13: 2.0 GB in float32, 35: 5.3 GB) made on the spot, on the disk in `dtype`.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose select.py hides the standard library's


def peak() -> int:
    """The most this process has held, in bytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024


def make(folder: Path, layers: int, dtype: str) -> None:
    """A model of random weights in `folder`/base, with SmolLM2's tokenizer, and an adapter in `folder`/adapter."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        dtype=dtype,
    )
    torch.set_default_dtype(getattr(torch, dtype))
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapter(model, folder / "adapter", str(folder / "base"))


def smollm2() -> str:
    from near.data.builtin.assets import resolve

    return resolve("builtin:SmolLM2-135M-Instruct", os.environ.get("NEAR_CACHE", ".cache"))


def adapter(model, folder: Path, base: str) -> None:
    """An adapter of random weights in `folder`."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.01)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(folder)


def ours(folder: Path, base: str) -> None:
    import runpy

    words = [f"adapter_name_or_path={folder}/adapter", f"model_name_or_path={base}", f"export_dir={folder}/ours"]
    sys.argv = ["merge.py", *words, f"output_dir={folder}/told"]
    runpy.run_path(str(ROOT / "merge.py"), run_name="__main__")


def peft(folder: Path, base: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(folder / "adapter")).merge_and_unload()
    model.save_pretrained(folder / "peft")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "peft")


def child(*words: str) -> str:
    """This script as a process of its own; the last line it printed."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return (done.stdout.splitlines() or [""])[-1]


def compare(name: str, folder: str, base: str) -> None:
    from near.export.weight_files import count_weights

    size = count_weights(base) * 4
    print(f"{name}: {size / 1e6:,.0f} MB in float32; the goal is at most {(size + 2e9) / 1e6:,.0f} MB", flush=True)
    for kind in ("peft", "ours"):
        begun = time.perf_counter()
        most = int(child(kind, folder, base))
        seconds = time.perf_counter() - begun
        print(f"  {kind}: {most / 1e6:,.0f} MB, {(most - size) / 1e6:+,.0f} MB; {seconds:.0f} s", flush=True)


def main(layers: int, dtype: str, small: bool) -> None:
    if small:
        with tempfile.TemporaryDirectory() as folder:
            child("small", folder)
            compare("SmolLM2-135M in float32 on the disk", folder, smollm2())
    if layers:
        with tempfile.TemporaryDirectory() as folder:
            child("make", folder, str(layers), dtype)
            compare(f"{layers} layers in {dtype} on the disk", folder, f"{folder}/base")


if __name__ == "__main__":
    os.chdir(ROOT)
    words = sys.argv[1:]
    if words[:1] == ["make"]:
        make(Path(words[1]), int(words[2]), words[3])
    elif words[:1] == ["small"]:
        from transformers import AutoModelForCausalLM

        adapter(AutoModelForCausalLM.from_pretrained(smollm2()), Path(words[1]) / "adapter", smollm2())
    elif words[:1] in (["ours"], ["peft"]):
        globals()[words[0]](Path(words[1]), words[2])
        print(peak())
    else:
        asked = dict(word.split("=") for word in words)
        main(int(asked.get("layers", 13)), asked.get("dtype", "bfloat16"), asked.get("smollm2", "true") == "true")
