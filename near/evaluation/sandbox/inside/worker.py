"""What runs inside a sandbox; near/evaluation/sandbox starts it twice for one graded program, in two sandboxes.

`program` executes the answer, and then serves calls of what it defines. `tests` executes the row's tests, where the
answer's functions are Remotes, and alone writes the verdict. Between them are two pipes (wire.py).

A program can't reach the tests' process, see what they expect, or write the verdict. What it still can: answer by the
arguments that it is called with, raise what it likes, and, where tests compare two of its own objects or look at their
attributes, decide what they say. Tests can't patch the program's modules, nor feed its standard input.

Only the standard library is used, as nothing else is sure to be there.
"""

import builtins
import contextlib
import dis
import io
import json
import os
import resource
import signal
import site
import sys
import types

sys.path.insert(0, os.path.dirname(__file__))  # -I leaves it out
from wire import Ended, Peer, reason  # noqa: E402

OPEN_FILES, FILE_BYTES = 64, 16 << 20


class Names(dict):
    """Globals of the tests: a name that they don't define is the program's; a builtin's only with `shadowed`."""

    def __init__(self, peer: Peer, shadowed: bool):
        super().__init__(__name__="__main__", __builtins__=builtins)
        self.peer, self.shadowed = peer, shadowed

    def __missing__(self, name):
        if name.startswith("__") or hasattr(builtins, name) and not self.shadowed:
            raise KeyError(name)
        return self.peer.ask("name", name)


def run_program(source: bytes, peer: Peer) -> None:
    """Execute the program, say how that went, then serve calls until the tests end."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    peer.namespace = vars(main)
    peer.namespace["__builtins__"] = builtins
    sys.stdout = io.TextIOWrapper(peer.printed, encoding="utf-8", write_through=True)
    try:
        if b"\0" in source:
            raise SyntaxError("source code cannot contain null bytes")
        with open("program.py", "wb") as file:
            file.write(source)
        exec(compile(source, "program.py", "exec"), peer.namespace)
        message = {"value": None}
    except Ended:
        raise
    except BaseException as error:
        message = peer.described(error)
    peer.printed.take()  # tests capture what their calls print
    peer.send(message)
    while True:
        peer.serve(peer.receive())


def run_tests(job: dict, peer: Peer) -> None:
    """Execute the tests once the program came to its end; raises what either of them raised."""
    if "error" in (message := peer.receive()):
        raise peer.error(message)
    code = compile(job["code"], "tests.py", "exec")
    names = Names(peer, shadowed=not job["entry"] and all(hasattr(builtins, name) for name in free_names(code)))
    before = set(names)
    for helper in job["helpers"]:
        with contextlib.suppress(Exception):
            exec(compile(helper, "helpers.py", "exec"), names)
    made = {name: names[name] for name in set(names) - before}
    if any(isinstance(value, type) and value.__module__ == "__main__" for value in made.values()):
        for name in made:  # the program must know its objects as its own
            del names[name]
    names.pop(job["entry"], None)  # a helper's head of it has no body
    if hasattr(builtins, job["entry"]):
        names[job["entry"]] = peer.ask("name", job["entry"])
    exec(code, names)
    peer.ask("repr", None)  # it is still there


def free_names(code: types.CodeType) -> set[str]:
    """Global names that code reads and does not itself assign."""
    steps = list(dis.get_instructions(code))
    read = {step.argval for step in steps if step.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
    for inner in code.co_consts:
        read |= free_names(inner) if isinstance(inner, types.CodeType) else set()
    return read - {step.argval for step in steps if step.opname in ("STORE_NAME", "STORE_GLOBAL")}


def verdict(job: dict, peer: Peer) -> dict:
    """Whether the tests passed, and why not; no reason where the program ended early."""
    try:
        run_tests(job, peer)
        why = ""
    except BaseException as error:
        why = reason(error)
        return {"passed": False, "why": "" if peer.ended else why}
    return {"passed": not peer.ended, "why": ""}


def limit(seconds: float, memory_mb: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def main(role: str, reading: int, writing: int, seconds: float, memory_mb: int, packages: list[str]) -> None:
    job = sys.stdin.buffer.read()
    out = os.dup(1)
    if role == "tests":
        os.write(out, b"ready\n")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for other in set(range(3, OPEN_FILES)) - {reading, writing, out}:
        with contextlib.suppress(OSError):
            os.close(other)
    sys.argv = ["program.py"]
    sys.path += packages
    site.setquit()  # exit and quit, which -S leaves out
    limit(seconds, memory_mb)
    signal.alarm(int(seconds) + 5)  # should who waits for it be gone
    if role == "program":
        os.close(out)
        run_program(job, Peer(reading, writing, {}))
    else:
        found = verdict(json.loads(job), Peer(reading, writing))
        os.write(out, json.dumps(found).encode())
    os._exit(0)  # the program's or tests' threads and exit handlers have no say


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), sys.argv[6:])
