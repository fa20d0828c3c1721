"""Locks between processes, also of several machines with a shared file system. A process that dies frees its locks."""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from near.common.errors import UserError
from near.common.files import READ_ONLY, cache_folder


class Lock:
    """A file lock until `close` or the end of the process. A forked child does not have it."""

    _instances: "weakref.WeakSet[Lock]" = weakref.WeakSet()

    def __init__(self, file: int | None):
        self._file = file
        Lock._instances.add(self)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __bool__(self) -> bool:
        """Whether it excludes other processes; False if the lock's file can't be created (read-only)."""
        return self._file is not None

    def write(self, content: bytes) -> None:
        """Write `content` into the lock's file."""
        while content:
            content = content[os.write(self._file, content) :]

    __del__ = close

    @classmethod
    def _forked(cls) -> None:
        for lock in list(cls._instances):
            lock.close()


os.register_at_fork(after_in_child=Lock._forked)


def acquire(path: str | Path, shared: bool = False, wait: bool = True) -> Lock | None:
    """Acquire the lock at `path`.

    Args:
        path: the lock's file, created if missing.
        shared: several processes may have a shared lock at once.
        wait: wait for another process to free it.

    Returns:
        The lock; None if another process has it and `wait` is False.

    Raises:
        UserError: the file system does not support locks.
    """
    path = Path(path)
    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # its folder was just removed
            continue
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            try:  # another user's, or on a file system that is read-only
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return Lock(None)  # nothing can be written there, so there is nothing to wait for
        try:
            fcntl.flock(descriptor, flags)
            if _same(descriptor, path):
                return Lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f"{path}: this file system does not support locks ({error.strerror}); set cache_dir to one that does"
            ) from error
        os.close(descriptor)  # the previous owner removed the file, so this lock excludes nobody: try again


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def lock_file(cache_dir: str | Path, key: str) -> Path:
    """The lock's file for the cached result `key`."""
    return cache_folder(cache_dir, "locks", key)


@contextlib.contextmanager
def locked(path: str | Path, remove: bool = False) -> Iterator[None]:
    """Wait for the lock at `path` and keep it during the block. `remove`: remove its file at the end."""
    lock = acquire(path)
    try:
        yield
    finally:
        free(lock, path if remove else None)


def free(lock: Lock, remove: str | Path | None = None) -> None:
    """Free a lock. `remove`: its file, which is removed."""
    if remove and lock:  # waiting processes notice that the file is gone and create it again
        Path(remove).unlink(missing_ok=True)
    lock.close()
