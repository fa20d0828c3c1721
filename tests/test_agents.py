"""W&B's own sweeps (sweeps/wandb): the commands that an agent makes of them compose, and are the comparisons of
Hydra's; an agent's jobs have folders, runs, groups and tags of their own."""

import copy
import itertools
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from near.errors import UserError
from tests.conftest import ROOT, composed, configured
from tests.test_configs import AGENTS, SWEEPS

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
        assert (cfg.sweep_name, cfg.tracker._target_) == (path.stem, "near.trackers.wandb.WandbTracker")


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
