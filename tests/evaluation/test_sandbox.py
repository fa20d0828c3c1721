"""Code that nobody has read: what is made of it, and how its tests judge it. What it may not do: test_escapes.py."""

import logging
import os
import stat
import subprocess
import time

import pytest

from near.app.check.check import check_sources
from near.common.errors import UserError
from near.evaluation import sandbox
from near.evaluation.graders.base import Answer
from near.evaluation.graders.pass_at_1 import PassAt1, code_of, continued
from near.evaluation.sandbox import NoSandbox, Suite, run
from tests.conftest import configured, needs_sandbox

pytestmark = pytest.mark.process
unsafe = pytest.mark.parametrize("unsafe", [pytest.param(False, marks=needs_sandbox()), True])


@unsafe
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("assert 1 == 2, 'not so'", "AssertionError: not so"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "ended before its end (status 0)"),
        ("x = bytearray(3 << 30)", "MemoryError"),
        ("x = open('big', 'wb').write(bytes(20 << 20))", "OSError: [Errno 27] File too large"),
        ("class Mine(ValueError): pass\nraise Mine('so')", "Mine: so"),
        ("raise ValueError('\\x1b[31m\\ud800\\u202e')", "ValueError: ?[31m??"),
        ("raise ValueError('x' * (1 << 20))", ("ValueError: " + "x" * 300)[:300]),
    ],
)
def test_programs_that_do_not_pass(program, reason, unsafe):
    assert run(program, 30, 1024, unsafe=unsafe) == (False, reason)


@unsafe
@pytest.mark.parametrize(
    "program",
    [
        "",
        "open('own', 'w').write('x'); open('/dev/null', 'w')",
        "import os; assert sorted(os.environ)[0] == 'HOME' and os.getcwd() == os.environ['HOME']",
        "import threading; t = threading.Thread(target=print); t.start(); t.join()",
        "import numpy; assert numpy.ones(3).sum() == 3",
        "import tempfile; tempfile.TemporaryFile().write(b'x')",
        "import sys; sys.stdout.reconfigure(line_buffering=True); print(sys.stdin.read())",
        "import shutil; open('a', 'w').close(); shutil.copy2('a', 'b')",
        "if __name__ == '__main__': print('main')\nelse: exit()",
        "# -*- coding: latin-1 -*-\nassert len('ä') == 2",
        "import asyncio\nasync def f(): await asyncio.sleep(0)\nasyncio.run(f())",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\nA(1)",
    ],
)
def test_programs_that_pass(program, unsafe):
    assert run(program, 30, 1024, unsafe=unsafe) == (True, "")


NODE = "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
VECTOR = (
    "from dataclasses import dataclass\n@dataclass\nclass V:\n    x: int\n    def __add__(s, o): return V(s.x + o.x)\n"
)
BAG = (
    "class Bag:\n    def __init__(s): s.x = []\n    def __enter__(s): return s\n    def __exit__(s, *e): s.x = [1]\n"
    "    def __len__(s): return len(s.x)\n    def __getitem__(s, i): return s.x[i]"
)


