"""The parts of a report that come from the pool, gathered once for the terminal and the page."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, one_line
from near.data.loading import is_set, load
from near.data.rows import Rows
from near.report.compare import Group, settings_of
from near.report.labels import labels_of
from near.report.page.pool import Pool, pool_of
from near.report.page.pool_map import PoolMap, pool_map
from near.report.page.taken import Taken, taken
from near.report.runs import quiet
from near.report.shares import ORACLE, Picks, Shares, shares_of

NAMES = ("data.target", "data.queries.path", "data.eval.path")  # settings that name a target, the first that differs


@dataclass(frozen=True)
class TargetShares:
    """What the selections for one target looked at. `target`: its name; empty where there is one target."""

    target: str
    shares: list[Shares]


class Parts:
    """`absent`: why parts are missing."""

    def __init__(self):
        self.pool: Pool | None = None
        self.taken: list[Taken] = []
        self.shares: list[TargetShares] = []
        self.map: PoolMap | None = None
        self.absent: list[str] = []


def gathered(cfg: DictConfig, groups: list[Group], read_config: Callable[[Path], DictConfig]) -> Parts:
    """The parts for the selections `groups`; arguments: see page.page and report.report."""
    parts = Parts()
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
    try:
        parts.shares = _by_target(parts.pool, groups, read_config)
    except (UserError, OSError, ValueError) as error:
        parts.absent.append(f"No shares by label: {one_line(error)}.")
    if cfg.map is not None:
        try:
            parts.map = pool_map(parts.pool, parts.taken, cfg.map_rows, cfg.map)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            parts.absent.append(f"No map of the pool: {one_line(error)}.")
    return parts


def _by_target(pool: Pool, groups: list[Group], read_config: Callable[[Path], DictConfig]) -> list[TargetShares]:
    """The shares for each target, beside its own pool. `pool`: of most runs."""
    targets: dict[tuple, list[Group]] = {}
    for group in groups:
        targets.setdefault(group.one.evaluated, []).append(group)
    if len(targets) == 1:
        by_target = [TargetShares("", _shares(pool, groups))]
    else:
        names = _names([of[0] for of in targets.values()])
        pairs = zip(names, targets.values(), strict=True)
        by_target = [TargetShares(name, _shares(pool_of(of, read_config), of)) for name, of in pairs]
    return [of for of in by_target if any(one.selections for one in of.shares)]


def _names(groups: list[Group]) -> list[str]:
    """A name for each target, of whose selections one is given."""
    settings = [settings_of(group.one) for group in groups]
    for key in NAMES:
        names = [str(of.get(key)) for of in settings]
        if len(set(names)) == len(names):
            return names
    return [f"target {number}" for number in range(1, len(groups) + 1)]


def _shares(pool: Pool, groups: list[Group]) -> list[Shares]:
    with quiet():
        labels = labels_of(pool.data, pool.rows, _target(pool), pool.search.cache_dir)
    selections = [
        Picks(group.label, one.ids, one.rounds, group.one.selector == ORACLE)
        for group in groups
        if group.one.pool == pool.fingerprint and (one := taken(group)).ids.max(initial=0) < len(pool.rows)
    ]
    return shares_of(labels, selections, pool.rows.eligible())


def _target(pool: Pool) -> Rows | None:
    """The queries, or the evaluation rows where there are none."""
    if pool.queries is not None or not is_set(pool.data, "eval"):
        return pool.queries
    return load(pool.data, "eval", pool.search.cache_dir, answer=False)
