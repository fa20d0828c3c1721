"""Runs a Python program that nobody has read and the tests that judge it, each in a sandbox of bubblewrap.

A sandbox sees Python with its packages, read-only, and an empty /tmp of bounded size: no other file of the machine, no
/proc, no network, no socket, no process of others, no capability, an empty environment. It has one process; its memory,
processor time, files and threads are limited, and it ends with its time. Program and tests talk through two pipes, and
the verdict comes through a third one that only the tests have (inside/worker.py, which says what stays possible).
"""

import contextlib
import json
import os
import platform
import select
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from near.evaluation.sandbox import seccomp

DISK_BYTES = 32 << 20  # of /tmp
MOST_FILES, MOST_THREADS = 4096, 256  # of one program: with more it is killed
LOOK_SECONDS = 0.05  # between two looks at how many there are
LONGEST = 1 << 16  # bytes of a verdict
READY = b"ready\n"  # what the tests' process writes before all else
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
INSIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside")
DEVICES = ("null", "zero", "urandom")
NAMESPACES_OFF = (
    "allow user namespaces (sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1, on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0; docker run --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined)"
)


class Ran(NamedTuple):
    """passed: the program and its tests came to their end. why: of one that did not, the last line of its error."""

    passed: bool
    why: str


class Suite(NamedTuple):
    """What judges a program. code: executed apart from it; a name that it does not define is the program's. entry: the
    function that is tested. helpers: code that the program begins with, whose names the tests take from there."""

    code: str = ""
    entry: str = ""
    helpers: tuple[str, ...] = ()


NO_TESTS = Suite()


class NoSandbox(RuntimeError):
    """Programs can't be isolated here; the message says what is missing."""


def run(program: str, seconds: float, memory_mb: int, tests: Suite = NO_TESTS, unsafe: bool = False) -> Ran:
    """Run `program` to its end, and then its tests: exiting earlier counts as a failure, whatever the status.

    seconds: for both together. memory_mb: address space of each. unsafe: the limits alone, without a sandbox.
    Raises NoSandbox.
    """
    bwrap = "" if unsafe else _bwrap()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="near-program-", ignore_cleanup_errors=True))
        error = stack.enter_context(tempfile.TemporaryFile())
        ends = [stack.enter_context(open(end, mode, 0)) for end, mode in zip(_pipes(), ("rb", "wb") * 2, strict=True)]

        def start(role: str, job: bytes, *pipes: BinaryIO) -> subprocess.Popen:
            files = [pipe.fileno() for pipe in pipes]
            words = [role, *map(str, files), str(seconds), str(memory_mb), *_packages()]
            if not unsafe:
                files.append(stack.enter_context(_file(seccomp.filter_of(platform.machine()))).fileno())
            child = subprocess.Popen(
                [*(_alone() if unsafe else _isolated(bwrap, files[-1])), *words],
                stdin=stack.enter_context(_file(job)),
                stdout=subprocess.PIPE if role == "tests" else subprocess.DEVNULL,
                stderr=error,
                pass_fds=files,
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
            )
            stack.callback(_end, child)
            return child

        until = time.monotonic() + seconds
        candidate = start("program", program.encode("utf-8", "surrogatepass"), ends[0], ends[3])
        judge = start("tests", json.dumps(tests._asdict()).encode(), ends[2], ends[1])
        stack.callback(judge.stdout.close)
        for end in ends:
            end.close()  # so that each side sees when the other has ended
        written, stopped = _written(judge.stdout.fileno(), until, () if unsafe else (candidate.pid, judge.pid))
        if stopped == LATE:
            return Ran(False, f"not done after {seconds:g} seconds")
        if stopped:
            return Ran(False, stopped)
        said = _last_line(error)
        if said.startswith("bwrap: ") or not written.startswith(READY):
            raise NoSandbox(_advice(said))
        if len(written) == len(READY):  # the tests did not come to a verdict
            return Ran(False, _early(judge, seconds))
        verdict = json.loads(written[len(READY) :])
        if verdict["passed"]:
            return Ran(True, "")
        return Ran(False, _printable(verdict["why"]) or _early(candidate, seconds))


def missing() -> str | None:
    """What keeps programs from being isolated here; None where nothing does."""
    try:
        ran = run("", 30, 1024)
    except NoSandbox as error:
        return str(error)
    return None if ran.passed else ran.why


def refusal(reason: str) -> str:
    return (
        f"evaluation.graders.pass_at_1 runs code that nobody has read, and can't isolate it: {reason}. Or type "
        "evaluation.unsafe=true, which runs it with your rights, within limits of time and memory alone"
    )


LATE = "late"