@needs_sandbox()
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x): return x", "for x in (None, True, -0.0, 1.5, float('inf'), 1 << 400, b'\\xff'): assert f(x) == x"),
        ("def f(x): return x", "assert f('ä\\ud800\\0\\n\\u2028') == 'ä\\ud800\\0\\n\\u2028'"),
        ("def f(x): return x", "for x in ([1, (2,)], {1: {2}}, frozenset('a'), 1j, range(3)): assert f(x) == x"),
        ("def f(x): return x", "x = [1]; assert f(x) is x; assert type(f((x, {}))) is tuple"),
        ("def f(x): return x", "x = float('nan'); assert f(x) != f(x)"),
        ("def f(): return 10 ** 5000", "assert f() == 10 ** 5000"),
        ("from collections import *\ndef f(s): return Counter(s)", "assert f('aab').most_common(1) == [('a', 2)]"),
        ("from collections import *\ndef f(): return [deque([1]), defaultdict(int, a=1)]", "assert f()[1] == {'a': 1}"),
        ("from fractions import *\ndef f(): return Fraction(1, 2)", "assert f() * 2 == 1 and f() == 0.5"),
        ("from decimal import *\ndef f(): return Decimal('.1')", "from decimal import *\nassert f() == Decimal('.1')"),
        (
            "from datetime import *\ndef f(d): return d + timedelta(1)",
            "from datetime import *\nassert f(date(2024, 2, 28)).day == 29",
        ),
        (
            "from collections import *\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
            "assert f() == (1, 2) and f().y == 2",
        ),
        (
            "import numpy as np\ndef f(x): return np.float32(x.sum()), x * 2",
            "import numpy as np\nn, x = f(np.ones((2, 3)))\nassert n == 6 and (x == 2).all() and x.shape == (2, 3)",
        ),
        ("def f(x): x.sort(); x[0].append(1)", "x = [[2], []]; f(x); assert x == [[1], [2]]"),
        ("def f(m): m[0][0] = 5", "row = [1]; m = [row]; f(m); assert row == [5]"),
        ("def f(d): d['k'] = 1; d.pop('a')", "d = {'a': 2}; f(d); assert d == {'k': 1}"),
        ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x + 1, iter([1, 2])) == [2, 3]"),
        ("def f(g, *, k): return sorted(g, key=k)", "assert f(['b', 'A'], k=str.lower) == ['A', 'b']"),
        ("def f():\n    yield 1\n    yield 2", "assert list(f()) == [1, 2] and next(f()) == 1"),
        ("def f(n): return lambda x: x + n", "assert f(1)(2) == 3"),
        (
            "def f(x): raise ValueError('no', x)",
            "try: f(3); assert 0\nexcept ValueError as e: assert e.args == ('no', 3)",
        ),
        ("class Bad(KeyError): pass\ndef f(): raise Bad", "try: f(); assert 0\nexcept Bad: pass"),
        ("class Bad(KeyError): pass\ndef f(): raise Bad", "try: f(); assert 0\nexcept KeyError: pass"),
        (NODE + "def f(n): return n.next.v", "a = Node(1); a.next = Node(2); assert f(a) == 2 and a.v == 1"),
        (NODE + "def f(n): return n", "assert isinstance(f(Node(1)), Node) and not isinstance(f(1), Node)"),
        ("def f(n): return n.next.v", NODE + "a = Node(1); a.next = Node(2); assert f(a) == 2"),
        (VECTOR, "assert V(1) + V(2) == V(3) != V(4) and repr(V(1)) == 'V(x=1)'"),
        ("import re\ndef f(s): return re.match('a', s)", "assert f('ab') and not f('b') and f('a').group() == 'a'"),
        ("async def f(): return 3", "import asyncio; assert asyncio.run(f()) == 3"),
        (
            "print('first')\ndef f(): print('hello')",
            "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as o: f()\n"
            "assert o.getvalue() == 'hello\\n'",
        ),
        ("import math\nhalf = 0.5\ndef f(x): return x", "assert math.floor(f(half)) == 0"),
        ("count = 0\ndef f():\n    global count\n    count += 1", "f(); f(); assert count == 2"),
        ("def sum(a, b): return a * b", "assert sum(2, 5) == 10"),
        (BAG, "s = Bag()\nassert not s\nwith s as t: assert t == s\nassert len(s) == s[0] == 1 and list(s) == [1]"),
    ],
)
def test_honest_programs_pass_as_in_one_process(program, tests):
    exec(f"{program}\n{tests}", {"__name__": "tests.honest"})
    assert run(program, 30, 1024, Suite(tests)) == (True, "")


