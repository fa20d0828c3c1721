"""pass@1: whether the code of an answer passes its row's tests."""

import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from near.common.bounds import between
from near.common.errors import UserError
from near.common.threads import threads_to_use
from near.evaluation.graders.base import Answer, Grade, Grader
from near.evaluation.sandbox import NO_TESTS, NoSandbox, Ran, Suite, refusal, run

log = logging.getLogger(__name__)

FENCED = re.compile(r"^```[^\n`]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPEN = re.compile(r"^```[^\n`]*\n(.*)", re.MULTILINE | re.DOTALL)  # a fence without its end: the answer was cut short
NO_PYTHON = ("SyntaxError", "IndentationError", "TabError")
INDENT = " " * 4
# at the left edge after a function's first line, these words show that its whole body starts there
OF_A_BODY = re.compile(r"^(?:return|yield|elif|else|except|finally)\b", re.MULTILINE)


class PassAt1(Grader):
    """1 if an answer's program runs to its end and passes its row's tests, else 0 with the error; None if the row has
    no tests. Each row has one greedy answer (pass@1 of Chen et al. 2021 with n=1). An answer that is blank, or neither
    a fenced block nor Python, has nothing to grade.

    Programs run in a sandbox (near/evaluation/sandbox), or without one with evaluation.unsafe=true.

    Args:
        column_names: the data's columns for `tests` (code, or a list of it) and, if there are any, for `setup` (code
            before the answer), `entry_point` (the function that the tests' `check` is called with) and `prefix` (the
            head of the function, for answers that only continue it).
        seconds: limit of one program.
        memory_mb: limit of one program.
        workers: programs that run at once; None: OMP_NUM_THREADS, else one for each core.
    """

    columns = True

    def __init__(
        self,
        column_names: dict[str, str | None],
        seconds: Annotated[float, between(0.1, 3600)] = 10,
        memory_mb: Annotated[int, between(64, 16_000_000)] = 1024,
        workers: Annotated[int, between(1, 1000)] | None = None,
    ):
        self.names = dict(column_names)
        if unknown := set(self.names) - {"tests", "setup", "entry_point", "prefix"}:
            raise UserError(
                f"evaluation.graders.pass_at_1.column_names.{min(unknown)} is unknown; use tests, setup, "
                "entry_point and prefix"
            )
        self.columns = tuple(sorted(map(str, self.names.values())))
        self.seconds, self.memory_mb = seconds, memory_mb
        self.workers = workers or threads_to_use()

    def check(self) -> None:
        if self.unsafe:
            log.warning(
                "evaluation.unsafe=true: pass_at_1 runs the answers' code without a sandbox; it can read and write "
                "all that you can, and use the network"
            )
        if not (ran := self._run("")).passed:
            raise UserError(
                f"evaluation.graders.pass_at_1: no program runs within its limits ({ran.why}); raise memory_mb, seconds"
            )

    def metadata(self) -> dict:
        return {"isolation": "none" if self.unsafe else "bubblewrap"}

    def _run(self, program: str, tests: Suite = NO_TESTS) -> Ran:
        try:
            return run(program, self.seconds, self.memory_mb, tests, self.unsafe)
        except NoSandbox as error:
            raise UserError(refusal(str(error))) from error

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        if answers and not any(self._column(answer, "tests") for answer in answers):
            raise UserError(
                f"evaluation.graders.pass_at_1.column_names.tests={self.names.get('tests')}: no row has such a "
                "column; name one that does"
            )
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._grade, answers))

    def _grade(self, answer: Answer) -> Grade:
        tests = self._column(answer, "tests")
        if not tests:
            return Grade(None)
        name = self._column(answer, "entry_point").strip()
        code = self._code(answer, name)
        setup, prefix = self._column(answer, "setup"), self._column(answer, "prefix")
        if name and re.search(r"^def check\(", tests, re.MULTILINE):
            tests += f"\ncheck({name})"
        ran = self._run(f"{setup}\n{code}", Suite(tests, name, (setup, prefix)))
        no_code = not answer.text.strip() or ("```" not in answer.text and ran.why.startswith(NO_PYTHON))
        return Grade(float(ran.passed), ran.why or None, no_code and not ran.passed)

    def _code(self, answer: Answer, name: str) -> str:
        prefix = self._column(answer, "prefix")
        code = code_of(answer.text, name)
        if not prefix or not name or re.search(rf"^\s*(?:async\s+)?def {re.escape(name)}\b", code, re.MULTILINE):
            return from_the_edge(code)
        return continued(prefix, code)

    def _column(self, answer: Answer, key: str) -> str:
        value = (answer.raw or {}).get(self.names.get(key)) if isinstance(answer.raw, Mapping | None) else None
        if isinstance(value, list | tuple):
            return "\n".join(map(str, value))
        return "" if value is None else str(value)


def code_of(text: str, name: str = "") -> str:
    """The code of an answer: the first fenced block that defines `name`, else the first fenced block, else the whole
    text."""
    blocks = FENCED.findall(text.strip()) or OPEN.findall(text.strip())
    if not blocks:
        return text
    defining = [block for block in blocks if name and re.search(rf"\bdef {re.escape(name)}\b", block)]
    return (defining or blocks)[0]


def from_the_edge(code: str) -> str:
    """Code moved to the left edge: white space before its first line would be a syntax error."""
    code = textwrap.dedent(code.lstrip("\n"))
    return code.lstrip() if code[:1].isspace() else code


def continued(prefix: str, code: str) -> str:
    """A function's head followed by an answer that continues it, indented to fit.

    An answer may have lost the indentation of its first line ("return a" before "    b"), or of all lines.
    """
    head, _, last = prefix.rpartition("\n")
    if last.strip():  # the answer continues in the middle of a line
        return prefix + code
    line = head.rstrip().rpartition("\n")[2]
    edge = line[: len(line) - len(line.lstrip())]
    indent = last or (edge + INDENT if line.rstrip().endswith(":") else edge or INDENT)
    body = code.lstrip("\n")
    first, _, rest = body.partition("\n")
    if first.startswith(indent) or not first.strip():
        return f"{head}\n{body}"
    below = next((line for line in rest.split("\n") if line.strip()), "")
    opens = first.rstrip().endswith(":") and not below.startswith(indent + " ")
    if opens or OF_A_BODY.search(rest):
        return f"{head}\n{textwrap.indent(first.lstrip() + chr(10) + rest, indent)}"
    return f"{head}\n{indent}{first.lstrip()}\n{rest}"
