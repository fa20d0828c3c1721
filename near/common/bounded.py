"""Runs untrusted input (chat templates, regular expressions) in a forked process with limited time and memory."""

import contextlib
import gc
import json
import os
import resource
import signal
import struct
from collections.abc import Callable

WAIT = 120  # seconds of wall-clock time for one request: the process may sleep
MEMORY = 1 << 30  # bytes that the process may allocate after the fork


class Overrun(Exception):
    """The process exceeded a limit."""


class Bounded:
    """A process that runs `work` on requests; requests and answers are JSON. It ends with this object or process.

    A kernel signal ends it at the limit, so that an endless loop in C ends, too, whichever thread called `ask`.
    """

    def __init__(self, work: Callable[[object], object], seconds: float):
        """seconds: processor time for one request."""
        self.seconds = seconds
        (read, self._ask), (self._hear, write) = os.pipe(), os.pipe()
        self._process = os.fork()
        if not self._process:
            _serve(work, seconds, read, write)
        os.close(read)
        os.close(write)

    def ask(self, request: object) -> object:
        """The answer to `request`. Raises Overrun at a limit; the process has ended then."""
        try:
            _send(self._ask, json.dumps(request).encode())
            answer = json.loads(_receive(self._hear))
        except (EOFError, OSError) as error:
            self._close()
            raise Overrun(f"it takes over {self.seconds:.0f} s") from error
        if "overrun" in answer:
            self._close()
            raise Overrun(answer["overrun"])
        return answer["answer"]

    def __del__(self) -> None:
        self._close()

    def forget(self) -> None:
        """Drop the process without ending it; for a fork of this process, which does not own it."""
        self._process = None
        self._close()

    def _close(self) -> None:
        for name in ("_ask", "_hear"):
            if (file := self.__dict__.pop(name, None)) is not None:
                os.close(file)
        if process := self.__dict__.pop("_process", None):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _serve(work: Callable[[object], object], seconds: float, read: int, write: int) -> None:
    """Answer until the other end is closed; then exit at once, without the cleanup of the forked parent's objects."""
    try:
        gc.freeze()
        for number in (signal.SIGPROF, signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        first, last = sorted((read, write))
        for start, stop in ((0, first), (first + 1, last), (last + 1, 1 << 16)):
            os.closerange(start, stop)  # locks, terminals and pipes of the parent
        _limit_memory()
        while True:
            request = json.loads(_receive(read))
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, WAIT)
            try:
                answer = json.dumps({"answer": work(request)}).encode()
            except MemoryError:
                answer = json.dumps({"overrun": f"it takes over {MEMORY >> 20} MB"}).encode()
            except Overrun as error:
                answer = json.dumps({"overrun": str(error)}).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(write, answer)
    finally:
        os._exit(0)


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):  # systems without this limit
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = used + MEMORY if hard == resource.RLIM_INFINITY else min(used + MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _send(file: int, content: bytes) -> None:
    content = memoryview(struct.pack("<Q", len(content)) + content)
    while content:
        content = content[os.write(file, content) :]


def _receive(file: int) -> bytes:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    return _exactly(file, length)


def _exactly(file: int, length: int) -> bytes:
    parts, left = [], length
    while left:
        if not (part := os.read(file, min(left, 1 << 20))):
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
