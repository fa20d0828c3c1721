"""Loading of data sources: each is read once into a table of canonical rows with stable ids.

A row's id is its position in the source. A faulty row stays in its position with the reason in `fault`, so that ids
never shift; it is not eligible. The table is cached under a key of the source's content.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from near.common.cached import cached
from near.common.config import CONF
from near.common.errors import UserError
from near.common.files import cache_folder, digest, read_json, write_json
from near.common.processes import is_main
from near.common.signature import attribute
from near.common.text import plural
from near.data.dataset_info import from_dataset_info
from near.data.options import NUMBERS
from near.data.reading import Reading, log_lines
from near.data.rows import Rows
from near.data.sampling import sampled
from near.data.sources.sources import Opened, open_sources
from near.data.table import FILTERED, Table

log = logging.getLogger(__name__)

_logged: set[str] = set()  # lines about sources, each logged once: a run loads some sources several times


def is_set(cfg: DictConfig, part: str) -> bool:
    """Whether `data.<part>.path` is set."""
    return cfg[part] is not None and cfg[part].path is not None


def more_sets(cfg: DictConfig) -> dict[str, str]:
    """The sets of `data.more_eval`: names to parts that `load` accepts."""
    return {name: f"more_eval.{name}" for name in cfg.get("more_eval") or {}}


def benchmarks(cfg: DictConfig) -> dict[str, str]:
    """The sets of `data.decontaminate.benchmarks`: names to parts that `load` accepts."""
    options = cfg.get("decontaminate") or {}
    return {name: f"decontaminate.benchmarks.{name}" for name in options.get("benchmarks") or {}}


def _source(cfg: DictConfig, part: str) -> DictConfig:
    """The configuration of `data.<part>`. A named set is a path, or values that differ from the defaults."""
    parts = {part: cfg.more_eval[name] for name, part in more_sets(cfg).items()}
    parts |= {part: cfg.decontaminate.benchmarks[name] for name, part in benchmarks(cfg).items()}
    if part not in parts:
        return cfg[part]
    values = parts[part] if isinstance(parts[part], DictConfig) else {"path": parts[part]}
    return OmegaConf.merge(OmegaConf.load(CONF / "data" / "source" / "default.yaml"), values)


def load_pool(cfg: DictConfig, fingerprint: str | None, cache_dir: str) -> Rows:
    """The candidates, followed by the queries where these rows, and not the candidates alone, have `fingerprint`: a run
    with selector=queries trained on both."""
    rows = load(cfg, "candidates", cache_dir, answer=False)
    if rows.fingerprint == fingerprint or not is_set(cfg, "queries"):
        return rows
    both = rows.followed_by(load(cfg, "queries", cache_dir, answer=False))
    return both if both.fingerprint == fingerprint else rows


def load(cfg: DictConfig, part: str, cache_dir: str, answer: bool = True) -> Rows:
    """Load `data.<part>`.

    Args:
        cfg: the node `data` of the configuration.
        part: candidates, queries, eval, more_eval.NAME or decontaminate.benchmarks.NAME.
        cache_dir: where the tables are cached.
        answer: whether rows must end with an answer to be eligible.

    Raises:
        UserError: a missing path, file, split or column; an empty source; a filter without matches; the first faulty
            row unless `data.on_error=skip`.
    """
    where = f"data.{part}"
    if part in ("candidates", "queries", "eval") and not is_set(cfg, part):
        raise UserError(f"{where}.path is missing: set {where}.path=FILE (or a hub id, or data=demo)")
    loaded, values, source = [], [], _source(cfg, part)
    for opened, reading in _openings(source, where, cache_dir, lambda: len(loaded[-1])):
        rows, info = _load_one(cfg, reading, part, opened, cache_dir, answer)
        _check_rows(rows, info, f"{where}: {opened.path}", cfg.on_error)
        for line in log_lines(info, where, opened.path, _read_elsewhere(cfg, part)):
            if line not in _logged:
                _logged.add(line)
                log.info(line)
        loaded.append(rows)
        values.append(info["filter_values"])
    if len(loaded) == 1:
        rows = loaded[0]
    else:
        parts = tuple(pair for rows in loaded for pair in rows.parts)
        fingerprint, labels = (digest([getattr(r, name) for r in loaded]) for name in ("fingerprint", "labels"))
        rows = Rows(part, parts, fingerprint, answer, labels=labels)
    if filtered := int(rows.flagged(FILTERED).sum()):
        by = "the filter" if source.filter else "split or num_samples of their entry"
        log.info(f"{where}: {filtered} of {plural(len(rows), 'row')} left out by {by}")
    if not rows.usable().any():
        present = "; ".join(
            f"{column}: {', '.join(dict.fromkeys(v for one in values for v in one.get(column, ())))}"
            for column in source.filter or {}
        )
        raise UserError(f"{where}.filter={source.filter} matches no row; widen it; the rows have {present}")
    return rows


def _read_elsewhere(cfg: DictConfig, part: str) -> set[str]:
    """The labels, columns of numbers, and the columns of evaluation rows that graders read if `cfg` is part of a whole
    configuration."""
    root: Any = cfg._get_root()
    evaluation = None if part == "candidates" else root.get("evaluation")
    graders = (evaluation.get("graders") if isinstance(evaluation, DictConfig) else None) or {}
    columns: set[str] = set(cfg.get("labels") or ())
    named = _source(cfg, part).columns or {}
    columns |= {str(named[name]) for name in NUMBERS if named.get(name)}
    for options in graders.values():
        if isinstance(options, DictConfig):
            named, fixed = options.get("column_names"), attribute(str(options.get("_target_")), "columns")
            columns |= set(map(str, named.values())) if isinstance(named, DictConfig) else set()
            columns |= set(fixed) if isinstance(fixed, tuple) else set()
    return columns


def _openings(
    source: DictConfig, where: str, cache_dir: str, rows_of_last: Callable[[], int]
) -> Iterator[tuple[Opened, Reading]]:
    """The files and data sets that `source` names, and how each is read.

    `rows_of_last`: returns the number of rows of the previous one; called only if a limit is shared.
    """
    for one in from_dataset_info(source, where):
        files = open_sources(one, where, cache_dir)
        if one.get("sample"):
            yield from sampled(one, files, where)
            continue
        left = one.limit
        for opened in files:
            if left == 0:  # no table for a source beyond the limit
                break
            yield opened, Reading.of(one, left)
            left = None if left is None else left - rows_of_last()


def raw_rows(cfg: DictConfig, rows: Rows, ids: np.ndarray, cache_dir: str) -> Iterator[tuple[int, Mapping]]:
    """The raw rows behind loaded rows; the sources are read again as streams.

    Args:
        cfg: the node `data` of the configuration that `rows` was loaded with.
        rows: what `load` returned.
        ids: distinct ids, int64 (m,).
        cache_dir: as for `load`.

    Yields:
        (id, raw row) by ascending id.

    Raises:
        UserError: a source has changed since it was loaded.
    """
    sorted_ids, offset = np.sort(ids), 0
    for opened, table in _loaded(cfg, rows, cache_dir):
        first, last = np.searchsorted(sorted_ids, [offset, offset + len(table)])
        left = set((sorted_ids[first:last] - offset).tolist())
        for position, (_, raw) in enumerate(opened.rows() if left else ()):
            if position in left and isinstance(raw, Mapping):
                yield offset + position, raw
                left.remove(position)
                if not left:
                    break
        if left:
            raise _changed(rows, opened)
        offset += len(table)


def raw_types(cfg: DictConfig, rows: Rows, cache_dir: str) -> dict[str, pa.DataType]:
    """Column types of the sources of `rows`; columns whose type differs between sources are left out."""
    types: dict[str, pa.DataType | None] = {}
    for opened, _ in _loaded(cfg, rows, cache_dir):
        here = opened.types()
        if not here:
            return {}
        for name, kind in here.items():
            types[name] = kind if types.get(name, kind) == kind else None
    return {name: kind for name, kind in types.items() if kind is not None}


def _loaded(cfg: DictConfig, rows: Rows, cache_dir: str) -> Iterator[tuple[Opened, Table]]:
    """The sources of `rows` opened again, each with its table. UserError if one has changed."""
    where, source = f"data.{rows.name}", _source(cfg, rows.name)
    tables, seen = [table for _, table in rows.parts], []
    for opened, reading in _openings(source, where, cache_dir, lambda: len(seen[-1])):
        table = tables[len(seen)] if len(seen) < len(tables) else None
        if table is None or reading.key(opened) != table.folder.name:
            raise _changed(rows, opened)
        seen.append(table)
        yield opened, table
    if len(seen) < len(tables):
        raise UserError(f"{where}.path={source.path} names fewer files than when it was loaded; run again")


def _changed(rows: Rows, opened: Opened) -> UserError:
    return UserError(f"data.{rows.name}: {opened.path} has changed since it was loaded; run again")


def _load_one(
    cfg: DictConfig, reading: Reading, part: str, opened: Opened, cache_dir: str, answer: bool
) -> tuple[Rows, dict]:
    """One source's rows, read into the cache if they are not cached yet, and its info.json."""
    key = reading.key(opened)
    folder = cache_folder(cache_dir, "data", key)
    refresh = cfg.refresh and is_main()  # by one process; the content it replaces is the same

    def make(new: Path) -> None:
        write_json(new / "info.json", reading.write(new, opened, f"data.{part}", cfg.on_error))

    def read(folder: Path) -> tuple[Rows, dict]:
        info = read_json(folder / "info.json")
        labels = digest([opened.label, info["labels"]])
        return Rows(part, ((opened.label, Table(folder)),), info["fingerprint"], answer, labels=labels), info

    return cached(folder, make, read, again=refresh)


def _check_rows(rows: Rows, info: dict, where: str, on_error: str) -> None:
    """UserError for an empty or faulty source, by `on_error`; else log how many faulty rows are left out."""
    if not len(rows):
        raise UserError(f"{where} has no rows; add some")
    unfiltered = ~rows.flagged(FILTERED)
    faults = int((unfiltered & ~rows.usable()).sum())
    first = info["first_fault"]
    if rows.answer and (first is None or (info["first_unanswered"] or [len(rows)])[0] < first[0]):
        first = info["first_unanswered"]
    if rows.answer and faults == unfiltered.sum() > 0 and first is info["first_unanswered"]:
        raise UserError(f"{where}: no row has an answer ({first[1]}); {info['columns']}; set columns")
    if faults and on_error == "raise":
        raise UserError(f"{where}, {first[1]}; fix the row or set data.on_error=skip")
    if faults == len(rows):
        raise UserError(f"{where} has no usable row ({first[1]}); check {where}.format and {where}.columns")
    if faults:
        log.info(f"{where}: {faults} of {plural(len(rows), 'row')} left out as faulty, first: {first[1]}")
