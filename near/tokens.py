"""Chats to the tokens that are trained on: the tokenizer's own chat template, loss on the assistant's turns only."""

import hashlib
import logging
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import torch
from jinja2 import TemplateError
from omegaconf import DictConfig

from near.data import Rows
from near.errors import UserError, one_line
from near.files import cache_folder, digest
from near.formats import Message, is_plain
from near.table import SCHEMA
from near.threads import threads_to_use

log = logging.getLogger(__name__)

VERSION = 3
PER_PROCESS = 2000  # rows
IGNORED = -100  # the label that torch's cross entropy leaves out


def render(tokenizer, messages: list[Message], prompt_only: bool = False) -> str:
    """The chat as text; `prompt_only` ends with the opening of an assistant turn."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt_only)


def encode(messages: list[Message], tokenizer, cutoff_len: int) -> dict:
    """input_ids and labels of one chat, at most `cutoff_len` long; labels are IGNORED outside assistant turns.

    A chat that is too long loses the start of what stands before its last answer, then the end of that answer
    (`cut_prompt`, `cut_answer`: tokens lost). UserError where the template rewrites earlier turns as later ones
    come, so that an answer's place can't be told.
    """
    if is_plain(messages):
        return _encode_plain(messages[0]["content"], tokenizer, cutoff_len)
    text = render(tokenizer, messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and i:  # one that opens the chat answers nothing
            before = render(tokenizer, messages[:i], prompt_only=True)
            through = render(tokenizer, messages[: i + 1]).rstrip("\n")
            if not (text.startswith(before) and text.startswith(through)):
                raise UserError("the chat template rewrites earlier turns, so that answers can't be located in it")
            spans.append((len(before), len(through)))
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.asarray(coded["input_ids"], dtype=np.int64)
    begins, ends = np.asarray(coded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    answer = np.zeros(len(ids), dtype=bool)
    for start, stop in spans:
        answer |= (begins >= start) & (ends <= stop) & (ends > begins)
    labels = np.where(answer, ids, IGNORED)
    over = max(0, len(ids) - cutoff_len)
    last = int(np.searchsorted(begins, spans[-1][0])) if spans else len(ids)
    cut_prompt = min(over, last)
    ids, labels = ids[cut_prompt:][:cutoff_len], labels[cut_prompt:][:cutoff_len]
    return {"input_ids": ids, "labels": labels, "cut_prompt": cut_prompt, "cut_answer": over - cut_prompt}


def _encode_plain(text: str, tokenizer, cutoff_len: int) -> dict:
    """Plain text and its end, every token trained on; what is over `cutoff_len` is lost at the end."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    over, ids = max(0, len(ids) - cutoff_len), np.asarray(ids[:cutoff_len], dtype=np.int64)
    return {"input_ids": ids, "labels": ids, "cut_prompt": 0, "cut_answer": over}


def tokenizer_digest(tokenizer) -> str:
    """What of a tokenizer decides its output: vocabulary, rules and chat template."""
    core = tokenizer.backend_tokenizer.to_str()
    return digest([hashlib.sha256(core.encode()).hexdigest(), tokenizer.chat_template, tokenizer.padding_side])


@dataclass(frozen=True)
class Tokens:
    """`table`: input_ids and labels of all rows, by id; `eligible`: ids of rows with an answer token, ascending;
    `fingerprint`: of the rows and what made tokens of them."""

    table: datasets.Dataset
    eligible: np.ndarray
    fingerprint: str = ""


def tokenize(rows: Rows, tokenizer, data: DictConfig, cache_dir: str) -> Tokens:
    """Tokens of all rows, from the cache where the same rows met the same tokenizer before.

    `data`: cutoff_len, num_proc, refresh. A row that the chat template refuses is not eligible; how many is said.
    """
    key = digest([VERSION, rows.fingerprint, tokenizer_digest(tokenizer), data.cutoff_len])
    path = cache_folder(cache_dir, "tokens", f"{key}.arrow")
    path.parent.mkdir(parents=True, exist_ok=True)

    def work(batch: dict) -> dict:
        coded = []
        for messages, fault in zip(batch["messages"], batch["fault"], strict=True):
            try:
                coded.append(_NOTHING if fault else encode(messages, tokenizer, data.cutoff_len))
            except TemplateError as error:
                coded.append({**_NOTHING, "refused": one_line(error)})
        columns = {name: [c.get(name, _NOTHING[name]) for c in coded] for name in _NOTHING}
        columns["answer_tokens"] = [int((labels != IGNORED).sum()) for labels in columns["labels"]]
        return columns

    try:
        table = rows.dataset().map(
            work,
            batched=True,
            remove_columns=SCHEMA.names,
            features=_FEATURES,
            num_proc=data.num_proc or processes(len(rows)),
            cache_file_name=str(path),
            new_fingerprint=key,
            load_from_cache_file=not data.refresh,
            desc="tokenising",
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"the cached tokens {path} are damaged ({one_line(error)}); set data.refresh=true") from error
    answers = table.data.column("answer_tokens").to_numpy()
    eligible = np.intersect1d(np.flatnonzero(answers > 0), rows.eligible()).astype(np.int64)
    _tell(rows, table, len(eligible), data.cutoff_len)
    if not len(eligible):
        raise UserError(f"data.{rows.name}: no row has an answer token; raise data.cutoff_len={data.cutoff_len}")
    return Tokens(table.select_columns(["input_ids", "labels"]), eligible, key)


def processes(rows: int) -> int | None:
    """How many tokenise that many rows: starting one costs about what a thousand rows do."""
    count = min(threads_to_use(), rows // PER_PROCESS)
    return count if count > 1 else None


def _tell(rows: Rows, table: datasets.Dataset, eligible: int, cutoff_len: int) -> None:
    """Say how many rows were cut, refused or left without an answer."""
    prompts, answers = (table.data.column(name).to_numpy() for name in ("cut_prompt", "cut_answer"))
    if prompts.any() or answers.any():
        cut = f"{int((prompts > 0).sum())} prompts and {int((answers > 0).sum())} answers"
        log.info(f"{rows.name}: {cut} of {len(rows)} rows cut to data.cutoff_len={cutoff_len} tokens")
    refused = table.data.column("refused").drop_null()
    if len(refused):
        log.info(f"{rows.name}: the chat template refuses {len(refused)} rows, the first with: {refused[0]}")
    if lost := len(rows.eligible()) - eligible:
        log.info(f"{rows.name}: {lost} rows have no answer token and are not eligible")


_EMPTY = np.empty(0, dtype=np.int64)
_NOTHING = {"input_ids": _EMPTY, "labels": _EMPTY, "cut_prompt": 0, "cut_answer": 0, "refused": None}
_FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.List(datasets.Value("int32")),
        "cut_prompt": datasets.Value("int32"),
        "cut_answer": datasets.Value("int32"),
        "refused": datasets.Value("string"),
        "answer_tokens": datasets.Value("int32"),
    }
)


class Collator:
    """Rows to a batch: input_ids, attention_mask and labels, int64 (B, longest), padded on the right."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": torch.full((len(rows), longest), self.pad_id),
            "attention_mask": torch.zeros((len(rows), longest), dtype=torch.long),
            "labels": torch.full((len(rows), longest), IGNORED),
        }
        for i, row in enumerate(rows):
            size = len(row["input_ids"])
            batch["input_ids"][i, :size] = torch.as_tensor(row["input_ids"])
            batch["attention_mask"][i, :size] = 1
            batch["labels"][i, :size] = torch.as_tensor(row["labels"])
        return batch
