"""A selection in stages: filters narrow the pool, a mix gives sources their shares, one stage draws the round's rows,
an order arranges them, and weighers weight their losses."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.processes import is_main
from near.common.text import plural
from near.selection.mixers.base import Sources
from near.selection.mixers.selector import evenly, least_trained, spread
from near.selection.plan.kinds import check_order
from near.selection.plan.stages import Draw, FilterStage, MixStage, OrderStage, Stage
from near.selection.round import Round, Subset
from near.selection.selectors.base import Required, Selector

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from near.data.rows import Rows

log = logging.getLogger(__name__)

EVERYTHING = 1 << 62  # rows
STREAM = 10  # of random numbers behind each filter; with the filter's own, some rows would be drawn twice as often
REQUIRED: tuple[Required, ...] = ("gradients", "losses", "expert loads")  # a scorer of the first computes all


class Plan(Selector):
    """Stages by name, in the order of KINDS: any number of filters and weighers, at most one of the others.

    Without a draw, rows are random; with a mix and no draw, those of each source that were trained least. Each stage
    sees what the stages before it left. All of this happens at the start of a round, with the model as it is then; what
    several stages need of the model is computed once. Weighers act in the Trainer (near/training/weighers.py).
    """

    only_in_training = "is a plan for the rounds of a training"

    def __init__(self, /, **stages: Stage):  # a stage may be named self
        for name, stage in stages.items():
            if not isinstance(stage, Stage):
                raise UserError(
                    f"plan.{name}={stage} is not a stage; give it one (conf/stage), such as stage@plan.{name}"
                )
            stage.name = name
        check_order({name: stage.kind for name, stage in stages.items()})
        self.stages = stages
        self.filters = [stage for stage in stages.values() if isinstance(stage, FilterStage)]
        self.mix, self.draw, self.order = (self._only(kind) for kind in (MixStage, Draw, OrderStage))
        self.weighers = [stage for stage in stages.values() if stage.kind == "weigh"]
        if self.mix is not None and self.draw is not None and self.draw.by.subset_size is not None:
            raise UserError(
                f"subset_size={self.draw.by.subset_size} of plan.{self.draw.name} has no effect: plan.{self.mix.name} "
                "decides how many rows each source gets; set it to null"
            )
        self._check_scores()
        super().__init__(None if self.draw is None else self.draw.by.subset_size)
        inner = self._selectors()
        parts = [*inner, *(stage.by for stage in (self.mix, self.order) if stage is not None)]
        needed = {part.requires for part in parts}
        self.requires: Required | None = next((kind for kind in REQUIRED if kind in needed), None)
        self.needs_queries = any(one.needs_queries for one in inner)
        self.reads_query_sources = any(one.reads_query_sources or one.budgets is not None for one in inner)
        self.needs_neighbours = any(getattr(part, "needs_neighbours", False) for part in parts)  # mixers have none
        self.needs_vectors = any(one.needs_vectors for one in inner)
        self.columns = tuple(dict.fromkeys(name for part in parts for name in getattr(part, "columns", ())))
        self.query_columns = tuple(dict.fromkeys(name for one in inner for name in one.query_columns))

    def _check_scores(self) -> None:
        """UserError if the order is by scores of the draw that there can't be."""
        draw, order = self.draw, self.order
        if order is None or not order.by.needs_scores:
            return
        if draw is None or not draw.by.has_scores:
            by = "random rows have" if draw is None else f"{type(draw.by).__name__} has"
            why = f"{by} none; use selector=near or loss"
        elif draw.start > order.start:
            why = f"before plan.{draw.name}.start={draw.start} it has none; set plan.{order.name}.start={draw.start}"
        else:
            return
        raise UserError(
            f"plan.{order.name} orders by the scores of the draw, and {why}, or order.score=loss, column, "
            "similarity or length"
        )

    def _only(self, kind: type) -> Any:
        return next((stage for stage in self.stages.values() if isinstance(stage, kind)), None)

    def _selecting(self) -> dict[str, Stage]:
        return {name: stage for name, stage in self.stages.items() if stage.kind != "weigh"}

    def _selectors(self) -> list[Selector]:
        return [stage.by for stage in (*self.filters, *([] if self.draw is None else [self.draw]))]

    def scored_rounds(self, starts: Sequence[int]) -> list[int]:
        """Those of the rounds in which a stage that uses the model acts anew; all if only the similarity uses it.

        starts: the first step of each.
        """
        scored = [stage for stage in self._selecting().values() if stage.by.requires]
        if not scored:
            return list(starts)
        due = {step for stage in scored for step in [step for step in starts if step >= stage.start][:: stage.period]}
        return sorted(due)

    def reach(self, sizes: list[int]) -> int:
        """The rows of a first filter; all for those behind a filter or a mix, which pass over some rows."""
        keeps = [stage.keep if isinstance(stage.keep, int) else EVERYTHING for stage in self.filters[:1]]
        keeps += [EVERYTHING] * len(self.filters[1:])
        reaches = [stage.by.reach([keep]) for stage, keep in zip(self.filters, keeps, strict=True)]
        if self.draw is not None:
            passes = self.filters or self.mix is not None and self.draw.by.ranks
            reaches.append(self.draw.by.reach([EVERYTHING] if passes else sizes))
        if self.order is not None and self.order.by.needs_neighbours:
            reaches.append(super().reach(sizes))
        return max(reaches, default=0)

    def check(self, queries: "Rows", scoring: DictConfig) -> None:
        for one in self._selectors():
            if one.requires == "gradients":
                one.check(queries, scoring)

    def check_pool(self, pool: "Rows", eligible: np.ndarray) -> None:
        for one in self._selectors():
            one.check_pool(pool, eligible)
        if self.mix is not None:
            self.mix.mix.check_pool(pool, eligible)

    def check_model(self, config: "PretrainedConfig") -> None:
        for one in self._selectors():
            one.check_model(config)
        if self.mix is not None:
            self.mix.by.check_model(config)

    def check_queries(self, queries: "Rows | None", sizes: Sequence[int]) -> None:
        for stage in self.filters:
            stage.by.check_queries(queries, [stage.keep] if isinstance(stage.keep, int) else sizes)
        if self.draw is not None:
            self.draw.by.check_queries(queries, sizes)

    def check_columns(self, columns: Mapping[str, list], eligible: np.ndarray) -> None:
        for one in self._selectors():
            one.check_columns(columns, eligible)
        if self.order is not None:
            self.order.by.check_columns(columns, eligible)

    def warm_up(self, round: Round) -> Subset:
        if self.mix is not None and self.mix.has_started(round):
            return self.mix.mix.warm_up(round)
        return super().warm_up(round) if self.draw is None else self.draw.by.warm_up(round)

    def select(self, round: Round) -> Subset:
        record = _Log(round)
        with contextlib.nullcontext() if round.scorer is None else round.scorer.remembering():
            narrowed = round
            for number, stage in enumerate(self.filters, 1):
                with record.of(stage, len(narrowed.eligible)) as entry:
                    if stage.has_started(round):
                        rows = stage.rows(narrowed)
                        narrowed = dataclasses.replace(narrowed, eligible=rows, stream=(STREAM, number))
                    entry["rows_after"] = len(narrowed.eligible)
            most = self.most(len(narrowed.eligible)) or round.size  # a share of what the filters left
            narrowed = dataclasses.replace(narrowed, size=min(round.size, most))
            subset = self._drawn(round, narrowed, record)
            if self.order is not None:
                with record.of(self.order, len(subset.ids)) as entry:
                    if self.order.has_started(round):
                        subset = self.order.arranged(round, subset)
                    entry["rows_after"] = len(subset.ids)
        return dataclasses.replace(subset, stages=record.entries)

    def _drawn(self, round: Round, narrowed: Round, record: "_Log") -> Subset:
        """The round's rows, among those of `narrowed`."""
        draw, left = self.draw if self.draw is not None and self.draw.has_started(round) else None, narrowed.eligible
        if self.mix is not None:
            with record.of(self.mix, len(left)) as entry:
                mixed = self.mix.shares(round, left) if self.mix.has_started(round) else None
                entry["rows_after"] = len(left) if mixed is None else _rows_of(*mixed)
            if mixed is not None:
                with record.of(self.draw, entry["rows_after"]) as entry:
                    subset, unranked = self._mixed(round, narrowed, draw, *mixed)
                    entry |= {"unranked_draws": unranked} if unranked else {}
                    entry["rows_after"] = len(subset.ids)
                return subset
        with record.of(self.draw, len(left)) as entry:
            if draw is None:
                subset = Selector.warm_up(self, narrowed)
            elif draw.by.orders_choose and narrowed.size == round.draws and self._arranges(round):
                draw.acts(round)
                subset = Subset(left)
            else:
                subset = draw.picked(narrowed, narrowed.size)
            entry["rows_after"] = len(subset.ids)
        return subset

    def _mixed(
        self, round: Round, narrowed: Round, draw: Draw | None, sources: Sources, shares: np.ndarray
    ) -> tuple[Subset, int]:
        """The round's draws by source, and how many of them are of sources of which the draw ranks no row."""
        metrics = self.mix.by.metrics() if self.mix.has_acted(round) else {}
        if draw is None or not draw.by.ranks and draw.period == 1:
            if draw is not None:
                draw.acts(round)
            return spread(round, sources, shares, metrics, evenly(round)), 0
        ranked = draw.picked(narrowed, len(narrowed.eligible))
        subset = spread(round, sources, shares, metrics, _best_first(round, ranked.ids))
        draws = zip(sources.names, sources.rows, subset.mix["draws"].values(), strict=True)
        drawn = {name: int(count) for name, rows, count in draws if count and not np.isin(rows, ranked.ids).any()}
        unranked = sum(drawn.values())
        if unranked and is_main():
            log.warning(
                f"plan.{draw.name} ranks no row of {', '.join(drawn)}: {plural(unranked, 'draw')} of "
                f"{round.draws} in round {round.index} are of the rows there that were trained least"
            )
        if ranked.scores is None:
            return subset, unranked
        scores = np.full(len(round.trained), np.nan, dtype=np.float32)
        scores[ranked.ids] = ranked.scores
        return dataclasses.replace(subset, scores=scores[subset.ids]), unranked

    def _arranges(self, round: Round) -> bool:
        """Whether the order acts in a round."""
        return self.order is not None and self.order.has_started(round) and self.order.is_due(round)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Of the stages that select; the Trainer keeps the weighers', which change at every step."""
        states = {name: stage.state_dict() for name, stage in self._selecting().items()}
        return {f"{name}/{key}": array for name, state in states.items() for key, array in state.items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        for name, stage in self._selecting().items():
            own = {key: array for key, array in state.items() if key.startswith(f"{name}/")}
            stage.load_state_dict({key.removeprefix(f"{name}/"): array for key, array in own.items()})


class _Log:
    """What each stage did in a round, for its record."""

    def __init__(self, round: Round):
        self.round = round
        self.entries: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def of(self, stage: Stage | None, rows: int) -> Iterator[dict[str, Any]]:
        """The entry of a stage before which there are so many rows. None: of the draw of a plan that names none."""
        started = time.perf_counter()
        name, by = ("draw", "Random") if stage is None else (stage.name, type(stage.by).__name__)
        kind = "draw" if stage is None else stage.kind
        entry: dict[str, Any] = {"name": name, "kind": kind, "by": by, "acted": True, "rows_before": rows}
        self.entries.append(entry)
        yield entry
        if stage is not None:
            entry["acted"] = stage.has_acted(self.round)
        entry["seconds"] = round(time.perf_counter() - started, 4)


def _rows_of(sources: Sources, shares: np.ndarray) -> int:
    """How many rows the sources with a share have."""
    return sum(len(rows) for rows, share in zip(sources.rows, shares, strict=True) if share)


def _best_first(of: Round, ranked: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """Draws of a source's rows: the first of its own in `ranked` (int64, best first), pass after pass, each pass in
    another order. Of a source without a ranked row, those trained least."""
    rng = np.random.default_rng((of.seed, of.index, 9))  # 9: another stream than those of selectors and mixers

    def pick(rows: np.ndarray, count: int) -> np.ndarray:
        best = ranked[np.isin(ranked, rows)][:count]
        if not len(best):
            return least_trained(rows, count, of.trained, of.seed)
        passes, rest = divmod(count, len(best))
        return np.concatenate([*(rng.permutation(best) for _ in range(passes)), rng.permutation(best[:rest])])

    return pick
