"""Classes that lie elsewhere now: configurations and runs that name where they lay still work."""

import pytest
from omegaconf import OmegaConf

from near import moved
from near.config import identity
from near.foreign import read_config
from near.moved import class_names, current, update_targets
from tests.conftest import configured


@pytest.fixture(autouse=True)
def former(monkeypatch):
    monkeypatch.setattr(moved, "MOVED", {"near.old": "near.selectors", "near.old.mix": "near.mixers.selector"})


def test_the_longest_prefix_counts():
    assert current("near.old.near.Near") == "near.selectors.near.Near"
    assert current("near.old.mix.Mix") == "near.mixers.selector.Mix"
    assert current("near.older.X") == "near.older.X"
    assert current("mylab.near.old.X") == "mylab.near.old.X"


def test_targets_are_updated_wherever_they_stand():
    cfg = OmegaConf.create(
        {
            "selector": {"_target_": "near.old.near.Near", "inner": [{"_target_": "near.old.full.Full"}]},
            "again": "${selector}",
            "gone": None,
            "must": "???",
            "text": "near.old.near.Near",
        }
    )
    OmegaConf.set_readonly(cfg, False)
    update_targets(cfg)
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert plain["selector"] == {
        "_target_": "near.selectors.near.Near",
        "inner": [{"_target_": "near.selectors.full.Full"}],
    }
    assert (plain["again"], plain["gone"], plain["must"], plain["text"]) == (
        "${selector}",
        None,
        "???",
        "near.old.near.Near",
    )


def test_a_class_of_ours_is_known_by_its_name_and_anothers_by_its_path():
    told = {"a": [{"_target_": "near.any.where.Near", "x": 1}], "b": {"_target_": "mylab.near.Near"}, "c": 2}
    assert class_names(told) == {"a": [{"_target_": "Near", "x": 1}], "b": {"_target_": "mylab.near.Near"}, "c": 2}
    assert told["a"][0]["_target_"] == "near.any.where.Near"


def test_an_identity_names_no_place():
    found = identity(configured("train"))
    assert found["selector"]["_target_"] == "Near" and found["finetuning"]["_target_"] == "peft.LoraConfig"
    assert "'near." not in str(found)


def test_a_folders_configuration_may_name_the_former_place(tmp_path):
    (tmp_path / "config.yaml").write_text("selector: {_target_: near.old.near.Near}\nx: {_target_: near.old.a.B}")
    cfg = read_config(tmp_path / "config.yaml")
    assert cfg.selector._target_ == "near.selectors.near.Near"


def test_a_users_configuration_may_name_the_former_place():
    cfg = configured("train", "selector._target_=near.old.near.Near")
    assert cfg.selector._target_ == "near.selectors.near.Near"
