"""Whether the packages that a script's configuration needs are installed, checked before anything is loaded."""

from omegaconf import DictConfig

from near.common.config import select
from near.common.extras import EXTRAS, need
from near.common.signature import attribute

# The embedders that are models; embedder=hashing needs no package
MODEL_EMBEDDERS = ("near.embedding.embedders.backend.", "near.embedding.embedders.rds.")


def check_installed(script: str, cfg: DictConfig) -> None:
    """UserError that names the extra which `script` needs under `cfg` and which is not installed."""
    if script in ("train", "eval", "merge"):
        need(f"near {script}", "train", (*EXTRAS["embed"], *EXTRAS["train"]))
    elif script == "report":
        need("near report", "report")
    else:
        target = str(select(cfg, "embedder._target_"))
        if _requires_model(cfg, "selector") or _requires_model(cfg, "similarity"):
            need("a selector that needs a model", "train", (*EXTRAS["embed"], *EXTRAS["train"]))
        if target.startswith(MODEL_EMBEDDERS):
            need("an embedder that is a model", "embed")
        if select(cfg, "page"):
            need("page=true", "report")


def _requires_model(cfg: DictConfig, group: str) -> bool:
    target = select(cfg, f"{group}._target_")
    return isinstance(target, str) and bool(attribute(target, "requires"))
