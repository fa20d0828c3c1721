"""Bounds and choices written beside an option, in all the ways that they may be written."""

import copy
import importlib
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from near.app.check.check import check
from near.app.check.option_types import BOUNDED, CARRIED, SCRIPTS, options, type_of
from near.common.bounds import Bounds, at_least, at_most, between, less_than, more_than
from near.common.errors import UserError
from near.common.signature import inspected, parameters
from tests.conftest import composed

MODULE = """
import typing
from typing import Annotated, Literal, Optional, TypeAlias, TypedDict, Union

import near.common.bounds as b
from near.common import bounds
from near.common.bounds import Bounds, Positive, Share, Text, at_least, at_least as ge, at_most, between, key_of
from near.common.bounds import less_than, may_be_empty, more_than
from near.selection.selectors.base import Selector

LIMIT = 3
AT_LEAST_2 = at_least(2)
Size: TypeAlias = Annotated[int, between(1, LIMIT * 2)]
Bigger = Annotated[Size, at_least(LIMIT)]


class Inner(TypedDict):
    size: Positive


class Mine(Selector):
    def __init__(self, x: {annotation} = {default}, free: int = 5):
        pass

    def select(self, round):
        pass


class Strange:
    def __init__(self, x: {annotation} = {default}, free: int = 5):
        pass
"""

# annotation, values that it takes, values that it refuses with the end of their line
CASES = [
    ("Annotated[int, at_least(1)]", [1, 5.0], [(0, "=0 is too small; use {x}>=1"), (1.5, "is not a whole number")]),
    (
        "Annotated[float, more_than(0)]",
        [1e-12, 3],
        [(0, "too small; use {x}>0"), (float("nan"), "not a finite number")],
    ),
    ("Annotated[float, less_than(1)]", [0.5, -7], [(1, "too large; use {x}<1"), (2e9, "use {x}<1")]),
    ("Annotated[int, at_most(5)]", [5, -3], [(6, "too large; use {x}<=5"), (True, "is not a whole number")]),
    ("Annotated[int, between(2, 8)]", [2, 8], [(1, "use {x}>=2"), (9, "use {x}<=8"), ("a", "not a whole number")]),
    ("Annotated[int, between(least=2, most=8)]", [2, 8], [(9, "use {x}<=8")]),
    ("Annotated[int, at_least(1), at_most(5)]", [1, 5], [(0, "use {x}>=1"), (6, "use {x}<=5")]),
    ("Annotated[int, at_least(10**10)]", [10**11], [(5, "too small"), (1e30, "too large")]),
    ("Annotated[Positive, at_most(10)]", [10], [(0, "use {x}>=1"), (11, "use {x}<=10"), (None, "not a whole number")]),
    ("Positive | None", [1, None], [(0, "use {x}>=1")]),
    ("Optional[Positive]", [1, None], [(0, "use {x}>=1")]),
    ("Union[Share, None]", [0.5, None], [(2, "use {x}<=1")]),
    ("Size", [6], [(7, "use {x}<=6"), (0, "use {x}>=1")]),
    ("Bigger", [3], [(2, "use {x}>=3"), (7, "use {x}<=6")]),
    ("typing.Annotated[int, at_least(LIMIT)]", [3], [(2, "use {x}>=3")]),
    ("Annotated[int, AT_LEAST_2]", [2], [(1, "use {x}>=2")]),
    ("Annotated[int, ge(1)]", [1], [(0, "use {x}>=1")]),
    ("Annotated[int, b.at_least(1)]", [1], [(0, "use {x}>=1")]),
    ("Annotated[bounds.Positive, bounds.at_most(2)]", [1], [(0, "use {x}>=1"), (3, "use {x}<=2")]),
    ("Annotated[int, Bounds(least=2)]", [2], [(1, "use {x}>=2")]),
    ("Annotated[int, 'rows of a round', at_least(1)]", [1], [(0, "use {x}>=1")]),
    ("'Annotated[int, at_least(1)]'", [1], [(0, "use {x}>=1")]),
    ("Annotated[int, between(-(2**3), 2**3 - 1)]", [-8, 7], [(-9, "use {x}>=-8"), (8, "use {x}<=7")]),
    ("Annotated[int, at_least(10)] | Annotated[float, between(0, 1)]", [0.5, 10], [(5, "{x}>=10"), (-1, "{x}>=0")]),
    ("Literal[-1] | Positive", [-1, 1], [(0, "use {x}>=1")]),
    ("list[Positive]", [[], [1, 2]], [([1, 0], "{x}=0 is too small; use {x}>=1"), (3, "is not a list")]),
    ("tuple[Share, ...]", [[0, 1]], [([0.5, 2], "too large")]),
    ("dict[str, Annotated[float, at_least(0)]]", [{"a": 0}], [({"a": -1}, "{x}.a=-1 is too small; use {x}.a>=0")]),
    ("Inner", [{"size": 1}], [({"size": 0}, "{x}.size=0 is too small")]),
    ("Literal[4, 8]", [4, 8.0], [(5, "{x}=5 is not one of 4, 8"), (True, "not one of 4, 8"), ("4", "is not one of")]),
    ("Literal['low', 'high']", ["low"], [("medium", "{x}=medium is not one of low, high"), (3, "is not one of")]),
    ("Literal['auto'] | Positive", ["auto", 2], [(0, "use {x}>=1"), ("all", "is not a whole number or auto")]),
    ("Literal['all', None]", ["all", None], [("some", "is not one of all")]),
    ("Text", ["", "a"], [([], "is not a text")]),
    ("Annotated[str, may_be_empty()]", ["", "a"], [([], "is not a text")]),
    ("str", ["a"], [("", "='' is not a path or name")]),
    ("Annotated[str, key_of('near.data.templates.slots.TEMPLATES')]", ["llama3"], [("lama3", "did you mean llama3")]),
]


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    """A module of somebody's with a selector whose option `x` has an annotation and a default."""
    names = []
    monkeypatch.syspath_prepend(tmp_path)

    def made(annotation: str, default: str = "...") -> str:
        name = f"mylab_{len(list(tmp_path.iterdir()))}_{abs(hash((annotation, default)))}"
        Path(tmp_path / f"{name}.py").write_text(MODULE.format(annotation=annotation, default=default))
        names.append(name)
        importlib.invalidate_caches()
        return name

    yield made
    for name in names:
        sys.modules.pop(name, None)


