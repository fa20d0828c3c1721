"""What select.py does."""

import contextlib
import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.config import public
from near.common.errors import UserError
from near.common.files import digest, file_digest, provenance, write_npy
from near.common.locks import lock_file, locked
from near.common.outputs import POOL_KEYS, QUERY_KEYS, SELECTION_PAGE, claim, remove, results
from near.common.processes import is_main
from near.common.records import SelectionManifest
from near.common.run_folder import CONTAMINATED
from near.data.columns import columns_of
from near.data.contamination import write_overlaps
from near.data.pool import held_out
from near.models.start import check_here
from near.searching.equal_rows import warn_of_equal
from near.searching.find import check_same, matrix_key, width_of
from near.searching.material import Material, load_queries
from near.searching.neighbours import Neighbours, first_columns, read_matrix
from near.searching.settings import SearchSettings
from near.searching.summary import summarise
from near.selection.selectors.oracle import SOURCE
from near.selection.subset import SubsetExport

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """What select.py selected.

    Attributes:
        material: the pool and the queries.
        neighbours: None if the selector needs none.
        ids: int64 (n,), the subset in the selector's order; None without a selector.
        selector: its name.
    """

    material: Material
    neighbours: Neighbours | None
    ids: np.ndarray | None = None
    selector: str | None = None


def select(cfg: DictConfig, output_dir: Path) -> Selection | None:
    """What select.py does: write top_indices.npy, top_scores.npy and manifest.json into `output_dir`, and the subset of
    `cfg.selector`; the subset alone if its selector needs no neighbours.

    Returns:
        the selection, on the main process; None on others and after a dry run. With cfg.page a folder that already has
        this selection is read, and nothing is computed.
    """
    manifest, cache_dir = output_dir / "manifest.json", cfg.cache_dir
    if cfg.dry_run:
        check_here(cfg)
    search = SearchSettings.of(cfg, cache_dir)
    answers = search.reads_answers
    export = SubsetExport(cfg, output_dir, cache_dir)
    existing = (output_dir, SelectionManifest.read(manifest)) if manifest.exists() and not cfg.overwrite else None
    queries = load_queries(cfg.data, cache_dir, export.needs_matrix, export.needs.answers or answers)
    material = Material.load(cfg.data, queries, cache_dir)
    export.check(material)
    if export.needs_matrix:
        width_of(cfg.max_K, len(material.candidates.eligible()))
    if cfg.dry_run:
        from near.selection.dry_run import report_selection

        report_selection(cfg, output_dir, search, export, material)
        return None
    if cfg.page:
        names = [name for name in cfg.data.get("labels") or () if name != SOURCE]
        columns_of(cfg.data, material.candidates, names, cache_dir)  # raises for a mistyped name
    material = material.distinct(cfg.data, search)
    if (
        cfg.page
        and existing is not None
        and (selection := _finished(output_dir, existing[1], export, material, search))
    ):
        return selection if is_main() else None
    neighbours = None
    if export.needs_matrix:
        reach = 0 if export.selector is None else export.selector.reach([cfg.n])
        neighbours = material.neighbours(search, reach, existing)
        if search.words is None:
            warn_of_equal(material.candidates, held_out(cfg.data, None, cache_dir, answers), cfg.embedder, cache_dir)
    export.pick(material, neighbours)
    if not is_main():
        return None
    _write(cfg, output_dir, export, material, neighbours)
    ids = None if export.selector is None else export.subset.ids
    return Selection(material, neighbours, ids, export.name)


def _finished(
    folder: Path, existing: SelectionManifest, export: SubsetExport, material: Material, search: SearchSettings
) -> Selection | None:
    """The selection in `folder` if it is this one and whole, else None."""
    neighbours = None
    if export.needs_matrix:
        key = matrix_key(search, material.candidates, material.queries, existing.max_K)
        if search.max_K not in (None, existing.max_K):
            return None
    else:
        key = _pool_manifest(export, material).key
    if existing.key != key or (existing.contamination is None) != (material.candidates.overlaps is None):
        return None
    with contextlib.suppress(UserError):  # files that are missing or damaged are made again
        if export.needs_matrix:
            neighbours = dataclasses.replace(first_columns(read_matrix(folder), existing.max_K), cached=True)
        if export.selector is None:
            return Selection(material, neighbours)
        if existing.subset is not None and (ids := export.existing_ids(existing)) is not None:
            return Selection(material, neighbours, ids, export.name)
    return None


def _write(
    cfg: DictConfig, folder: Path, export: SubsetExport, material: Material, neighbours: Neighbours | None
) -> None:
    """Write the matrix, if there is one, the subset and the manifest, unless the folder has another selection."""
    manifest = _pool_manifest(export, material) if neighbours is None else neighbours.manifest
    path = folder / "manifest.json"
    with locked(lock_file(export.cache_dir, digest(str(folder.resolve())))):
        has_page = False
        if path.exists() and not cfg.overwrite:  # another run may just have written it
            existing = SelectionManifest.read(path)
            if neighbours is not None:
                check_same(folder, existing, manifest, neighbours.ids.shape[1])
            elif existing.key not in (None, manifest.key):
                raise export.occupied("another selection")
            has_page = export.selector is None or existing.subset is not None  # a page of this selection
        with export.prepared(manifest.key, material, neighbours) as move:
            claim(folder, "select")
            unused = ("top_indices.npy", "top_scores.npy") if neighbours is None else ()
            unused += () if has_page else (SELECTION_PAGE,)
            # the manifest is written last, beside complete files of its own
            remove(folder, "manifest.json", "query_scales.npy", QUERY_KEYS, CONTAMINATED, *unused)
            if neighbours is not None:
                write_npy(folder / "top_indices.npy", neighbours.ids)
                write_npy(folder / "top_scores.npy", neighbours.scores)
                if neighbours.scales is not None:
                    write_npy(folder / "query_scales.npy", neighbours.scales)
            write_npy(folder / POOL_KEYS, material.candidates.content_keys())
            if manifest.queries is not None:
                write_npy(folder / QUERY_KEYS, material.queries.content_keys())
            contamination = write_overlaps(folder, material.candidates)
            described = {**move(), **provenance(), "contamination": contamination, "config": public(cfg)}
            described["sha256"] = {name: file_digest(folder / name) for name in results(folder, ["select"])}
            dataclasses.replace(manifest, **described).write(path)
    if neighbours is not None:
        summarise(neighbours, material.candidates, material.queries)
        log.info(f"wrote {folder / 'top_indices.npy'} ({' x '.join(map(str, neighbours.ids.shape))})")


def _pool_manifest(export: SubsetExport, material: Material) -> SelectionManifest:
    """The manifest of a selection without neighbours: its pool, and the queries if the model's gradients use them."""
    candidates, queries = material.candidates, material.queries
    eligible = candidates.eligible()
    parts = {
        "candidates": {"fingerprint": candidates.fingerprint, "rows": len(candidates), "eligible": len(eligible)},
        "eligible_digest": hashlib.sha256(eligible).hexdigest()[:32],
    }
    if export.needs.requires and queries is not None:
        parts["queries"] = {"fingerprint": queries.fingerprint, "rows": len(queries)}
    return SelectionManifest.from_json({**parts, "key": digest(["no matrix", parts])}, "the pool")
