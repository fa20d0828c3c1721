"""W&B's own sweeps (sweeps/wandb): the commands that an agent makes of them compose, and are the comparisons of
Hydra's; an agent's jobs have folders, runs, groups and tags of their own."""

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
    """Every command line of a W&B sweep, made by the agent's own code; of a range its ends."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    told = yaml.safe_load(path.read_text())
    values = [p.get("values") or [p["min"], p["max"]] for p in told["parameters"].values()]
    found = []
    for chosen in itertools.product(*values):
        args = {k: {"value": v} for k, v in zip(told["parameters"], chosen, strict=True)}
        macros = create_sweep_command_args({"args": args})
        macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [told["program"]]}
        line = []
        for word in create_sweep_command(list(told["command"])):
            line += macros[word[2:-1]] if word.startswith("${") else [word]
        found.append(line)
    return found


def overrides(line: list[str]) -> list[str]:
    assert line[:3] == ["/usr/bin/env", "python", "train.py"]
    return line[3:]


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_every_command_composes(path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
    told = yaml.safe_load(path.read_text())
    assert set(told) <= {"program", "command", "project", "name", "method", "run_cap", "metric", "parameters"}
    assert (told["name"], told["metric"]["name"]) == (path.stem, "target/target_loss")
    found = commands(path)
    if told["method"] == "grid":
        assert len(set(map(tuple, found))) == len(found)
    for line in found if len(found) <= 12 else found[:: len(found) // 8]:
        whole, cfg = composed("train", tuple(overrides(line)))
        assert whole.hydra.mode is None or str(whole.hydra.mode).endswith("RUN")
        assert not str(whole.hydra.mode).endswith("MULTIRUN")
        assert (cfg.sweep_name, cfg.tracker._target_) == (path.stem, "near.training.trackers.wandb.WandbTracker")


@pytest.mark.parametrize("path", [p for p in AGENTS if p.stem in SWEEPS], ids=lambda path: path.stem)
def test_the_comparison_is_that_of_hydras_sweep(path):
    whole, _ = composed("train", (f"sweeps={path.stem}",))
    asked = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in whole.hydra.sweeper.params.items()])
    swept = {o.key_or_group: {str(v) for v in o.sweep_iterator()} for o in asked}
    told = yaml.safe_load(path.read_text())["parameters"]
    assert {k: {str(v) for v in p["values"]} for k, p in told.items()} == swept


def test_all_of_hydras_grids_are_there():
    assert {p.stem for p in AGENTS} == {*SWEEPS, "bayes"} - {"optuna"}


def folder(*words: str) -> str:
    whole = copy.deepcopy(composed("train", words)[0])
    OmegaConf.set_readonly(whole.hydra, False)
    whole.hydra.job.name = "train"
    return whole.hydra.run.dir


def test_a_job_has_a_folder_of_its_own_that_is_found_again(monkeypatch):
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
    """W&B's own agent, without its server: what it is told to run, and what comes of it."""
    from wandb.wandb_agent import Agent

    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    told = yaml.safe_load((ROOT / "sweeps" / "wandb" / "smoke.yaml").read_text())
    agent = Agent(api=None, queue=None, sweep_id=SWEEP)
    at = told["command"].index("${args_no_hyphens}")
    agent._sweep_command = [w for w in told["command"] if w != "sweeps=smoke"]
    agent._sweep_command[at - 1 : at - 1] = ["sweep_name=smoke", *tiny]
    jobs = {"run1": {"seed": 1, "selector": "near"}, "run2": {"seed": 1, "selector": "random"}}
    jobs["run3"] = jobs["run1"]  # asked for again
    for run_id, chosen in jobs.items():
        command = {"type": "run", "program": str(ROOT / "train.py"), "run_id": run_id}
        response = agent._process_command({**command, "args": {k: {"value": v} for k, v in chosen.items()}})
        assert response.get("exception") is None, response
        assert agent._run_processes[run_id].wait(timeout=300) == 0
    sweep = tmp_path / "runs" / "wandb" / SWEEP
    found = {}
    for job in sweep.iterdir():
        for folder in folders(job):
            (run,) = of_type(records(folder), "run")
            found[run["run_id"]] = (job, run, records(folder))
    assert sorted(found) == ["run1", "run2", "run3"]
    assert found["run1"][0] == found["run3"][0] != found["run2"][0]
    for run_id, (job, run, lines) in found.items():
        assert (run["sweep_id"], run["run_group"], run["tags"]) == (SWEEP, f"smoke-{SWEEP}", ["smoke", SWEEP])
        assert (run["config"]["update"]["selector"], run["config"]["update"]["seed"]) == (jobs[run_id]["selector"], 1)
        loss = json.loads((job / "metrics.json").read_text())["target_loss"]
        assert history(lines, "target/target_loss")[-1][1] == pytest.approx(loss)
