"""A run's inputs beside its model: rows, tokens, precomputed neighbours, and the identity of its outcome."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from near.common.config import identity as outcome
from near.common.errors import UserError
from near.common.files import digest
from near.common.records import RunIdentity
from near.data.columns import columns_of
from near.data.contamination import without_contaminated
from near.data.pool import benchmark_sets, without_prompts_of
from near.data.rows import Rows
from near.data.weights import joined, weights_of
from near.evaluation.measure import Sets, evaluation_sets
from near.models.loading import base_folder, load_tokenizer, model_config
from near.models.start import by_content
from near.models.tokens import Tokens, tokenize, with_weights
from near.searching.material import Material, load_queries
from near.searching.neighbours import Neighbours
from near.searching.settings import SearchSettings
from near.selection.needs import Needs
from near.selection.selectors.base import Selector
from near.training.fingerprints import of_run
from near.training.folder import finished, refuse_another


@dataclass
class Inputs:
    """A run's inputs beside its model. `neighbours`: None until they are searched."""

    needs: Needs
    candidates: Rows
    queries: Rows | None
    sets: Sets
    tokenizer: Any
    tokens: Tokens
    query_tokens: Tokens | None
    columns: dict[str, list]
    query_columns: dict[str, list]
    eval_table: object
    neighbours: Neighbours | None
    identity: RunIdentity

    def width(self, cfg: DictConfig) -> int | None:
        """The effective max_K: the columns of the matrix, if there is one."""
        return cfg.max_K if self.neighbours is None else self.neighbours.ids.shape[1]


def is_dynamic(cfg: DictConfig) -> bool:
    """Whether training has rounds."""
    return "update_step" in cfg.trainer


def measures_validation(cfg: DictConfig) -> bool:
    """Whether the loss on validation rows is taken at every round, if there are such rows."""
    decides = cfg.trainer.get("keep") == "best" or cfg.trainer.get("patience") is not None
    return is_dynamic(cfg) and (decides or bool(cfg.evaluation.at_rounds))


@dataclass
class LoadedRows:
    """The rows of a run, what its selector needs beside the pool, and the run's identity."""

    candidates: Rows
    queries: Rows | None
    sets: Sets
    needs: Needs
    columns: dict[str, list]
    query_columns: dict[str, list]
    identity: RunIdentity
    weights: np.ndarray | None = None  # loss weights of the candidates, float32 (n,); None: all 1

    @property
    def material(self) -> Material:
        return Material(self.candidates, self.queries)


def load_rows(cfg: DictConfig, cache_dir: str, selector: Selector, needs: Needs, output_dir: Path) -> LoadedRows | None:
    """Load them.

    Returns:
        the rows, with the run's identity; None if the run has finished already.

    Raises:
        UserError: for a data source, or if another run has finished in `output_dir`.
    """
    sets = evaluation_sets(cfg.data, cache_dir)
    answers = sets.seen or needs.answers or SearchSettings.of(cfg, cache_dir).reads_answers
    queries = load_queries(cfg.data, cache_dir, needs.queries, answers)
    if needs.requires == "gradients":
        selector.check(queries, cfg.scoring)
    candidates = Material.load(cfg.data, queries, cache_dir).candidates
    columns = columns_of(cfg.data, candidates, needs.columns, cache_dir)
    query_columns = columns_of(cfg.data, queries, needs.query_columns, cache_dir)
    weights = weights_of(cfg.data, candidates, cache_dir)
    if needs.trains_on_queries:
        if sets.seen:
            raise UserError(
                "selector=queries would train on the rows that are evaluated; set data.eval.path to other rows"
            )
        others = [*sets.all(), *benchmark_sets(cfg.data, cache_dir)]
        trained = queries
        for part in sets.all():
            trained = without_prompts_of(trained, part, cfg.data.leakage)
        behind = weights_of(cfg.data, queries, cache_dir)
        weights = joined([(weights, len(candidates)), (behind, len(queries))])
        candidates = candidates.followed_by(without_contaminated(trained, others, cfg.data, cache_dir))
    prints = of_run(cfg, cache_dir, needs, sets, queries, candidates)
    read = {"candidates.columns": columns, "queries.columns": query_columns}
    prints |= {part: digest(values) for part, values in read.items() if values}
    if weights is not None:
        prints["candidates.weights"] = hashlib.sha256(weights.tobytes()).hexdigest()
    identity = RunIdentity(config=by_content(outcome(cfg), cfg), fingerprints=prints)
    if cfg.get("dry_run") == "forecast":  # beside a finished run of the same options, whose rows were read for less
        refuse_another(output_dir, identity)
    elif finished(output_dir, identity, cfg.overwrite):
        return None
    if cfg.get("dry_run") not in (True, "count"):  # which download nothing
        base_folder(cfg.model, cache_dir)
        if needs.requires:
            selector.check_model(model_config(cfg.model, cache_dir))
    return LoadedRows(candidates, queries, sets, needs, columns, query_columns, identity, weights)


def load_inputs(cfg: DictConfig, cache_dir: str, selector: Selector, rows: LoadedRows) -> Inputs:
    """Tokenize `rows`, and read the neighbours if indices_path names their file."""
    tokenizer = load_tokenizer(cfg.model, cache_dir)
    tokens = tokenize(rows.candidates, tokenizer, cfg.data, cache_dir)
    if rows.weights is not None:
        tokens = with_weights(tokens, rows.weights)
    if rows.needs.trains_on_queries:  # whose ids follow the pool's
        first = len(rows.candidates) - len(rows.queries)
        tokens = dataclasses.replace(tokens, eligible=tokens.eligible[tokens.eligible >= first])
    if (selector.most(len(tokens.eligible)) or 0) > len(tokens.eligible):
        raise UserError(
            f"selector.subset_size={selector.subset_size} is more than the {len(tokens.eligible)} eligible rows of the "
            "pool"
        )
    if is_dynamic(cfg):
        selector.check_pool(rows.candidates, tokens.eligible)
        selector.check_columns(rows.columns, tokens.eligible)
    query_tokens = None
    if rows.needs.query_tokens:
        query_tokens = tokenize(rows.queries, tokenizer, cfg.data, cache_dir)
    evaluated = cfg.trainer.args.get("eval_strategy", "no") != "no"
    eval_table = None
    if evaluated:  # by the Trainer, which may keep its best checkpoint
        chosen = rows.sets.target if rows.sets.validation is None else rows.sets.validation
        rows_evaluated = tokenize(chosen, tokenizer, cfg.data, cache_dir)
        eval_table = rows_evaluated.table
        if rows.sets.validation is not None:
            eval_table = eval_table.select(rows_evaluated.eligible)
    neighbours = None
    if rows.needs.neighbours and cfg.indices_path is not None:  # read before a model is loaded
        neighbours = rows.material.neighbours(SearchSettings.of(cfg, cache_dir))
    parts = (rows.candidates, rows.queries, rows.sets)
    return Inputs(
        rows.needs,
        *parts,
        tokenizer,
        tokens,
        query_tokens,
        rows.columns,
        rows.query_columns,
        eval_table,
        neighbours,
        rows.identity,
    )
