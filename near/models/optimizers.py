"""Optimizers of TrainingArguments (`optim`) that need another package."""

import importlib.util

from near.common.extras import install

# the module, and how to install it
PACKAGES = {
    "bitsandbytes": ("bitsandbytes", install("qlora")),
    "galore": ("galore_torch", "pip install galore-torch"),
    "apollo": ("apollo_torch", "pip install apollo-torch"),
    "lomo": ("lomo_optim", "pip install lomo-optim"),
    "grokadamw": ("grokadamw", "pip install grokadamw"),
    "schedule_free": ("schedulefree", "pip install schedulefree"),
    "torchao": ("torchao", "pip install torchao"),
    "stable_adamw": ("optimi", "pip install torch-optimi"),
    "anyprecision": ("torchdistx", "install torchdistx"),
}
BITSANDBYTES = ("adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_8bit", "lion_32bit")


def package_of(optim: str) -> str | None:
    """The key of PACKAGES that `optim` needs; None if torch and transformers have it."""
    if optim in BITSANDBYTES or optim.startswith(("paged_", "rmsprop_bnb")):
        return "bitsandbytes"
    if optim in ("adamw_torch_4bit", "adamw_torch_8bit"):
        return "torchao"
    if optim == "adamw_anyprecision":
        return "anyprecision"
    if optim in ("lomo", "adalomo"):
        return "lomo"
    names = ("galore", "apollo", "grokadamw", "schedule_free", "stable_adamw")
    return next((name for name in names if optim.startswith(name)), None)


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(PACKAGES[package][0]) is not None


def optimizer_faults(optim: object, key: str = "trainer.args.optim") -> list[str]:
    """Faults of an optimizer's name: its package is not installed. `key`: the option it comes from."""
    package = package_of(str(optim))
    if package is None or is_installed(package):
        return []
    module, how = PACKAGES[package]
    return [f"{key}={optim} needs {module}, which is not installed; {how}, or use adamw_torch"]