def _written(verdict: int, until: float, sandboxes: Sequence[int]) -> tuple[bytes, str]:
    """What the tests' process writes until it ends; and where it is stopped, LATE or what there is too much of."""
    written = b""
    while (left := until - time.monotonic()) > 0:
        if select.select([verdict], [], [], min(left, LOOK_SECONDS))[0]:  # type: ignore[attr-defined] # not select.py
            part = os.read(verdict, LONGEST)
            written += part
            if not part or len(written) > LONGEST:
                return written, ""
        for sandbox in sandboxes:
            if excess := _excess(sandbox):
                return written, excess
    return written, LATE


def _excess(sandbox: int) -> str:
    """What a sandbox holds too many of, as its limits do not count it (root's threads, files without content)."""
    with contextlib.suppress(OSError, ValueError):  # it is just starting, or ending
        first = int(_children(sandbox))
        disk = os.statvfs(f"/proc/{first}/root/tmp")
        if disk.f_files - disk.f_ffree > MOST_FILES and disk.f_blocks * disk.f_frsize == DISK_BYTES:
            return f"made more than {MOST_FILES} files"
        if len(os.listdir(f"/proc/{int(_children(first))}/task")) > MOST_THREADS:
            return f"started more than {MOST_THREADS} threads"
    return ""


def _children(process: int) -> str:
    with open(f"/proc/{process}/task/{process}/children") as file:
        return file.read()


def _early(candidate: subprocess.Popen, seconds: float) -> str:
    """Why a program is no longer there."""
    try:
        status = candidate.wait(1)
    except subprocess.TimeoutExpired:
        return "ended before its end"
    if status in (128 + signal.SIGXCPU, -signal.SIGXCPU):
        return f"not done after {seconds:g} seconds"
    return f"ended before its end (status {abs(status)})"


def _end(child: subprocess.Popen) -> None:
    """Kill a process and all that came of it: a sandbox ends with its first process, which ends with bwrap."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _alone() -> list[str]:
    return [sys.executable, "-I", "-S", f"{INSIDE}/worker.py"]


def _bwrap() -> str:
    """The path of bubblewrap; NoSandbox where it can't be had."""
    if sys.platform != "linux" or platform.machine() not in seccomp.AUDIT_ARCH:
        machines = ", ".join(seccomp.AUDIT_ARCH)
        raise NoSandbox(f"this is {sys.platform} on {platform.machine()}; use Linux on {machines}")
    if not (bwrap := shutil.which("bwrap")):
        raise NoSandbox("bubblewrap is not installed; apt install bubblewrap")
    return bwrap


def _isolated(bwrap: str, filtering: int) -> list[str]:
    """The command that runs the worker in a sandbox. filtering: the open file of the filter of system calls."""
    python = os.path.realpath(sys.executable)
    words = [bwrap, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    words += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--seccomp", str(filtering)]
    words += ["--size", str(DISK_BYTES), "--tmpfs", "/tmp"]  # before the rest: Python may lie below the machine's /tmp
    base = os.path.realpath(sys.base_prefix)
    for path in dict.fromkeys((*LIBRARIES, f"{base}/lib", f"{base}/lib64", *_packages(), "/usr/share/zoneinfo")):
        words += ["--ro-bind-try", path, path]
    words += ["--ro-bind", python, python, "--ro-bind", INSIDE, "/inside"]
    for name in DEVICES:
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    words += ["--remount-ro", "/", "--chdir", "/tmp", "--clearenv"]
    for name, value in _environment("/tmp").items():
        words += ["--setenv", name, value]
    return [*words, "--setenv", "LD_LIBRARY_PATH", f"{base}/lib", python, "-I", "-S", "/inside/worker.py"]


def _packages() -> list[str]:
    """Folders of installed packages that this Python sees, without the user's own below the home folder."""
    found = [os.path.realpath(p) for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")]
    return [path for path in dict.fromkeys(found) if path != os.path.realpath(site.getusersitepackages())]


def _environment(folder: str) -> dict[str, str]:
    return {"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _advice(said: str) -> str:
    """What bwrap said, and what to do about it."""
    hints = {"Unknown option": "update bubblewrap"}
    hints |= dict.fromkeys(("namespace", "uid map", "loopback", "not permitted", "denied"), NAMESPACES_OFF)
    hint = next((hint for word, hint in hints.items() if word in said), "")
    return (said or "Python does not start in it") + (f"; {hint}" if hint else "")


def _printable(text: str) -> str:
    """What a program said, fit for logs and files: no control characters, no halves of characters."""
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def _last_line(file: BinaryIO) -> str:
    file.seek(0)
    lines = file.read(LONGEST).decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _pipes() -> tuple[int, int, int, int]:
    """From the tests to the program, and from the program to the tests: where to read, where to write."""
    return *os.pipe(), *os.pipe()


def _file(data: bytes) -> BinaryIO:
    """An open file without a name that holds `data`."""
    file = tempfile.TemporaryFile()
    file.write(data)
    file.seek(0)
    return file
