"""Rank and number of processes, from torchrun's environment variables."""

import os


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes: rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_shown() -> str:
    """Prefix of log lines: `rank 1: ` if there are several processes, else ""."""
    return f"rank {os.environ['RANK']}: " if world_size() > 1 else ""
