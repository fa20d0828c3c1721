"""What a run trained on, and when: python report.py runs=RUN row=1234."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, one_line, printable, visible
from near.common.records import RoundRecord
from near.common.run_folder import LINES, ROUNDS, RunFolder, below
from near.common.text import plural
from near.data.loading import load
from near.report.runs import quiet

SHOWN = 300  # characters of each message


@dataclass(frozen=True)
class Seen:
    """A round whose subset contains the row.

    Attributes:
        line: the round, as rounds.jsonl has it.
        place: the row's position in the selector's order, from 1.
        steps: the optimizer steps that trained the row, from 1 as the logs count them, once for each time; None where
            the Trainer shuffled by itself.
    """

    line: RoundRecord
    place: int
    steps: list[int] | None


def seen(folder: Path, row: int) -> list[Seen]:
    """The rounds of the run in `folder` whose subset contains `row`. UserError for damaged or missing files."""
    rounds, files = [], RunFolder(folder)
    for line in files.rounds:
        ids = _ids(files, line.round)
        at = np.flatnonzero(ids == row)
        if not len(at):
            continue
        steps = None
        if line.draws_per_step:
            order = _ids(files, line.round, "order")
            at_draws = np.flatnonzero(order == row)  # (times,) positions among the draws
            steps = (line.step + at_draws // line.draws_per_step + 1).tolist()
        rounds.append(Seen(line, int(at[0]) + 1, steps))
    return rounds


def _ids(files: RunFolder, index: int, part: str = "") -> np.ndarray:
    if (ids := files.round_ids(index, part)) is None:
        raise UserError(f"{files.round_file(index, part)} is missing; train that run again with overwrite=true")
    return ids


def lookup(root: Path, row: int) -> None:
    """Print, for every run below `root` (finished or not), the row's text and where the run trained it."""
    if not root.is_dir():
        raise UserError(f"runs={root}: no such folder; name a run's, or one above it")
    folders = [files.path for files in below(root, f"{ROUNDS}/{LINES}")]
    if not folders:
        raise UserError(f"runs={root}: no rounds/rounds.jsonl below it; give the output folder of train.py")
    shown: list[str] = []
    for folder in folders:
        text = list(_text(folder, row))
        if text != shown:  # once for all runs of one pool
            print("\n".join(text))
            shown = text
        print("\n".join(map(visible, _appearances(folder, row))))


def _text(folder: Path, row: int) -> Iterator[str]:
    """The text of the row, as its data source has it now."""
    try:
        cfg = RunFolder(folder).config()
        with quiet():
            rows = load(cfg.data, "candidates", cfg.cache_dir)
    except (UserError, OSError, OmegaConfBaseException) as error:
        yield f"row {row}: its text can't be shown ({one_line(error)})"
        return
    if row >= len(rows):
        raise UserError(f"row={row} is not in the pool of {plural(len(rows), 'row')}; use row<={len(rows) - 1}")
    yield f"row {row}, from {printable(rows.sources(np.array([row]))[0], 60)}"
    for message in rows.messages(row):
        trained = "" if message.get("train", True) else " (not trained on)"
        for text in filter(None, (message.get("reasoning"), message["content"], message.get("calls"))):
            yield f"  {message['role']}{trained}: {printable(text, SHOWN)}"


def _appearances(folder: Path, row: int) -> Iterator[str]:
    rounds = seen(folder, row)
    count = len(RunFolder(folder).rounds)
    if not rounds:
        yield f"{folder}: in none of its {plural(count, 'round')}"
        return
    yield f"{folder}: in {len(rounds)} of its {plural(count, 'round')}"
    for one in rounds:
        line = one.line
        if one.steps is None:
            when = "once in every epoch; the Trainer does not record at which step"
        elif one.steps:
            when = f"trained in step {', '.join(map(str, one.steps))}"
        else:
            when = "not drawn"
        yield f"  round {line.round} ({line.selector}), place {one.place} of {line.rows}: {when}"
