"""A folder as parts of a tar file, for media and services that take files of a limited size."""

import hashlib
import os
import re
import tarfile
from pathlib import Path
from typing import BinaryIO, cast

from near.common.errors import UserError

NAME = "near-bundle"  # of the folder that the parts become
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


def read_size(text: str) -> int:
    """Bytes of a size such as 1900M or 1.9G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG])B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < UNITS["K"]:
        raise UserError(f"--part-size {text} is not a size of at least 1K; write a number and K, M or G, such as 1900M")
    return size


class Parts:
    """A file for tarfile to write to, cut into files of at most `size` bytes: near-bundle.tar.000, 001, ..."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        self.sums: list[tuple[str, str]] = []  # SHA-256 and name of each part
        self._file: BinaryIO | None = None
        self._left = 0

    def write(self, content: bytes) -> int:
        rest = memoryview(content)
        while rest:
            if not self._left:
                self._next()
            piece, rest = rest[: self._left], rest[self._left :]
            self._file.write(piece)
            self._sum.update(piece)
            self._left -= len(piece)
        return len(content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self.sums.append((self._sum.hexdigest(), Path(self._file.name).name))
            self._file = None

    def _next(self) -> None:
        self.close()
        self._file = open(self.folder / f"{NAME}.tar.{len(self.sums):03d}", "wb")
        self._sum, self._left = hashlib.sha256(), self.size


def cut(bundle: Path, into: Path, size: int) -> int:
    """Move the files of `bundle` into parts of a tar file in `into`; PARTS.sha256 lists them. Returns their number."""
    parts = Parts(into, size)
    with tarfile.open(fileobj=cast(BinaryIO, parts), mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(bundle.rglob("*")):
            if path.is_symlink() or not path.is_dir():
                info = archive.gettarinfo(path, f"{NAME}/{path.relative_to(bundle)}")
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                if info.isreg():
                    with open(path, "rb") as file:
                        archive.addfile(info, file)
                else:
                    archive.addfile(info)
                os.unlink(path)  # so that the disk need not hold everything twice
    parts.close()
    (into / "PARTS.sha256").write_text("".join(f"{digest}  {name}\n" for digest, name in parts.sums))
    return len(parts.sums)