def fault(target: str, **values: object) -> str | None:
    cfg = copy.deepcopy(composed("train", ())[1])
    OmegaConf.update(cfg, "selector", {"_target_": target, **values}, merge=False)
    try:
        check(cfg)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("annotation", "takes", "refuses"), CASES, ids=[case[0] for case in CASES])
def test_an_option_is_what_stands_beside_it(annotation, takes, refuses, mylab):
    target = f"{mylab(annotation)}.Mine"
    for value in takes:
        assert fault(target, x=value) is None
    for value, line in refuses:
        assert line.format(x="selector.x") in (fault(target, x=value) or "is taken")


@pytest.mark.parametrize("annotation", [case[0] for case in CASES])
def test_what_is_read_is_what_python_makes_of_it(annotation, mylab):
    name = mylab(annotation)
    read, imported = parameters(f"{name}.Mine")[0]["x"], inspected(f"{name}.Mine", name, "Mine")[0]["x"]
    types = [type_of(parameter) for parameter in (read, imported)]
    assert types[0].names - {"None"} == types[1].names - {"None"} and types[0].choices == types[1].choices
    assert types[0].bounds == types[1].bounds and types[0].key_of == types[1].key_of


def test_of_a_class_that_is_none_of_ours_the_bounds_count_alone(mylab):
    name = mylab("Annotated[int, at_least(1)]")
    assert "selector.x>=1" in fault(f"{name}.Strange", x=0)
    assert fault(f"{name}.Strange", x=1, free="text") is None
    assert "selector.free=text is not a whole number" in fault(f"{name}.Mine", x=1, free="text")
    assert fault(f"{name}.Mine", x=1, free=-5) is None, "what has no bounds may be negative"


@pytest.mark.parametrize(
    ("annotation", "line"),
    [
        ("Annotated[list[int], at_least(1)]", "bounds no number; bound the elements"),
        ("Annotated[int, at_least(len('a'))]", "can't be read"),
        ("Annotated[int, between(8, 2)]", "leaves no value"),
        ("Annotated[int, between(8)]", "can't be read"),
        ("Annotated[int, at_least]", "is not called"),
        ("Annotated[int, at_least('a')]", "can't be read"),
    ],
)
def test_a_bound_that_means_nothing_is_an_error(annotation, line, mylab):
    name = mylab(annotation)
    message = fault(f"{name}.Mine", x=1)
    assert name in message and line in message


def test_a_bound_that_is_imported_for_type_checkers_alone(tmp_path, mylab):
    name = mylab("Annotated[int, at_least(1)]")
    path = tmp_path / f"{name}.py"
    imports = [line for line in path.read_text().splitlines() if line.startswith("from near.common.bounds")]
    text = path.read_text()
    for line in imports:
        text = text.replace(line, f"if typing.TYPE_CHECKING:\n    {line}")
    path.write_text(f"from __future__ import annotations\n{text}")
    assert "selector.x>=1" in fault(f"{name}.Mine", x=0)


@pytest.mark.parametrize(
    ("bounds", "value", "expected"),
    [
        (at_least(1), 0, ("too small", ">=1")),
        (at_least(1), 2e9, ("too large", "<=1e+09")),
        (at_most(-2e9), -3e9, None),
        (more_than(0) & less_than(1), 1, ("too large", "<1")),
        (at_least(1) & between(0, 5), 0, ("too small", ">=1")),
        (between(0, 2**32 - 1), 2**32, ("too large", "<=4.29497e+09")),
        (Bounds(), 1, None),
        (Bounds(), 10**400, ("too large", "<=1e+09")),
    ],
)
def test_bounds(bounds, value, expected):
    assert bounds.fault(value) == expected


def test_declarations_are_of_what_there_is():
    """Scripts' configurations have the declared options and no others; what is bounded of a library is its option."""
    needed = {"merge": ("adapter_name_or_path=a", "export_dir=b"), "report": ("runs=r",)}
    needed |= {"verify": ("folder=a",), "diff": ("folder=a", "other=b")}
    for script, target in SCRIPTS.items():
        cfg, known = composed(script, needed.get(script, ()))[1], options(target)
        assert set(cfg) <= set(known)
        assert {name for name, expected in known.items() if expected.required} <= set(cfg)
    cfg = composed("train", ())[1]
    for path, target in BOUNDED.items():
        assert parameters(target)[0].keys() <= parameters(OmegaConf.select(cfg, path)._target_)[0].keys()
    for path, target in CARRIED.items():
        assert parameters(target)[0].keys() <= OmegaConf.select(cfg, path).keys()
