"""Rows and vectors for several scripts of this folder."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from near.common.errors import UserError

LARGEST = 4000  # rows of a task; larger tasks are left out, so that none outweighs the others


def evals_rows(cache_dir: str, count: int, tasks: str = "all", answered: bool = False) -> list[tuple[str, str | None]]:
    """Distinct questions (the user turns) of OpenAI's evals with their answers, drawn at random.

    Args:
        count: number of questions.
        tasks: "all", from the whole package (downloaded once; 727 MB on disk), or "demo", the tasks of the demo.
        answered: leave out questions whose answer is no text. Otherwise an answer may be None.

    Raises:
        UserError: fewer than `count`.
    """
    answers: dict[str, str | None] = {}
    for task in sorted(_tasks(cache_dir, tasks).iterdir()):
        rows = [row for path in sorted(task.glob("*.jsonl")) for row in _rows(path) if row[1] or not answered]
        if len(rows) <= LARGEST:
            answers.update(rows)
    questions = list(answers)
    if count > len(questions):
        raise UserError(
            f"{count} rows, with queries and new rows, are more than the {len(questions)} questions; use fewer rows"
        )
    return [(questions[i], answers[questions[i]]) for i in np.random.default_rng(0).permutation(len(questions))[:count]]


def _tasks(cache_dir: str, tasks: str) -> Path:
    from near.common.files import folder_aside
    from near.data.builtin.assets import EVALS, resolve, unpack

    if tasks not in ("all", "demo"):
        raise UserError(f"tasks={tasks}: use all or demo")
    if tasks == "demo":
        return Path(resolve("builtin:evals", cache_dir))
    folder = Path(cache_dir) / "assets" / "evals-all"
    if not folder.is_dir():
        with folder_aside(folder) as new:
            unpack(EVALS, new, lambda member: member.endswith(".jsonl"))
    return folder


def _rows(path: Path) -> Iterator[tuple[str, str | None]]:
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        try:
            row = json.loads(line)
            question, answer = row.get("input"), row.get("ideal")
        except (ValueError, AttributeError):
            continue
        if isinstance(question, list):
            turns = [m["content"] for m in question if m.get("role") == "user"]
            question = "\n".join(t for t in turns if isinstance(t, str))
        if isinstance(answer, list):
            answer = answer[0] if answer else None
        if isinstance(question, str) and question.strip():
            yield question, answer if isinstance(answer, str) and answer.strip() else None


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors float32 (n, dim) around 200 centres, in random order."""
    centres = np.random.default_rng(0).normal(size=(200, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, 200, n)] + rng.normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_examples(path: Path, examples: Iterable[tuple[str, str]]) -> None:
    """A JSON-lines file of instructions and outputs."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"instruction": prompt, "output": answer}) + "\n" for prompt, answer in examples)


def write_vectors(path: Path, rows: int, dim: int) -> None:
    """Unit vectors float32 (rows, dim) in random order, written to a .npy file block by block."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    for start in range(0, rows, 10_000):
        part = np.random.default_rng(start).normal(size=(min(10_000, rows - start), dim)).astype(np.float32)
        out[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    out.flush()


def disk_speed(path: Path) -> float:
    """Bytes per second of reading a file that is not in the page cache."""
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer, started, size = bytearray(1 << 24), time.perf_counter(), 0
        while count := file.readinto(buffer):
            size += count
        return size / (time.perf_counter() - started)
