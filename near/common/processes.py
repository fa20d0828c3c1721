"""Which of several processes this one is, as torchrun tells through the environment."""

import os


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes: rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_shown() -> str:
    """`rank 1: ` before a line that is of one of several ranks; nothing where there is one process."""
    return f"rank {os.environ['RANK']}: " if world_size() > 1 else ""
