"""Run scripts of bench/ with their command lines; their separate processes run in this one."""

import importlib
import json
import logging
import re
import sys
from collections.abc import Callable

import pytest

from bench import common

HEAD = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d \S+; .+, \d+ of \d+ cores, [\d.]+ GB, load [\d.]+\n"
    r"python 3\.\d+\.\d+, torch \S+, transformers \S+, faiss-cpu \S+, near (at \w+( with changes)?|of no commit)\n"
)


def below_head(printed: str) -> list[str]:
    """The lines of a table below the head; no figure is NaN or infinite."""
    head = HEAD.match(printed)
    assert head, printed
    assert not re.search(r"\b(nan|inf)\b", printed), printed
    return [line for line in printed[head.end() :].splitlines() if line.strip()]


def numbers(text: str) -> list[float]:
    """All numbers of a line."""
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def row(lines: list[str], name: str) -> list[float]:
    """The numbers in the one row that begins with `name`."""
    (match,) = [line for line in lines if line.strip().startswith(name)]
    return numbers(match.strip().removeprefix(name))


def _here(worker: Callable, *args: object, env: dict | None = None) -> object:
    """As common.apart passes arguments and results."""
    return json.loads(json.dumps(worker(*json.loads(json.dumps(args, default=str)))))


@pytest.fixture()
def run(monkeypatch, capsys, cache) -> Callable[..., list[str]]:
    """`run("search", "rows=100")`: the lines that `python bench/search.py rows=100` prints below its head."""

    def run(name: str, *words: str) -> list[str]:
        module = importlib.import_module(f"bench.{name}")
        monkeypatch.setattr(sys, "argv", [f"bench/{name}.py", *words])
        capsys.readouterr()
        common.script(module.main)
        return below_head(capsys.readouterr().out)

    monkeypatch.setenv("NEAR_CACHE", str(cache))
    monkeypatch.setattr(common, "apart", _here)
    disabled = logging.root.manager.disable
    level = logging.getLogger("near").level
    yield run
    logging.disable(disabled)
    logging.getLogger("near").setLevel(level)


@pytest.fixture()
def run_real(run, real_cache, monkeypatch) -> Callable[..., list[str]]:
    """The same with the project's own cache: the built-in model, embedder and data are downloaded once."""
    monkeypatch.setenv("NEAR_CACHE", str(real_cache))
    return run
