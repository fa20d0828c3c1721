"""The options of data that is made on the spot, in a built-in's name: `builtin:crossed:rows=2000,seed=0/pool.jsonl`.

A configuration writes its options into the name, so that different options are different folders of the cache.
"""

import re
from collections.abc import Iterable, Sequence

from near.common.errors import UserError, did_you_mean


def options_in(text: str, keys: Sequence[str], name: str) -> dict[str, str]:
    """The values of `key=value,key=value`; a value may contain commas. UserError unless all `keys` are there."""
    parts = re.split(rf",(?=(?:{'|'.join(keys)})=)", text)
    values = dict(part.partition("=")[::2] for part in parts)
    if wrong := values.keys() ^ set(keys):
        raise UserError(
            f"builtin:{name}:{text} needs {name}:{','.join(f'{key}=...' for key in keys)} ({sorted(wrong)[0]})"
        )
    return values


def whole(value: str, option: str, least: int, most: int) -> int:
    """A whole number within bounds. UserError for any other value."""
    if not re.fullmatch(r"-?\d{1,18}", value) or not least <= int(value) <= most:
        raise UserError(f"{option}={value} is no whole number from {least:,} to {most:,}; use one")
    return int(value)


def share(value: str, option: str) -> float:
    """A number from 0 to 1. UserError for any other value."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise UserError(f"{option}={value} is no number from 0 to 1; use one")
    return number


def known(value: str, typed: str, names: Iterable[str], kind: str) -> str:
    """`value`, one of `names`. UserError for any other value, with near misses. `typed`: the option as it was typed."""
    if value not in names:
        raise UserError(f"{typed}: {value or 'nothing'} is not {kind}{did_you_mean(value, names)}")
    return value
