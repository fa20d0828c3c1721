"""The options of data=crossed, read from a built-in's name and checked."""

from dataclasses import dataclass

from near.common.errors import UserError
from near.common.files import digest
from near.data.builtin.crossed.skills import SKILLS, WORDINGS
from near.data.builtin.generated import known, options_in, share, whole

VERSION = 1  # raised when the same options make other rows

Cell = tuple[str, int]  # skill, number of the wording


@dataclass(frozen=True)
class CrossedOptions:
    """What decides the rows.

    Attributes:
        target: the cell of queries and eval rows.
        cells: those of the pool, without the target's.
        rows, queries, evals: numbers of rows.
        noise: the share of the pool's rows that are of the demo's tasks.
    """

    target: Cell
    cells: tuple[Cell, ...]
    rows: int
    queries: int
    evals: int
    noise: float
    seed: int

    @classmethod
    def of(cls, text: str) -> "CrossedOptions":
        """The options in `rows=...,seed=...`. UserError for an unknown skill or wording and a number out of bounds."""
        values = options_in(text, ("rows", "seed", "queries", "eval", "noise", "left_out", "target"), "crossed")
        target = _cell(values["target"], f"data.target={values['target']}")
        left_out = {cell for entry in values["left_out"].split("+") if entry for cell in _cells(entry)}
        cells = [(skill, wording) for skill in SKILLS for wording in range(len(WORDINGS))]
        cells = [cell for cell in cells if cell != target and cell not in left_out]
        if not cells:
            raise UserError(f"data.left_out={values['left_out']} leaves nothing in the pool; leave out less")
        return cls(
            target,
            tuple(cells),
            whole(values["rows"], "data.rows", 500, 50_000),
            whole(values["queries"], "data.query_rows", 1, 1_000),
            whole(values["eval"], "data.eval_rows", 1, 1_000),
            share(values["noise"], "data.noise"),
            whole(values["seed"], "data.data_seed", 0, 2**32 - 1),
        )

    @property
    def folder(self) -> str:
        """The name of their folder in the cache."""
        return f"crossed-{self.target[0]}-{self.target[1]}-{digest([VERSION, vars(self)])[:16]}"


def _cell(text: str, typed: str) -> Cell:
    """The cell that `skill-wording` names."""
    skill, dash, wording = text.rpartition("-")
    known(skill if dash else text, typed, SKILLS, "a skill of data=crossed")
    if not dash:
        raise UserError(f"{typed} names no wording; write {text}-0 to {text}-{len(WORDINGS) - 1}")
    return skill, _wording(wording, typed)


def _wording(text: str, typed: str) -> int:
    if text not in map(str, range(len(WORDINGS))):
        raise UserError(f"{typed}: there is no wording {text or 'without a number'}; use 0 to {len(WORDINGS) - 1}")
    return int(text)


def _cells(entry: str) -> list[Cell]:
    """The cells of an entry of data.left_out: a cell, a skill or the number of a wording."""
    typed = f"data.left_out={entry}"
    if entry.isdigit():
        wording = _wording(entry, typed)
        return [(skill, wording) for skill in SKILLS]
    if "-" in entry:
        return [_cell(entry, typed)]
    skill = known(entry, typed, SKILLS, "a skill, a cell such as sort-0 or a wording's number")
    return [(skill, wording) for wording in range(len(WORDINGS))]
