"""The folder of a run: the names of its files, and functions that read them.

config.yaml           the configuration as the run resolved it
train_metrics.json    time of training, loss history, identity; written when training ends
metrics.json          the evaluation; written last, so that a run that has it is finished
answers.jsonl         one evaluated row a line; base_answers.jsonl: the untrained model's
contaminated.jsonl    rows of the pool that resemble held-out rows, one overlap a line
rounds/rounds.jsonl   one round a line; rounds/NNN*.npy: its rows (near/training/rounds/record.py)
checkpoints/          checkpoint-STEP folders
adapter/, model/      the trained weights
start/                a copy of the adapter that training went on from (near/models/start.py)
failed.json           why training ended early
forecast.json         what dry_run=forecast said (near/evaluation/forecast.py)
dry_run.json          what dry_run=true estimated (near/common/cost.py); select.py has it as well
../.jobs/NAME.json    the state of a sweep's job

The fields of the first two and of rounds.jsonl: near/common/records.py.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError, as_user_error
from near.common.files import digest, read_json, read_jsonl
from near.common.foreign import read_config, read_overrides
from near.common.locks import lock_file
from near.common.records import EvalMetrics, Overlap, RoundRecord, TrainMetrics, read_rounds

CONFIG, METRICS, TRAINING, FAILED = "config.yaml", "metrics.json", "train_metrics.json", "failed.json"
ANSWERS, BASE_ANSWERS = "answers.jsonl", "base_answers.jsonl"
CONTAMINATED = "contaminated.jsonl"
ROUNDS, LINES = "rounds", "rounds.jsonl"
CHECKPOINTS, ADAPTER, MODEL, START = "checkpoints", "adapter", "model", "start"
JOBS, WARM_UPS = ".jobs", "warm-ups"
DRY_RUN = "dry_run.json"
FORECAST = "forecast.json"


@dataclass(frozen=True)
class RunFolder:
    """A run of train.py or eval.py at `path`.

    A missing file reads as empty or None; a damaged one raises UserError. Nothing is cached, because the files of an
    active run change.
    """

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def config(self, allow_targets: object = None, retyped: bool = False) -> DictConfig:
        """config.yaml, without values that execute code (near/common/foreign.py). OSError if it is missing."""
        return read_config(self / CONFIG, allow_targets, retyped)

    @property
    def has_config(self) -> bool:
        return (self / CONFIG).is_file()

    @property
    def training(self) -> TrainMetrics:
        """train_metrics.json; without values until training ends."""
        return TrainMetrics.from_json(self._json(TRAINING), self / TRAINING)

    @property
    def metrics(self) -> EvalMetrics:
        """metrics.json. Raises OSError until the run is evaluated, and ForeignRecord if near did not write the file."""
        return EvalMetrics.read(self / METRICS)

    @property
    def failure(self) -> str | None:
        """Why training ended early, from failed.json."""
        line = self._json(FAILED).get("error")
        return None if line is None else str(line)

    @property
    def is_trained(self) -> bool:
        return (self / TRAINING).is_file()

    @property
    def is_evaluated(self) -> bool:
        return (self / METRICS).is_file()

    @property
    def rounds(self) -> list[RoundRecord]:
        """Lines of rounds/rounds.jsonl."""
        return read_rounds(self / ROUNDS / LINES)

    def round_file(self, index: int, part: str = "") -> Path:
        """The array of round `index`: its subset; part="scores": the selector's scores; "order": the draws."""
        return round_file(self / ROUNDS, index, part)

    def round_ids(self, index: int, part: str = "") -> np.ndarray | None:
        """The array of round_file: int64 (rows,), float32 (rows,) or int64 (draws,); None if the file is missing."""
        path = self.round_file(index, part)
        if not path.is_file():
            return None
        fix = "train that run again with overwrite=true"
        with as_user_error((OSError, ValueError, EOFError), f"{path} can't be read", fix):
            return np.load(path, allow_pickle=False)

    def answers(self, base: bool = False) -> list[dict]:
        """The lines of answers.jsonl for the target set, sorted by row id. base: the untrained model's."""
        lines = self._lines(BASE_ANSWERS if base else ANSWERS)
        return sorted((line for line in lines if line.get("set") == "target"), key=lambda line: line["row"])

    @property
    def overlaps(self) -> list[Overlap]:
        """The lines of contaminated.jsonl."""
        return [Overlap.from_json(line, self / CONTAMINATED) for line in self._lines(CONTAMINATED)]

    @property
    def overrides(self) -> list[str]:
        """The overrides of the run, as Hydra saved them."""
        return read_overrides(self.path)

    @property
    def job_file(self) -> Path:
        return self.path.parent / JOBS / f"{self.path.name}.json"

    @property
    def job(self) -> dict:
        """The last state of a sweep's job; {} outside a sweep, or if its file is damaged."""
        with contextlib.suppress(UserError, OSError):
            return read_json(self.job_file)
        return {}

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, newest first, complete or not."""
        named = [(re.fullmatch(r"checkpoint-(\d+)", p.name), p) for p in (self / CHECKPOINTS).glob("checkpoint-*")]
        return [path for match, path in sorted(named, key=lambda x: -int(x[0][1]) if x[0] else 0) if match]

    def weights(self) -> tuple[str, Path] | None:
        """("adapter" or "model", its folder); None before training ends."""
        return next(((kind, self / kind) for kind in (ADAPTER, MODEL) if (self / kind).is_dir()), None)

    def lock(self, cache_dir: str | Path) -> Path:
        """The file that a process locks while it trains here."""
        return lock_file(cache_dir, f"run-{digest(str(self.path.resolve()))}")

    def _json(self, name: str) -> dict:
        return read_json(self / name) if (self / name).is_file() else {}

    def _lines(self, name: str) -> list[dict]:
        return read_jsonl(self / name) if (self / name).is_file() else []


def round_file(folder: Path, index: int, part: str = "") -> Path:
    """A round's array in `folder`, the rounds/ of a run.

    >>> round_file(Path("rounds"), 3, "order").as_posix()
    'rounds/003_order.npy'
    """
    return folder / f"{index:03d}{part and '_' + part}.npy"


def below(root: Path, name: str) -> Iterator[RunFolder]:
    """The run folders below `root` that have the file `name`, by path."""
    for path in sorted(root.rglob(name)):
        yield RunFolder(path.parents[name.count("/")])
