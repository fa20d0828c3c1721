"""What runs inside the sandbox; near/sandbox.py starts it twice for one graded program, in two sandboxes.

`program`: executes the answer, then serves calls to what it defines. `tests`: executes the row's tests, whose names for
the answer's functions are Remotes; it alone writes the verdict. Between them are two pipes with a JSON value a line.

Plain values are copied, and so compared by the tests themselves; other objects stay where they are and go over as
handles. What a program can't do: reach the tests' memory, see what they expect, or write the verdict. What it can: answer
calls as it likes, knowing their arguments, and decide how its own objects compare with each other where tests do that.

Only the standard library, as nothing else is sure to be there.
"""

import builtins
import contextlib
import dis
import importlib
import json
import operator
import os
import resource
import site
import sys
import traceback
import types

LONGEST = 64 << 20  # characters of one message
OPEN_FILES, FILE_BYTES = 64, 16 << 20
FOR_PROGRAMS = frozenset({"call", "iter", "next"})  # operations on the tests' objects: on those that they hand over
CONTAINERS = (list, dict, set, bytearray)
# Types of the standard library that are copied: name, and what their constructor takes.
COPIED = {
    "collections.Counter": lambda v: [dict(v)],
    "collections.OrderedDict": lambda v: [list(v.items())],
    "collections.defaultdict": lambda v: [None, dict(v)],
    "collections.deque": lambda v: [list(v), v.maxlen],
    "fractions.Fraction": lambda v: [v.numerator, v.denominator],
    "decimal.Decimal": lambda v: [str(v)],
    "datetime.date": lambda v: list(v.__reduce__()[1]),
    "datetime.time": lambda v: list(v.__reduce__()[1]),
    "datetime.datetime": lambda v: list(v.__reduce__()[1]),
    "datetime.timedelta": lambda v: [v.days, v.seconds, v.microseconds],
    "uuid.UUID": lambda v: [v.hex],
}


class Ended(BaseException):
    """The other side has closed its pipe."""


class Remote:
    """An object of the other side. Operators take Remotes alone: with a plain value the program would see what is
    expected of it, and decide whether it is equal."""

    def __init__(self, peer, number):
        vars(self).update(_peer=peer, _number=number)

    def __getattr__(self, name):
        return self._peer.ask("attr", self, name)

    def __setattr__(self, name, value):
        self._peer.ask("set", self, name, value)

    def __call__(self, *args, **kwargs):
        return self._peer.ask("call", self, *args, **kwargs)

    def __instancecheck__(self, value):
        return isinstance(value, Remote) and self._peer.ask("isinstance", self, value) is True

    def __hash__(self):
        return hash(self._number)


def _forward(op):
    return lambda self, *args: self._peer.ask(op, self, *args)


def _between_remotes(op):
    return lambda self, other: self._peer.ask(op, self, other) if isinstance(other, Remote) else NotImplemented


OPS = {
    "attr": getattr,
    "set": setattr,
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "isinstance": lambda kind, value: isinstance(value, kind),
}
for _name in ("len", "iter", "next", "bool", "repr", "str", "reversed"):
    OPS[_name] = bool if _name == "bool" else getattr(builtins, _name)
    setattr(Remote, f"__{_name}__", _forward(_name))
for _name in ("getitem", "setitem", "delitem"):
    OPS[_name] = getattr(operator, _name)
    setattr(Remote, f"__{_name}__", _forward(_name))
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul"):
    OPS[_name] = getattr(operator, _name)
    setattr(Remote, f"__{_name}__", _between_remotes(_name))


