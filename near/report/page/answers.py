"""What the models answered, side by side with the reference."""

import contextlib

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.report.compare import Group


def answers(groups: list[Group], limit: int, shown: int) -> list[dict]:
    """Of the first `limit` target rows, texts cut to `shown` characters, the untrained model first:
    {"row", "question", "reference", "by": [[who, seed, answer or null, loss, {grader: score}, graders that found
    nothing to grade], ...]}.
    Runs that were evaluated on other rows than the first are left out."""
    runs = [(group.label, seed, run) for group in groups for seed, run in group.runs.items()]
    runs = [found for found in runs if found[2].evaluated == runs[0][2].evaluated]
    lines: dict[int, dict] = {}
    any(_add(lines, run.files, "base", None, limit, shown) for _, _, run in runs)
    for who, seed, run in runs:
        _add(lines, run.files, who, seed, limit, shown)
    return [lines[row] for row in sorted(lines)]


def _add(lines: dict[int, dict], files: RunFolder, who: str, seed: object, limit: int, shown: int) -> bool:
    with contextlib.suppress(UserError, OSError):
        rows = files.answers(base=who == "base")
        for row in rows[:limit]:
            told = {"row": row["row"], "question": row["question"], "reference": row["reference"]}
            told = {k: _cut(v, shown) for k, v in told.items()}
            answer = _cut(row.get("answer"), shown)
            loss = None if row.get("loss") is None else round(row["loss"], 4)
            by = [who, seed, answer, loss, row.get("scores") or {}, row.get("no_answer") or []]
            lines.setdefault(row["row"], {**told, "by": []})["by"].append(by)
        return bool(rows)
    return False


def _cut(value: object, shown: int) -> object:
    return value if not isinstance(value, str) or len(value) <= shown else value[: shown - 1] + "…"
