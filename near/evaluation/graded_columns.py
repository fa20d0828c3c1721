"""Which columns of a source graders read beside its messages, and a fingerprint of them."""

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from near.common.files import digest
from near.data.loading import raw_rows
from near.data.rows import Rows


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
    graders = list((evaluation.graders or {}).values())
    chosen = [options for options in graders if getattr(get_class(options._target_), "columns", ())]
    named = [instantiate(options).columns for options in chosen]
    return None if any(names is True for names in named) else tuple(sorted({name for names in named for name in names}))
