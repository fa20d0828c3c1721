"""Shared by all tests: a cache, small data on disk, and scripts called in-process or as real processes."""

import functools
import gc
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from near.app.check.check import check, read_run_config
from near.common.config import CONF, register_resolvers
from near.evaluation import sandbox
from tests import hydra_cache
from tests.forked import forked
from tests.hydra_cache import copied

ROOT = Path(__file__).resolve().parent.parent
# two processes, at a free port
RANKS = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-endpoint=127.0.0.1:0", "--rdzv-backend=c10d"]
register_resolvers()
hydra_cache.install()
# Every saved adapter has a card of the same template
jinja2.Environment.compile = functools.lru_cache(256)(jinja2.Environment.compile)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may use a hub


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `not model`, do not import files whose tests all need a model: importing them takes most of the time."""
    if re.search(r"not (\([^)]*\b)?model\b", config.option.markexpr) and collection_path.suffix == ".py":
        text = collection_path.read_text(encoding="utf-8")
        return True if re.search(r"^pytestmark = pytest\.mark\.(model|real)$", text, re.MULTILINE) else None
    return None


@functools.cache
def needs_sandbox() -> pytest.MarkDecorator:
    """The mark of a test that runs graded programs: skipped, with the reason, if they cannot be isolated."""
    missing = sandbox.missing()
    return pytest.mark.skipif(missing is not None, reason=f"no sandbox for graded programs: {missing}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker waits for the last file of another."""
    long = {item.path for item in items if item.get_closest_marker("real") or item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture()
def packages(monkeypatch) -> Callable[..., None]:
    """`packages(ray=False, vllm=True)`: pretend that these are missing or installed; others are unchanged."""
    real, pretended = importlib.util.find_spec, {}

    def find_spec(name: str, package: str | None = None) -> object:
        return real(name, package) if name not in pretended else object() if pretended[name] else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return lambda **installed: pretended.update(installed)


def evaluate(cfg: DictConfig, output_dir: Path) -> None:
    """As eval.py calls it."""
    from near.evaluation.eval import evaluate

    evaluate(cfg, output_dir, check)


def report(cfg: DictConfig, output_dir: Path) -> None:
    """As report.py calls it."""
    from near.report.report import report

    report(cfg, output_dir, functools.partial(read_run_config, allow_targets=cfg.allow_targets))


@functools.lru_cache(maxsize=512)
def composed(script: str, overrides: tuple[str, ...]):
    """The composed configuration with and without Hydra's part, the latter checked; cached by command."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose(script, overrides=list(overrides), return_hydra_config=True)
    cfg = copied(whole)
    HydraConfig.instance().set_config(whole)
    with open_dict(cfg):
        del cfg["hydra"]
    check(cfg, overrides)
    return whole, cfg


def configured(script: str, *overrides: str):
    """The configuration of `script` under `overrides`, checked, with HydraConfig set as in a running job."""
    whole, cfg = composed(script, overrides)
    HydraConfig.instance().set_config(whole)
    return copied(cfg)


def process(*command: str, cwd: Path = ROOT, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run python with `command` in a separate process, which takes seconds to import what it needs."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **(env or {})},
    )


def run_script(*command: str, cwd: Path = ROOT, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run python with `command` (after RANKS in two processes) in forked children, for what it does and says.

    What imports, launchers and signals do to a process, `process` shows.
    """
    ranks = command[: len(RANKS)] == tuple(RANKS)
    return forked(command[len(RANKS) :] if ranks else command, cwd, env, ranks=2 if ranks else 1)


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache for tests without the real model."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def real_cache() -> Path:
    """The project's cache, so that the real model is downloaded and its texts are embedded once."""
    return Path(os.environ.get("NEAR_CACHE", ROOT / ".cache")).resolve()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> list[str]:
    """60 rows about colours, sums and animals; the queries and the eval rows are about sums. As overrides."""
    folder = tmp_path_factory.mktemp("data")
    rng, numbers = np.random.default_rng(0), itertools.count(100)

    def row(domain: str) -> dict:
        a, b = next(numbers), int(rng.integers(1, 50))  # so that all rows differ
        texts = {
            "sum": (f"what is the sum of {a} and {b}", str(a + b)),
            "colour": (f"name the colour of paint pot {a}", "red"),
            "animal": (f"which animal lives in cage {a}", "a cat"),
        }
        question, answer = texts[domain]
        return {"instruction": question, "input": "", "output": answer, "domain": domain}

    pool = [row(domain) for _ in range(20) for domain in ("colour", "sum", "animal")]
    paths = {
        "candidates": write_rows(folder / "pool.jsonl", pool),
        "queries": write_rows(folder / "queries.jsonl", [row("sum") for _ in range(4)]),
        "eval": write_rows(folder / "eval.jsonl", [row("sum") for _ in range(5)]),
    }
    overrides = [f"data.{part}.path={path}" for part, path in paths.items()]
    return ["data=files", *overrides, "data.candidates.columns.source=domain"]


@pytest.fixture()
def tiny(small_data, cache) -> list[str]:
    """Overrides of a run that takes a second: random weights, hashed words, few rows."""
    return [
        *small_data,
        f"cache_dir={cache}",
        "embedder=hashing",
        "max_K=15",
        "model=tiny",
        "finetuning.r=4",
        "trainer.warmup_step=2",
        "trainer.update_step=4",
        "trainer.update_times=2",
        "trainer.args.per_device_train_batch_size=2",
        "trainer.args.gradient_accumulation_steps=1",
        "+trainer.args.disable_tqdm=true",
        "evaluation.max_new_tokens=4",
    ]


@pytest.fixture(scope="session")
def mixture(tmp_path_factory) -> Path:
    """A mixture of experts of random weights, with the tokenizer of model=tiny."""
    from transformers import AutoTokenizer, OlmoeConfig, OlmoeForCausalLM, set_seed

    from near.data.builtin.tiny import write_tiny

    tiny, folder = tmp_path_factory.mktemp("dense"), tmp_path_factory.mktemp("mixture")
    write_tiny(tiny)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2}
    set_seed(0)
    OlmoeForCausalLM(OlmoeConfig(**sizes, **ids, num_experts=8, num_experts_per_tok=2)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture()
def dataflex(tmp_path, monkeypatch) -> Path:
    """A folder with the layout that DataFlex's examples expect, as the current folder."""
    from tests.dataflex_files import lay_out

    monkeypatch.chdir(tmp_path)
    return lay_out(tmp_path)


@pytest.fixture()
def small_disk(tmp_path):
    """A folder on a separate small file system, and a function that changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Runs leave an empty loss.png: drawing it takes a fifth of a tiny run's time, and one test draws it."""
    if outcome := sys.modules.get("near.training.outcome"):
        monkeypatch.setattr(outcome, "plot", lambda history, path: path.touch())


@pytest.fixture(autouse=True, scope="module")
def _settled_heap():
    """Freeze the objects of earlier test modules (mostly imports), so that later collections skip them: with millions
    of objects one collection takes seconds."""
    gc.collect()
    gc.freeze()
