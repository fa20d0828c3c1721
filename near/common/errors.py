"""Errors that a user can fix: one line with the value received and the fix."""

import contextlib
import difflib
import errno
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydra.errors import MissingConfigException


class UserError(Exception):
    """Printed as `error: <message>` on one line without a traceback; the process exits with status 1."""


def user_error(error: BaseException | None) -> UserError | None:
    """`error` if it is a UserError, else the one among its causes (OmegaConf wraps errors of resolvers); or None."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def one_line(text: object) -> str:
    """The first non-empty line of `text`, or the name of its type. For an error that wraps a UserError: that one's."""
    text = user_error(text) or text if isinstance(text, BaseException) else text
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0] if lines else type(text).__name__


def visible(text: object) -> str:
    """`text` with control and direction characters escaped (`\\x1b`), safe for a terminal."""
    return "".join(c if c.isprintable() or c == " " else _escaped(c) for c in str(text))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class VisibleFormatter(logging.Formatter):
    """Log formatter that keeps line breaks and escapes all other control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(visible(line) for line in super().format(record).split("\n"))


@contextlib.contextmanager
def reading(subject: object, fix: str = "") -> Iterator[None]:
    """Convert any exception from a reader into a UserError: "`subject` can't be read (reason); `fix`".

    Only for the call of the reader: a bug of ours inside the block would be reported as a damaged file.
    """
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # errors of tokenizers and safetensors may not derive from Exception
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = one_line(error)[:160]
        raise UserError(f"{subject} can't be read ({reason})" + (f"; {fix}" if fix else "")) from error


@contextlib.contextmanager
def as_user_error(errors: type[BaseException] | tuple[type[BaseException], ...], what: str, fix: str) -> Iterator[None]:
    """Convert `errors` of a library into a UserError: "`what` (reason); `fix`"."""
    try:
        yield
    except errors as error:
        raise UserError(f"{what} ({one_line(error)[:200]}); {fix}") from error


def printable(text: object, most: int) -> str:
    """`text` from data for a terminal or log: one line, at most `most` characters, no control characters."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return text if len(text) <= most else text[: most - 3] + "..."


def missing_choice(error: "MissingConfigException") -> str:
    """The error line for an unknown choice of a group, with suggestions."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    return f"{group}={choice}: no such choice{did_you_mean(choice, error.options or [])}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean a, b?` if `word` is close to some of `known`, else `; there are: ...`."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {', '.join(close)}?"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; there are: {shown}" if names else ""
