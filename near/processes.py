"""Which of several processes this one is, as torchrun tells through the environment."""

import os


def is_main() -> bool:
    """Whether this is the process that writes: rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0
