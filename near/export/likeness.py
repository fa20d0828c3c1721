"""How alike two models answer: their logits on the same real prompts."""

import inspect
import math
from dataclasses import asdict, dataclass

import torch

from near.export.lineage import AdapterRun
from near.models.encoding import Encoder

PROMPTS = 8  # of a run's rows
LONGEST = 96  # tokens of a prompt: the last
POSITIONS = 32  # of a prompt whose logits are compared, the last: a vocabulary wide, they are what takes memory
QUESTIONS = (
    "What is the capital of France?",
    "Convert 1927-05-17 to a sentence with weekday, month, day and year.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it take?",
    "Résume en une phrase ce que fait la photosynthèse.",
    "用一句话介绍长城。",
)


@dataclass(frozen=True)
class LogitDifference:
    """Of two models' logits. max: the largest absolute one; share: the root of the mean square, as a share of the
    standard deviation of the first model's logits; agree: the share of positions with the same likeliest token."""

    max: float
    share: float
    agree: float

    def told(self) -> dict:
        return {
            f"{name}_logit_difference" if name != "agree" else "same_top_token": v for name, v in asdict(self).items()
        }


def prompts_of(run: AdapterRun | None, tokenizer) -> tuple[list[list[int]], str]:
    """Token ids of prompts, and what they are: rows that `run` was evaluated on, with its answers, or QUESTIONS."""
    rows = [] if run is None else run.files.answers()
    rows = [rows[i * len(rows) // PROMPTS] for i in range(PROMPTS)] if len(rows) > PROMPTS else rows
    encoder = Encoder(tokenizer, {"cutoff_len": 1 << 30})
    if rows:
        coded = [encoder.encode(_chat(row)).input_ids.tolist() for row in rows]
        name = f"{len(rows)} rows of the run's evaluation"
    else:
        coded = [encoder.prompt_ids([{"role": "user", "content": question}]) for question in QUESTIONS]
        name = f"{len(coded)} built-in prompts"
    return [ids[-LONGEST:] for ids in coded if ids], name


def _chat(row: dict) -> list[dict]:
    answer = {"role": "assistant", "content": row.get("answer") or row["reference"]}
    if not row["question"]:  # plain text, trained on without a template
        return [{**answer, "content": row["reference"]}]
    return [{"role": "user", "content": row["question"]}, answer]


@torch.inference_mode()
def logits_of(model, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits of each prompt's last positions, float32 (positions, vocabulary) each, on the CPU."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    few = {"logits_to_keep": POSITIONS} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
    found = []
    for ids in prompts:
        made = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False, **few).logits
        found.append(made[0, -POSITIONS:].float().cpu())
    return found


def difference(wanted: list[torch.Tensor], found: list[torch.Tensor]) -> LogitDifference:
    """How far `found` is from `wanted`; everything NaN where either holds a number that is none."""
    largest, squares, spread, agree, positions = 0.0, 0.0, 0.0, 0, 0
    for a, b in zip(wanted, found, strict=True):
        apart = a - b
        if not bool(apart.isfinite().all()):
            return LogitDifference(math.nan, math.nan, math.nan)
        largest = max(largest, float(apart.abs().max()))
        squares += float(apart.square().sum())
        spread += float((a - a.mean(dim=1, keepdim=True)).square().sum())
        agree += int((a.argmax(dim=1) == b.argmax(dim=1)).sum())
        positions += len(a)
    return LogitDifference(largest, math.sqrt(squares / max(spread, 1e-30)), agree / positions)
