"""Shared by all scripts of this folder: their arguments, the head of their output, and work in a separate process.

    if __name__ == "__main__":
        script(main, work)

`python bench/NAME.py rows=1000 sizes=10,20 FILE` calls main(FILE, rows=1000, sizes=[10, 20]). main's annotations
give the type of each value. `--help` prints the script's docstring.
"""

import inspect
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from near.common.errors import UserError, did_you_mean, one_line

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "faiss-cpu")
Result = TypeVar("Result")
APART = "--apart"  # python bench/NAME.py --apart FUNCTION JSON


def script(main: Callable[..., object], *workers: Callable[..., object]) -> None:
    """Run `main` with the words of the command line, below the head; or one of `workers`, as `apart` starts it.

    A UserError ends the process with one line and status 1.
    """
    words = sys.argv[1:]
    os.environ.setdefault("NEAR_CACHE", str(ROOT / ".cache"))  # independent of the current folder
    try:
        if words[:1] == [APART]:
            worker = {worker.__name__: worker for worker in workers}[words[1]]
            print(json.dumps(worker(*json.loads(words[2]))))
        elif "--help" in words:
            print(inspect.getmodule(main).__doc__.strip())
        else:
            bound = options(main, words)
            print(head(), flush=True)
            main(*bound.args, **bound.kwargs)
    except UserError as error:
        sys.exit(f"error: {error}")


def options(main: Callable[..., object], words: Sequence[str]) -> inspect.BoundArguments:
    """The words of the command line as arguments of `main`. Unknown options become its `*overrides`, if it has them.

    Raises:
        UserError: an option that `main` does not have, or a value of another type.
    """
    signature = inspect.signature(main)
    named = {p.name: p for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL}
    files, keywords = [], {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            files.append(word)
        elif name not in named and any(p.name == "overrides" for p in signature.parameters.values()):
            files.append(word)
        elif name not in named:
            raise UserError(f"{word}: no such option{did_you_mean(name, list(named))}")
        else:
            keywords[name] = _value(word, value, named[name].annotation)
    try:
        return signature.bind(*files, **keywords)
    except TypeError as error:
        raise UserError(f"{' '.join(words) or 'no arguments'}: {error}; --help says what is expected") from None


def _value(word: str, value: str, kind: type) -> object:
    if kind in (list[int], list[str], list[float]):
        return [_value(word, part, kind.__args__[0]) for part in value.split(",")]
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise UserError(f"{word}: expected true or false")
        return value.lower() == "true"
    if kind is int:
        if not re.fullmatch(r"[0-9]+", value):
            raise UserError(f"{word}: expected a whole number, 0 or more")
        return int(value)
    if kind is float:
        if not re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?", value):
            raise UserError(f"{word}: expected a number, 0 or more")
        return float(value)
    if not value:
        raise UserError(f"{word}: expected a value after the =")
    return value


def head() -> str:
    """Date, machine, versions and the commit: the lines above every table."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine = f"{cpu()}, {cores()} of {os.cpu_count()} cores, {memory / 1e9:.1f} GB, load {os.getloadavg()[0]:.1f}"
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    date = time.strftime("%Y-%m-%d %H:%M %Z")
    return f"{date}; {machine}\npython {platform.python_version()}, {packages}, near {commit()}"


def cpu() -> str:
    """The processor's name, from the system."""
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return model.group(1) if model else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The commit of this folder, and whether files differ from it."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        except OSError:
            return None
        return None if done.returncode else done.stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    if head is None:
        return "of no commit"
    return f"at {head}{' with changes' if git('status', '--porcelain') else ''}"


def apart(
    worker: Callable[..., object], *args: object, env: dict[str, str] | None = None, python: str = sys.executable
) -> Any:
    """Run `worker(*args)` in a separate process, with its own memory and imports; its result comes back as JSON.

    Raises:
        UserError: the process failed; its error output goes to stderr.
    """
    words = [python, inspect.getfile(worker), APART, worker.__name__, json.dumps(args, default=str)]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{worker.__name__} ended with status {done.returncode}: {last.removeprefix('error: ')}")
    return json.loads(done.stdout.splitlines()[-1])


def composed(name: str, *overrides: str):
    """The configuration of one of near's scripts, `name` such as "train", as a job of it would have it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import open_dict

    from near.common.config import CONF, register_resolvers

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = compose(name, overrides=list(overrides), return_hydra_config=True)
        except HydraException as error:
            raise UserError(one_line(error)) from error
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """The seconds and the result of `work()`."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def peak() -> int:
    """Peak memory of this process, in bytes (VmHWM: unlike ru_maxrss it does not include its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE).group(1)) * 1024


def not_measured(name: str, error: Exception) -> None:
    """Print the row of something that cannot be measured here, such as a peer's package."""
    print(f"{name:30} not measured: {one_line(error)}", flush=True)
