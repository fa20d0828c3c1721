"""The rows of a run's rounds in the order of training, for other trainers: `select.py run=RUN export=jsonl`.

trained.jsonl has a line for every draw, repeats included:

    row, round, step   id in the pool; round and optimizer step, both from 0, as in rounds.jsonl
    source             the row's label
    weight             the loss weight of the row (data.*.columns.weight); only in exports of runs with weights
    messages           the chat as the run trained it (data.reasoning, data.default_system), in OpenAI's form; calls of
                       tools as `tool_calls` with their arguments as JSON text, thinking as `reasoning_content`
    tools              JSON text of the tools that the row describes; only in exports that have some
    text               in place of messages, of plain text

trained.json describes the export. Rows are read in blocks; a large pool does not come to memory.
"""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.files import naming_full_disk, provenance, write_json, write_jsonl
from near.common.outputs import ROUND_EXPORT, claim, remove
from near.common.run_folder import RunFolder
from near.common.text import plural
from near.data.formats.formats import is_plain
from near.data.formats.turns import Message
from near.data.loading import load
from near.data.rows import Rows
from near.data.weights import joined, weights_of
from near.models.encoding import with_system, without_thinking
from near.selection.draws import Content, Draws
from near.selection.other_trainers import write_for

log = logging.getLogger(__name__)

NAME = "trained.jsonl"


def export_rounds(cfg: DictConfig, output_dir: Path, read: Callable[[Path], DictConfig]) -> None:
    """What select.py does with run=RUN: write trained.jsonl, trained.json and, with export_for, other trainers' files.

    Args:
        cfg: the configuration of select.py.
        read: reads and checks a run's config.yaml.

    Raises:
        UserError: the run has no rounds, or its pool has changed.
    """
    folder, cache_dir = Path(cfg.run), cfg.cache_dir
    draws = Draws.of(folder, read)
    pool, weights = _pool(draws.cfg, RunFolder(folder), cache_dir)
    if any(order.min() < 0 or order.max() >= len(pool) for order in draws.orders):
        raise UserError(f"run={folder}: its rounds have rows beyond the {len(pool)} of its pool; train that run again")
    claim(output_dir, "select")
    remove(output_dir, *ROUND_EXPORT)
    content = Content()
    with naming_full_disk(output_dir):
        write_jsonl(output_dir / NAME, lines(draws, pool, weights, content))
    for_trainers = list(cfg.export_for or ())
    if for_trainers:
        write_for(for_trainers, draws, content, output_dir, cache_dir)
    kept = RunFolder(folder).training.validation
    metadata = {
        "run": str(folder),
        "rows": content.rows,
        "distinct_rows": len(np.unique(np.concatenate(draws.orders))),
        "rounds": len(draws.rounds),
        "steps": draws.steps,
        "draws_per_step": draws.rounds[0].draws_per_step,
        "kept_step": None if kept is None else kept.kept_step,
        "export_for": for_trainers,
        **provenance(),
    }
    write_json(output_dir / "trained.json", metadata)
    log.info(
        f"wrote {output_dir / NAME} ({plural(content.rows, 'row')} of {plural(len(draws.rounds), 'round')}, "
        f"{metadata['distinct_rows']} distinct, in the order of training)"
    )


def lines(draws: Draws, pool: Rows, weights: np.ndarray | None, content: Content) -> Iterator[dict]:
    """The lines of trained.jsonl; `content` counts them. weights: of the pool's rows, (n,); None: they have none."""
    data = draws.cfg.data
    for ids, round, steps in draws.placed():
        chats, sources = pool.chats(ids), pool.sources(ids)
        for row, step, source, messages in zip(ids.tolist(), steps.tolist(), sources, chats, strict=True):
            content.add(messages)
            line = {"row": row, "round": round, "step": step, "source": str(source)}
            if weights is not None:
                line["weight"] = float(weights[row])
            yield line | chat_of(messages, data.get("reasoning") == "drop", data.get("default_system"))


def chat_of(messages: list[Message], drop_thinking: bool, default_system: str | None) -> dict:
    """A row's messages in OpenAI's form, with its tools; of plain text its text."""
    if is_plain(messages):
        return {"text": messages[0]["content"]}
    if drop_thinking:
        messages = [without_thinking(m) if m["role"] == "assistant" else m for m in messages]
    if default_system:
        messages = with_system(messages, default_system)
    tools = {"tools": messages[0]["content"]} if messages[0]["role"] == "tools" else {}
    return {"messages": [_turn(m) for m in messages if m["role"] != "tools"], **tools}


def _turn(message: Message) -> dict:
    turn = {"role": message["role"], "content": message["content"]}
    if "reasoning" in message:
        turn["reasoning_content"] = message["reasoning"]
    if "calls" in message:
        turn["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
            }
            for call in json.loads(message["calls"])
        ]
    if "train" in message:
        turn["train"] = message["train"]
    return turn


def _pool(cfg: DictConfig, files: RunFolder, cache_dir: str) -> tuple[Rows, np.ndarray | None]:
    """The pool of a run, followed by its queries where it trained on them, and the loss weights of its rows.

    Raises:
        UserError: it has changed.
    """
    pool = load(cfg.data, "candidates", cache_dir)
    known, parts = files.training.identity.fingerprints.get("candidates"), [pool]
    if known != pool.fingerprint and cfg.data.queries.path is not None:
        parts.append(load(cfg.data, "queries", cache_dir))
        pool = pool.followed_by(parts[1])
    if known != pool.fingerprint:
        raise UserError(
            f"run={files.path}: data.candidates.path={cfg.data.candidates.path} has changed since it trained; restore "
            "the rows, or train again"
        )
    return pool, joined([(weights_of(cfg.data, part, cache_dir), len(part)) for part in parts])
