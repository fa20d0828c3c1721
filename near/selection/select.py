"""What select.py does."""

import dataclasses
import hashlib
import logging
from pathlib import Path

from omegaconf import DictConfig

from near.common.config import public
from near.common.files import digest, provenance, write_npy
from near.common.locks import lock_file, locked
from near.common.outputs import claim, remove
from near.common.processes import is_main
from near.common.records import SelectionManifest
from near.common.run_folder import CONTAMINATED
from near.data.contamination import write_overlaps
from near.data.pool import held_out
from near.embedding.embed import reads_answers
from near.searching.equal_rows import warn_of_equal
from near.searching.find import SearchSettings, check_same, width_of
from near.searching.material import Material, load_queries
from near.searching.neighbours import Neighbours, matrix_digests
from near.searching.summary import summarise
from near.selection.subset import SubsetExport

log = logging.getLogger(__name__)


def select(cfg: DictConfig, output_dir: Path) -> None:
    """What select.py does: write top_indices.npy, top_scores.npy and manifest.json into `output_dir`, and the subset of
    `cfg.selector`; the subset alone if its selector needs no neighbours."""
    manifest, cache_dir = output_dir / "manifest.json", cfg.cache_dir
    search, answers = SearchSettings.of(cfg, cache_dir), reads_answers(cfg.embedder)
    export = SubsetExport(cfg, output_dir, cache_dir)
    existing = (output_dir, SelectionManifest.read(manifest)) if manifest.exists() and not cfg.overwrite else None
    queries = load_queries(cfg.data, cache_dir, export.needs_matrix, export.needs.answers or answers)
    material = Material.load(cfg.data, queries, cache_dir)
    export.check(material)
    if export.needs_matrix:
        width_of(cfg.max_K, len(material.candidates.eligible()))
    if cfg.dry_run:
        return _dry_run(search, export, material, cfg.data.dedup) if is_main() else None
    material = material.distinct(cfg.data, search)
    neighbours = None
    if export.needs_matrix:
        reach = 0 if export.selector is None else export.selector.reach([cfg.n])
        neighbours = material.neighbours(search, reach, existing)
        warn_of_equal(material.candidates, held_out(cfg.data, None, cache_dir, answers), cfg.embedder, cache_dir)
    export.pick(material, neighbours)
    if is_main():
        _write(cfg, output_dir, export, material, neighbours)


def _dry_run(search: SearchSettings, export: SubsetExport, material: Material, dedup: str) -> None:
    if export.needs_matrix:
        from near.searching.dry_run import report

        return report(search, material.candidates, material.queries, dedup)
    model = f"; the model would compute {export.needs.requires}" if export.needs.requires else ""
    log.info(f"dry run: selector {export.name} needs no neighbours: nothing would be embedded{model}")


def _write(
    cfg: DictConfig, folder: Path, export: SubsetExport, material: Material, neighbours: Neighbours | None
) -> None:
    """Write the matrix, if there is one, the subset and the manifest, unless the folder has another selection."""
    manifest = _pool_manifest(export, material) if neighbours is None else neighbours.manifest
    path = folder / "manifest.json"
    with locked(lock_file(export.cache_dir, digest(str(folder.resolve())))):
        if path.exists() and not cfg.overwrite:  # another run may just have written it
            existing = SelectionManifest.read(path)
            if neighbours is not None:
                check_same(folder, existing, manifest, neighbours.ids.shape[1])
            elif existing.key not in (None, manifest.key):
                raise export.occupied("another selection")
        with export.prepared(manifest.key, material, neighbours) as move:
            claim(folder, "select")
            unused = ("top_indices.npy", "top_scores.npy") if neighbours is None else ()
            remove(
                folder, "manifest.json", CONTAMINATED, *unused
            )  # the manifest is written last, beside complete files of its own
            if neighbours is not None:
                write_npy(folder / "top_indices.npy", neighbours.ids)
                write_npy(folder / "top_scores.npy", neighbours.scores)
                manifest = dataclasses.replace(manifest, sha256=matrix_digests(folder))
            contamination = write_overlaps(folder, material.candidates)
            described = {**move(), **provenance(), "contamination": contamination, "config": public(cfg)}
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
