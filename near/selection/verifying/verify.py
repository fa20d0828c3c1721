"""All checks of a folder that was handed on, cheap ones first."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hydra.utils import get_class
from omegaconf import DictConfig

from near.common.config import as_before, differences, public, refusal
from near.common.errors import UserError, one_line
from near.common.moved import class_names
from near.common.text import plural
from near.data.contamination import is_dropping
from near.data.loading import load, load_pool
from near.data.rows import Rows
from near.searching.indexes.flat import Flat
from near.searching.material import Material, load_queries
from near.searching.settings import SearchSettings
from near.selection.needs import needs_of
from near.selection.selectors.base import selector_of
from near.selection.verifying.checks import FAULTS, Check, Settings, failed, impossible, reason
from near.selection.verifying.choice import check_choice
from near.selection.verifying.content import check_content, check_keys
from near.selection.verifying.embedder import check_embedder, needed_download, plain
from near.selection.verifying.files import check_files
from near.selection.verifying.folder import KEYS, MANIFEST, SelectionFolder, read_array
from near.selection.verifying.recompute import MappedIds, Wanted, by_vectors, by_words
from near.selection.verifying.rows import Matched, check_eligible, check_inside, check_rows
from near.selection.verifying.scores import check_scores, tolerance_of
from near.selection.verifying.signature import check_signature
from near.selection.verifying.time_limit import TimeLimit


def verify(folder: SelectionFolder, config: Callable[[], DictConfig], settings: Settings) -> list[Check]:
    """Check a folder.

    Args:
        config: returns its configuration, with the data here. Raises UserError if it can't be read.

    Returns:
        the checks in the order in which they were made.
    """
    folder.check_single()
    signature = check_signature(folder.path / MANIFEST, settings.signers)
    checks = ([] if signature is None else [signature]) + check_files(folder)
    is_whole = not any(check.name == "matrix" and check.outcome == "failed" for check in checks) and _is_readable(
        folder
    )
    try:
        cfg = config()
    except FAULTS as error:
        return [*checks, impossible("data", f"the folder's configuration can't be used: {reason(error)}")]
    return checks + (_run_data(folder, cfg, settings) if folder.is_run else _selection(folder, cfg, settings, is_whole))


def _is_readable(folder: SelectionFolder) -> bool:
    try:
        folder.named()
    except UserError:  # a check of the files says so
        return False
    return True


def _keys(folder: SelectionFolder, part: str) -> np.ndarray | None:
    try:
        return folder.keys(part)
    except UserError:  # damaged: the check of the files says so
        return None


def _run_data(folder: SelectionFolder, cfg: DictConfig, settings: Settings) -> list[Check]:
    """Checks of a run's data; the model that it trained is not computed again."""
    checks = []
    for part, name in (("candidates", "pool"), ("queries", "queries"), ("eval", "eval rows")):
        record = folder.record(part)
        if record is None:
            continue
        try:
            is_pool = part == "candidates"
            rows = (
                load_pool(cfg.data, record.fingerprint, settings.cache_dir)
                if is_pool
                else load(cfg.data, part, settings.cache_dir, answer=False)
            )
            named = folder.named() if is_pool else None
            check, matched = check_rows(name, f"data.{part}", record, _keys(folder, part), rows, named)
            checks.append(check)
            if part in KEYS:
                checks += check_keys(part, record, _keys(folder, part), rows)
            if matched is not None and named is not None:
                checks += check_inside(named, matched) or check_content(folder, cfg, settings.cache_dir, rows, matched)
        except FAULTS as error:
            checks.append(impossible(name, reason(error)))
    why = "training, evaluation and the selections of rounds are not repeated; train again to check them"
    return [*checks, Check("training", "not checked", why)]


def _selection(folder: SelectionFolder, cfg: DictConfig, settings: Settings, is_whole: bool) -> list[Check]:
    """Checks of a selection's data, scores and subset."""
    manifest, data, cache_dir = folder.manifest, cfg.data, settings.cache_dir
    try:
        if not is_dropping(data):  # it leaves no row out, and takes long
            data.decontaminate = None
        search = SearchSettings.of(cfg, cache_dir)
        selector = None if cfg.get("selector") is None else selector_of(cfg.selector)
        needs = None if selector is None else needs_of(cfg, selector)
        answers = search.reads_answers or needs is not None and needs.answers
        queries = load_queries(data, cache_dir, folder.has_matrix, answers)
        pool = Material.load(data, queries, cache_dir).candidates
    except FAULTS as error:
        return [impossible("data", reason(error))]
    named = folder.named() if is_whole else None
    check, of_pool = check_rows(
        "pool", "data.candidates", manifest.candidates, _keys(folder, "candidates"), pool, named
    )
    checks = [check, *check_keys("candidates", manifest.candidates, _keys(folder, "candidates"), pool)]
    of_queries = None
    if manifest.queries is None and folder.has_matrix:
        checks.append(failed("queries", "the manifest does not say which queries the matrix is of"))
    elif manifest.queries is not None and queries is None:
        checks.append(impossible("queries", "the configuration names none; name them with data.queries.path=FILE"))
    elif manifest.queries is not None and queries is not None:
        check, of_queries = check_rows(
            "queries", "data.queries", manifest.queries, _keys(folder, "queries"), queries, None
        )
        checks += [check, *check_keys("queries", manifest.queries, _keys(folder, "queries"), queries)]
    if of_pool is None:
        return checks
    if named is not None and (outside := check_inside(named, of_pool)):
        return checks + outside
    if not is_whole:
        return [*checks, impossible("scores", "the folder's files are not whole")]
    unknown = None  # why it is unknown which rows may be selected
    try:
        checks += check_content(folder, cfg, cache_dir, pool, of_pool)
    except FAULTS as error:
        checks.append(impossible("exported rows", reason(error)))
    try:
        pool = _eligible(Material(pool, queries), data, search, settings)
        checks.append(check_eligible(manifest.candidates, manifest.eligible_digest, pool, of_pool))
    except (*FAULTS, ModuleNotFoundError) as error:
        checks.append(impossible("eligible rows", reason(error)))
        unknown = "it is unknown which rows may be selected, see eligible rows"
    material = Material(pool, queries)
    if folder.has_matrix and of_queries is not None:
        of_matrix = _scores(folder, search, settings, material, of_pool, of_queries)
        checks += [impossible(c.name, unknown) if unknown and c.name == "neighbours" else c for c in of_matrix]
    if folder.subset() is not None:
        checks.append(
            impossible("choice", unknown) if unknown else _choice(folder, cfg, settings, material, of_pool, of_queries)
        )
    return checks


