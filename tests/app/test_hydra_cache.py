"""Tests compose through a cache (tests/hydra_cache.py), and get what Hydra alone would give them."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf

from tests import hydra_cache
from tests.conftest import composed

COMMANDS = [
    ("train",),
    ("train", "max_K=7", "seed=3"),
    ("train", "max_K=9"),
    ("train", "selector=less", "scoring.dim=8", "+selector.shortlist={selector: near, size: 9}"),
    ("train", "selector={_target_: collections.Counter}"),
    ("train", "trainer=dynamic_mix", "mixer=odm", "+trainer.args.max_grad_norm=2", "~data.queries"),
    ("train", "~selector"),
    ("train", "sweeps=smoke", "hydra.job.name=mine", "+tracker.note='${seed}'"),
    ("select", "embedder=hashing", "hydra/launcher=joblib"),
    ("eval", "run=a"),
]


def hydra_alone(command) -> tuple[dict, bool]:
    cached = hydra_cache.current()
    hydra_cache.use(*hydra_cache.STEPS)
    try:
        return plain(command)
    finally:
        hydra_cache.use(*cached)


def plain(command) -> tuple[dict, bool]:
    """A command's values, unresolved, and whether keys may be added."""
    script, *words = command
    with initialize_config_dir(str(hydra_cache.CONF), version_base="1.3"):
        cfg = compose(script, overrides=words, return_hydra_config=True)
    return OmegaConf.to_container(cfg, resolve=False), OmegaConf.is_struct(cfg)


def test_a_composition_is_hydras():
    for command in COMMANDS:
        assert plain(command) == plain(command) == hydra_alone(command), command


@pytest.mark.parametrize("word", ["selector=nosuch", "+selector=near", "~nosuch/group", "nosuch=1", "+data/source@x=y"])
def test_so_is_a_fault(word):
    lines = []
    for how in (plain, plain, hydra_alone):
        with pytest.raises((ConfigCompositionException, MissingConfigException)) as caught:
            how(("train", word))
        lines.append(str(caught.value))
    assert lines[0] == lines[1] == lines[2]


def test_a_changed_copy_changes_no_other():
    cfg = composed.__wrapped__("train", ())[1]
    cfg.trainer.args.learning_rate = 7.0
    assert composed.__wrapped__("train", ("max_K=7",))[1].trainer.args.learning_rate != 7.0


def test_files_of_other_folders_are_read_anew(tmp_path):
    path = tmp_path / "c.yaml"
    for value in (1, 2):
        path.write_text(f"a: {value}\n")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            assert compose("c").a == value
