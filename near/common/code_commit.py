"""Which code is running: the commit of the clone that it was started from."""

import contextlib
import functools
import subprocess
from pathlib import Path


@functools.cache
def code_commit() -> str | None:
    """The commit of near's own repository, with "+changes" if tracked files of the package differ from it; None if near
    was not started from a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ("git", "-C", str(root))
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commands = ("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "--", "near", "conf")
        done = [subprocess.run((*git, *words), capture_output=True, text=True, timeout=10) for words in commands]
        if not any(one.returncode for one in done):
            return done[0].stdout.strip() + ("+changes" if done[1].stdout.strip() else "")
    return None
