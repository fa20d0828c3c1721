"""Raw rows of files, each with its position. Files are read as streams."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet

from near.common.errors import UserError, as_user_error, one_line
from near.common.text import plural
from near.data.formats.turns import Fault
from near.data.sources.compression import OPENERS, unpacked
from near.data.sources.json_stream import Missing, TooLong, has_lines, rows_at

BATCH = 1000  # rows read from a parquet file at a time
LONGEST_LINE = LONGEST_FIELD = 1 << 28  # bytes of a line; characters of a CSV field (the standard library: 128 KiB)
Raw = tuple[str, object]  # the row's position ("line 3"), and the row or its Fault
Choose = Callable[[list[str]], list[str]]  # a table's columns to those that are read
ARROW_ERRORS = (OSError, UnicodeDecodeError, OverflowError, ValueError, pa.ArrowException)


@dataclass(frozen=True)
class Kind:
    """The kind of a file by its name."""

    ending: str  # of the format
    packing: str  # of the compression; "" for none

    @classmethod
    def of(cls, name: str) -> "Kind | None":
        """The kind by the last one or two suffixes, in upper or lower case; None if it is not supported."""
        name = name.lower()
        packing = next((p for p in OPENERS if p and name.endswith(p)), "")
        name = name.removesuffix(packing)
        ending = next((ending for ending in (*TEXTS, *TABLES) if name.endswith(ending)), None)
        return None if ending is None or packing and ending in TABLES else cls(ending, packing)


def kinds_shown() -> str:
    packed = ", ".join(p for p in OPENERS if p)
    return f"{', '.join(TEXTS)} (also packed: {packed}), {', '.join(TABLES)}"


def read_rows(
    path: Path, kind: Kind, key: str | None = None, choose: Choose | None = None, option: str = "key"
) -> Iterator[Raw]:
    """The rows of a file.

    Args:
        path: the file.
        kind: its kind.
        key: where the rows are in a JSON file (near/data/sources/json_stream.py).
        choose: selects the columns to read of a Parquet or Arrow file; None: all.
        option: the option that sets `key`, for error messages.

    Raises:
        UserError: the file is damaged, or has no list of rows.
    """
    if kind.ending in TABLES:
        yield from TABLES[kind.ending](path, choose)
        return
    if kind.ending == ".json":
        yield from _json(path, kind.packing, key, option)
        return
    with unpacked(path, kind.packing) as file:
        yield from TEXTS[kind.ending](file, path)


def types_of(path: Path, kind: Kind) -> dict[str, pa.DataType]:
    """The column types that the file declares; {} if its kind declares none."""
    if kind.ending not in TABLES:
        return {}
    with as_user_error(ARROW_ERRORS, f"{path} is not a readable {kind.ending[1:]} file", "write it again"):
        if kind.ending == ".parquet":
            schema = pyarrow.parquet.read_schema(path)
        else:
            with pa.OSFile(str(path)) as file:
                schema = _opened_arrow(file).schema
    return dict(zip(schema.names, schema.types, strict=True))


def _parsed(number: int, line: bytes) -> object:
    """The value of a line of JSON, or a Fault."""
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return Fault("line", f"is not UTF-8 ({error.reason})")
    except (ValueError, RecursionError) as error:  # JSONDecodeError, and numbers or nesting without end
        return Fault("line", f"is not JSON ({one_line(error)[:80]})")


def bounded(file: IO, path: Path) -> Iterator[str | bytes]:
    """The lines of a file, with line ends; UserError for a line longer than LONGEST_LINE.

    A compressed file of a megabyte may contain a line of a gigabyte.
    """
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path}: line {number} is longer than {LONGEST_LINE >> 20} MB, the limit for one row; "
                "split it or fix the file"
            )
        yield line


def _lines(file: IO[bytes], path: Path, separator: bytes = b"\n") -> Iterator[tuple[int, bytes]]:
    """Non-empty lines with their numbers from 1. `separator`: ends a line, too."""
    number = 0
    for ended in bounded(file, path):
        for line in ended.rstrip(b"\r\n").split(separator):
            number += 1
            if line.strip():
                yield number, line


def _jsonl(file: IO[bytes], path: Path) -> Iterator[Raw]:
    for number, line in _lines(file, path):
        yield f"line {number}", _parsed(number, line)


def _txt(file: IO[bytes], path: Path) -> Iterator[Raw]:
    """Plain text, one row per line; lines may end with \\n, \\r\\n or \\r."""
    for number, line in _lines(file, path, b"\r"):
        try:
            yield f"line {number}", {"text": line.decode("utf-8-sig" if number == 1 else "utf-8")}
        except UnicodeDecodeError as error:
            yield f"line {number}", Fault("line", f"is not UTF-8 ({error.reason})")


def _json(path: Path, packing: str, key: str | None, option: str) -> Iterator[Raw]:
    """The rows of a JSON list, at `key` if there is one; or of a file with one object per line."""
    row = 0
    try:
        with unpacked(path, packing) as file:
            lines = key is None and has_lines(io.TextIOWrapper(file, "utf-8-sig"))
        with unpacked(path, packing) as file:
            if lines:
                yield from _jsonl(file, path)
                return
            for value in rows_at(io.TextIOWrapper(file, "utf-8-sig"), key):
                yield f"row {row}", value
                row += 1
    except Missing as missing:
        raise _no_list(path, key, option, missing) from missing
    except TooLong as error:
        raise UserError(f"{path}, near row {row}: {error}, the limit for one row; split it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 near row {row} ({error.reason}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or one_line(error)
        raise UserError(f"{path} is not JSON near row {row} ({reason}); mend that line") from error


def _no_list(path: Path, key: str | None, option: str, missing: Missing) -> UserError:
    if missing.name is not None:
        known = f"; there are: {', '.join(missing.lists[:20])}" if missing.lists else ""
        return UserError(f"{path}: {option}={key} not found: this {missing.kind} has no '{missing.name}'{known}")
    where = f" at {option}={key}" if key else ""
    lists = [f"{key}.{name}" if key else name for name in missing.lists[:20]]
    hint = f"; set {' or '.join(f'{option}={name}' for name in lists)}" if lists else ""
    shown = "an object" if missing.kind == "object" else missing.kind
    return UserError(f"{path} holds {shown}{where}, not a list of rows{hint}")


def _separated(delimiter: str) -> Callable[[IO[bytes], Path], Iterator[Raw]]:
    def read(file: IO[bytes], path: Path) -> Iterator[Raw]:
        csv.field_size_limit(LONGEST_FIELD)
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        # strict: a quote that is never closed would swallow the rest
        reader = csv.DictReader(bounded(text, path), strict=True, delimiter=delimiter)
        try:
            named = reader.fieldnames or []
            if repeated := sorted({name for name in named if named.count(name) > 1}):
                raise UserError(f"{path} has several columns named {', '.join(repeated)}; rename them")
            for row in reader:
                missing, extra = list(row.values()).count(None), len(row.get(None, ()))
                if missing or extra:
                    columns = f"has {plural(len(named) - missing + extra, 'column')}, expected {len(named)}"
                    yield f"line {reader.line_num}", Fault("line", columns)
                else:
                    yield f"line {reader.line_num}", row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: not readable as CSV near line {reader.line_num + 1} ({one_line(error)}); mend that line"
            ) from error

    return read


def chosen_columns(names: list[str], choose: Choose | None, path: object) -> list[str]:
    """The columns of a table to read; UserError if two have the same name."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has several columns named {', '.join(repeated)}; rename them")
    return names if choose is None else choose(names)


