"""Moved classes: configurations and runs with the old paths still work."""

import json
import re

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from near.common.config import CONF, identity
from near.common.foreign import read_config
from near.common.moved import MOVED, class_names, current, update_targets
from near.common.signature import class_definition
from near.report.compare import groups_of
from near.report.runs import collect
from near.training.rounds.state import STATE, read_state, write_parts, write_state
from near.training.train import train
from tests.conftest import ROOT, configured
from tests.training.test_training import history, stopped

FORMER = {new: old for old, new in MOVED.items()}  # "near.selection.selectors": "near.selectors"


def former(target: str) -> str:
    """Where a class lay before it moved."""
    for new in sorted(FORMER, key=len, reverse=True):
        if target.startswith(f"{new}."):
            return FORMER[new] + target.removeprefix(new)
    return target


def test_every_class_of_the_configurations_is_found_where_it_lay():
    nodes = [OmegaConf.load(path) for path in sorted(CONF.rglob("*.yaml"))]
    targets = {str(node.get("_target_")) for node in nodes if isinstance(node, DictConfig) and "_target_" in node}
    ours = [target for target in targets if target.startswith("near.")]
    assert len(ours) > 30
    since = ("near.searching.bm25.", "near.selection.orders.", "near.selection.plan.")  # which never lay elsewhere
    for target in {target for target in ours if not target.startswith(since)}:
        assert former(target) != target and current(former(target)) == target
        assert current(target) == target


def test_what_is_not_ours_stays():
    assert current("near.older.X") == "near.older.X"
    assert current("mylab.near.selectors.near.Near") == "mylab.near.selectors.near.Near"
    assert current("near.selectors") == "near.selectors"  # no class


def test_every_place_of_the_table_is_there():
    for new in MOVED.values():
        path = ROOT / new.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), new
    assert class_definition(current("near.selectors.mix.Mix")) is not None


def test_targets_are_updated_wherever_they_stand():
    cfg = OmegaConf.create(
        {
            "selector": {"_target_": "near.selectors.near.Near", "inner": [{"_target_": "near.selectors.full.Full"}]},
            "again": "${selector}",
            "gone": None,
            "must": "???",
            "text": "near.selectors.near.Near",
        }
    )
    update_targets(cfg)
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert plain.pop("selector") == {
        "_target_": "near.selection.selectors.near.Near",
        "inner": [{"_target_": "near.selection.selectors.full.Full"}],
    }
    assert plain == {"again": "${selector}", "gone": None, "must": "???", "text": "near.selectors.near.Near"}


def test_a_class_of_ours_is_known_by_its_name_and_anothers_by_its_path():
    metadata = {"a": [{"_target_": "near.any.where.Near", "x": 1}], "b": {"_target_": "mylab.near.Near"}, "c": 2}
    assert class_names(metadata) == {"a": [{"_target_": "Near", "x": 1}], "b": {"_target_": "mylab.near.Near"}, "c": 2}
    assert metadata["a"][0]["_target_"] == "near.any.where.Near"


def test_an_identity_names_no_place():
    values = identity(configured("train"))
    assert values["selector"]["_target_"] == "Near" and values["finetuning"]["_target_"] == "peft.LoraConfig"
    assert "'near." not in str(values)


def test_a_folders_configuration_may_name_the_former_place(tmp_path):
    (tmp_path / "config.yaml").write_text("selector: {_target_: near.selectors.near.Near}")
    assert read_config(tmp_path / "config.yaml").selector._target_ == "near.selection.selectors.near.Near"


def test_a_users_configuration_may_name_the_former_place():
    cfg = configured("train", "selector._target_=near.selectors.near.Near")
    assert cfg.selector._target_ == "near.selection.selectors.near.Near"


def as_before(values: object) -> object:
    """Nested values with every class of ours by its former path, as they were written before it moved."""
    paths = {target.rpartition(".")[2]: target for target in re.findall(r"near\.[\w.]+", str(configured("train")))}

    def walk(node: object) -> object:
        if isinstance(node, dict):
            return {
                k: former(paths.get(v, v)) if k == "_target_" and isinstance(v, str) else walk(v)
                for k, v in node.items()
            }
        return [walk(item) for item in node] if isinstance(node, list) else node

    return walk(values)


@pytest.mark.model
def test_a_run_from_before_the_move_goes_on_and_is_known(tiny, tmp_path, monkeypatch):
    settings = [*tiny, "trainer.args.save_steps=5"]
    train(configured("train", *settings), tmp_path / "whole")
    stopped(monkeypatch, settings, tmp_path / "before")
    config = tmp_path / "before" / "config.yaml"
    config.write_text(yaml.safe_dump(as_before(yaml.safe_load(config.read_text()))))
    assert "near.selectors.near.Near" in config.read_text()
    [checkpoint] = (tmp_path / "before" / "checkpoints").glob("checkpoint-*")
    arrays, metadata = read_state(checkpoint / STATE)
    metadata["identity"] = as_before(metadata["identity"])
    assert metadata["identity"]["config"]["selector"]["_target_"] == "near.selectors.near.Near"
    write_state(checkpoint / STATE, arrays, metadata)
    (checkpoint / "files.json").unlink()
    write_parts(checkpoint)

    train(configured("train", *settings, "resume=auto"), tmp_path / "before")
    assert history(tmp_path / "before") == history(tmp_path / "whole")

    metrics = tmp_path / "before" / "train_metrics.json"
    metadata = json.loads(metrics.read_text())
    metadata["identity"] = as_before(metadata["identity"])
    metrics.write_text(json.dumps(metadata))
    train(configured("train", *settings), tmp_path / "before")  # done already
    runs, _ = collect(tmp_path)
    assert len(runs) == 3 and len(groups_of(runs)) == 1  # with the base
