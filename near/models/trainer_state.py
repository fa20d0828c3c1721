"""Reads and checks trainer_state.json of a checkpoint."""

import re
from pathlib import Path

from near.common.errors import UserError
from near.common.files import read_json


def trainer_state(folder: Path) -> dict:
    """trainer_state.json of a checkpoint; UserError if its numbers do not fit together."""
    path = folder / "trainer_state.json"
    state = read_json(path)
    step, most, history = state.get("global_step"), state.get("max_steps"), state.get("log_history")
    if not _is_count(step) or not step:
        raise UserError(f"{path} is damaged: global_step={step} is not a number of steps; use another checkpoint")
    named = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    if named and int(named[1]) != step:
        raise UserError(f"{path} is damaged: global_step={step} in {folder.name}; use another checkpoint")
    if _is_count(most) and 0 < most < step:
        raise UserError(f"{path} is damaged: global_step={step} is beyond max_steps={most}; use another checkpoint")
    if not isinstance(history, list) or not all(
        isinstance(line, dict) and _is_count(line.get("step")) and line["step"] <= step for line in history
    ):
        raise UserError(f"{path} is damaged: log_history is not that of {step} steps; use another checkpoint")
    return state


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
