"""Whether plan, mixer, weighter, order and options of the best round fit the trainer, the selector and the data."""

from collections.abc import Sequence

from omegaconf import DictConfig

from near.app.check.plan_faults import MIX, plan_faults
from near.common.config import select
from near.common.signature import attribute

MIXING, WEIGHTING = (
    "near.training.trainer.DynamicMixTrainer",
    "near.training.weighting.DynamicWeightTrainer",
)
GRADIENTS = "near.selection.gradient_similarity.FromGradients"


def mode_faults(cfg: DictConfig, typed: Sequence[str]) -> list[str]:
    """Faults of a configuration whose groups don't fit together. `typed`: the overrides of the command."""
    words = dict(word.lstrip("+").split("=", 1) for word in typed if "=" in word)
    if isinstance(cfg.get("plan"), DictConfig):
        return [*plan_faults(cfg, words), *_best_round_faults(cfg)]
    trainer, faults = select(cfg, "trainer._target_"), []
    mixes, weighs = select(cfg, "selector._target_") == MIX, trainer == WEIGHTING
    mixer, weighter = (isinstance(cfg.get(group), DictConfig) for group in ("mixer", "weighter"))
    other = f"selector={words['selector']}" if "selector" in words else "another selector"
    if trainer == MIXING and not mixes:
        faults.append(
            f"trainer=dynamic_mix picks rows by their source, and {other} does not; leave it out, or use "
            "selector=mix; for other selectors use trainer=dynamic_select"
        )
    elif mixer and not mixes:
        faults.append(
            f"mixer={words.get('mixer', '...')} would have no effect; use trainer=dynamic_mix, or leave it out"
        )
    if mixes and not mixer:
        faults.append("selector=mix has no mixer; use mixer=static, random, doremi, odm or dynamic_moe")
    if weighter and not weighs:
        faults.append(
            f"weighter={words.get('weighter', '...')} would have no effect; use trainer=dynamic_weight, or leave it out"
        )
    if weighs and not weighter:
        faults.append(
            "trainer=dynamic_weight has no weighter; use weighter=linupper, quadratic, extremes, uniform, adapt or "
            "joint_update_aware"
        )
    if weighs and "selector" in words:
        faults.append(
            f"trainer=dynamic_weight trains on the whole pool, and {other} would have no effect; leave it out"
        )
    if weighs:
        steps, first = cfg.trainer.train_step, cfg.trainer.warmup_step
        if isinstance(steps, int) and isinstance(first, int) and steps <= first:
            fault = f"trainer.train_step={steps} includes trainer.warmup_step={first}"
            faults.append(f"{fault} and leaves no step to weight; raise it")
    return faults + _best_round_faults(cfg) + _order_faults(cfg, words.get("order", "..."))


def _best_round_faults(cfg: DictConfig) -> list[str]:
    faults = []
    keep, patience = select(cfg, "trainer.keep"), select(cfg, "trainer.patience")
    if select(cfg, "trainer.update_step") is None and (keep is not None or patience is not None):
        option = "keep" if keep is not None else "patience"
        faults.append(f"trainer.{option} is of rounds, and this trainer has none; use trainer=dynamic_select")
    if select(cfg, "data.eval.validation") is None and (keep == "best" or patience is not None):
        option = "trainer.keep=best" if keep == "best" else f"trainer.patience={patience}"
        faults.append(
            f"{option} chooses by the loss on validation rows, and there are none; set data.eval.validation=0.3"
        )
    if select(cfg, "data.eval.validation") is None and select(cfg, "trainer.args.load_best_model_at_end") is True:
        faults.append(
            "trainer.args.load_best_model_at_end=true would choose by the rows that are reported; set "
            "data.eval.validation=0.3"
        )
    return faults


def _order_faults(cfg: DictConfig, chosen: str) -> list[str]:
    """`chosen`: the order, as typed."""
    if not isinstance(cfg.get("order"), DictConfig):
        return []
    faults = []
    if select(cfg, "trainer.update_step") is None:
        fault = f"order={chosen} would have no effect without rounds"
        faults.append(f"{fault}; use trainer=dynamic_select, or leave it out")
    if select(cfg, "trainer.group_by_length") is True:
        faults.append(f"trainer.group_by_length=true would undo order={chosen}; leave one of them out")
    gradients = select(cfg, "similarity._target_") == GRADIENTS
    if gradients and attribute(cfg.order._target_, "scored") is not False and cfg.order.get("score") == "loss":
        faults.append("order.score=loss can't be combined with similarity=gradients; use order.score=selector")
    return faults
