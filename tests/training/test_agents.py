"""W&B's sweeps (sweeps/wandb): an agent's commands compose, and are the comparisons of Hydra's sweeps; every job of an
agent has its folder, run, group and tags."""

import copy
import itertools
import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from near.common.errors import UserError
from tests.app.test_configs import AGENTS, SWEEPS
from tests.conftest import ROOT, composed, configured
from tests.tracked import folders, history, of_type, records

SWEEP = "a1b2c3d4"


def commands(path: Path) -> list[list[str]]:
    """Every command line of a W&B sweep, by the agent's code; for a range, its ends."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    spec = yaml.safe_load(path.read_text())
    values = [p.get("values") or [p["min"], p["max"]] for p in spec["parameters"].values()]
    lines = []
    for chosen in itertools.product(*values):
        args = {k: {"value": v} for k, v in zip(spec["parameters"], chosen, strict=True)}
        macros = create_sweep_command_args({"args": args})
        macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [spec["program"]]}
        line = []
        for word in create_sweep_command(list(spec["command"])):
            line += macros[word[2:-1]] if word.startswith("${") else [word]
        lines.append(line)
    return lines


def overrides(line: list[str]) -> list[str]:
    assert line[:3] == ["/usr/bin/env", "python", "train.py"]
    return line[3:]


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_every_command_composes(path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
    spec = yaml.safe_load(path.read_text())
    assert set(spec) <= {"program", "command", "project", "name", "method", "run_cap", "metric", "parameters"}
    assert (spec["name"], spec["metric"]["name"]) == (path.stem, "target/target_loss")
    lines = commands(path)
    if spec["method"] == "grid":
        assert len(set(map(tuple, lines))) == len(lines)
    for line in lines if len(lines) <= 12 else lines[:: len(lines) // 8]:
        whole, cfg = composed("train", tuple(overrides(line)))
        assert whole.hydra.mode is None or str(whole.hydra.mode).endswith("RUN")
        assert not str(whole.hydra.mode).endswith("MULTIRUN")
        assert (cfg.sweep_name, cfg.tracker._target_) == (path.stem, "near.training.trackers.wandb.WandbTracker")


@pytest.mark.parametrize("path", [p for p in AGENTS if p.stem in SWEEPS], ids=lambda path: path.stem)
def test_the_comparison_is_that_of_hydras_sweep(path):
    whole, _ = composed("train", (f"sweeps={path.stem}",))
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in whole.hydra.sweeper.params.items()])
    swept = {o.key_or_group: {str(v) for v in o.sweep_iterator()} for o in parsed}
    parameters = yaml.safe_load(path.read_text())["parameters"]
    assert {k: {str(v) for v in p["values"]} for k, p in parameters.items()} == swept


def test_every_grid_of_hydra_has_one():
    # the stages of a race need all jobs of the one before
    assert {p.stem for p in AGENTS} == {*SWEEPS, "bayes"} - {"optuna", "race"}


def folder(*words: str) -> str:
    whole = copy.deepcopy(composed("train", words)[0])
    OmegaConf.set_readonly(whole.hydra, False)
    whole.hydra.job.name = "train"
    return whole.hydra.run.dir


def test_every_job_has_its_folder(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
    folders = {folder(*overrides(line)) for line in commands(ROOT / "sweeps" / "wandb" / "max_k.yaml")}
    assert len(folders) == 24
    assert f"runs/wandb/{SWEEP}/max_K-1000_seed-1_selector-near" in folders
    assert folder("output_dir=here", "selector=near") == "here"
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert folder("selector=near").startswith("runs/train/")


def test_as_a_configuration_it_is_refused():
    with pytest.raises(UserError, match="wandb sweep sweeps/wandb/NAME.yaml"):
        configured("train", "sweeps=wandb/smoke")


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.process
def test_an_agent_runs_its_jobs(tiny, tmp_path, monkeypatch):
    """W&B's agent without its server: the commands that it runs, and their results."""
    from wandb.wandb_agent import Agent

    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    spec = yaml.safe_load((ROOT / "sweeps" / "wandb" / "smoke.yaml").read_text())
    agent = Agent(api=None, queue=None, sweep_id=SWEEP)
    at = spec["command"].index("${args_no_hyphens}")
    agent._sweep_command = [w for w in spec["command"] if w != "sweeps=smoke"]
    agent._sweep_command[at - 1 : at - 1] = ["sweep_name=smoke", *tiny]
    jobs = {"run1": {"seed": 1, "selector": "near"}, "run2": {"seed": 1, "selector": "random"}}
    jobs["run3"] = jobs["run1"]  # the same options again
    for run_id, chosen in jobs.items():
        command = {"type": "run", "program": str(ROOT / "train.py"), "run_id": run_id}
        response = agent._process_command({**command, "args": {k: {"value": v} for k, v in chosen.items()}})
        assert response.get("exception") is None, response
        assert agent._run_processes[run_id].wait(timeout=300) == 0
    sweep = tmp_path / "runs" / "wandb" / SWEEP
    runs = {}
    for job in sweep.iterdir():
        for folder in folders(job):
            (run,) = of_type(records(folder), "run")
            runs[run["run_id"]] = (job, run, records(folder))
    assert sorted(runs) == ["run1", "run2", "run3"]
    assert runs["run1"][0] == runs["run3"][0] != runs["run2"][0]
    for run_id, (job, run, lines) in runs.items():
        assert (run["sweep_id"], run["run_group"], run["tags"]) == (SWEEP, f"smoke-{SWEEP}", ["smoke", SWEEP])
        assert (run["config"]["update"]["selector"], run["config"]["update"]["seed"]) == (jobs[run_id]["selector"], 1)
        loss = json.loads((job / "metrics.json").read_text())["target_loss"]
        assert history(lines, "target/target_loss")[-1][1] == pytest.approx(loss)
