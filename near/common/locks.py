"""Locks between processes, on one machine or on several that share a file system: the kernel frees a dead process's."""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from near.common.errors import UserError
from near.common.files import READ_ONLY, cache_folder


class Lock:
    """A lock that is held until `close`, or until the process ends. A forked child does not hold it."""

    _instances: "weakref.WeakSet[Lock]" = weakref.WeakSet()

    def __init__(self, file: int | None):
        self._file = file
        Lock._instances.add(self)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __bool__(self) -> bool:
        """Whether it holds anybody off: nothing does where nothing can be written."""
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
    """The lock at `path`; None where another process holds it and `wait` is false. `shared` ones are held by several.

    Raises UserError on a file system without locks.
    """
    path = Path(path)
    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # its folder was removed in this moment
            continue
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            try:  # another user's, or on a file system that is read-only
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return Lock(None)  # where nothing can be written there is nothing to wait for
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
                f"{path}: no locks on this file system ({error.strerror}); use a cache_dir that has them"
            ) from error
        os.close(descriptor)  # whoever held it before removed the file: that lock is nobody's


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def lock_file(cache_dir: str | Path, key: str) -> Path:
    """The lock of what the cache keeps under `key`."""
    return cache_folder(cache_dir, "locks", key)


@contextlib.contextmanager
def locked(path: str | Path, remove: bool = False) -> Iterator[None]:
    """Hold the lock at `path`, waiting for it; its file stays, or goes with it (`remove`)."""
    lock = acquire(path)
    try:
        yield
    finally:
        if remove and lock:  # who waits for it sees that the file is gone, and makes another
            Path(path).unlink(missing_ok=True)
        lock.close()
