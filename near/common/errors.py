"""Faults that a user can mend: one line, with the value received and the fix."""

import contextlib
import difflib
import errno
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydra.errors import MissingConfigException


class UserError(Exception):
    """Shown as `error: <message>` on one line, without a traceback; the process ends with status 1."""


def user_error(error: BaseException | None) -> UserError | None:
    """The UserError that `error` is, or was raised for: OmegaConf wraps what its resolvers raise."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def one_line(text: object) -> str:
    """The first line of `text` that says something, or its type's name when there is none; of an error that hides a
    UserError, that one's."""
    text = user_error(text) or text if isinstance(text, BaseException) else text
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0] if lines else type(text).__name__


def visible(text: object) -> str:
    """`text` with control characters, and those that turn a line's direction, written out (`\\x1b`): none of them
    reaches a terminal."""
    return "".join(c if c.isprintable() or c == " " else _escaped(c) for c in str(text))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class VisibleFormatter(logging.Formatter):
    """Of every script's log: lines end where a message has them, all else that steers a terminal is written out."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(visible(line) for line in super().format(record).split("\n"))


@contextlib.contextmanager
def reading(subject: object, fix: str = "") -> Iterator[None]:
    """Turn whatever a reader of other people's files raises into one UserError: "`what` can't be read (why); `fix`".

    For the call of a reader alone: a fault of ours within the block would look like one of the file.
    """
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # tokenizers' and safetensors' own are no Exception
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = one_line(error)[:160]
        raise UserError(f"{subject} can't be read ({reason})" + (f"; {fix}" if fix else "")) from error


def printable(text: object, most: int) -> str:
    """`text` of a data set for a terminal or a log: one line of at most `most` characters that steer nothing."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return text if len(text) <= most else text[: most - 3] + "..."


def missing_choice(error: "MissingConfigException") -> str:
    """The line for a choice that a group has not, with those that it has."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    return f"{group}={choice}: no such choice{did_you_mean(choice, error.options or [])}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean a, b?` for the near misses of `word` among `known`, else `; there are: ...`."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {', '.join(close)}?"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; there are: {shown}" if names else ""
