"""Fingerprints of what a result depends on beside its configuration: the content of rows and of local files.

Rows have a fingerprint for each use: "candidates" covers their messages, "candidates.sources" their labels,
"eval.columns" the columns that graders read. A result lists those of everything it reads. So it is computed again when
a field changes that it reads, and not when another field changes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from near.common.config import select
from near.common.files import digest, file_digest, folder_digest
from near.data.contamination import is_dropping
from near.data.pool import benchmark_sets
from near.data.rows import Rows
from near.evaluation.graded_columns import graded_columns
from near.models.start import start_digest
from near.searching.settings import SearchSettings
from near.selection.needs import Needs
from near.selection.plan.kinds import selection_nodes
from near.selection.scoring.references import weights_in

if TYPE_CHECKING:
    from near.evaluation.measure import Sets

MATRIX = ("top_indices.npy", "top_scores.npy")


def of_run(
    cfg: DictConfig, cache_dir: str, needs: Needs, sets: "Sets", queries: Rows | None, candidates: Rows
) -> dict[str, str]:
    """The fingerprints that a run of train.py depends on, by name."""
    rows = [*sets.held_out(), candidates] + ([] if queries is None else [queries])
    prints = {part.name: part.fingerprint for part in rows}
    prints["candidates.sources"] = candidates.labels  # every round's record counts them
    by_task = needs.query_sources or SearchSettings.of(cfg, cache_dir).by_task  # a source is a task
    if queries is not None and (by_task or any(map(is_foreign, selection_nodes(cfg)))):
        prints["queries.sources"] = queries.labels
    if is_dropping(cfg.data):
        prints |= {part.name: part.fingerprint for part in benchmark_sets(cfg.data, cache_dir)}
    for part in sets.all():
        if columns := graded_columns(cfg.evaluation, cfg.data, part, cache_dir):
            prints[f"{part.name}.columns"] = columns
    return prints | _files(cfg, needs)


def _files(cfg: DictConfig, needs: Needs) -> dict[str, str]:
    """Fingerprints of the local files and folders that the run reads. Hub files are identified by their revision."""
    keys = ["model.name_or_path", "parallel.deepspeed"]
    if select(cfg, "evaluation.lm_eval.tasks"):
        keys.append("evaluation.lm_eval.include_path")
    by_embedding = is_dropping(cfg.data) and cfg.data.decontaminate.cosine is not None
    if needs.embedder or cfg.data.dedup == "near" or by_embedding:
        keys.append("embedder.model")
    if needs.requires == "gradients":
        keys.append("scoring.checkpoints")
    prints = {key: digest([content(path) for path in paths]) for key in keys if (paths := _paths(select(cfg, key)))}
    if (start := start_digest(cfg.model)) is not None:
        prints["model.adapter"] = start
    for key in ("mixer.reference", *(f"plan.{name}.by.reference" for name in cfg.get("plan") or ())):
        if (reference := select(cfg, key)) is not None:
            prints[key] = content(weights_in(Path(reference)))
    if needs.neighbours and cfg.indices_path is not None:
        path = Path(cfg.indices_path)
        folder = path if path.is_dir() else path.parent
        prints["indices_path"] = digest([file_digest(folder / n) for n in MATRIX if (folder / n).is_file()])
    return prints


def _paths(value: object) -> list[Path]:
    """The local files and folders among the names in an option's value."""
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, ListConfig) else []
    paths = [Path(name).expanduser() for name in names if isinstance(name, str) and name]
    return [path for path in paths if path.is_dir() or path.is_file()]


def content(path: Path) -> str:
    """The digest of a file's bytes, or of a folder's files."""
    return folder_digest(path) if path.is_dir() else file_digest(path)


def is_foreign(options: Mapping) -> bool:
    """Whether a class outside this package is named, here or within, which may read anything."""
    if not str(options.get("_target_", "near.")).startswith("near."):
        return True
    return any(is_foreign(value) for value in options.values() if isinstance(value, DictConfig))
