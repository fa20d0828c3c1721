"""Tasks in turn: each takes its best row that is left, until it has as many as its budget allows (round robin, as RDS+
selects for several tasks: Ivison et al. 2025, arXiv 2503.01807)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from near.common.bounds import between
from near.common.errors import UserError, did_you_mean
from near.selection.round import Round, Subset

# rows of a round for each task, by its name: a number (int), or a share (float, up to 1.0); equal: the same for all
Budgets = Literal["equal"] | dict[str, Annotated[int | float, between(0, 1e9)]]

ROUNDED = 0.01  # shares of all tasks may miss 1 by so much: 0.33, 0.33, 0.33


def by_task(budgets: Budgets | None, round: Round, size: int, select: Callable[[Round], Subset]) -> Subset:
    """At most `size` rows, of each task as many as its budget; without budgets, those of `select`.

    Args:
        budgets: see Budgets.
        round: with queries, and neighbours or similarities of them.
        size: of the subset.
        select: picks up to `size` rows, best first, for the queries that a round has.
    """
    if budgets is None:
        return select(round)
    task = round.tasks()
    return in_turn(
        budgets, sorted(set(task)), size, lambda name: select(round.of_queries(np.flatnonzero(task == name)))
    )


def in_turn(budgets: Budgets, tasks: Sequence[str], size: int, rank: Callable[[str], Subset]) -> Subset:
    """Walk the tasks' rankings in turn. A row that several tasks want is the first one's that comes to it.

    >>> rankings a: [5, 2, 7], b: [5, 9, 2, 1]   and size 4, equal budgets   ->   5 (a), 9 (b), 2 (a), 1 (b)

    A task whose ranking ends leaves the rest of its budget unused.

    Args:
        budgets: see Budgets.
        tasks: all of them.
        size: of the subset.
        rank: a task's rows, best first; with `size` of them it can always use its budget.
    """
    left = {task: rows for task, rows in rows_of(budgets, tasks, size).items() if rows}
    rankings = {task: rank(task) for task in left}
    walks = {task: iter(enumerate(ranking.ids.tolist())) for task, ranking in rankings.items()}
    taken: dict[int, float] = {}  # scores by row
    while left:
        for task in list(left):
            position = next((at for at, row in walks[task] if row not in taken), None)
            if position is None:
                del left[task]
                continue
            ranking = rankings[task]
            scores = ranking.scores
            taken[int(ranking.ids[position])] = math.nan if scores is None else float(scores[position])
            left[task] -= 1
            if not left[task]:
                del left[task]
    return Subset(np.array(list(taken), dtype=np.int64), np.array(list(taken.values()), dtype=np.float32))


def rows_of(budgets: Budgets, tasks: Sequence[str], size: int) -> dict[str, int]:
    """Rows of each task, in the order of turns: those that `budgets` names, then the others, which share what is left.

    They add up to `size`, if not all tasks have numbers.

    >>> rows_of({"b": 0.5, "c": 2}, ["a", "b", "c", "d"], 11)
    {'b': 5, 'c': 2, 'a': 2, 'd': 2}
    """
    named = {} if budgets == "equal" else dict(budgets)
    shares = {task: value for task, value in named.items() if isinstance(value, float)}
    if len(shares) == len(tasks):
        named = {task: value / (sum(shares.values()) or 1) for task, value in named.items()}
    exact = {task: value * size if isinstance(value, float) else value for task, value in named.items()}
    others = [task for task in tasks if task not in named]
    exact |= {task: max(0.0, size - sum(exact.values())) / len(others) for task in others}
    rows = {task: int(value + 1e-9) for task, value in exact.items()}
    missing = int(sum(exact.values()) + 0.5) - sum(rows.values())
    for task in sorted(exact, key=lambda task: rows[task] - exact[task])[:missing]:  # the largest fractions, in order
        rows[task] += 1
    return rows


def check_budgets(budgets: Budgets, tasks: Sequence[str], sizes: Sequence[int]) -> None:
    """UserError for budgets that do not fit the queries' tasks, or rounds of `sizes` rows."""
    if not isinstance(budgets, Mapping):
        return
    for name in budgets:
        if name not in tasks:
            raise UserError(
                f"selector.budgets: no query is of the task '{name}' (data.queries.columns.source)"
                f"{did_you_mean(name, tasks)}"
            )
    numbers = sum(value for value in budgets.values() if not isinstance(value, float))
    shares = sum(value for value in budgets.values() if isinstance(value, float))
    if not numbers and not shares and len(budgets) == len(tasks):
        raise UserError("selector.budgets are all 0; raise one of them")
    if len(budgets) == len(tasks) and not numbers and abs(shares - 1) > ROUNDED:
        raise UserError(f"selector.budgets: the shares of all tasks add up to {shares:g}; make it 1")
    for size in sizes:
        if numbers + shares * size > size * (1 + ROUNDED) or numbers > size:
            raise UserError(
                f"selector.budgets add up to {numbers + shares * size:g} rows, more than the {size} of a round; lower "
                "them"
            )


def plain_budgets(budgets: Budgets | None) -> Budgets | None:
    """`budgets` of a configuration with names as texts."""
    return {str(task): value for task, value in budgets.items()} if isinstance(budgets, Mapping) else budgets
