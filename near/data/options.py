"""The options of `data`."""

from typing import Annotated, Literal, NotRequired, TypedDict

from near.common.bounds import Seed, Share, Text, at_most, between, more_than


class Columns(TypedDict, total=False):
    """Fields to the source's columns; false: the field is not read."""

    source: str | bool | None
    instruction: str | bool | None
    input: str | bool | None
    output: str | bool | None
    system: str | bool | None
    tools: str | bool | None
    history: str | bool | None
    messages: str | bool | None
    conversations: str | bool | None
    prompt: str | bool | None
    completion: str | bool | None
    question: str | bool | None
    answer: str | bool | None
    text: str | bool | None
    weight: str | bool | None
    score: str | bool | None


NUMBERS = ("weight", "score")  # fields of Columns that are no part of a row's text: changing them makes no other table


class Source(TypedDict):
    path: str | list | dict | None
    dataset_info: str | None
    name: str | None
    split: str | None
    revision: str | None
    key: str | None
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt_completion", "question_answer", "text"]
    columns: Columns | None
    tags: dict[str, str | None] | None
    filter: dict | None
    limit: int | None


class EvalSource(Source):
    validation: NotRequired[Annotated[float, more_than(0), at_most(1_000_000_000)] | None]


class Decontaminate(TypedDict):
    action: Literal["keep", "warn", "drop"]
    benchmarks: dict | None
    cosine: Share | None


class BenchmarkOptions(TypedDict):
    """A data set of data=tulu: the splits of its queries and eval rows, and its columns."""

    path: str
    name: str | None
    queries: str
    eval: str
    columns: Columns


class Data(TypedDict):
    target: NotRequired[str]
    targets: NotRequired[dict[str, BenchmarkOptions]]
    rows: NotRequired[Annotated[int, between(500, 50_000)]]
    query_rows: NotRequired[Annotated[int, between(1, 1_000)]]
    eval_rows: NotRequired[Annotated[int, between(1, 1_000)]]
    left_out: NotRequired[list | None]
    noise: NotRequired[Share]
    rows_per_task: NotRequired[Annotated[int, between(1, 1_000)]]
    own_rows: NotRequired[Annotated[int, between(0, 1_000)]]
    difficulty: NotRequired[Annotated[int, between(0, 2)]]
    difficulties: NotRequired[list[Annotated[int, between(0, 2)]]]
    longest: NotRequired[Annotated[int, between(50, 100_000)]]
    tasks: NotRequired[list[str] | None]
    data_seed: NotRequired[Seed]
    folder: NotRequired[str]
    candidates: Source
    queries: Source
    eval: EvalSource
    more_eval: dict | None
    cutoff_len: Annotated[int, between(2, 10_000_000)]
    train_on_prompt: bool
    mask_history: bool
    reasoning: Literal["keep", "drop"]
    default_system: Text | None
    labels: NotRequired[list[str] | None]  # absent in the configurations of older runs
    on_error: Literal["raise", "skip"]
    leakage: Literal["drop", "keep"]
    decontaminate: NotRequired[Decontaminate | None]  # absent in the configurations of older runs
    dedup: Literal["none", "exact", "near"]
    dedup_threshold: Share
    num_proc: Annotated[int, between(1, 4096)] | None
    refresh: bool
