"""The options of select.py."""

from typing import Annotated, Literal, NotRequired

from near.common.bounds import between, less_than, more_than
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


class Select(Search):
    selector: NotRequired[Group | None]
    n: int | None
    dry_run: bool | Literal["count"]
    export: Literal["jsonl", "parquet"] | None
    run: str | None
    export_for: list[Literal["trl", "llamafactory", "axolotl"]] | None
    page: bool
    map: Literal["tsne", "pca"] | None
    map_rows: Annotated[int, between(2, 10_000_000)]
    queries: Annotated[int, between(0, 1_000_000)]
    neighbours: Annotated[int, between(0, 1_000_000)]


class Verify(Base):
    """The options of near verify."""

    output_dir: str | None
    data: Data
    embedder: Group
    similarity: Group
    index: Group
    folder: str
    signers: str | None
    limit: Annotated[float, more_than(0)] | None
    tolerance: Annotated[float, more_than(0), less_than(1)] | None
    download: bool
    json: str | None
