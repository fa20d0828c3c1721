"""Which code is running: the commit of the clone that it was started from."""

import contextlib
import functools
import os
import subprocess
from pathlib import Path


@functools.cache
def code_commit() -> str | None:
    """The commit of near's own repository, with "+changes" if files of the package differ from it or are not tracked;
    None if near was not started from a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ("git", "--no-optional-locks", "-C", str(root))
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # of another repository
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commands = ("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=all", "--", "near", "conf")
        done = [
            subprocess.run((*git, *words), capture_output=True, text=True, timeout=10, env=env) for words in commands
        ]
        if not any(one.returncode for one in done):
            return done[0].stdout.strip() + ("+changes" if done[1].stdout.strip() else "")
    return None
