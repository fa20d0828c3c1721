"""Bounds of options, as annotations beside them: `clusters: Annotated[int, at_least(1)] = 8`.

The check of a configuration reads such annotations from a class's source, without importing it
(near/app/check/option_types.py). Choices are a `Literal`; a union accepts what one of its types accepts; of a list or
mapping the elements are bounded: `list[Annotated[float, between(0, 1)]]`. An argument is a number or a number's name.

Numbers must be finite. Without bounds an integer must be between 1 and a billion and a float between 0 and a billion; a
lower default lowers the bound. With bounds, a side without one ends at a billion.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

BILLION = 1_000_000_000

LARGEST = 1e15  # for unbounded numbers: options of other projects' classes, of DeepSpeed, of vLLM


@dataclass(frozen=True)
class Bounds:
    """least <= value <= most and above < value < below; None: no such bound."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if odd := [end for end in vars(self).values() if not isinstance(end, int | float | type(None))]:
            raise TypeError(f"{odd[0]!r} is not a number")

    def __and__(self, other: "Bounds") -> "Bounds":
        """The bounds that satisfy both."""

        def tighter(pick, a: float | None, b: float | None) -> float | None:
            return pick(a, b) if a is not None and b is not None else b if a is None else a

        return Bounds(
            tighter(max, self.least, other.least),
            tighter(min, self.most, other.most),
            tighter(max, self.above, other.above),
            tighter(min, self.below, other.below),
        )

    def fault(self, value: float) -> tuple[str, str] | None:
        """Why `value` is refused and the bound, such as ("too small", ">=1"); None if it is in bounds.

        >>> between(1, 8).fault(9)
        ('too large', '<=8')
        """
        if self.above is not None and value <= self.above:
            return "too small", f">{self.above}"
        if self.below is not None and value >= self.below:
            return "too large", f"<{self.below}"
        least = self.least if self.least is not None else -_far(self.above, self.most, self.below)
        most = self.most if self.most is not None else _far(self.below, self.least, self.above)
        if value < least:
            return "too small", f">={least}"
        if value > most:
            return "too large", f"<={most:g}" if most >= BILLION else f"<={most}"
        return None

    def __str__(self) -> str:
        ends = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        if self.least is not None and self.most is not None:
            return f"{_shown(self.least)} to {_shown(self.most)}"
        return ", ".join(f"{sign}{_shown(end)}" for sign, end in ends.items() if end is not None)


def _far(*ends: float | None) -> float:
    """The limit of a side without a bound, given the other `ends`."""
    return BILLION if all(end is None or abs(end) < BILLION for end in ends) else LARGEST


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) and number < BILLION else f"{number:g}"


def at_least(least: float) -> Bounds:
    return Bounds(least=least)


def at_most(most: float) -> Bounds:
    return Bounds(most=most)


def more_than(above: float) -> Bounds:
    return Bounds(above=above)


def less_than(below: float) -> Bounds:
    return Bounds(below=below)


def between(least: float, most: float) -> Bounds:
    """Bounds that include both ends."""
    if least > most:
        raise ValueError(f"between({least}, {most}) leaves no value")
    return Bounds(least=least, most=most)


@dataclass(frozen=True)
class KeyOf:
    """A text that must be a key of the mapping at the dotted path `mapping`, whose module is cheap to import."""

    mapping: str


def key_of(mapping: str) -> KeyOf:
    return KeyOf(mapping)


@dataclass(frozen=True)
class MayBeEmpty:
    """A text that may be empty; any other is a path or a name."""


def may_be_empty() -> MayBeEmpty:
    return MayBeEmpty()


# The markers that the check knows, by name in annotations; classes are for annotations that are read at run time.
MARKERS = {
    marker.__name__: marker
    for marker in (at_least, at_most, more_than, less_than, between, key_of, may_be_empty, Bounds, KeyOf, MayBeEmpty)
}

Positive = Annotated[int, at_least(1)]

Share = Annotated[float, between(0, 1)]

Text = Annotated[str, may_be_empty()]

Seed = Annotated[int, between(0, 2**32 - 1)]

BatchTokens = Literal["auto"] | Annotated[int, between(1, 2**31 - 1)]  # see near/common/budget.py
