"""The options of merge.py."""

from typing import Annotated, Literal

from near.common.bounds import between
from near.common.options import Base
from near.models.options import Template


class Merge(Base):
    model_name_or_path: str | None
    adapter_name_or_path: str | list[str]
    export_dir: str
    export_size: Annotated[float, between(1e-5, 1e6)]
    export_dtype: Literal["float32", "bfloat16", "float16"]
    export_device: Literal["cpu", "auto"]
    export_legacy_format: bool
    trust_remote_code: bool
    tolerance: Annotated[float, between(0, 1e6)]
    rounding_tolerance: Annotated[float, between(0, 1e6)]
    template: Template | None
    push_to_hub: str | None
    push_private: bool
