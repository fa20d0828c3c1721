"""Compressed files, recognised by their second suffix: a.jsonl.gz is read as a.jsonl."""

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO

import pyarrow as pa

from near.common.errors import UserError, one_line


def _zst(path: Path) -> IO[bytes]:
    return BufferedReader(pa.input_stream(str(path), compression="zstd"))


OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    "": lambda path: open(path, "rb"),
    ".gz": lambda path: gzip.open(path, "rb"),
    ".bz2": lambda path: bz2.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".zst": _zst,
}
NAMES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}


@contextlib.contextmanager
def unpacked(path: Path, packing: str) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a file as a stream. `packing`: a key of OPENERS.

    Raises UserError if the file is damaged or truncated, also while the stream is read.
    """
    try:
        with OPENERS[packing](path) as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        if packing == "":
            raise UserError(f"{path} can't be read ({one_line(error)}); check the file and its name") from error
        raise UserError(f"{path} is a damaged {NAMES[packing]} file ({one_line(error)}); get it again") from error
