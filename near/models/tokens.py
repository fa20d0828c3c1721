"""The table of tokens for training, and batches of it."""

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jinja2 import TemplateError
from omegaconf import DictConfig

from near.common.errors import UserError, one_line
from near.common.files import FULL, READ_ONLY, cache_folder, digest, naming_full_disk
from near.common.text import plural
from near.common.threads import threads_to_use
from near.data.formats.formats import without_nulls
from near.data.rows import Rows
from near.data.table import SCHEMA
from near.models.encoding import IGNORED, Encoder

log = logging.getLogger(__name__)

VERSION = 4
PER_PROCESS = 2000  # rows per process
# options of data that Encoder reads
OPTIONS = ("cutoff_len", "train_on_prompt", "mask_history", "reasoning", "default_system")


def tokenizer_digest(tokenizer) -> str:
    """Digest of all that determines a tokenizer's output: vocabulary, rules, special tokens, chat template."""
    core = tokenizer.backend_tokenizer.to_str()
    special = [tokenizer.bos_token, tokenizer.eos_token, getattr(tokenizer, "split_special_tokens", False)]
    return digest(
        [hashlib.sha256(core.encode()).hexdigest(), tokenizer.chat_template, tokenizer.padding_side, *special]
    )


@dataclass(frozen=True)
class Tokens:
    """Token ids and labels of all rows."""

    table: datasets.Dataset  # input_ids and labels, indexed by row id
    eligible: np.ndarray  # int64, ascending: ids of eligible rows with an answer token
    fingerprint: str = ""  # digest of the rows, the tokenizer and the options


def tokenize(rows: Rows, tokenizer, data: DictConfig, cache_dir: str) -> Tokens:
    """Tokenise all rows, or read them from the cache.

    A row that the chat template rejects is not eligible; the number of such rows is logged.

    Args:
        rows: the rows.
        tokenizer: a fast tokenizer with a chat template.
        data: options of Encoder, num_proc, refresh and on_error.
        cache_dir: where the tokens are cached.

    Raises:
        UserError: a row can't be encoded (its answers can't be located, or the template does not accept tools); with
            data.on_error=skip such rows are not eligible instead. Also if no row is eligible.
    """
    path = tokens_path(rows, tokenizer, data, cache_dir)
    key = path.stem
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(tokenizer, data)

    def work(batch: dict) -> dict:
        coded = []
        for messages, fault in zip(batch["messages"], batch["fault"], strict=True):
            row = dict(_NOTHING)
            if not fault:
                try:
                    row |= vars(encoder.encode(without_nulls(messages)))
                except TemplateError as error:
                    row["refused"] = one_line(error)
                except UserError as error:
                    row["misfit"] = one_line(error)
            coded.append(row)
        columns = {name: [int(c[name]) if name in _COUNTED else c[name] for c in coded] for name in _NOTHING}
        columns["answer_tokens"] = [int((labels != IGNORED).sum()) for labels in columns["labels"]]
        return columns

    try:
        with naming_full_disk(path.parent):
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
        if getattr(error, "errno", None) in (*FULL, *READ_ONLY):
            raise
        raise UserError(f"the cached tokens {path} are damaged ({one_line(error)}); set data.refresh=true") from error
    answers = table.data.column("answer_tokens").to_numpy()
    usable = rows.eligible()
    eligible = np.intersect1d(np.flatnonzero(answers > 0), usable).astype(np.int64)
    _check(rows, table, usable, data.on_error)
    _report(rows, table, usable, len(eligible), data.cutoff_len, tokenizer)
    if not len(eligible):
        raise UserError(f"data.{rows.name}: no row has an answer token; increase data.cutoff_len={data.cutoff_len}")
    return Tokens(table.select_columns(["input_ids", "labels"]), eligible, key)


def tokens_path(rows: Rows, tokenizer, data: DictConfig, cache_dir: str) -> Path:
    """The file of the rows' tokens in the cache, named by all that decides them."""
    options = [data.get(name) for name in OPTIONS]
    key = digest([VERSION, rows.fingerprint, tokenizer_digest(tokenizer), options])
    return cache_folder(cache_dir, "tokens", f"{key}.arrow")


