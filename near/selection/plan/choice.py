"""What selects the rows of a run: its plan, or its selector and order."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.errors import UserError
from near.selection.orders.selector import ordered_selector_of
from near.selection.plan.kinds import stage_kinds
from near.selection.plan.plan import Plan
from near.selection.selectors.base import Selector


def selection_of(cfg: DictConfig, weighers: bool = True) -> Selector:
    """The run's plan, or its selector with its order; UserError if it is another kind of class.

    weighers: with the stages of a plan that weight losses, which import torch.
    """
    if not isinstance(cfg.get("plan"), DictConfig):
        return ordered_selector_of(cfg)
    if not weighers:
        kinds = stage_kinds(cfg.plan)
        return Plan(**{name: instantiate(cfg.plan[name]) for name, kind in kinds.items() if kind != "weigh"})
    plan = instantiate(cfg.plan)
    if not isinstance(plan, Plan):
        raise UserError(f"plan._target_={cfg.plan._target_} is not a plan; use near.selection.plan.plan.Plan")
    return plan
