"""Exceptions in classes that users add: a selector, an embedder, a mixer, a weighter, a grader, ..."""

import inspect
import re
import sys
import traceback

from near.common.errors import did_you_mean, one_line
from near.common.secrets import scrub


def failed_class(error: BaseException | None) -> str | None:
    """`module.Class.method` of a user's class in which `error` or one of its causes was raised, else None.

    A user's class is one outside near that inherits from a class of near.
    """
    while error is not None:
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            # not frame.f_locals: these would keep a model in memory as long as the error
            module, (name, _, method) = frame.f_globals.get("__name__"), frame.f_code.co_qualname.rpartition(".")
            cls = frame.f_globals.get(name)
            if not _is_ours(module) and inspect.isclass(cls) and any(_is_ours(base.__module__) for base in cls.__mro__):
                return f"{cls.__module__}.{name}.{method}"
        error = error.__cause__
    return None


def failure_line(where: str, error: BaseException) -> str:
    """The line to show for `error` in a user's `where`; for a wrong keyword of one of near's classes: its fields."""
    fix = ""
    if wrong := re.search(r"(\w+)\.__(?:init|new)__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        classes = (vars(module).get(wrong.group(1)) for name, module in list(sys.modules.items()) if _is_ours(name))
        cls = next(filter(inspect.isclass, classes), None)
        fields = [] if cls is None else list(inspect.signature(cls).parameters)
        new = getattr(cls, "renamed", {}).get(wrong.group(2))
        fix = f"; {wrong.group(2)} is now {new}" if new else did_you_mean(wrong.group(2), fields)
    return (
        f"{where} failed ({type(error).__name__}: {one_line(error)}){fix or '; mend it'}; its traceback is in the log"
    )


def traceback_of(error: BaseException) -> str:
    """The traceback of `error` and its causes, without secrets."""
    return scrub("".join(traceback.format_exception(error))).rstrip()


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith("near.")
