"""The demo's data: tasks of the `evals` package as domains, one of them the target.

The target's rows are split by question into queries (the target of selection), eval (used by neither selection nor
training) and rows that join the pool with all other domains. Every row has `messages` and `domain`.
"""

import json
from pathlib import Path

import numpy as np

from near.common.files import write_jsonl

# Task: its answers. All come under the package's MIT licence; its LICENSE.md lists other licences for some
# tasks, none of these (parable and sql tasks are left out: their texts come from elsewhere).
TASKS = {
    "abstract2title": "a title for an abstract",
    "balance_chemical_equation": "a balanced equation",
    "brazilian_laws": "a law's subject (Portuguese)",
    "coq-proof-step": "the next step of a proof",
    "forth_stack_sim": "a stack after some Forth words",
    "imperial_date_to_string": "a date written out, with its weekday",
    "jee-math": "a multiple-choice letter",
    "linear_equations": "the solution of Ax = b",
    "medmcqa": "a medical multiple-choice answer",
    "ner_finance": "named entities of a sentence",
    "soc_codes": "the class of a job title",
}
TARGET = "imperial_date_to_string"
QUERIES, EVAL = 64, 48


def read_task(folder: Path, task: str) -> list[dict]:
    """All rows of one task in a fixed order, as `{"messages": [...], "domain": task}`."""
    rows = []
    for path in sorted((folder / task).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                raw = json.loads(line)
                ideal = raw["ideal"][0] if isinstance(raw["ideal"], list) else raw["ideal"]
                answer = {"role": "assistant", "content": ideal.strip()}
                rows.append({"messages": [*raw["input"], answer], "domain": task})
    return rows


def question(row: dict) -> str:
    return "\n".join(m["content"] for m in row["messages"] if m["role"] == "user")


def write_demo(evals: Path, target: str, folder: Path) -> None:
    """Write pool.jsonl, queries.jsonl and eval.jsonl for `target` into `folder`; the same files every time."""
    rng = np.random.default_rng(0)
    rows = read_task(evals, target)
    questions = sorted({question(row) for row in rows})
    shuffled = [questions[i] for i in rng.permutation(len(questions))]
    parts = dict.fromkeys(shuffled[:QUERIES], "queries") | dict.fromkeys(shuffled[QUERIES : QUERIES + EVAL], "eval")
    split: dict[str, list[dict]] = {"queries": [], "eval": [], "pool": []}
    seen = set()
    for row in rows:
        part = parts.get(question(row), "pool")
        if part != "pool":
            if question(row) in seen:  # one row per question of queries and eval
                continue
            seen.add(question(row))
        split[part].append(row)
    for task in sorted(TASKS):
        if task != target:
            split["pool"] += read_task(evals, task)
    split["pool"] = [split["pool"][i] for i in rng.permutation(len(split["pool"]))]
    for part, content in split.items():
        write_jsonl(folder / f"{part}.jsonl", content)