def processes(rows: int) -> int | None:
    """Number of processes for `rows` rows; None: this one. Starting one costs as much as about a thousand rows."""
    count = min(threads_to_use(), rows // PER_PROCESS)
    return count if count > 1 else None


def _check(rows: Rows, table: datasets.Dataset, usable: np.ndarray, on_error: str) -> None:
    """UserError for the first usable row that could not be encoded; on_error="skip": log their number."""
    misfits = table.data.column("misfit")
    if misfits.null_count == len(table):
        return
    ids = np.intersect1d(np.flatnonzero(~misfits.is_null().to_numpy()), usable)
    if not len(ids):
        return
    first = misfits[int(ids[0])].as_py()
    if on_error != "skip":
        raise UserError(f"data.{rows.name}, row {ids[0]}: {first}")
    log.info(
        f"{rows.name}: {len(ids)} of {plural(len(rows), 'row')} left out, as they can't be encoded; row "
        f"{ids[0]}: {first}"
    )


def _report(rows: Rows, table: datasets.Dataset, usable: np.ndarray, eligible: int, cutoff_len: int, tokenizer) -> None:
    """Log how many rows were cut, refused, changed or left without an answer."""
    counts = {name: table.data.column(name).to_numpy()[usable] for name in _COUNTED}
    rows_with = {name: int((values > 0).sum()) for name, values in counts.items()}
    if rows_with["cut_prompt"] or rows_with["cut_answer"]:
        cut = f"{plural(rows_with['cut_prompt'], 'prompt')} and {plural(rows_with['cut_answer'], 'answer')}"
        log.info(f"{rows.name}: {cut} of {plural(len(rows), 'row')} cut to data.cutoff_len={cutoff_len} tokens")
    if rows_with["lost_question"] or rows_with["lost_answers"]:
        log.info(
            f"{rows.name}: the cut leaves {plural(rows_with['lost_question'], 'row')} with an answer without its "
            f"question, and removes {plural(int(counts['lost_answers'].sum()), 'earlier answer')} from "
            f"{plural(rows_with['lost_answers'], 'row')}"
        )
    if rows_with["endless"]:
        log.info(
            f"{rows.name}: answers of {plural(rows_with['endless'], 'row')} do not end: neither the chat template "
            "nor the tokenizer has an end token"
        )
    if rows_with["end_added"]:
        log.info(
            f"{rows.name}: the chat template does not end the answers of {plural(rows_with['end_added'], 'row')}; "
            f"the end token {tokenizer.eos_token} is added to them"
        )
    if rows_with["unrendered"]:
        count = int(counts["unrendered"].sum())
        log.info(f"{rows.name}: the chat template omits thinking, or text beside calls, of {plural(count, 'answer')}")
    if rows_with["dropped"]:
        log.info(f"{rows.name}: thinking removed from {plural(rows_with['dropped'], 'row')} (data.reasoning=drop)")
    if rows_with["reopened"]:
        log.info(
            f"{rows.name}: the chat template opens {plural(rows_with['reopened'], 'answer')} differently from "
            "generation; see model.enable_thinking and data.reasoning"
        )
    refused = table.data.column("refused").drop_null()
    if len(refused):
        log.info(f"{rows.name}: the chat template rejects {plural(len(refused), 'row')}, the first with: {refused[0]}")
    if lost := len(usable) - eligible:
        log.info(f"{rows.name}: {plural(lost, 'row')} without an answer token, not eligible")


_EMPTY = np.empty(0, dtype=np.int64)
_COUNTED = ("cut_prompt", "cut_answer", "lost_question", "lost_answers", "endless", "end_added")
_COUNTED += ("unrendered", "dropped", "reopened")
_NOTHING = {"input_ids": _EMPTY, "labels": _EMPTY, **dict.fromkeys(_COUNTED, 0), "refused": None, "misfit": None}
_FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.List(datasets.Value("int32")),
        **{name: datasets.Value("int32") for name in (*_COUNTED, "answer_tokens")},
        "refused": datasets.Value("string"),
        "misfit": datasets.Value("string"),
    }
)


def with_weights(tokens: Tokens, weights: np.ndarray) -> Tokens:
    """`tokens` with a column `weight`, without the rows of weight 0, which are counted in the log.

    Args:
        weights: of all rows, float32 (n,), finite and none below 0.

    Raises:
        UserError: no row is left.
    """
    trained = tokens.eligible[weights[tokens.eligible] > 0]
    if left := len(tokens.eligible) - len(trained):
        log.info(f"{plural(left, 'row')} of {len(tokens.eligible)} left out, as their loss weight is 0")
    if not len(trained):
        raise UserError("every row with an answer has the loss weight 0; see data.candidates.columns.weight")
    key = digest([tokens.fingerprint, hashlib.sha256(weights.tobytes()).hexdigest()])
    table = tokens.table.add_column("weight", weights, new_fingerprint=key)
    return dataclasses.replace(tokens, table=table, eligible=trained)


class Collator:
    """Collates rows into a batch: input_ids, attention_mask, labels, int64 (B, longest), padded on the right; weights,
    float32 (B,), if the rows have a weight."""

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
        if "weight" in rows[0]:
            batch["weights"] = torch.tensor([row["weight"] for row in rows])
        return batch


def stop_ids(model, tokenizer) -> list[int]:
    """Ids that stop generation: the model's, and the tokenizer's end token, with which training ends answers."""
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return list(dict.fromkeys([*ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]))


ROWS_PER_BLOCK = 10_000  # rows whose lengths are read at a time


def lengths(table: datasets.Dataset) -> np.ndarray:
    """Number of tokens of every row of a table with `input_ids`, int64 (n,)."""
    column = table.with_format("arrow")
    parts = [pc.list_value_length(batch["input_ids"]) for batch in column.iter(ROWS_PER_BLOCK)]
    return np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts]).astype(np.int64)
