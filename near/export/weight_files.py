"""Read and write a causal model's weights with no more memory than the model itself."""

import contextlib
import ctypes
import gc
import math
import sys
import zipfile
from pathlib import Path
from types import EllipsisType

import torch
from safetensors import safe_open

from near.common.errors import UserError, reading
from near.common.files import naming_full_disk, read_json

LAYOUTS = {"model.safetensors": "model.safetensors.index.json", "pytorch_model.bin": "pytorch_model.bin.index.json"}
M_MMAP_THRESHOLD = -3  # glibc's mallopt


class PickledWeight:
    """A weight of a .bin file. The file is mapped for each read: a lasting map would keep all pages that were read in
    memory, beside the copy."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name

    def __getitem__(self, index: EllipsisType) -> torch.Tensor:
        return pickled(self.path)[self.name][index].clone()


def pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .bin file, memory-mapped if it is a zip file. UserError if it contains anything but tensors."""
    with reading(path, "a .bin file may contain only tensors"):
        return torch.load(path, mmap=zipfile.is_zipfile(path), weights_only=True, map_location="cpu")


def weight_files(folder: str | Path) -> list[Path]:
    """The files of a model's weights, safetensors before .bin; UserError if there are none."""
    folder = Path(folder)
    for name, index in LAYOUTS.items():
        if (folder / index).is_file():
            with reading(folder / index):
                return [folder / file for file in sorted(set(read_json(folder / index)["weight_map"].values()))]
        if (folder / name).is_file():
            return [folder / name]
    raise UserError(f"{folder} has no weights in safetensors or .bin; name the folder of a whole model")


def lazy_weights(folder: str | Path) -> dict[str, object]:
    """The weights by name; each is read from its file, not mapped, by `[...]`."""
    weights = {}
    for path in weight_files(folder):
        if path.suffix == ".bin":
            weights |= {name: PickledWeight(path, name) for name in pickled(path)}
            continue
        with reading(path):
            file = safe_open(path, framework="pt", device="cpu", backend="pread")
        weights |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return weights


def count_weights(folder: str | Path) -> int:
    """How many numbers the weight files contain."""
    total = 0
    for path in weight_files(folder):
        if path.suffix == ".bin":
            total += sum(tensor.numel() for tensor in pickled(path).values())
            continue
        with reading(path), safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def load_float32(folder: str | Path, trust_remote_code: bool, device: str | torch.device = "cpu"):
    """The model in `folder` in float32, loaded by transformers; UserError if weights are missing or of other shapes."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    with reading(f"the model in {folder}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            kind = type(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))
        model, info = kind.from_pretrained(
            None, config=config, state_dict=lazy_weights(folder), dtype=torch.float32, output_loading_info=True
        )
    faulty = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if faulty:
        raise UserError(
            f"the weights in {folder} are incomplete ({len(faulty)} are missing or of another shape, first "
            f"{faulty[0]}); get them again"
        )
    if (Path(folder) / "generation_config.json").is_file():  # from_pretrained without a name does not read it
        with reading(Path(folder) / "generation_config.json"):
            model.generation_config = GenerationConfig.from_pretrained(folder)
    model.config.name_or_path = str(folder)
    return model.to(device).eval()


def write_weights(model, folder: Path, gigabytes: float, legacy: bool) -> None:
    """Write config.json, generation_config.json and the weights.

    Args:
        gigabytes: largest size of a shard.
        legacy: write .bin files, not safetensors.

    Raises:
        OSError: the disk is full.
    """
    size = f"{gigabytes}GB"
    with naming_full_disk(folder):
        if not legacy:
            model.save_pretrained(folder, max_shard_size=size)
            return
        from huggingface_hub import save_torch_state_dict

        # save_pretrained of transformers 5 writes only safetensors
        model.config.architectures = [type(model).__name__]
        model.config.dtype = str(model.dtype).removeprefix("torch.")
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


def settle_memory() -> None:
    """Return free memory to the system, and from now on each block above a megabyte once it is freed: glibc would keep
    the memory of freed weights for later ones, which have other sizes."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library knows neither
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
            libc.malloc_trim(0)
