"""The options of data=reasoning, read from a built-in's name and checked."""

from dataclasses import asdict, dataclass

from near.common.errors import UserError
from near.common.files import digest
from near.data.builtin.generated import known, options_in, whole
from near.data.builtin.reasoning.tasks import TASKS

VERSION = 1  # raised when the same options make other rows
LEVELS = 3  # difficulties: 0 (the library's defaults), and levels 1 and 2 of a task's curriculum

KEYS = ("per_task", "own", "queries", "eval", "difficulty", "difficulties", "longest", "seed", "tasks", "target")


@dataclass(frozen=True)
class ReasoningOptions:
    """What decides the rows.

    Attributes:
        target: the task of queries and eval rows.
        difficulty: that of queries and eval rows.
        tasks: those of the pool, apart from the target.
        per_task: rows of each of these in the pool.
        own: the target's rows in the pool.
        difficulties: of the pool's rows, in equal shares.
        queries, evals: numbers of rows.
        longest: characters of question and answer, at most.
    """

    target: str
    difficulty: int
    tasks: tuple[str, ...]
    per_task: int
    own: int
    difficulties: tuple[int, ...]
    queries: int
    evals: int
    longest: int
    seed: int

    @classmethod
    def of(cls, text: str) -> "ReasoningOptions":
        """The options in `per_task=...,own=...`. UserError for an unknown task and a number out of bounds."""
        values = options_in(text, KEYS, "reasoning")
        kind = "a task of data=reasoning"
        target = known(values["target"], f"data.target={values['target']}", TASKS, kind)
        named = [known(task, f"data.tasks={task}", TASKS, kind) for task in values["tasks"].split("+") if task]
        levels = [level for level in values["difficulties"].split("+") if level]
        options = cls(
            target,
            whole(values["difficulty"], "data.difficulty", 0, LEVELS - 1),
            tuple(task for task in TASKS if task in (named or TASKS) and task != target),
            whole(values["per_task"], "data.rows_per_task", 1, 1_000),
            whole(values["own"], "data.own_rows", 0, 1_000),
            tuple(sorted({whole(level, "data.difficulties", 0, LEVELS - 1) for level in levels})),
            whole(values["queries"], "data.query_rows", 1, 1_000),
            whole(values["eval"], "data.eval_rows", 1, 1_000),
            whole(values["longest"], "data.longest", 50, 100_000),
            whole(values["seed"], "data.data_seed", 0, 2**32 - 1),
        )
        if not options.difficulties:
            raise UserError("data.difficulties=[] leaves no row in the pool; use [0] or [0,1]")
        if not options.tasks and not options.own:
            raise UserError(f"data.tasks={values['tasks']} with data.own_rows=0 leaves no row in the pool; add a task")
        return options

    @property
    def folder(self) -> str:
        """The name of their folder in the cache."""
        return f"reasoning-{self.target}-{digest([VERSION, asdict(self)])[:16]}"
