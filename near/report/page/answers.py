"""The models' answers, side by side with the reference."""

import contextlib

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.report.compare import Group


def answers(groups: list[Group], limit: int, length: int) -> list[dict]:
    """The answers to target rows, as the page's scripts read them. Runs that were evaluated on other rows than the
    first run are left out.

    Args:
        groups: the selections.
        limit: how many rows, the first ones.
        length: characters to which texts are cut.

    Returns:
        For each row {"row", "question", "reference", "by": [[label, seed, answer or null, loss, {grader: score},
        graders that saw nothing to grade], ...]}, the untrained model first.
    """
    runs = [(group.label, seed, run) for group in groups for seed, run in group.runs.items()]
    runs = [entry for entry in runs if entry[2].evaluated == runs[0][2].evaluated]
    lines: dict[int, dict] = {}
    any(_add(lines, run.files, "base", None, limit, length) for _, _, run in runs)
    for label, seed, run in runs:
        _add(lines, run.files, label, seed, limit, length)
    return [lines[row] for row in sorted(lines)]


def _add(lines: dict[int, dict], files: RunFolder, label: str, seed: object, limit: int, length: int) -> bool:
    with contextlib.suppress(UserError, OSError):
        rows = files.answers(base=label == "base")
        for row in rows[:limit]:
            texts = {key: _cut(row[key], length) for key in ("row", "question", "reference")}
            answer = _cut(row.get("answer"), length)
            loss = None if row.get("loss") is None else round(row["loss"], 4)
            by = [label, seed, answer, loss, row.get("scores") or {}, row.get("no_answer") or []]
            lines.setdefault(row["row"], {**texts, "by": []})["by"].append(by)
        return bool(rows)
    return False


def _cut(value: object, length: int) -> object:
    return value if not isinstance(value, str) or len(value) <= length else value[: length - 1] + "…"