@needs_sandbox()
@pytest.mark.parametrize(
    ("program", "tests", "reason"),
    [
        ("def f(): return 1", "assert f() == 2", "AssertionError"),
        ("x = 1", "assert f() == 2", "NameError: name 'f' is not defined"),
        ("def f(): return missing", "f()", "NameError: name 'missing' is not defined"),
        ("def f(): return 1", "assert f( == 2", "SyntaxError: invalid syntax"),
        ("def f(): return 1", "import os; os._exit(0)", "ended before its end (status 0)"),
        ("import os\ndef f(): os._exit(3)", "try: f()\nexcept BaseException: pass", "ended before its end (status 3)"),
        ("def f(g): return g.__globals__", "f(lambda: 0)", "TypeError: a program may not request attr"),
        ("def f(g): return g.gi_frame", "f(x for x in [1])", "TypeError: a program may not request attr"),
        ("def f(n): return n._mark", NODE + "f(Node(1))", "TypeError: a program may not request attr"),
        ("def f(x): return 1\ndef sum(x): return 2", "assert sum([f(1)]) == 2", "AssertionError"),
        ("def f():\n    yield 1", "assert f() == [1]", "AssertionError"),
        ("def f(): return bytearray(900 << 20)", "f()", "MemoryError"),
        ("def f(): raise ValueError('y' * (1 << 20))", "f()", ("ValueError: " + "y" * 300)[:300]),
    ],
)
def test_tests_that_fail(program, tests, reason):
    assert run(program, 30, 1024, Suite(tests)) == (False, reason)


@needs_sandbox()
def test_names_of_helpers_are_theirs_not_the_programs():
    """Such as HumanEval/32, whose tests call `poly` from the prompt."""
    head = "import math\ndef twice(x): return 2 * x\ndef f(x):\n    'square'\n"
    tests = "def check(c): assert twice(c(2)) == 8\ncheck(f)"
    assert run(head + "    return x * x", 30, 1024, Suite(tests, "f", ("", head))).passed
    cheat = head + "    return 0\ndef twice(x): return 8"
    assert run(cheat, 30, 1024, Suite(tests, "f", ("", head))) == (False, "AssertionError")
    with_class = NODE + "def wrap(v): return Node(v)\n"
    tests = "assert f(wrap(3)) == 3 and f(Node(4)) == 4"
    assert run(with_class + "def f(n): return n.v", 30, 1024, Suite(tests, "f", (with_class,))) == (True, "")
    assert run("def f(a): return a", 30, 1024, Suite("assert f(1) == 1", "f", ("", "def f(a):\n    return "))).passed


def running(words: str) -> list[str]:
    """What still runs after 10 seconds: the kernel ends a namespace's processes a moment after its first one."""
    end = time.monotonic() + 10
    while True:
        lines = subprocess.run(["ps", "ax", "-o", "stat,args"], capture_output=True, text=True).stdout.splitlines()
        found = [line for line in lines if words in line and not line.startswith("Z")]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


@unsafe
@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_the_time_is_limited_and_nothing_is_left_running(program, unsafe):
    assert run(program, 1.2345, 1024, unsafe=unsafe).why == "not done after 1.2345 seconds"
    assert not running(" 1.2345 ")


def test_processes_of_an_unsafe_program_end_with_it():
    assert run("import subprocess; subprocess.Popen(['sleep', '4242.5'])", 20, 1024, unsafe=True).passed
    assert not running("sleep 4242.5")


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("bwrap: No permissions to create new namespace, likely because the kernel does not allow it", "sysctl"),
        ("bwrap: setting up uid map: Permission denied", "apparmor_restrict_unprivileged_userns"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "apparmor_restrict_unprivileged_userns"),
        ("bwrap: Unknown option --size", "update bubblewrap"),
        ("", "Python does not start in it"),
    ],
)
def test_where_no_sandbox_can_be_had_nothing_is_run(message, advice, tmp_path, monkeypatch):
    """A stand-in for a container without user namespaces: bwrap says so."""
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit 1\n")
    bwrap.chmod(bwrap.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NoSandbox, match=advice):
        run("pass", 10, 1024)
    with pytest.raises(UserError, match=rf"can't isolate it: {message}.*{advice}.*evaluation.unsafe=true"):
        PassAt1({"tests": "test"}).check()


