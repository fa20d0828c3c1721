"""What select.py does."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from near.common.config import public
from near.common.files import digest, provenance, read_json, write_json, write_npy
from near.common.locks import lock_file, locked
from near.common.outputs import claim, remove
from near.common.processes import is_main
from near.data.pool import held_out
from near.embedding.embed import reads_answers
from near.searching.equal_rows import warn_of_equal
from near.searching.find import Search, _check_same, width_of
from near.searching.material import Material, load_queries
from near.searching.neighbours import _digests
from near.searching.summary import summarise
from near.selection.subset import SubsetExport

log = logging.getLogger(__name__)


def select(cfg: DictConfig, output_dir: Path) -> None:
    """What select.py does: write top_indices.npy, top_scores.npy and manifest.json into `output_dir`, and the subset
    that is asked for: that alone where its selector needs no neighbours."""
    target, cache_dir = output_dir / "manifest.json", cfg.cache_dir
    search, answers = Search.of(cfg, cache_dir), reads_answers(cfg.embedder)
    export = SubsetExport(cfg, output_dir, cache_dir)
    before = read_json(target) if target.exists() and not cfg.overwrite else None
    queries = load_queries(cfg.data, cache_dir, export.needs_matrix, export.needs.answers or answers)
    material = Material.load(cfg.data, queries, cache_dir)
    export.check(material.candidates)
    if not export.needs_matrix:
        return export.without_matrix(material)
    width_of(cfg.max_K, len(material.candidates.eligible()))
    if cfg.dry_run:
        from near.searching.dry_run import report

        return report(search, material.candidates, material.queries, cfg.data.dedup) if is_main() else None
    material = material.distinct(cfg.data, search)
    candidates, queries = material.candidates, material.queries
    reach = 0 if export.selector is None else export.selector.reach([cfg.n])
    neighbours = material.neighbours(search, reach, (output_dir, before) if before else None)
    warn_of_equal(candidates, held_out(cfg.data, None, cache_dir, answers), cfg.embedder, cache_dir)
    export.pick(candidates, queries, neighbours)
    if not is_main():
        return
    with locked(lock_file(cache_dir, digest(str(output_dir.resolve())))):
        if target.exists() and not cfg.overwrite:  # another run may just have written it
            _check_same(output_dir, read_json(target), neighbours.manifest, neighbours.ids.shape[1])
        with export.prepared(neighbours.manifest["key"], candidates, queries, neighbours) as place:
            claim(output_dir, "select")
            remove(output_dir, "manifest.json")  # it is written last: where it is, the files are whole and its own
            write_npy(output_dir / "top_indices.npy", neighbours.ids)
            write_npy(output_dir / "top_scores.npy", neighbours.scores)
            manifest = {**neighbours.manifest, "sha256": _digests(output_dir)}
            write_json(target, {**manifest, **place(), **provenance(), "config": public(cfg)})
    summarise(neighbours, candidates, queries)
    log.info(f"wrote {output_dir / 'top_indices.npy'} ({' x '.join(map(str, neighbours.ids.shape))})")
