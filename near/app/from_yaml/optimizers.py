"""The optimizer of a file, under its name in TrainingArguments."""

from near.app.from_yaml.file import File
from near.common.errors import UserError
from near.models.optimizers import PACKAGES, is_installed, optimizer_faults

# The names in optim_args of the options of GaLore and APOLLO.
GALORE = {"rank": "galore_rank", "update_proj_gap": "galore_update_interval", "scale": "galore_scale"}
GALORE |= {"proj_type": "galore_proj_type"}
APOLLO = {"rank": "apollo_rank", "proj": "apollo_proj", "scale_type": "apollo_scale_type", "scale": "apollo_scale"}
APOLLO |= {"update_proj_gap": "apollo_update_interval", "proj_type": "apollo_proj_type"}


def optimizer(file: File, lora: bool) -> dict[str, object]:
    """The arguments of the optimizer. UserError where its package is not installed, or it needs LoRA."""
    arguments = {"optim": "adafactor"} if file.take("adafactor") else {}
    if optim := file.take("optim"):
        if faults := optimizer_faults(optim, "optim"):
            raise UserError(f"{file.path}: {faults[0]}")
        arguments["optim"] = optim
    for name, options in (("galore", GALORE), ("apollo", APOLLO)):
        if file.take(f"use_{name}"):
            arguments |= _low_rank(file, name, options, lora)
    _loraplus(file, lora)
    return arguments


def _low_rank(file: File, name: str, options: dict[str, str], lora: bool) -> dict[str, object]:
    if lora:
        file.skip_always(f"use_{name}", "it goes with finetuning_type: full")
        return {}
    if not is_installed(name):
        module, how = PACKAGES[name]
        file.skip_always(f"use_{name}", f"it needs {module}, which is not installed ({how})")
        return {}
    target = file.names(f"{name}_target") or ["all"]
    arguments = ",".join(f"{theirs}={file.take(key, file.default(key))}" for theirs, key in options.items())
    return {
        "optim": f"{name}_adamw{'_layerwise' * bool(file.take(f'{name}_layerwise'))}",
        "optim_target_modules": "all-linear" if target == ["all"] else target,
        "optim_args": arguments,
    }


def _loraplus(file: File, lora: bool) -> None:
    ratio = file.take("loraplus_lr_ratio")
    if ratio is None:
        return
    if not lora:
        raise UserError(
            f"{file.path}: loraplus_lr_ratio={ratio} goes with finetuning_type: lora; set that, or leave it out"
        )
    file.put("trainer.loraplus.lr_ratio", file.number("loraplus_lr_ratio", 1))
    file.put("trainer.loraplus.lr_embedding", file.number("loraplus_lr_embedding", 1e-6))
