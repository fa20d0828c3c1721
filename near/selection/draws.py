"""The draws of a run's rounds, from the files of its folder, and what their rows are like."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.records import RoundRecord
from near.common.run_folder import CONFIG, RunFolder
from near.data.formats.formats import is_plain
from near.data.formats.turns import Message

BLOCK = 1000  # draws that are read at a time


@dataclass(frozen=True)
class Draws:
    """The draws of a run's rounds.

    Attributes:
        cfg: the run's configuration.
        rounds: their records.
        orders: of each round the drawn row ids, int64 (draws,).
    """

    cfg: DictConfig
    rounds: list[RoundRecord]
    orders: list[np.ndarray]

    @classmethod
    def of(cls, folder: Path, read: Callable[[Path], DictConfig]) -> "Draws":
        """Read them from a run's folder. Raises UserError if the run has no rounds, or a file is missing or damaged.

        Args:
            read: reads and checks its config.yaml.
        """
        files = RunFolder(folder)
        if not files.is_trained or not files.has_config:
            raise UserError(f"run={folder} is no finished run of train.py; give its output_dir")
        rounds = files.rounds
        if not rounds or any(line.draws is None for line in rounds):
            raise UserError(
                f"run={folder} has no rounds: the Trainer shuffled its rows; export a run of trainer=dynamic_select or "
                "dynamic_mix"
            )
        orders = []
        for line in rounds:
            order = files.round_ids(line.round, "order")
            if order is None or len(order) != line.draws:
                raise UserError(
                    f"{files.round_file(line.round, 'order')} is missing or has not the {line.draws} draws of its "
                    "round; train that run again with overwrite=true"
                )
            orders.append(order)
        return cls(read(folder / CONFIG), rounds, orders)

    @property
    def steps(self) -> int:
        """Optimizer steps that were trained."""
        return sum(len(order) // line.draws_per_step for line, order in zip(self.rounds, self.orders, strict=True))

    def placed(self) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
        """Blocks of draws: row ids int64 (m,), their round, their steps int64 (m,)."""
        for line, order in zip(self.rounds, self.orders, strict=True):
            steps = line.step + np.arange(len(order)) // line.draws_per_step
            for start in range(0, len(order), BLOCK):
                yield order[start : start + BLOCK], line.round, steps[start : start + BLOCK]


@dataclass
class Content:
    """What the exported rows are like, for the files that train on them."""

    rows: int = 0
    plain: int = 0  # texts without a question
    several: int = 0  # chats with more than one answer
    untrained: int = 0  # with an answer that is not trained on
    tools: int = 0  # with descriptions of tools
    calls: int = 0  # with calls of tools
    sparse: int = 0  # with calls or thinking, keys that other messages lack

    def add(self, messages: list[Message]) -> None:
        answers = [m for m in messages if m["role"] == "assistant"]
        self.rows += 1
        self.plain += is_plain(messages)
        self.several += len(answers) > 1
        self.untrained += any(m.get("train") is False for m in answers)
        self.tools += messages[0]["role"] == "tools"
        self.calls += any("calls" in m for m in answers)
        self.sparse += any("calls" in m or "reasoning" in m for m in answers)
