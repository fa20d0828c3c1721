"""The package as pip installs it: a wheel, in a folder of its own, run in an empty one; and what it says it needs."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from near.common.extras import EXTRAS, missing_module
from tests.conftest import RANKS, ROOT, process
from tests.only_base import link, project

CODE = [*(ROOT / "near").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
# Not packages: the code that a sandbox runs beside its worker, and an optimizer's package that its user brings
FOREIGN = {"near", "hydra_plugins", "wire", "select"}


@functools.cache
def imported() -> dict[str, str]:
    """Top-level modules that the package imports, each with a file that does."""
    modules = {}
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules.update({name.partition(".")[0]: str(path) for name in names})
    return {name: path for name, path in modules.items() if name not in {*sys.stdlib_module_names, *FOREIGN}}


@functools.cache
def packages() -> dict[str, set[str]]:
    """The names of the distributions that bring a top-level module, in small letters."""
    return {module: {name.lower() for name in names} for module, names in metadata.packages_distributions().items()}


@functools.cache
def brought(extra: str) -> set[str]:
    """The modules of an extra's packages; of one that is not installed here, its name."""
    modules = set()
    for text in project()[extra]:
        name = Requirement(text).name
        of = {module for module, names in packages().items() if name.lower() in names}
        modules |= of or {name.lower().replace("-", "_")}
    return modules


def test_whatever_is_imported_is_a_dependency():
    everything = set().union(*(brought(extra) for extra in project()))
    assert {name: path for name, path in imported().items() if name not in everything} == {}


def test_a_missing_module_is_told_with_its_extra():
    base = brought("")
    for name in set(imported()) - base:
        line = missing_module(ModuleNotFoundError(name=f"{name}.part"))
        assert line is not None, f"{name}: no extra of near/common/extras.py brings it"
        extra = re.fullmatch(rf'{name} is not installed; pip install "near\[([\w-]+)\]"', line).group(1)
        assert name in brought(extra), f"{name} is not in the extra {extra}"
    assert missing_module(ModuleNotFoundError(name="mylab")) is missing_module(ModuleNotFoundError()) is None
    assert set(EXTRAS) == set(project()) - {"", "dev"}


def test_the_lock_holds_what_pyproject_asks_for():
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text().lower(), re.MULTILINE))
    lock = {name.replace("_", "-"): version for name, version in lock.items()}
    for text in project()[""] + project()["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(lock[requirement.name.lower().replace("_", "-")]), text
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / ".ci" / "extras.txt").read_text(), re.MULTILINE):
        assert lock.get(name.lower().replace("_", "-"), version) == version, "one version in both files"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and installed without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    for words in (["wheel", "-w", folder / "built", ROOT], ["install", "--target", folder / "site"]):
        words = [*words, *(folder / "built").glob("*.whl")]
        command = [sys.executable, "-m", "pip", words[0], "--quiet", "--no-deps", *map(str, words[1:])]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder / "site"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return link(project()[""], tmp_path_factory.mktemp("base") / "site")


@pytest.fixture()
def alone(installed, base, tmp_path):
    """Run python in an empty folder with the wheel and the base dependencies alone."""
    env = {"PYTHONPATH": os.pathsep.join(map(str, (installed, base))), "NEAR_CACHE": str(tmp_path / "cache")}
    (tmp_path / "empty").mkdir()
    return lambda *words: process("-S", *map(str, words), cwd=tmp_path / "empty", env=env)


@pytest.mark.process
def test_the_wheel_has_what_the_repository_has(installed):
    def files(folder: Path) -> set[Path]:
        return {p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}

    assert files(installed / "near" / "conf") == files(ROOT / "conf") | {"sweeps" / p for p in files(ROOT / "sweeps")}
    assert files(installed / "near") - {"conf" / p for p in files(installed / "near" / "conf")} == files(ROOT / "near")
    assert files(installed / "hydra_plugins") == files(ROOT / "hydra_plugins")
    assert (installed / "near" / "py.typed").is_file()
    tops = {p.name for p in installed.iterdir() if p.suffix != ".dist-info"}
    assert tops == {"near", "hydra_plugins", "bin"}, "no script, test or document lies beside other packages"