class Peer:
    """One end of the pipes. allowed: which operations the other end may ask for."""

    def __init__(self, reading: int, writing: int, allowed=frozenset(OPS), namespace=None):
        self.reading, self.writing = open(reading, encoding="ascii"), open(writing, "w", encoding="ascii")
        self.allowed, self.namespace = allowed, namespace
        self.objects, self.numbers, self.errors = [], {}, {}
        self.ended = False

    def send(self, message) -> None:
        try:
            self.writing.write(json.dumps(message) + "\n")
            self.writing.flush()
        except OSError as error:
            self.ended = True
            raise Ended from error

    def receive(self) -> dict:
        line = "" if self.ended else self.reading.readline(LONGEST)
        if not line.endswith("\n"):
            self.ended = True
            raise Ended
        return json.loads(line)

    def ask(self, op: str, *args, **kwargs):
        """The other end's result, or the exception it raised."""
        self.send({"op": op, "args": [self.encode(a) for a in args], "kwargs": {k: self.encode(kwargs[k]) for k in kwargs}})
        while "op" in (message := self.receive()):  # it calls back
            self.serve(message)
        for at, new in message.get("changed", []):
            refill(args[at], self.decode(new))
        if "same" in message:
            return args[message["same"]]
        if "error" in message:
            raise self.error(message)
        return self.decode(message["value"])

    def serve(self, message: dict) -> None:
        try:
            args = [self.decode(a) for a in message["args"]]
            kwargs = {name: self.decode(value) for name, value in message["kwargs"].items()}
            reply = self._reply(message["op"], args, kwargs)
        except Ended:
            raise
        except BaseException as error:
            reply = self.described(error)
        self.send(reply)

    def _reply(self, op: str, args: list, kwargs: dict) -> dict:
        if op == "name":
            return {"value": self.encode(self.namespace[args[0]])}
        if op not in self.allowed:
            raise TypeError(f"{op} is not for the program to ask")
        filled = {at: self.encode(value) for at, value in enumerate(args) if isinstance(value, CONTAINERS)}
        value = OPS[op](*args, **kwargs)
        after = {at: self.encode(args[at]) for at in filled}
        reply = {"changed": [[at, after[at]] for at in filled if after[at] != filled[at]]}
        same = next((at for at in filled if args[at] is value), None)
        return reply | ({"value": self.encode(value)} if same is None else {"same": same})

    def encode(self, value):
        """JSON of a value: null, booleans, floats and text as they are, all others as [kind, ...]."""
        kind = type(value)
        if value is None or kind in (bool, float, str):
            return value
        if isinstance(value, Remote):
            return ["yours", value._number]
        if isinstance(value, int):
            return value if kind is int and abs(value) < 1 << 63 else ["int", hex(int(value))]
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in COPIED:
            return ["copied", name, [self.encode(v) for v in COPIED[name](value)]]
        if kind.__module__ == "numpy":
            if name == "numpy.ndarray" and value.dtype.kind in "biufcSU":
                return ["array", value.dtype.str, list(value.shape), self.encode(value.ravel().tolist())]
            if hasattr(value, "item") and name != "numpy.ndarray":
                return self.encode(value.item())
        if isinstance(value, float | str):  # of a subclass
            return str.__str__(value) if isinstance(value, str) else float.__float__(value)
        if isinstance(value, tuple) and isinstance(getattr(value, "_fields", None), tuple):
            return ["named", kind.__name__, list(value._fields), [self.encode(v) for v in value]]
        for base in (list, tuple, set, frozenset):
            if isinstance(value, base):
                return [base.__name__, [self.encode(v) for v in base.__iter__(value)]]
        if isinstance(value, dict):
            return ["dict", [[self.encode(k), self.encode(v)] for k, v in dict.items(value)]]
        if isinstance(value, bytes | bytearray):
            return ["bytearray" if isinstance(value, bytearray) else "bytes", bytes(value).decode("latin-1")]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind in (range, slice):
            return [kind.__name__, [self.encode(v) for v in (value.start, value.stop, value.step)]]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
            return ["builtin", value.__name__]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", *_names(value)]
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return ["mine", self.numbers[id(value)]]

    def decode(self, coded):
        if not isinstance(coded, list):
            return coded
        kind, *parts = coded
        if kind in ("list", "tuple", "set", "frozenset"):
            return getattr(builtins, kind)(map(self.decode, parts[0]))
        if kind == "dict":
            return {self.decode(k): self.decode(v) for k, v in parts[0]}
        if kind == "int":
            return int(parts[0], 16)
        if kind in ("bytes", "bytearray"):
            return getattr(builtins, kind)(parts[0].encode("latin-1"))
        if kind == "complex":
            return complex(*parts)
        if kind in ("range", "slice"):
            return getattr(builtins, kind)(*map(self.decode, parts[0]))
        if kind == "copied" and parts[0] in COPIED:
            module, _, name = parts[0].partition(".")
            return getattr(importlib.import_module(module), name)(*map(self.decode, parts[1]))
        if kind == "named":
            return importlib.import_module("collections").namedtuple(*parts[:2])(*map(self.decode, parts[2]))
        if kind == "array":
            return importlib.import_module("numpy").array(self.decode(parts[2]), dtype=parts[0]).reshape(parts[1])
        if kind == "module":
            return importlib.import_module(parts[0])
        if kind == "builtin" and isinstance(value := getattr(builtins, parts[0]), type):
            return value
        if kind == "exception":
            return self.exception(*parts)
        if kind == "mine":
            return Remote(self, parts[0])
        if kind == "yours":
            return self.objects[parts[0]]
        raise ValueError(f"{kind} is no kind of value")

    def exception(self, name: str, base: str) -> type:
        """The exception class that stands for the other side's."""
        known = getattr(builtins, base)
        if name == base:
            return known
        return self.errors.setdefault((name, base), type(name, (known,), {}))

    def described(self, error: BaseException) -> dict:
        why = reason(error)
        try:
            args = [self.encode(a) for a in error.args]
        except Exception:
            args = [why]
        return {"error": _names(type(error)), "args": args, "why": why}

    def error(self, message: dict) -> BaseException:
        kind = self.exception(*message["error"])
        if not issubclass(kind, BaseException):
            raise ValueError("not an exception")
        try:
            error = kind(*map(self.decode, message["args"]))
        except Exception:
            error = kind.__new__(kind)
        error.near_why = str(message["why"])
        return error


