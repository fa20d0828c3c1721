"""data=reasoning: rows of a stand-in for reasoning-gym, refused options, and the library where it is installed."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from near.app.check.check import check_sources
from near.common.errors import UserError
from near.common.files import file_digest
from near.data.builtin.reasoning.arithmetic import EVALUATED, is_arithmetic, is_harmless
from near.data.builtin.reasoning.options import ReasoningOptions
from near.data.builtin.reasoning.process import Died, LimitedProcess
from near.data.builtin.reasoning.rows import write_reasoning
from near.data.builtin.reasoning.tasks import TASKS
from tests.conftest import configured

PARTS = ("pool", "queries", "eval")

# chain_sum has two levels; gcd one, and every third row is long; lcm has no answers; products fails on odd indices
STAND_IN = """
import random
from dataclasses import dataclass
from types import SimpleNamespace

print("a library that prints")

@dataclass
class Config:
    seed: int = 0
    size: int = 0
    top: int = 9

def data(task):
    class Data:
        def __init__(self, config):
            assert config.top < 10_000
            self.config = config
        def __len__(self):
            return self.config.size
        def __getitem__(self, index):
            print("a task that prints")
            if task == "products" and index % 2:
                raise ValueError("no expression")
            a = random.Random(self.config.seed + index).randint(0, self.config.top)
            order = "".join({"a", "b", "c", "d"})
            question = f"{task} {a} {order}" + "!" * (1000 if task == "gcd" and index % 3 == 0 else 0)
            metadata = {"order": order, "bad": {1} if task == "dice" else 0}
            return {"question": question, "answer": None if task == "lcm" else str(a + 1), "metadata": metadata}
        def score_answer(self, answer, entry):
            if answer == "die":
                import os
                os._exit(3)
            if answer == "slow":
                while True:
                    pass
            return 1.0 if answer == entry["answer"] else 0.25 if answer.startswith("9") else float(answer)
    return Data

DATASETS = {task: (data(task), Config) for task in ("chain_sum", "gcd", "lcm", "products", "dice")}

class Curriculum:
    def set_global_level(self, level):
        self.level = level
    def generate_configuration(self, options):
        return Config(**options, top=10 ** (1 + 2 * self.level))

