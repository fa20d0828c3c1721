"""What a result depends on beside its configuration: the content of rows, for each use of them, and of local files.

A fingerprint of rows covers what is read of them, no more: "candidates" their messages, "candidates.sources" their
labels, "eval.columns" the columns that graders read. A result names those of all that it reads, so that a changed field
makes it again, and a field that nothing reads does not.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from near.config import select
from near.data import Rows, raw_rows
from near.files import digest, file_digest, folder_digest
from near.hub import wanted_dtype
from near.needs import Needs
from near.references import weights_in

if TYPE_CHECKING:
    from near.measure import Sets

MATRIX = ("top_indices.npy", "top_scores.npy")


def of_run(cfg: DictConfig, needs: Needs, sets: "Sets", queries: Rows | None, candidates: Rows) -> dict[str, str]:
    """The fingerprints that a run of train.py depends on, by name."""
    rows = [*sets.all(), candidates] + ([] if queries is None else [queries])
    prints = {one.name: one.fingerprint for one in rows}
    prints["candidates.sources"] = candidates.labels  # the record of every round counts them
    if queries is not None and (needs.asks_model == "gradients" or _is_foreign(cfg.selector)):  # a source is a task
        prints["queries.sources"] = queries.labels
    prints |= {f"{one.name}.columns": columns for one in sets.all() if (columns := graded_columns(cfg, one))}
    return prints | _files(cfg, needs)


def of_model(model: DictConfig, folder: str) -> dict:
    """What decides a model's weights and tokens: its files in `folder` in place of its name, and every option of it."""
    decided = {"name_or_path": folder_digest(folder), "revision": None, "dtype": wanted_dtype(model.dtype)}
    return OmegaConf.to_container(model, resolve=True) | decided


def graded_columns(cfg: DictConfig, rows: Rows) -> str | None:
    """Of the columns that the graders of `cfg` read of `rows`; None where they read messages alone."""
    if not cfg.evaluation.answers or (names := columns_read(cfg.evaluation)) == ():
        return None
    chosen = (dict(row) for _, row in raw_rows(cfg.data, rows, rows.eligible(), cfg.cache_dir))
    if names is not None:
        chosen = ({name: row.get(name) for name in names} for row in chosen)
    return digest([digest(row) for row in chosen])


def columns_read(evaluation: DictConfig) -> tuple[str, ...] | None:
    """The columns of a source that the graders read, ascending; None: any."""
    chosen = [options for options in (evaluation.graders or {}).values() if get_class(options._target_).columns]
    named = [instantiate(options).columns for options in chosen]
    return None if any(names is True for names in named) else tuple(sorted({name for names in named for name in names}))


def _files(cfg: DictConfig, needs: Needs) -> dict[str, str]:
    """Of the local files and folders that `cfg` names and the run reads. What a hub holds is known by its revision."""
    keys = ["model.name_or_path", "parallel.deepspeed"]
    if select(cfg, "evaluation.lm_eval.tasks"):
        keys.append("evaluation.lm_eval.include_path")
    if needs.neighbours or cfg.data.dedup == "near":
        keys.append("embedder.model")
    if needs.asks_model == "gradients":
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
