"""The rows of a selector in the order of `order`."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.errors import UserError
from near.selection.orders.base import Order
from near.selection.round import Round, Subset, checked
from near.selection.selectors.base import Selector, selector_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from near.data.rows import Rows

PREFIX = "order_"  # of the order's arrays in the state


class Ordered(Selector):
    """A selector whose rounds an order arranges; warm-ups stay random.

    If the selector leaves the choice of rows to an order (`orders_choose`), the order arranges all eligible rows, and
    each round trains the next ones. With `consume_once`, rows of the subset that are not drawn are left out of it.
    """

    def __init__(self, selector: Selector, order: Order):
        if order.needs_scores and not selector.has_scores:
            raise UserError(
                f"order.score=selector: {type(selector).__name__} returns no scores; use order.score=loss, column, "
                "similarity or length, or a selector with scores (near, loss, ...)"
            )
        super().__init__(selector.subset_size)
        self.selector, self.order = selector, order
        for name in ("needs_queries", "reads_query_sources", "only_in_training", "query_columns", "budgets"):
            setattr(self, name, getattr(selector, name))
        self.trains_on_queries = selector.trains_on_queries
        self.requires = selector.requires or order.requires  # a scorer of gradients computes losses, too
        self.needs_neighbours = selector.needs_neighbours or order.needs_neighbours
        self.needs_vectors = selector.needs_vectors
        self.columns = (*selector.columns, *order.columns)

    def most(self, eligible: int) -> int | None:
        return self.selector.most(eligible)

    def reach(self, sizes: list[int]) -> int:
        return self.selector.reach(sizes)

    def check(self, queries: "Rows", scoring: DictConfig) -> None:
        self.selector.check(queries, scoring)

    def check_pool(self, pool: "Rows", eligible: np.ndarray) -> None:
        self.selector.check_pool(pool, eligible)

    def check_model(self, config: "PretrainedConfig") -> None:
        self.selector.check_model(config)

    def check_queries(self, queries: "Rows | None", sizes: Sequence[int]) -> None:
        self.selector.check_queries(queries, sizes)

    def check_columns(self, columns: Mapping[str, list], eligible: np.ndarray) -> None:
        self.selector.check_columns(columns, eligible)
        self.order.check_columns(columns, eligible)

    def select(self, round: Round) -> Subset:
        with contextlib.nullcontext() if round.scorer is None else round.scorer.remembering():
            return self._selected(round)

    def _selected(self, round: Round) -> Subset:
        if self.selector.orders_choose and round.size == round.draws:
            subset = Subset(round.eligible)
        else:
            subset = checked(self.selector.select(round), round, type(self.selector).__name__)
        draws = self.order.arrange(round, subset)
        drawn = np.isin(subset.ids, draws)
        scores = None if subset.scores is None else subset.scores[drawn]
        return dataclasses.replace(subset, ids=subset.ids[drawn], scores=scores, order=draws)

    def warm_up(self, round: Round) -> Subset:
        return self.selector.warm_up(round)

    def state_dict(self) -> dict[str, np.ndarray]:
        order = {f"{PREFIX}{name}": array for name, array in self.order.state_dict().items()}
        return self.selector.state_dict() | order

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        order = {name: array for name, array in state.items() if name.startswith(PREFIX)}
        self.selector.load_state_dict({name: array for name, array in state.items() if name not in order})
        self.order.load_state_dict({name.removeprefix(PREFIX): array for name, array in order.items()})


def ordered_selector_of(cfg: DictConfig) -> Selector:
    """The selector of a configuration, in the order of its group `order` if it has one; UserError if one of them is
    another kind of class."""
    selector = selector_of(cfg.selector)
    if cfg.get("order") is None:
        return selector
    order = instantiate(cfg.order)
    if not isinstance(order, Order):
        raise UserError(
            f"order._target_={cfg.order._target_} is not an order; its class must inherit "
            "near.selection.orders.base.Order"
        )
    return Ordered(selector, order)
