"""How similarly two models answer: their logits on the same real prompts."""

import inspect
import math
from dataclasses import asdict, dataclass

import torch

from near.common.text import plural
from near.export.lineage import AdapterRun
from near.models.encoding import Encoder

PROMPTS = 8  # of a run's evaluation, at most
LONGEST = 96  # last tokens of a prompt that are used
POSITIONS = 32  # last positions of a prompt whose logits are compared; logits are as wide as the vocabulary

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
    """Of two models' logits.

    Attributes:
        max: the largest absolute difference.
        share: the root mean square difference, relative to the standard deviation of the first model's logits.
        agree: the share of positions with the same likeliest token.
    """

    max: float
    share: float
    agree: float

    def metrics(self) -> dict:
        """The values under their names in merge.json."""
        return {
            f"{name}_logit_difference" if name != "agree" else "same_top_token": v for name, v in asdict(self).items()
        }


def prompts_of(run: AdapterRun | None, tokenizer) -> tuple[list[list[int]], str]:
    """Token ids of prompts, and a description: rows that `run` was evaluated on, with its answers, else QUESTIONS."""
    rows = [] if run is None else run.files.answers()
    rows = [rows[i * len(rows) // PROMPTS] for i in range(PROMPTS)] if len(rows) > PROMPTS else rows
    encoder = Encoder(tokenizer, {"cutoff_len": 1 << 30})
    if rows:
        coded = [encoder.encode(_chat(row)).input_ids.tolist() for row in rows]
        name = f"{plural(len(rows), 'row')} of the run's evaluation"
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
    """Logits of each prompt's last positions, each float32 (n_positions, vocabulary), on the CPU."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    options = {"logits_to_keep": POSITIONS} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
    results = []
    for ids in prompts:
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False, **options).logits
        results.append(logits[0, -POSITIONS:].float().cpu())
    return results


def difference(expected: list[torch.Tensor], actual: list[torch.Tensor]) -> LogitDifference:
    """How far `actual` is from `expected`, each a list of (n_positions, vocabulary); all NaN if one is not finite."""
    largest, squares, spread, agree, positions = 0.0, 0.0, 0.0, 0, 0
    for a, b in zip(expected, actual, strict=True):
        apart = a - b
        if not bool(apart.isfinite().all()):
            return LogitDifference(math.nan, math.nan, math.nan)
        largest = max(largest, float(apart.abs().max()))
        squares += float(apart.square().sum())
        spread += float((a - a.mean(dim=1, keepdim=True)).square().sum())
        agree += int((a.argmax(dim=1) == b.argmax(dim=1)).sum())
        positions += len(a)
    return LogitDifference(largest, math.sqrt(squares / max(spread, 1e-30)), agree / positions)
