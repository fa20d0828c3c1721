"""Options that every script has."""

from typing import TypedDict

from near.common.bounds import Seed

Group = dict  # a choice of a configuration group: options of a class, or none


class Base(TypedDict):
    seed: Seed
    allow_targets: str | list[str] | None
    cache_dir: str
    output_dir: str
    sweep_name: str
    overwrite: bool
