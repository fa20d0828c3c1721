"""Options that every script has."""

from typing import TypedDict

from near.common.bounds import Seed

Group = dict  # the options of a configuration group's choice


class Base(TypedDict):
    seed: Seed
    allow_targets: str | list[str] | None
    cache_dir: str
    output_dir: str
    sweep_name: str
    overwrite: bool