FROM_PYTHON = """
import sys, numpy as np, near
pool = np.random.default_rng(0).normal(size=(50, 4))
print(near.search(pool[:2], pool, 3).ids[:, 0].tolist())
for selector in ("near", "random", "tsds", "uot", "mean_sim", "doubly_greedy", "knn_uniform"):
    print(selector, len(near.select(pool[:2], pool, 5, selector=selector).ids))
print(near.search(["boil rice"], ["how to boil rice", "the sky is blue"], 2, overrides=["embedder=hashing"]).ids)
try:
    near.search(["boil rice"], ["how to boil rice"])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.process
def test_near_from_python_with_the_base_dependencies(alone):
    done = alone("-c", FROM_PYTHON)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[0] == "[0, 1]" and lines[-2] == "[[0 1]]"
    assert [line.split() for line in lines[1:-2]] == [[name.split()[0], "5"] for name in lines[1:-2]]
    assert lines[-1].startswith("UserError an embedder that is a model: ") and lines[-1].endswith('"near[embed]"')


@pytest.mark.process
def test_the_command_with_the_base_dependencies(alone, installed, small_data, tmp_path):
    near = installed / "bin" / "near"
    select = [near, "select", *small_data, "embedder=hashing", "max_K=9"]
    done = alone(*select)
    assert done.returncode == 0, done.stderr[-2000:]
    (matrix,) = (tmp_path / "empty" / "runs" / "select").glob("*/top_indices.npy")
    manifest = json.loads((matrix.parent / "manifest.json").read_text())
    assert manifest["command"].startswith("near select data=files ")
    assert alone(*select, "selector=near", "n=7", "export=jsonl", "output_dir=chosen").returncode == 0
    assert len((tmp_path / "empty" / "chosen" / "subset.jsonl").read_text().splitlines()) == 7
    before = {p for p in (tmp_path / "empty").rglob("*") if p.is_file()}
    refused = (
        (["train", "selector=random"], r'near train: .*peft.*torch.* are not installed; pip install "near\[train\]"'),
        (["merge", "adapter_name_or_path=a", "export_dir=b"], r'near merge: .*; pip install "near\[train\]"'),
        (["eval", "run=a"], r'near eval: .*; pip install "near\[train\]"'),
        (["report", "runs=."], r'near report: jinja2, plotly, sklearn are not installed; pip install "near\[report\]"'),
        (["select"], r'an embedder that is a model: .*; pip install "near\[embed\]"'),
        (["select", "embedder=rds"], r'an embedder that is a model: .*; pip install "near\[embed\]"'),
        (["select", "embedder=hashing", "selector=less", "n=3"], r'a selector that .*; pip install "near\[train\]"'),
        (["options"], r".*docs/options.md does not exist; run this in a clone of near's repository"),
    )
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda case: alone(near, *case[0]), refused))
    for (words, says), done in zip(refused, results, strict=True):
        assert done.returncode == 1
        assert re.fullmatch(rf"error: {says}\n", done.stderr), (words, done.stderr[-500:])
    assert {p for p in (tmp_path / "empty").rglob("*") if p.is_file()} == before, "what is refused leaves nothing"


def done_by_near(installed: Path, folder: Path, *words: str) -> None:
    """`near` of the wheel, with all that is installed here."""
    done = process(str(installed / "bin" / "near"), *words, cwd=folder, env={"PYTHONPATH": str(installed)})
    assert done.returncode == 0, f"{words[0]}: {done.stdout[-1000:]}\n{done.stderr[-2000:]}"


def commands(folder: Path) -> set[str]:
    """How the runs below `folder` say that they were started, without their options."""
    results = [json.loads(path.read_text())["command"] for path in folder.rglob("*metrics.json")]
    return {command.partition(" data=")[0] for command in results}


@pytest.mark.process
@pytest.mark.model
def test_the_command_trains_in_an_empty_folder(installed, tiny, tmp_path):
    done_by_near(installed, tmp_path, "train", *tiny, "selector=near")
    (run,) = (tmp_path / "runs" / "train").iterdir()
    assert (run / "adapter" / "adapter_model.safetensors").is_file() and (run / "train.log").is_file()
    assert commands(tmp_path) == {"near train"}


@pytest.mark.slow
def test_the_commands_sweep_evaluate_merge_and_report(installed, tiny, tmp_path):
    """Each job of the sweep in a process of its own, where `near` is not what was started."""
    run, cache = "runs/two/selector-near", next(word for word in tiny if word.startswith("cache_dir="))
    sweep = ["train", "-m", *tiny, "selector=near,random", "sweep_name=two", "hydra/launcher=joblib"]
    done_by_near(installed, tmp_path, *sweep)
    assert commands(tmp_path) == {"near train -m"}
    done_by_near(installed, tmp_path, "eval", f"run={run}", cache, "evaluation.max_new_tokens=2")
    done_by_near(installed, tmp_path, "merge", f"adapter_name_or_path={run}/adapter", "export_dir=merged", cache)
    done_by_near(installed, tmp_path, "report", "runs=runs/two", cache)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "two" / "report.html").is_file()


@pytest.mark.slow
def test_torchrun_starts_the_command(installed, tiny, tmp_path):
    """`torchrun -m near train`: one run of two processes."""
    words = [*RANKS, "-m", "near", "train", *tiny, "selector=random", "output_dir=run"]
    done = process(*words, cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert commands(tmp_path) == {"python -m near train"}