def test_without_bubblewrap_code_runs_only_where_that_is_typed(monkeypatch, caplog):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    from near.evaluation.measure import graders_of

    words = ("evaluation=code", "data=files", "data.eval.path=builtin:x")
    for refused in (lambda cfg: graders_of(cfg.evaluation), check_sources):
        with pytest.raises(UserError, match="bubblewrap is not installed; apt install bubblewrap. Or type evaluation"):
            refused(configured("eval", *words))
    check_sources(configured("eval", *words, "evaluation.unsafe=true"))
    caplog.set_level(logging.WARNING)
    grader = graders_of(configured("eval", *words, "evaluation.unsafe=true").evaluation)["pass_at_1"]
    assert "runs the answers' code without a sandbox" in caplog.text
    assert grader.grade([Answer(0, "q", "r", "def add(a, b): return a + b", ROW)], "unused")[0].score == 1
    assert grader.metadata() == {"isolation": "none"}


def test_no_sandbox_elsewhere(monkeypatch):
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    with pytest.raises(NoSandbox, match="riscv64; use Linux on x86_64, aarch64"):
        run("pass", 10, 1024)


def test_numbers_of_system_calls_are_the_kernels():
    headers = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"}
    headers["aarch64"] = "/usr/include/asm-generic/unistd.h"
    seccomp = sandbox.seccomp
    refused = [call for calls, _ in seccomp.REFUSALS for call in calls.items()]
    for column, (machine, header) in enumerate(headers.items()):
        assert len(seccomp.filter_of(machine)) % 8 == 0
        if not os.path.exists(header):
            continue
        with open(header) as file:
            known = dict(line.split()[1:3] for line in file if line.startswith("#define __NR"))
        for name, numbers in [*seccomp.CLONE.items(), *refused]:
            number = known.get(f"__NR_{name}", known.get(f"__NR3264_{name}"))
            assert number in (None, str(numbers[column])), name


@pytest.mark.parametrize(
    ("text", "name", "code"),
    [
        ("def f(): pass", "f", "def f(): pass"),
        ("Here:\n```python\nx = 1\n```\nand\n```\ny\n```", "", "x = 1\n"),
        ("```\nf(2)\n```\n```py\ndef f(x): return x\n```", "f", "def f(x): return x\n"),
        ("```python\ndef f(x):\n    return", "f", "def f(x):\n    return"),
    ],
)
def test_code_of(text, name, code):
    assert code_of(text, name) == code


HUMAN_EVAL = {"tests": "test", "entry_point": "entry_point", "prefix": "prompt"}
ROW = {
    "prompt": 'def add(a, b):\n    """Their sum."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ("    return a + b", "    return a + b"),
        ("return a + b", "    return a + b"),
        (" return a + b", "    return a + b"),
        ("\n\n    return a + b\n", "    return a + b\n"),
        ("c = a + b\n    return c", "    c = a + b\n    return c"),
        ("c = a + b\nreturn c", "    c = a + b\n    return c"),
        ("if a:\n    return b\nreturn a", "    if a:\n        return b\n    return a"),
        ("if a:\n        return b\n    return a", "    if a:\n        return b\n    return a"),
        ("for c in a:\n    print(c)", "    for c in a:\n        print(c)"),
        ("return a + b\n\n\nprint(add(1, 2))", "    return a + b\n\n\nprint(add(1, 2))"),
        ("        return a", "        return a"),
        ("\treturn a", "    return a"),
    ],
)
def test_a_continued_function_keeps_its_indentation(answer, body):
    assert continued('def add(a, b):\n    """Their sum."""\n', answer).partition('"""\n')[2].rstrip() == body.rstrip()


