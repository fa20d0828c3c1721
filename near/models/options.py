"""The options of `model`."""

from typing import Annotated, Literal, NotRequired, TypedDict

from near.common.bounds import key_of
from near.common.options import Group

Template = Annotated[str, key_of("near.data.templates.slots.TEMPLATES")]


class Model(TypedDict):
    name_or_path: str
    revision: str | None
    adapter: NotRequired[str | list[str] | None]
    adapter_mode: NotRequired[Literal["continue", "stack"]]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    trust_remote_code: bool
    template: Template | None
    enable_thinking: bool | None
    split_special_tokens: bool
    upcast_layernorm: bool
    quantization: Group | None
