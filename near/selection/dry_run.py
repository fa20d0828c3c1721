"""`dry_run=true` of select.py: what a selection would take. Nothing is stored."""

import contextlib
import logging
import time
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from near.common.cost import Cost, StageCost
from near.common.processes import is_main, world_size
from near.common.sweep import of_job
from near.models.hub import download_of
from near.searching.dry_run import missing_embedder, stages_of
from near.searching.material import Material
from near.searching.settings import SearchSettings
from near.selection.cost import Scored, scoring_stage, shortlist_of, unscored_stage
from near.selection.subset import SubsetExport

log = logging.getLogger(__name__)


def report_selection(
    cfg: DictConfig, output_dir: Path, search: SearchSettings, export: SubsetExport, material: Material
) -> Cost:
    """Log what a selection would do and take: a table, and dry_run.json in `output_dir`."""
    timed, needs = cfg.dry_run is True, export.needs
    embedder = missing_embedder(search) if export.needs_matrix or cfg.data.dedup == "near" else None
    model = download_of(cfg.model.name_or_path, cfg.model.revision, cfg.cache_dir) if needs.requires else None
    downloads = [name for name in (embedder, model) if name is not None]
    cost = Cost(script="select", timed=timed, processes=world_size(), downloads=downloads, **of_job())
    stages: dict[str, StageCost] = {}
    if export.needs_matrix:
        stages |= stages_of(search, material.candidates, material.queries, timed and embedder is None)
    elif needs.vectors:
        log.info(f"dry run: selector {export.name} reads the pool's vectors; the time to embed them is not estimated")
    else:
        computed = f"; the model would compute {needs.requires}" if needs.requires else ""
        log.info(f"dry run: selector {export.name} needs no neighbours: nothing would be embedded{computed}")
    if needs.requires and export.selector is not None:
        scored = Scored.of(cfg, export.selector, len(material.candidates.eligible()))
        times = len(cfg.scoring.checkpoints or [None])
        queries = len(material.queries.eligible()) if needs.requires == "gradients" else 0
        if timed and model is None:
            more, row = _scoring(cfg, export, material, scored, queries, times)
            stages |= more
            cost = replace(cost, shortlist=shortlist_of(scored, more["scoring"], row, cfg.n))
        else:
            stages["scoring"] = unscored_stage(needs, (scored.rows, queries), times)
    not_counted = []
    if cfg.data.dedup == "near":
        not_counted.append("data.dedup=near: near duplicates are known only once rows are embedded")
    if cfg.data.get("decontaminate") and cfg.data.decontaminate.cosine is not None:
        not_counted.append("data.decontaminate.cosine")
    if cfg.page:
        not_counted.append("page=true")
    cost = replace(cost, stages=stages, not_counted=not_counted)
    if is_main():
        cost = cost.report(output_dir)
        cost.log(output_dir)
        log.info("nothing was stored; leave out dry_run to start")
    return cost


def _scoring(
    cfg: DictConfig, export: SubsetExport, material: Material, scored: Scored, queries: int, times: int
) -> tuple[dict[str, StageCost], float]:
    """Load the model, and time a few rows; the stages, and seconds for a row of the pool."""
    from near.models.loading import load_tokenizer
    from near.models.sample import sample_tokens, tokenising_seconds
    from near.models.tokens import tokenize
    from near.selection.offline import scored_model
    from near.selection.scoring.checkpoints import Checkpoint
    from near.selection.scoring.scoring import scorer_of

    tokenizer = load_tokenizer(cfg.model, cfg.cache_dir)
    pool = sample_tokens(material.candidates, material.candidates.eligible(), tokenizer, cfg.data)
    targets = None
    if queries:
        targets = sample_tokens(material.queries, material.queries.eligible(), tokenizer, cfg.data)
    started = time.perf_counter()
    model = scored_model(cfg, cfg.cache_dir, export.needs)
    loading = time.perf_counter() - started
    tokenising = tokenising_seconds(pool, material.candidates, tokenizer, cfg.data, cfg.cache_dir)
    checkpoints = Checkpoint.all(list(cfg.scoring.checkpoints)) if cfg.scoring.checkpoints else [None]
    scorer, stored, moments = None, 0, None
    if not tokenising and not scored.shortlisted:  # with the tokens, the rows that are scored are known
        tokens = tokenize(material.candidates, tokenizer, cfg.data, cfg.cache_dir)
        scorer = scorer_of(cfg, cfg.cache_dir, tokens, None, tokenizer, model.device.type)
    for checkpoint in checkpoints:
        with contextlib.nullcontext() if checkpoint is None else checkpoint.in_place(model):
            if checkpoint is not None and cfg.scoring.adam:
                moments = checkpoint.moments(model)
            if scorer is not None:
                stored += scorer.stored(model, moments, scorer.tokens.eligible, export.needs.requires)
    stage, row = scoring_stage(
        cfg, export.needs, model, moments, tokenizer, pool, targets, (scored.rows, queries), times, stored
    )
    stages = {
        "tokenising": StageCost.whole(
            tokenising, rows=len(material.candidates), note="" if tokenising else "in the cache already"
        ),
        "loading the model": StageCost.whole(loading),
        "scoring": stage,
    }
    return stages, row
