"""The options of select.py."""

from typing import Literal, NotRequired

from near.common.options import Base, Group
from near.data.options import Data
from near.models.options import Model


class Search(Base):
    """Options of both select.py and train.py."""

    output_dir: str | None
    data: Data
    embedder: Group
    index: Group
    mixer: NotRequired[Group | None]
    model: Model
    similarity: Group
    scoring: Group
    max_K: int | None
    dry_run: bool


class Select(Search):
    selector: NotRequired[Group | None]
    n: int | None
    export: Literal["jsonl", "parquet"] | None
