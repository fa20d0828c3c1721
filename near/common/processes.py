"""Rank and number of processes, from torchrun's environment variables."""

import os
import site
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])  # the repository, or the folder that near is installed in


def python_path() -> str:
    """PYTHONPATH for a process that must find this package from any folder.

    site-packages is left out: Python finds it anyway, and on PYTHONPATH it would precede the standard library.
    """
    here = [] if ROOT in (*site.getsitepackages(), site.getusersitepackages()) else [ROOT]
    return os.pathsep.join(filter(None, [*here, os.environ.get("PYTHONPATH")]))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes: rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_shown() -> str:
    """Prefix of log lines: `rank 1: ` if there are several processes, else ""."""
    return f"rank {os.environ['RANK']}: " if world_size() > 1 else ""