def _eligible(material: Material, data: DictConfig, search: SearchSettings, settings: Settings) -> Rows:
    """The pool without the rows that vectors leave out; computed anew only where there is no time limit."""
    compares = data.dedup == "near" or data.get("decontaminate") and data.decontaminate.cosine is not None
    if compares and (download := needed_download(search.embedder, settings)):
        raise UserError(download)
    try:
        return material.distinct(data, search, compute=settings.limit is None).candidates
    except UserError as error:
        if settings.limit is None:
            raise
        raise UserError(f"{one_line(error)}; or set limit=null, which computes them") from error


def _choice(
    folder: SelectionFolder,
    cfg: DictConfig,
    settings: Settings,
    material: Material,
    of_pool: Matched,
    of_queries: Matched | None,
) -> Check:
    if cfg.get("selector") is None:
        return impossible("choice", "the configuration has no selector, and subset.npy has rows")
    try:
        now = {**as_before(public(cfg, decisive=True)), "n": cfg.n, "seed": cfg.seed}
        now = class_names({name: now[name] for name in ("n", "seed", "selector")})
        described = class_names({name: (folder.manifest.subset or {}).get(name) for name in now})
        if differing := differences(described, now):
            return failed("choice", f"the manifest's subset and configuration differ: {differing[0]}")
    except FAULTS as error:
        return impossible("choice", reason(error))
    if not of_pool.is_same:
        return impossible("choice", "the pool's rows are not those, or in another order, which selectors depend on")
    try:
        if download := needed_download(cfg.embedder, settings):
            cfg.embedder.model = refusal(cfg.embedder.model, download)  # an error for a selector that reads vectors
        check = check_choice(folder, cfg, settings.cache_dir, material)
    except FAULTS as error:
        return impossible("choice", reason(error))
    if check.outcome == "failed" and of_queries is not None and not of_queries.is_same:
        return impossible("choice", "the queries are not those, or in another order, which the selector may depend on")
    return check


def _scores(
    folder: SelectionFolder,
    search: SearchSettings,
    settings: Settings,
    material: Material,
    of_pool: Matched,
    of_queries: Matched,
) -> list[Check]:
    ids, scores = (read_array(folder.path / f"top_{name}.npy", mapped=True) for name in ("indices", "scores"))
    positions = _query_ids(material.queries, of_queries, len(ids))
    if positions is None:
        return [
            failed("scores", f"the matrix has {plural(len(ids), 'query', 'queries')}, and other ones may be used here")
        ]
    here = MappedIds(ids, of_pool.here)
    order = np.random.default_rng(settings.seed).permutation(len(ids))
    order = order[positions[order] >= 0]
    wanted = Wanted(order, positions, here, material.candidates, material.queries)
    manifest, clock = folder.manifest, TimeLimit(settings.limit)
    checks, exact = [], True
    try:
        if search.words is not None:
            if differing := differences(plain(manifest.similarity), plain(search.words.signature)):
                return [failed("similarity", differing[0])]
            done = by_words(wanted, search.words, clock)
        else:
            embedder, check = check_embedder(search, settings, manifest.embedder or {})
            checks.append(check)
            if check.outcome != "passed":
                return checks + [impossible("scores", "could not be recomputed without that embedder")]
            index: Any = get_class(search.index._target_)
            exact = index.exact if search.indices_path is None else (manifest.index or {}).get("exact", True)
            done = by_vectors(wanted, embedder, Flat(device="cpu"), settings.cache_dir, clock)
    except (*FAULTS, ModuleNotFoundError) as error:
        return [*checks, impossible("scores", f"could not be recomputed: {reason(error)}")]
    of_words = search.words is not None
    tolerance = settings.tolerance or tolerance_of(None if of_words else manifest.embedder, scores[:, 0])
    eligible = len(material.candidates.eligible())
    return checks + check_scores(ids, scores, here, of_pool.there, done, eligible, tolerance, exact)


def _query_ids(queries: Rows, of_queries: Matched, count: int) -> np.ndarray | None:
    """The row here of each of the matrix's `count` queries, int64 (count,), -1 for one that is missing; None if it is
    unknown which rows they were."""
    there = np.sort(of_queries.there[queries.eligible()])
    there = there[there >= 0]
    if len(there) == count:
        return of_queries.here[there]
    if len(of_queries.here) == count:  # all of them
        here = of_queries.here.copy()
        here[~np.isin(here, queries.eligible())] = -1
        return here
    return None