def _names(kind: type) -> list[str]:
    """Name of an exception class, and of the builtin one that it is derived from."""
    base = next(c for c in kind.__mro__ if getattr(builtins, c.__name__, None) is c)
    return [kind.__name__, base.__name__]


def reason(error: BaseException) -> str:
    """The last line of an error."""
    if hasattr(error, "near_why"):
        return error.near_why
    if isinstance(error, Ended):
        return ""
    return traceback.format_exception_only(type(error), error)[-1].strip()[:300]


def refill(old, new) -> None:
    """Give a container the other side's contents, in place, with what it holds."""
    if isinstance(old, dict):
        new = {key: _refilled(old.get(key), value) for key, value in new.items()}
    elif isinstance(old, list):
        new = [_refilled(a, b) for a, b in zip(old, new)] + new[len(old) :]
    old.clear()
    (old.extend if isinstance(old, list | bytearray) else old.update)(new)


def _refilled(old, new):
    if type(old) is not type(new) or not isinstance(old, CONTAINERS):
        return new
    refill(old, new)
    return old


class Names(dict):
    """Globals of the tests: a name that they don't define is the program's; a builtin's only with `shadowed`."""

    def __init__(self, peer: Peer, shadowed: bool):
        super().__init__(__name__="__main__", __builtins__=builtins)
        self.peer, self.shadowed = peer, shadowed

    def __missing__(self, name):
        if hasattr(builtins, name) and not self.shadowed:
            raise KeyError(name)
        return self.peer.ask("name", name)


def run_program(source: bytes, peer: Peer) -> None:
    """Execute the program, say how that went, then serve calls until the tests end."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    peer.namespace = vars(main)
    peer.namespace["__builtins__"] = builtins
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
    if job["entry"]:
        names[job["entry"]] = peer.ask("name", job["entry"])
    exec(code, names)
    peer.ask("repr", None)  # it is still there


def free_names(code: types.CodeType) -> set[str]:
    """Global names that code reads and does not itself assign."""
    every, inner = set(), set()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner |= free_names(constant)
    reads = {"LOAD_NAME", "LOAD_GLOBAL"}
    assigned = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_NAME", "STORE_GLOBAL")}
    every = {i.argval for i in dis.get_instructions(code) if i.opname in reads}
    return (every | inner) - assigned


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
    if role == "program":
        os.close(out)
        run_program(job, Peer(reading, writing))
    else:
        found = verdict(json.loads(job), Peer(reading, writing, FOR_PROGRAMS))
        os.write(out, json.dumps(found).encode())
    os._exit(0)  # the program's or tests' threads and exit handlers have no say


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), sys.argv[6:])