@pytest.mark.parametrize(
    ("prefix", "answer", "code"),
    [
        ("def f(a):\n", "return a", "def f(a):\n    return a"),
        ("def f(a):\n  # twice\n", "return a", "def f(a):\n  # twice\n  return a"),
        ("def f(a):\n\t'twice'\n", "\treturn a", "def f(a):\n\t'twice'\n\treturn a"),
        ("def f(a):\n    ", "return a", "def f(a):\n    return a"),
        ("def f(a):\n    ", "    return a", "def f(a):\n    return a"),
        ("def f(a):\n    return ", "a", "def f(a):\n    return a"),
        ("class A:\n    def f(self):\n", "return 1", "class A:\n    def f(self):\n        return 1"),
    ],
)
def test_a_body_is_indented_as_its_head(prefix, answer, code):
    assert continued(prefix, answer).rstrip() == code


@needs_sandbox()
@pytest.mark.parametrize(
    "answer",
    [
        " def add(a, b):\n    return a + b",
        "\n  def add(a, b):\n      return a + b",
        "  ```\ndef add(a, b):\n    return a + b\n```\n",
    ],
)
def test_white_space_around_a_whole_function_is_no_error(answer):
    assert graded(answer, ROW) == (1, None)


@needs_sandbox()
@pytest.mark.parametrize(
    ("answer", "no_answer"),
    [("", True), ("\n ", True), ("I don't know.", True), ("```\nI don't\n```", False), ("return a - b", False)],
)
def test_an_answer_without_code_is_counted(answer, no_answer):
    [grade] = PassAt1(HUMAN_EVAL, seconds=10).grade([Answer(0, "q", "r", answer, ROW)], "unused")
    assert (grade.score, grade.no_answer) == (0, no_answer)


def graded(text, raw, names=HUMAN_EVAL):
    grade = PassAt1(names, seconds=10).grade([Answer(0, "q", "r", text, raw)], "unused")[0]
    return grade.score, grade.detail


@needs_sandbox()
def test_human_evals_columns():
    assert graded("```python\ndef add(a, b):\n    return a + b\n```", ROW) == (1, None)
    assert graded("```python\ndef add(a, b):\n    return a - b\n```", ROW) == (0, "AssertionError")
    assert graded("return a + b", ROW) == (1, None), "goes on with the function's head"
    assert graded("I don't know.", ROW)[0] == 0
    assert graded("import sys\ndef add(a, b):\n    sys.exit(0)", ROW)[0] == 0, "ends before its tests"


@needs_sandbox()
def test_mbpps_columns():
    names = {"tests": "test_list", "setup": "test_setup_code"}
    row = {"test_list": ["assert f(two) == 4", "assert f(3) == 9"], "test_setup_code": "two = 2"}
    assert graded("def f(x): return x * x", row, names) == (1, None)
    assert graded("def f(x): return 4", row, names)[0] == 0


@needs_sandbox()
def test_rows_without_tests():
    two = [Answer(0, "q", "r", "x", {"test": ""}), Answer(1, "q", "r", "x", {"test": "assert x"})]
    assert [g.score for g in PassAt1({"tests": "test"}).grade(two, "unused")] == [None, 0]
    with pytest.raises(UserError, match="column_names.tests=test: no row has such a column"):
        PassAt1({"tests": "test"}).grade(two[:1], "unused")
    with pytest.raises(UserError, match="column_names.test is unknown; use tests"):
        PassAt1({"test": "test"})


def test_a_runs_configuration_does_not_turn_the_sandbox_off():
    """Only what is typed for this evaluation does."""
    from near.evaluation.eval import with_run

    run_config = configured("train", "evaluation=code", "data=files", "evaluation.unsafe=true")
    assert not with_run(configured("eval", "run=r"), run_config).evaluation.unsafe
    assert with_run(configured("eval", "run=r", "evaluation.unsafe=true"), run_config).evaluation.unsafe is True
    assert "pass_at_1" in with_run(configured("eval", "run=r"), run_config).evaluation.graders
