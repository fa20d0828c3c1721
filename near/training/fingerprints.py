"""What a result depends on beside its configuration: the content of rows, for each use of them, and of local files.

A fingerprint of rows covers what is read of them, no more: "candidates" their messages, "candidates.sources" their
labels, "eval.columns" the columns that graders read. A result names those of all that it reads, so that a changed field
makes it again, and a field that nothing reads does not.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from near.common.config import select
from near.common.files import digest, file_digest, folder_digest
from near.data.rows import Rows
from near.evaluation.graded_columns import graded_columns
from near.selection.needs import Needs
from near.selection.scoring.references import weights_in

if TYPE_CHECKING:
    from near.evaluation.measure import Sets

MATRIX = ("top_indices.npy", "top_scores.npy")


def of_run(
    cfg: DictConfig, cache_dir: str, needs: Needs, sets: "Sets", queries: Rows | None, candidates: Rows
) -> dict[str, str]:
    """The fingerprints that a run of train.py depends on, by name."""
    rows = [*sets.all(), candidates] + ([] if queries is None else [queries])
    prints = {one.name: one.fingerprint for one in rows}
    prints["candidates.sources"] = candidates.labels  # the record of every round counts them
    if queries is not None and (needs.requires == "gradients" or _is_foreign(cfg.selector)):  # a source is a task
        prints["queries.sources"] = queries.labels
    for one in sets.all():
        if columns := graded_columns(cfg.evaluation, cfg.data, one, cache_dir):
            prints[f"{one.name}.columns"] = columns
    return prints | _files(cfg, needs)


def _files(cfg: DictConfig, needs: Needs) -> dict[str, str]:
    """Of the local files and folders that `cfg` names and the run reads. What a hub holds is known by its revision."""
    keys = ["model.name_or_path", "parallel.deepspeed"]
    if select(cfg, "evaluation.lm_eval.tasks"):
        keys.append("evaluation.lm_eval.include_path")
    if needs.neighbours or cfg.data.dedup == "near":
        keys.append("embedder.model")
    if needs.requires == "gradients":
        keys.append("scoring.checkpoints")
    prints = {key: digest([content(path) for path in paths]) for key in keys if (paths := _paths(select(cfg, key)))}
    if select(cfg, "mixer.reference") is not None:
        prints["mixer.reference"] = content(weights_in(Path(cfg.mixer.reference)))
    if needs.neighbours and cfg.indices_path is not None:
        path = Path(cfg.indices_path)
        folder = path if path.is_dir() else path.parent
        prints["indices_path"] = digest([file_digest(folder / n) for n in MATRIX if (folder / n).is_file()])
    return prints


def _paths(value: object) -> list[Path]:
    """The local files and folders among the names that an option gives."""
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, ListConfig) else []
    paths = [Path(name).expanduser() for name in names if isinstance(name, str) and name]
    return [path for path in paths if path.is_dir() or path.is_file()]


def content(path: Path) -> str:
    """Of a file's bytes, or of a folder's files."""
    return folder_digest(path) if path.is_dir() else file_digest(path)


def _is_foreign(options: DictConfig) -> bool:
    """Whether a class from outside is named, which may read anything."""
    return not str(options.get("_target_", "near.")).startswith("near.")
