"""The options of `evaluation` and of eval.py."""

from typing import Annotated, Literal, TypedDict

from near.common.bounds import BatchTokens, between
from near.common.options import Base, Group
from near.data.options import Data
from near.models.options import Model


class LmEval(TypedDict):
    tasks: list[str] | None
    include_path: str | None
    num_fewshot: Annotated[int, between(0, 1000)] | None
    limit: Annotated[int | float, between(1e-6, 1e9)] | None
    batch_size: Annotated[int, between(1, 1_000_000)]
    apply_chat_template: bool


class Evaluation(TypedDict):
    batch_size: Annotated[int, between(1, 1_000_000)]
    batch_tokens: BatchTokens
    answers: bool
    max_new_tokens: Annotated[int, between(1, 1_000_000)]
    graders: dict[str, Group] | None
    at_rounds: bool
    unsafe: bool
    backend: Literal["transformers", "vllm"]
    engine: dict | None
    lm_eval: LmEval


class Eval(Base):
    data: Data
    model: Model
    evaluation: Evaluation
    run: str | None
    adapter_name_or_path: str | None
