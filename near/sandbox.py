"""Runs a Python program that nobody has read: with limits of time and memory, without a network, writing nowhere but
into a folder of its own.

This file is also the program that does it, started apart so that nothing is forked from a process with threads.
"""

import ctypes
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000  # <linux/sched.h>
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # <linux/prctl.h>
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # Landlock's system calls, alike on all architectures
PATH_BENEATH = 1
WRITES = 0b1111111110010  # <linux/landlock.h>: write, remove and make files of any kind
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
FILE_BYTES = 16 << 20  # the longest file that a program may write
REFUSED, LATE = 97, 98  # status of the process that watches: there are no namespaces; the time was over


class Ran(NamedTuple):
    """passed: the program came to its end. why: of one that did not, the last line of its error."""

    passed: bool
    why: str


class NoSandbox(RuntimeError):
    """The system gives no namespaces to this user."""


def run(program: str, seconds: float, memory_mb: int) -> Ran:
    """Run `program` to its end: an exit before that, with any status, is none.

    Raises NoSandbox where the network can't be taken away.
    """
    if sys.platform != "linux":
        raise NoSandbox(f"this is {sys.platform}")
    token = secrets.token_hex(16)  # so that no program passes by chance
    with tempfile.TemporaryDirectory(prefix="near-sandbox-") as name:
        folder = Path(name)
        end = f"\nwith open({str(folder / 'end')!r}, 'w') as _file:\n    _file.write({token!r})\n"
        (folder / "program.py").write_text(program + end, encoding="utf-8", errors="surrogatepass")
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": name, "TMPDIR": name, "OMP_NUM_THREADS": "1"}
        environment |= {"LANG": "C.UTF-8"}
        with open(folder / "error", "wb") as error:
            child = subprocess.Popen(
                [sys.executable, "-I", __file__, name, str(seconds), str(memory_mb)],
                cwd=name,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=error,
                start_new_session=True,
            )
            try:
                status = child.wait(seconds + 5)  # beside the program's own limit: for what it takes to start
            except subprocess.TimeoutExpired:
                status = LATE
            finally:
                child.kill()  # and with it all that the program has started
                child.wait()
        said = (folder / "error").read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        if status == REFUSED:
            raise NoSandbox(said[-1] if said else "no namespaces")
        ended = folder / "end"
        if ended.is_file() and ended.stat().st_size == len(token) and ended.read_text(errors="replace") == token:
            return Ran(True, "")
        if status == LATE:
            return Ran(False, f"not done after {seconds:g} seconds")
        return Ran(False, said[-1][:300] if said else f"ended before its end (status {status})")


def _confined(folder: str, seconds: float, memory_mb: int) -> int:
    """Run program.py of `folder` in namespaces of its own; its status."""
    libc = ctypes.CDLL(None, use_errno=True)
    root = os.geteuid() == 0
    if libc.unshare((0 if root else CLONE_NEWUSER) | CLONE_NEWNET | CLONE_NEWPID):
        print(os.strerror(ctypes.get_errno()), file=sys.stderr)
        return REFUSED
    program = os.fork()
    if program == 0:  # the first of its namespace: with it all others there end
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        memory = memory_mb << 20
        for kind, most in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CPU, int(seconds) + 1),
            (resource.RLIMIT_FSIZE, FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(kind, (most, most))
        _write_only_into(libc, folder)
        os.execv(sys.executable, [sys.executable, "-I", os.path.join(folder, "program.py")])
    late = []
    signal.signal(signal.SIGALRM, lambda *_: late.append(os.kill(program, signal.SIGKILL)))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _, status = os.waitpid(program, 0)
    return LATE if late else abs(os.waitstatus_to_exitcode(status))


def _write_only_into(libc: ctypes.CDLL, folder: str) -> None:
    """By Landlock, where the kernel has it (since 5.13); elsewhere files of the user can be written.

    Reading, file modes and sockets in the file system stay open, and how many processes there are is not limited.
    """
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return
    cutting = TRUNCATE if version >= 3 else 0
    handled = ctypes.c_uint64(WRITES | cutting)
    rules = libc.syscall(CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    for path, allowed in ((folder, WRITES | cutting), (os.devnull, WRITE_FILE | cutting)):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
        libc.syscall(ADD_RULE, rules, PATH_BENEATH, rule, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.syscall(RESTRICT_SELF, rules, 0)


if __name__ == "__main__":
    sys.exit(_confined(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
