"""Tables of text, for a terminal or a file into which its output goes."""

from collections.abc import Container, Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from near.common.errors import visible

WIDTH = 150  # characters of a line in a file: rich would cut tables to 80


def console(least: int = 0) -> Console:
    """A console that prints text as it is; in a terminal its lines have at least `least` characters."""
    terminal = Console()
    return Console(highlight=False, emoji=False, width=max(terminal.width, least) if terminal.is_terminal else WIDTH)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], breaking: Container[int] | None = ()) -> Table:
    """`rows` of cells below `heads`. `breaking`: the columns that may be broken into lines; None: all."""
    no_wrap = (breaking is not None and i not in breaking for i in range(len(heads)))
    columns = (Column(escape(visible(head)), no_wrap=fixed) for head, fixed in zip(heads, no_wrap, strict=True))
    result = Table(*columns, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        result.add_row(*(escape(visible(cell)) for cell in row))
    return result
