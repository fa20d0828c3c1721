"""The two ends of the pipes between a graded program and its tests: a JSON value a line.

Plain values are copied, so that the tests compare them themselves; other objects stay where they are, and at the other
end a Remote stands for them.
"""

import builtins
import importlib
import io
import json
import operator
import sys
import traceback
import types

LONGEST = 64 << 20  # characters of one message
PRINTED = 1 << 20  # bytes that a program prints and its tests may capture; what is more is dropped
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
    """An object of the other side. Operators take other Remotes alone: with a plain value the program would see what
    is expected of it, and decide whether it is equal."""

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


def _wait(coroutine):
    return importlib.import_module("asyncio").run(coroutine)


OPS = {
    "attr": getattr,
    "set": setattr,
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "isinstance": lambda kind, value: isinstance(value, kind),
    "wait": _wait,
}
BUILTINS = ("len", "iter", "next", "bool", "repr", "str", "reversed", "abs")
BY_ITSELF = {
    name: getattr(builtins, name) for name in ("len", "iter", "next", "bool", "repr", "str", "reversed", "abs")
}
BY_ITSELF |= {name: getattr(operator, name) for name in ("getitem", "setitem", "delitem", "neg")}
BY_ITSELF |= {"enter": lambda o: type(o).__enter__(o), "exit": lambda o, *error: type(o).__exit__(o, *error)}
WITH_REMOTES = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "matmul", "and_", "or_")


def _forward(op: str):
    return lambda self, *args: self._peer.ask(op, self, *args)


def _between(op: str):
    return lambda self, other: self._peer.ask(op, self, other) if isinstance(other, Remote) else NotImplemented


for _name, _operation in BY_ITSELF.items():
    OPS[_name] = _operation
    setattr(Remote, f"__{_name}__", _forward(_name))
for _name in WITH_REMOTES:
    OPS[_name] = getattr(operator, _name)
    setattr(Remote, f"__{_name.strip('_')}__", _between(_name))


class Printed(io.BytesIO):
    """Standard output of a program, as far as it is kept."""

    def write(self, data) -> int:
        super().write(bytes(data)[: max(0, PRINTED - self.tell())])
        return len(data)

    def take(self) -> str:
        text = self.getvalue().decode(errors="replace")
        self.seek(0)
        self.truncate()
        return text


def open_to_programs(op: str, coded: list, args: list) -> bool:
    """Whether a program may ask that of the tests: to call and iterate what they handed over, and no other callable
    that it could name; and for attributes of what is of their own classes. coded: `args` as they came."""
    if not (coded and isinstance(coded[0], list) and coded[0][:1] == ["yours"]):
        return False
    if op in ("attr", "set"):
        name = args[1] if len(args) > 1 else None
        return type(args[0]).__module__ == "__main__" and isinstance(name, str) and not name.startswith("_")
    return op in ("call", "iter", "next")


class Peer:
    """One end of the pipes. namespace: of the program, whose end does what it is asked; None at the tests' end."""

    def __init__(self, reading: int, writing: int, namespace: dict | None = None):
        self.reading, self.writing = open(reading, encoding="ascii"), open(writing, "w", encoding="ascii")
        self.namespace, self.printed = namespace, Printed()
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
        coded = {name: self.encode(value) for name, value in kwargs.items()}
        self.send({"op": op, "args": [self.encode(a) for a in args], "kwargs": coded})
        while "op" in (message := self.receive()):  # it calls back
            self.serve(message)
        if message.get("printed"):
            sys.stdout.write(str(message["printed"]))
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
            if self.namespace is None and not open_to_programs(message["op"], message["args"], args):
                raise TypeError(f"{message['op']} is not for a program to ask")
            reply = self._reply(message["op"], args, kwargs)
        except Ended:
            raise
        except BaseException as error:
            reply = self.described(error)
        self.send(reply | {"printed": self.printed.take()})

    def _reply(self, op: str, args: list, kwargs: dict) -> dict:
        if op == "name":
            return {"value": self.encode(self.namespace[args[0]])}
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
            self.objects.append(value)  # and so its id stays its own
        return ["coroutine" if kind is types.CoroutineType else "mine", self.numbers[id(value)]]

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
        if kind == "coroutine":
            return self._waiting(Remote(self, parts[0]))
        if kind == "yours":
            return self.objects[parts[0]]
        raise ValueError(f"{kind} is no kind of value")

    async def _waiting(self, coroutine: Remote):
        return self.ask("wait", coroutine)

    def exception(self, name: str, base: str) -> type:
        """The exception class that stands for the other side's."""
        known = getattr(builtins, base)
        if not (isinstance(known, type) and issubclass(known, BaseException)):
            raise ValueError(f"{base} is no exception")
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
        try:
            error = kind(*map(self.decode, message["args"]))
        except Exception:
            error = kind.__new__(kind)
        error.near_why = str(message["why"])[:300]
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
        new = [_refilled(a, b) for a, b in zip(old, new, strict=False)] + new[len(old) :]
    old.clear()
    (old.extend if isinstance(old, list | bytearray) else old.update)(new)


def _refilled(old, new):
    if type(old) is not type(new) or not isinstance(old, CONTAINERS):
        return new
    refill(old, new)
    return old