CURRICULA = {"chain_sum": Curriculum}
"""


@pytest.fixture()
def stand_in(tmp_path, monkeypatch, packages) -> None:
    package = tmp_path / "packages" / "reasoning_gym"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from reasoning_gym import factory\n")
    (package / "factory.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    packages(reasoning_gym=True)


def options(**changed) -> ReasoningOptions:
    values = {"per_task": 6, "own": 4, "queries": 3, "eval": 5, "difficulty": 0, "difficulties": "0+1", "longest": 700}
    values |= {"seed": 0, "tasks": "gcd", "target": "chain_sum"}
    return ReasoningOptions.of(",".join(f"{key}={value}" for key, value in (values | changed).items()))


def written(folder: Path, **changed) -> dict[str, list[dict]]:
    folder.mkdir()
    write_reasoning(options(**changed), folder)
    return {part: [json.loads(line) for line in (folder / f"{part}.jsonl").open()] for part in PARTS}


def question(row: dict) -> str:
    return row["messages"][0]["content"]


def test_rows_of_tasks_and_difficulties(stand_in, tmp_path, caplog):
    caplog.set_level("INFO")
    parts = written(tmp_path / "a", eval=4, tasks="gcd+lcm+products+dice")
    counts = Counter((row["task"], row["difficulty"]) for row in parts["pool"])
    assert counts[("gcd", 0)] == 6, "it has no other level, and long rows are left out"
    assert counts[("chain_sum", 1)] == 2 and ("lcm", 0) not in counts and ("dice", 0) not in counts
    assert {row["family"] for row in parts["pool"]} == {"arithmetic"}
    assert (len(parts["queries"]), len(parts["eval"])) == (3, 4)
    for rows in (parts["queries"], parts["eval"]):
        assert {(row["task"], row["difficulty"]) for row in rows} == {("chain_sum", 0)}
    asked = [question(row) for part in PARTS for row in parts[part]]
    assert len(set(asked)) == len(asked), "no question is in two rows"
    entry = json.loads(parts["eval"][0]["entry"])
    assert entry["answer"] == parts["eval"][0]["messages"][1]["content"]
    assert re.search(r"rows of 3 tasks; left out: \d+ failed, \d+ long, \d+ not checkable, \d+ repeated", caplog.text)


def test_the_same_options_give_the_same_bytes(stand_in, tmp_path):
    """Also where a task depends on the order of a set."""
    for name, changed in {"a": {}, "b": {}, "other": {"seed": 1}}.items():
        written(tmp_path / name, **changed)
    digests = {name: [file_digest(tmp_path / name / f"{part}.jsonl") for part in PARTS] for name in ("a", "b", "other")}
    assert digests["a"] == digests["b"] and digests["a"] != digests["other"]


def test_too_few_rows_of_the_target(stand_in, tmp_path):
    with pytest.raises(UserError, match="data.target=chain_sum has 10 different rows .* not 20; use another target"):
        written(tmp_path / "a", queries=10, eval=10)
    with pytest.raises(UserError, match="data.tasks: no row of the pool is short enough"):
        written(tmp_path / "b", own=0, tasks="lcm")


def test_a_task_that_is_not_in_the_library(stand_in, tmp_path):
    with pytest.raises(
        UserError, match="task maze failed in reasoning-gym .KeyError: 'maze'.; name others in data.tasks"
    ):
        written(tmp_path / "a", tasks="maze")


def test_without_the_package(tmp_path, packages):
    packages(reasoning_gym=False)
    with pytest.raises(
        UserError, match=r'data=reasoning: reasoning_gym is not installed; pip install "near\[reasoning\]"'
    ):
        written(tmp_path / "a")


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (
            {"target": "chain_sums"},
            "data.target=chain_sums: chain_sums is not a task of data=reasoning; did you mean chain_sum",
        ),
        ({"target": "n_queens"}, "data.target=n_queens: n_queens is not a task"),
        ({"tasks": "gcd+lcmm"}, "data.tasks=lcmm: lcmm is not a task of data=reasoning; did you mean lcm"),
        ({"difficulty": 3}, "data.difficulty=3 is no whole number from 0 to 2"),
        ({"difficulties": "0+3"}, "data.difficulties=3 is no"),
        ({"difficulties": ""}, "data.difficulties=[] leaves no row"),
        ({"per_task": 0}, "data.rows_per_task=0 is no"),
        ({"own": -1}, "data.own_rows=-1 is no"),
        ({"queries": 1001}, "data.query_rows=1001 is no"),
        ({"longest": 10}, "data.longest=10 is no"),
        ({"tasks": "chain_sum", "own": 0}, "leaves no row in the pool; add a task"),
    ],
)
def test_wrong_options_are_refused(changed, fault):
    with pytest.raises(UserError) as caught:
        options(**changed)
    assert fault in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_options_are_refused_before_anything_is_loaded():
    for words, fault in {
        "data.target=chain_summ": "did you mean chain_sum",
        "data.tasks=[gdc]": "data.tasks=gdc: gdc is not a task",
        "data.difficulties=[3]": "3",
    }.items():
        with pytest.raises(UserError, match=fault):
            check_sources(configured("train", "data=reasoning", words))


def test_a_worker_that_dies_says_why(stand_in):
    job = {"task": "chain_sum", "entry": {"answer": "1"}, "seconds": 1}
    with LimitedProcess("scores") as worker, pytest.raises(Died, match="exit status 3"):
        worker.ask({**job, "answer": "die"})
    with LimitedProcess("scores") as worker:
        assert worker.ask({**job, "answer": "slow"}) == [{"score": 0.0}]
        assert [worker.ask({**job, "answer": a})[0]["score"] for a in ("1", "9", "nan", "7", "x")] == [1, 0.25, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("-3*x**3*sin(X) - 9*X**2*cos(X) + C", True),
        ("(29 + 3) * 4 - 1/2", True),
        ("2*x**(3/2)/3 + exp(-9*x**2) + C", True),
        ("E**(9*x**2) + pi*sqrt(2)", True),
        ("x**100", True),
        ("9**9**9", False),
        ("9**9**9**9", False),
        ("((9**99)**99)**99", False),
        ("10**100000", False),
        ("x + sin(9**9**9)", False),
        ("__import__('os').system('true')", False),
        ("(1).__class__", False),
        ("x.y", False),
        ("open(1)", False),
        ("exec(x)", False),
        ("[1 for x in y]", False),
        ("lambda: 1", False),
        ("'a'*9", False),
        ("x := 1", False),
        ("x^2", False),
        ("sin(x, y)", False),
        ("sin(*x)", False),
        ("foo(x)", False),
        ("foo", False),
        ("1 if x else 2", False),
        ("True", False),
        ("1e308*1e308", False),
        ("1\n2", False),
        ("", False),
        ("x" + "+1" * 600, False),
        ("(" * 250 + "1" + ")" * 250, False),
        ("\x00", False),
        ("ｘ", False),
    ],
)
def test_only_arithmetic_is_evaluated(text, harmless):
    assert is_arithmetic(text) is harmless
    for task in EVALUATED:
        assert is_harmless(task, {"answer": "1"}, text) is harmless
        assert is_harmless(task, {"answer": text}, "1") is harmless
        assert is_harmless(task, {"answer": "1", "metadata": {"integrand": text}}, "1") is harmless
    assert is_harmless("gcd", {}, text)


def test_the_evaluated_tasks_are_tasks():
    assert EVALUATED <= TASKS.keys()
    assert {"simple_equations", "gsm_symbolic", "chain_sum", "intermediate_integration"} <= TASKS.keys()


@pytest.mark.extras
def test_the_list_of_tasks_is_the_librarys():
    """Families, and that no other scorer evaluates what it is given."""
    pytest.importorskip("reasoning_gym")
    from reasoning_gym.factory import DATASETS

    for task, family in TASKS.items():
        cls, config = DATASETS[task]
        assert cls(config=config()).category == family
        source = Path(sys.modules[cls.__module__].__file__).read_text()
        scorer = source.partition("def score_answer")[2].partition("\nclass ")[0]
        assert bool(re.search(r"\b(eval|exec|parse_expr|sympify)\(", scorer)) == (task in EVALUATED), task


@pytest.mark.extras
def test_rows_of_the_library(tmp_path):
    pytest.importorskip("reasoning_gym")
    tasks = "simple_equations+gsm_symbolic+decimal_chain_sum+polynomial_multiplication+isomorphic_strings"
    for name in "ab":
        parts = written(tmp_path / name, tasks=tasks, target="simple_integration")
    assert [file_digest(tmp_path / "a" / f"{p}.jsonl") for p in PARTS] == [
        file_digest(tmp_path / "b" / f"{p}.jsonl") for p in PARTS
    ]
    assert (len(parts["queries"]), len(parts["eval"]), len(parts["pool"])) == (3, 5, 34)
    for row in [*parts["pool"], *parts["eval"]]:
        assert is_harmless(row["task"], json.loads(row["entry"]), row["messages"][1]["content"])
