"""Whether the packages that a script's configuration needs are installed, checked before anything is loaded."""

from omegaconf import DictConfig

from near.common.config import select
from near.common.extras import EXTRAS, need
from near.common.signature import attribute

BM25 = "near.searching.bm25.Bm25"
# The embedders that are models; embedder=hashing needs no package
MODULES = ("backend", "rds", "hidden_states", "answer_states")
MODEL_EMBEDDERS = tuple(f"near.embedding.embedders.{module}." for module in MODULES)


def check_installed(script: str, cfg: DictConfig) -> None:
    """UserError that names the extra which `script` needs under `cfg` and which is not installed."""
    if script in ("train", "eval", "merge"):
        need(f"near {script}", "train", (*EXTRAS["embed"], *EXTRAS["train"]))
    elif script == "report":
        need("near report", "report")
    else:
        if _requires_model(cfg, "selector") or _requires_model(cfg, "similarity"):
            need("a selector that needs a model", "train", (*EXTRAS["embed"], *EXTRAS["train"]))
        embeds = select(cfg, "similarity._target_") != BM25 or select(cfg, "data.dedup") == "near"
        embeds |= select(cfg, "data.decontaminate.cosine") is not None
        if embeds and str(select(cfg, "embedder._target_")).startswith(MODEL_EMBEDDERS):
            need("an embedder that is a model", "embed")
        if select(cfg, "page"):
            need("page=true", "report")
    if script in ("select", "train") and select(cfg, "similarity._target_") == BM25:
        need("similarity=bm25", "bm25")


def _requires_model(cfg: DictConfig, group: str) -> bool:
    target = select(cfg, f"{group}._target_")
    return isinstance(target, str) and bool(attribute(target, "requires"))
