"""The options of report.py and near diff."""

from typing import Annotated, Literal

from near.common.bounds import between
from near.common.options import Base
from near.data.options import Data

Count = Annotated[int, between(0, 1_000_000)]


class Report(Base):
    runs: str
    row: Annotated[int, between(0, 2**40)] | None
    map: Literal["tsne", "pca"] | None
    map_rows: Annotated[int, between(2, 10_000_000)]
    queries: Count
    neighbours: Count
    answers: Count


class Diff(Base):
    output_dir: str | None
    data: Data
    folder: str
    other: str
    rows: Annotated[int, between(0, 1000)]
    json: str | None