def _parquet(path: Path, choose: Choose | None) -> Iterator[Raw]:
    what = f"{path} is not a readable parquet file"
    with as_user_error(ARROW_ERRORS, what, "write it again"), pyarrow.parquet.ParquetFile(path) as file:
        names = chosen_columns(file.schema_arrow.names, choose, path)
        yield from _batches(batch.select(names) for batch in file.iter_batches(BATCH, columns=names))


def _arrow(path: Path, choose: Choose | None) -> Iterator[Raw]:
    """An Arrow stream (as `datasets` writes it) or an Arrow file (Feather)."""
    what = f"{path} is not a readable Arrow file"
    with as_user_error(ARROW_ERRORS, what, "write it again"), pa.OSFile(str(path)) as file:
        opened = _opened_arrow(file)
        names = chosen_columns(opened.schema.names, choose, path)
        stored = isinstance(opened, pa.ipc.RecordBatchFileReader)
        batches = (opened.get_batch(i) for i in range(opened.num_record_batches)) if stored else opened
        yield from _batches(batch.select(names) for batch in batches)


def _opened_arrow(file: pa.OSFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    kind = pa.ipc.open_file if file.read(6) == b"ARROW1" else pa.ipc.open_stream
    file.seek(0)
    return kind(file)


@dataclass(frozen=True)
class Unconverted:
    """A value without a Python equivalent, such as a date after the year 9999 or in an unknown time zone."""

    scalar: pa.Scalar

    def __str__(self) -> str:
        shown = getattr(self.scalar, "value", None)
        return f"{pa.array([self.scalar]) if shown is None else shown} ({self.scalar.type})"


def _batches(batches: Iterator[pa.RecordBatch]) -> Iterator[Raw]:
    row = 0
    for batch in batches:
        columns = [_values(column) for column in batch.columns]
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            yield f"row {row}", dict(zip(batch.schema.names, values, strict=True))
            row += 1


def _values(column: pa.Array) -> list:
    """A column's values; those without a Python equivalent as Unconverted."""
    try:
        return column.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py(maps_as_pydicts="lossy")
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return Unconverted(scalar)


TEXTS: dict[str, Callable[[IO[bytes], Path], Iterator[Raw]] | None] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": None,  # read by _json, which opens the file twice
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".txt": _txt,
}
TABLES: dict[str, Callable[[Path, Choose | None], Iterator[Raw]]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
