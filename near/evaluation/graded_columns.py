"""What decides grades beside answers and messages: the columns of a source that graders read, and their own code."""

import ast
import inspect
import sys

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from near.common.files import digest
from near.data.loading import raw_rows
from near.data.rows import Rows
from near.evaluation.graders.base import Grader


def graded_columns(evaluation: DictConfig, data: DictConfig, rows: Rows, cache_dir: str) -> str | None:
    """Fingerprint of the columns that the graders of `evaluation` read from `rows`; None if they read only messages."""
    if not evaluation.answers or (names := columns_read(evaluation)) == ():
        return None
    chosen = (dict(row) for _, row in raw_rows(data, rows, rows.eligible(), cache_dir))
    if names is not None:
        chosen = ({name: row.get(name) for name in names} for row in chosen)
    return digest([digest(row) for row in chosen])


def grader_code(evaluation: DictConfig) -> dict[str, str]:
    """Digests of the code of each grader: the modules of its class and bases, without imports and comments, so that a
    module may move. None without answers."""
    if not evaluation.answers:
        return {}
    return {name: _code(get_class(options._target_)) for name, options in (evaluation.graders or {}).items()}


def _code(cls: type) -> str:
    bases = [base for base in cls.__mro__ if base not in Grader.__mro__]
    return digest([base.__qualname__ for base in bases] + [_module_code(base.__module__) for base in bases])


def _module_code(name: str) -> str | None:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError):  # no source file
        return None
    return ast.dump(ast.Module([node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)], []))


def columns_read(evaluation: DictConfig) -> tuple[str, ...] | None:
    """The columns that the graders read, sorted; None: all columns."""
    graders = list((evaluation.graders or {}).values())
    chosen = [options for options in graders if getattr(get_class(options._target_), "columns", ())]
    named = [instantiate(options).columns for options in chosen]
    return None if any(names is True for names in named) else tuple(sorted({name for names in named for name in names}))
