"""Scripts in a forked child: what a process does, without the seconds that importing torch and the rest takes again."""

import atexit
import contextlib
import importlib
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from near.common import command_line

IMPORTED = {  # before the fork, once for all children
    "select": "near.selection.select",
    "train": "near.training.train",
    "merge": "near.export.merge",
    "eval": "near.evaluation.eval",
    "report": "near.report.report",
    "-c": "near.training.train",
}
LIMIT = 600  # seconds; a child that hangs is ended


def forked(
    command: Sequence[str], cwd: Path, env: dict[str, str] | None = None, ranks: int = 1
) -> subprocess.CompletedProcess:
    """Run a script, `-c` code or `-m` module as python would, in `ranks` forked children that form one group.

    It is a process of its own: folder, environment, output, exit status, and whatever it leaves in memory. What this
    process has imported or cached is there already, and warnings of libraries go where pytest collects them: a test
    of either starts a real process.
    """
    importlib.import_module(IMPORTED.get(Path(command[0]).stem, "near"))
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        children = []
        for environment in _environments(ranks):
            pid = os.fork()
            if pid == 0:
                _run(command, cwd, (env or {}) | environment, out.fileno(), err.fileno())
            children.append(pid)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(command, next((s for s in statuses if s), 0), *texts)


def _environments(ranks: int) -> list[dict[str, str]]:
    """What torchrun sets for each rank."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "TORCHELASTIC_RUN_ID": "none"}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _run(command: Sequence[str], cwd: Path, env: dict[str, str], out: int, err: int) -> None:
    """In the child: run `command` and exit."""
    status = 1
    try:
        signal.alarm(LIMIT)
        _fresh(cwd, env, out, err)
        status = _main(command)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _fresh(cwd: Path, env: dict[str, str], out: int, err: int) -> None:
    """Undo what pytest and earlier tests left in this process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))
    atexit._clear()
    logging.root.handlers.clear()
    os.chdir(cwd)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", **env}
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    command_line._current = None
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def _main(command: Sequence[str]) -> int:
    """Run `command` as the main program; its exit status."""
    how, *rest = command
    try:
        if how == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif how == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(command)
            sys.path.insert(0, str(Path(how).resolve().parent))
            runpy.run_path(how, run_name="__main__")
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0
