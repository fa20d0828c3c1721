"""The parts of a report that come from the pool, gathered once for the terminal and the page."""

from collections.abc import Callable
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, one_line
from near.data.loading import is_set, load
from near.data.rows import Rows
from near.report.compare import Group
from near.report.labels import labels_of
from near.report.page.pool import Pool, pool_of
from near.report.page.pool_map import PoolMap, pool_map
from near.report.page.taken import Taken, taken
from near.report.runs import quiet
from near.report.shares import ORACLE, LabelShares, Picks, TargetShares, shares_of
from near.report.targets import targets_of


class PageParts:
    """`absent`: why parts are missing."""

    def __init__(self):
        self.pool: Pool | None = None
        self.taken: list[Taken] = []
        self.shares: list[TargetShares] = []
        self.map: PoolMap | None = None
        self.absent: list[str] = []


def gathered(cfg: DictConfig, groups: list[Group], read_config: Callable[[Path], DictConfig]) -> PageParts:
    """The parts for the selections `groups`; arguments: see page.page and report.report."""
    parts = PageParts()
    if not groups:
        return parts
    try:
        parts.pool = pool_of(groups, read_config)
    except UserError as error:
        parts.absent.append(f"No map, no queries and no labels: {one_line(error)}.")
        return parts
    parts.taken = [taken(g) if g.one.pool == parts.pool.fingerprint else Taken.empty() for g in groups]
    if parts.pool.neighbours is None:
        parts.absent.append("No queries are shown: no run saved a matrix of neighbours.")
    _add_shares(parts, groups, read_config)
    if cfg.map is not None:
        try:
            parts.map = pool_map(parts.pool, parts.taken, cfg.map_rows, cfg.map)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            parts.absent.append(f"No map of the pool: {one_line(error)}.")
    return parts


def _add_shares(parts: PageParts, groups: list[Group], read_config: Callable[[Path], DictConfig]) -> None:
    """Add the shares for each target, beside its own pool."""
    targets = [(target.label, target.groups) for target in targets_of(groups).targets]
    for name, of in targets or [("", {group.label: group for group in groups})]:
        try:
            pool = parts.pool if not name else pool_of([*of.values()], read_config)
            shares = _shares(pool, of)
        except (UserError, OSError, ValueError) as error:
            parts.absent.append(f"No shares by label{name and f' for {name}'}: {one_line(error)}.")
            continue
        if others := [label for label, group in of.items() if group.one.pool not in (None, pool.fingerprint)]:
            parts.absent.append(f"No shares by label{name and f' for {name}'} of {', '.join(others)}: another pool.")
        if any(one.selections for one in shares):
            parts.shares.append(TargetShares(name, shares))


def _shares(pool: Pool, groups: dict[str, Group]) -> list[LabelShares]:
    """The shares of `groups`, by their names; of those from another pool there are none."""
    with quiet():
        labels = labels_of(pool.data, pool.rows, _target(pool), pool.search.cache_dir)
    selections = [
        Picks(name, one.ids, one.rounds, group.one.selector == ORACLE)
        for name, group in groups.items()
        if group.one.pool == pool.fingerprint and (one := taken(group)).ids.max(initial=0) < len(pool.rows)
    ]
    return shares_of(labels, selections, pool.rows.eligible())


def _target(pool: Pool) -> Rows | None:
    """The queries, or the evaluation rows where there are none."""
    if pool.queries is not None or not is_set(pool.data, "eval"):
        return pool.queries
    return load(pool.data, "eval", pool.search.cache_dir, answer=False)
