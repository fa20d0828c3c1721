"""The kinds of a plan's stages and their order, read from its options without importing a class."""

from collections.abc import Mapping
from typing import Any, Literal

from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.signature import attribute

Kind = Literal["filter", "mix", "draw", "order", "weigh"]
KINDS: tuple[Kind, ...] = ("filter", "mix", "draw", "order", "weigh")  # in the order in which they act

REASONS = {  # why a kind acts before the later ones
    "filter": "a filter decides which rows the others may use",
    "mix": "a draw takes of each source the share that the mix gives it",
    "draw": "an order arranges, and a weigher weights, rows that were drawn",
    "order": "a weigher acts on batches, which the order decides",
}


def check_order(kinds: Mapping[str, str]) -> None:
    """UserError unless stages of these kinds, by name, can act one after the other as they stand, and once each, where
    several would undo each other."""
    names = list(kinds)
    for before, after in zip(names, names[1:], strict=False):
        if KINDS.index(kinds[before]) > KINDS.index(kinds[after]):
            raise UserError(
                f"plan.{before} ({kinds[before]}) stands before plan.{after} ({kinds[after]}), and stages act in the "
                f"order {', '.join(KINDS)}: {REASONS[kinds[after]]}; write plan.{after} first"
            )
    for kind in ("mix", "draw", "order"):
        if len(same := [name for name in names if kinds[name] == kind]) > 1:
            raise UserError(f"plan has {len(same)} stages of kind {kind} ({', '.join(same)}); leave one")


def stage_kinds(plan: DictConfig) -> dict[str, Any]:
    """The kind of each stage of a plan's options, by name; None for what is none."""
    kinds = {}
    for name in plan:
        node = plan[name]
        if name != "_target_":
            target = node.get("_target_") if isinstance(node, DictConfig) else None
            kinds[str(name)] = attribute(target, "kind") if isinstance(target, str) else None
    return kinds


def selection_nodes(cfg: DictConfig) -> list[DictConfig]:
    """The options of a run's selection: its plan, or its selector and order."""
    if isinstance(cfg.get("plan"), DictConfig):
        return [cfg.plan]
    return [cfg.selector, *([] if cfg.get("order") is None else [cfg.order])]
