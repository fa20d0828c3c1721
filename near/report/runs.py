"""The runs below a folder, with the files that training and evaluation left in each."""

import contextlib
import dataclasses
import functools
import logging
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from near.common.config import NOT_OUTCOME
from near.common.errors import UserError
from near.common.moved import class_names
from near.common.records import WARMUP, EvalMetrics, RoundRecord, TrainMetrics
from near.common.run_folder import CONFIG, JOBS, METRICS, RunFolder, below
from near.common.schema import ForeignRecord

log = logging.getLogger(__name__)


class Examples(NamedTuple):
    """Summed losses and tokens of the target's rows by id, float64 (n,) each, and the ids, int64 (n,)."""

    sums: np.ndarray
    tokens: np.ndarray
    ids: np.ndarray

    def without(self, ids: Collection[int]) -> "Examples":
        """The rows but `ids`."""
        others = ~np.isin(self.ids, list(ids))
        return Examples(*(values[others] for values in self))


@dataclass
class Run:
    """`folder` is None for the model before training, which other runs' metrics hold: selector "base", or "start" if it
    is the base model with an adapter (model.adapter)."""

    selector: str
    metrics: EvalMetrics
    folder: Path | None = None
    training: TrainMetrics = field(default_factory=TrainMetrics)
    rounds: list[RoundRecord] = field(default_factory=list)

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def is_trained(self) -> bool:
        """Whether it is a run of train.py, not an evaluation."""
        return self.folder is not None and self.files.is_trained

    @property
    def seed(self) -> int | None:
        return self.metrics.seed

    @property
    def model(self) -> str:
        name = self.metrics.model
        name = name if "${" in name else re.split(r"[/:]", name.rstrip("/"))[-1]
        return name if self.metrics.start is None else f"{name} + {self.metrics.start}"

    @property
    def evaluated(self) -> tuple:
        """The values that must be equal for two evaluations to be comparable."""
        m = self.metrics
        return m.eval_fingerprint, m.rows, m.tokens, m.columns_fingerprint

    @property
    def pool(self) -> str | None:
        """The fingerprint of the candidates; None where it was not recorded."""
        return self.training.identity.fingerprints.get("candidates")

    @property
    def labels(self) -> str | None:
        """The fingerprint of the candidates' sources; None where it was not recorded."""
        return self.training.identity.fingerprints.get("candidates.sources")

    @functools.cached_property
    def typed(self) -> set[str]:
        """The overrides of its command line that may decide its outcome, without seed and what names it, plan or
        selector; empty where Hydra did not record them."""
        words = self.files.overrides
        name = "plan=" if any(word.startswith("plan=") for word in words) else "selector="
        words = [
            word
            for word in words
            if word.lstrip("+~").partition("=")[0].partition(".")[0] not in ("hydra", *NOT_OUTCOME)
        ]
        return {word for word in words if not word.startswith((name, "seed="))}

    @functools.cached_property
    def settings(self) -> dict[str, str]:
        """The settings that decide its outcome, without its seed, by dotted key."""
        settings: dict[str, str] = {}

        def walk(node: object, path: str) -> None:
            if isinstance(node, dict):
                for key, value in node.items():
                    walk(value, f"{path}.{key}" if path else str(key))
            else:
                settings[path] = str(node)

        walk(class_names(self.training.identity.config), "")
        return {k: v for k, v in settings.items() if k != "seed" and not k.startswith("evaluation.")}

    @functools.cached_property
    def examples(self) -> Examples | None:
        """The losses of the target's rows; None where they were not recorded."""
        return _examples(self.files.answers())

    @functools.cached_property
    def base_examples(self) -> Examples | None:
        """The same for the untrained model."""
        return _examples(self.files.answers(base=True))

    @property
    def kept_round(self) -> int | None:
        """The round whose weights were kept and evaluated; None without a validation part."""
        return None if self.training.validation is None else self.training.validation.kept_round

    @property
    def kept_last(self) -> bool:
        """Whether the weights at the end of training were evaluated, not those of an earlier round."""
        return self.training.validation is None or self.training.validation.kept_step == self.training.steps

    @functools.cached_property
    def contaminated(self) -> frozenset[int]:
        """Ids of the target's rows that a row of the pool resembles, of the rows that were not left out. Validation
        rows are none of the target's."""
        target = self.metrics.evaluated_on
        resembled = {one.held_out_row for one in self.files.overlaps if one.set == target and not one.left_out}
        return frozenset(resembled - set(self.training.validation.rows if self.training.validation else ()))

    @functools.cached_property
    def drawn(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The distinct rows that each round trained, int64 ascending: those of the selector's rounds, and those of the
        warm-ups. Rounds whose files are missing or damaged are left out."""
        picked, warmups = [], []
        for line in self.rounds:
            ids = _drawn(self.files, line.round)
            if ids is not None:
                (warmups if line.selector == WARMUP else picked).append(ids)
        return picked, warmups

    @functools.cached_property
    def number(self) -> int | None:
        """The number of its job in the sweep, from 0; None outside a sweep."""
        number = self.files.job.get("number")
        return number if isinstance(number, int) else None

    @functools.cached_property
    def picked(self) -> int | None:
        """How many distinct rows the selector's rounds trained, without warm-ups; None without their files."""
        picked, _ = self.drawn
        return len(np.unique(np.concatenate(picked))) if picked else None

    @property
    def selecting(self) -> float | None:
        """Seconds of the rounds' selections, without embedding and searching, which are done once (`preparing`)."""
        return self.training.select_seconds

    @property
    def preparing(self) -> tuple[float, float] | None:
        """Seconds of embedding and of searching, measured in the run that did them; None without them."""
        embed, search = self.training.embed_seconds, self.training.search_seconds
        return None if embed is None or search is None else (embed, search)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the lines that loading a run's data logs: the run itself logged them."""
    logger = logging.getLogger("near")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _drawn(folder: RunFolder, index: int) -> np.ndarray | None:
    for part in ("order", ""):  # the plain Trainer records the subset alone
        with contextlib.suppress(UserError, OSError):
            if (ids := folder.round_ids(index, part)) is not None:
                return np.unique(ids)
    return None


def _finite(loss: object) -> bool:
    return isinstance(loss, int | float) and math.isfinite(loss)


def _examples(rows: list[dict]) -> Examples | None:
    if not rows or not all(_finite(r.get("loss")) for r in rows):
        return None
    tokens = np.array([r["tokens"] for r in rows], dtype=np.float64)
    return Examples(np.array([r["loss"] for r in rows]) * tokens, tokens, np.array([r["row"] for r in rows]))


def _before(metrics: EvalMetrics) -> str:
    return "base" if metrics.start is None else "start"


def collect(root: Path) -> tuple[list[Run], list[Path]]:
    """The finished runs below `root`, the base model first, and the folders of runs that started and did not finish, or
    whose target loss is not finite. UserError where there is neither."""
    if not root.is_dir():
        raise UserError(f"runs={root}: no such folder; name one with runs")
    runs, models, bases, diverged = [], [], {}, []
    for files in below(root, METRICS):
        folder = files.path
        try:
            metrics = files.metrics
        except ForeignRecord:
            log.info(f"skipped {folder / METRICS}: it was not written by train.py or eval.py")
            continue
        if not _finite(metrics.target_loss):
            diverged.append(folder)
            continue
        if metrics.selector is None:  # of eval.py with model=: an untrained model, or a merged one
            models.append(Run("model", metrics, folder))
            continue
        if metrics.base and not _finite(metrics.base.target_loss):
            metrics = dataclasses.replace(metrics, base=None)
        if metrics.base:
            described = {"selector": None, "model": metrics.model, "start": metrics.start}
            base = Run(_before(metrics), EvalMetrics.of(metrics.base, **described))
            bases.setdefault((base.evaluated, metrics.model, metrics.start), base)
        runs.append(Run(metrics.selector, metrics, folder, files.training, files.rounds))
    for run in models:
        key = (run.evaluated, run.metrics.model, run.metrics.start)
        if key in bases:
            bases[key] = Run(_before(run.metrics), run.metrics, run.folder)
        else:
            runs.append(run)
    started = [files for files in below(root, CONFIG) if files.path.name != ".hydra"]
    unfinished = diverged + [files.path for files in started if not files.is_evaluated]
    if not runs and not bases and not unfinished and not any(root.rglob(f"{JOBS}/*.json")):
        raise UserError(f"runs={root}: no metrics.json below it; give the output folder of train.py or eval.py")
    runs.sort(key=lambda r: (r.selector, str(r.seed), str(r.folder)))
    return [*bases.values(), *runs], unfinished
