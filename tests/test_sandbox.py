"""Code that nobody has read: what it may do, and what not."""

import os
import subprocess

import pytest

from near import sandbox
from near.errors import UserError
from near.graders.base import Answer
from near.graders.pass_at_1 import PassAt1, code_of, continued
from near.sandbox import NoSandbox, run

pytestmark = pytest.mark.process

TCP = "import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
UDP = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("assert 1 == 2, 'not so'", "AssertionError: not so"),
        ("import sys; sys.exit(0)", "ended before its end (status 0)"),
        ("import os; os._exit(0)", "ended before its end (status 0)"),
        ("x = bytearray(3 << 30)", "MemoryError"),
        (UDP, "OSError: [Errno 101] Network is unreachable"),
        ("open('big', 'w').write('x' * (20 << 20))", "OSError: [Errno 27] File too large"),
        ("import os; raise SystemExit(','.join(sorted(os.environ)))", "HOME,LANG,OMP_NUM_THREADS,PATH,TMPDIR"),
    ],
)
def test_what_does_not_pass(program, why, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert run(program, 10, 1024) == (False, why)


def test_no_server_of_this_machine_can_be_reached():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 1).close()
        assert run(TCP.format(port=port), 10, 1024) == (False, "OSError: [Errno 101] Network is unreachable")


@pytest.mark.parametrize("program", ["", "import math", "open('own', 'w').write('x'); open('/dev/null', 'w')"])
def test_what_passes(program):
    assert run(program, 10, 1024) == (True, "")


def test_nothing_is_written_elsewhere(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    for program in (f"open({str(kept)!r}, 'w')", f"import os; os.remove({str(kept)!r})"):
        assert run(program, 10, 1024) == (False, f"PermissionError: [Errno 13] Permission denied: '{kept}'")
    assert not run(f"import os; os.truncate({str(kept)!r}, 0)", 10, 1024).passed
    assert not run(f"open({str(tmp_path / 'new')!r}, 'w')", 10, 1024).passed
    assert kept.read_text() == "mine" and len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import os, time\nfor _ in range(9):\n    os.fork() or time.sleep(60)\ntime.sleep(60)",
    ],
)
def test_the_time_is_limited_and_nothing_is_left_running(program):
    assert run(program, 1, 1024).why == "not done after 1 seconds"
    assert "near-sandbox-" not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout


def test_what_a_program_started_ends_with_it():
    program = "import subprocess; subprocess.Popen(['sleep', '4242'], start_new_session=True)"
    assert run(program, 10, 1024).passed
    assert "sleep 4242" not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout


def test_where_there_are_no_namespaces_nothing_is_run(tmp_path, monkeypatch):
    """A stand-in for a container without them: what starts the program says so."""
    refuses = tmp_path / "sandbox.py"
    refuses.write_text(f"import sys; print('Operation not permitted', file=sys.stderr); sys.exit({sandbox.REFUSED})")
    monkeypatch.setattr(sandbox, "__file__", str(refuses))
    with pytest.raises(NoSandbox):
        run("pass", 10, 1024)
    with pytest.raises(UserError, match=r"needs Linux namespaces.*\(Operation not permitted\)"):
        PassAt1({"tests": "test"}).check()


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
def test_what_goes_on_with_a_functions_head_keeps_its_indentation(answer, body):
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


@pytest.mark.parametrize(
    ("answer", "no_answer"),
    [("", True), ("\n ", True), ("I don't know.", True), ("```\nI don't\n```", False), ("return a - b", False)],
)
def test_an_answer_without_code_is_counted(answer, no_answer):
    [grade] = PassAt1(HUMAN_EVAL, seconds=10).grade([Answer(0, "q", "r", answer, ROW)], "unused")
    assert (grade.score, grade.no_answer) == (0, no_answer)


def graded(text, raw, names=HUMAN_EVAL):
    grade = PassAt1(names, seconds=10).grade([Answer(0, "q", "r", text, raw)], "unused")[0]
    return grade.score, grade.told


def test_human_evals_columns():
    assert graded("```python\ndef add(a, b):\n    return a + b\n```", ROW) == (1, None)
    assert graded("```python\ndef add(a, b):\n    return a - b\n```", ROW) == (0, "AssertionError")
    assert graded("return a + b", ROW) == (1, None), "goes on with the function's head"
    assert graded("I don't know.", ROW)[0] == 0
    assert graded("import sys\ndef add(a, b):\n    sys.exit(0)", ROW)[0] == 0, "ends before its tests"


def test_mbpps_columns():
    names = {"tests": "test_list", "setup": "test_setup_code"}
    row = {"test_list": ["assert f(two) == 4", "assert f(3) == 9"], "test_setup_code": "two = 2"}
    assert graded("def f(x): return x * x", row, names) == (1, None)
    assert graded("def f(x): return 4", row, names)[0] == 0


def test_rows_without_tests():
    two = [Answer(0, "q", "r", "x", {"test": ""}), Answer(1, "q", "r", "x", {"test": "assert x"})]
    assert [g.score for g in PassAt1({"tests": "test"}).grade(two, "unused")] == [None, 0]
    with pytest.raises(UserError, match="column_names.tests=test: no row has such a column"):
        PassAt1({"tests": "test"}).grade(two[:1], "unused")
    with pytest.raises(UserError, match="column_names.test is none of tests"):
        PassAt1({"test": "test"})
