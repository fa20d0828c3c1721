"""Mixes of data sets as files of DataFlex and LLaMA-Factory ask for them: proportions, and lengths."""

import json
from pathlib import Path

import numpy as np
import pytest

from near.common.errors import UserError
from tests.conftest import ROOT, configured, process
from tests.dataflex_files import translate, wrote

GONE = ("train_type", "components_cfg_file", "dataset", "warmup_step", "update_step", "update_times")
STATIC = "train_type: dynamic_mix\nstatic_mix: true\nmixture_sample_rule: mixture\ndataset: colours,sums\n"
ROUNDS = "train_type: dynamic_mix\ndataset: colours,sums\nwarmup_step: 4\nupdate_step: 3\nupdate_times: 2\n"


def mixed(text: str, typed: tuple = (), component: str = "", gone: tuple = GONE):
    """The words and the configuration of a file with `text`; 30 colours and 5 sums, 2 rows a step, one epoch."""
    options, file = translate(component, text, typed, without=gone)
    return options, configured("train", *map(str, file.words), *typed), file


def schedule(cfg) -> tuple[int, int, int, int]:
    return tuple(cfg.trainer[key] for key in ("warmup_step", "update_step", "update_times", "cycles"))


@pytest.mark.parametrize(
    ("more", "shares", "steps"),
    [
        ("init_mixture_proportions: [0.3, 0.7]\ntrain_step: 9", {"colours": 0.3, "sums": 0.7}, 9),
        ("init_mixture_proportions: [0.3, 0.7]", {"colours": 0.3, "sums": 0.7}, 17),  # 35 rows // 2
        ("init_mixture_proportions: [3, 1]\nnum_train_epochs: 2", {"colours": 3, "sums": 1}, 34),
        ("", {"colours": 1, "sums": 1}, 17),
        ("init_mixture_proportions: [0, 1]\nmax_samples: 4", {"colours": 0, "sums": 1}, 4),
    ],
)
def test_a_static_mix_keeps_its_proportions_and_its_length(dataflex, more, shares, steps):
    options, cfg, file = mixed(STATIC + more, gone=(*GONE, "num_train_epochs") if "num_train" in more else GONE + ())
    if "num_train" not in more:  # the file's own: one
        assert "num_train_epochs" not in file.skipped
    assert (options["trainer"], options["mixer"], schedule(cfg)) == ("dynamic_mix", "static", (0, steps, 1, 1))
    assert dict(cfg.mixer.proportions) == shares and cfg.selector._target_.endswith("Mix")


def test_a_static_mix_looks_at_no_component(dataflex):
    rounds = ("warmup_step: 100\nupdate_step: 200\nupdate_times: 3\ncomponent_name: doremi\n"
              "components_cfg_file: nowhere.yaml\ninit_mixture_proportions: [0.5, 0.5]")  # fmt: skip
    _, cfg, file = mixed(STATIC + rounds)
    assert schedule(cfg) == (0, 17, 1, 1) and cfg.mixer._target_.endswith("Static") and not file.skipped
    assert "static_mix: proportions stay, and component_name, components_cfg_file, warmup_step" in " ".join(file.notes)


@pytest.mark.parametrize("component", ["random", "odm", "doremi", "static"])
def test_a_warm_up_begins_with_the_files_proportions(dataflex, component):
    more = "mixture_sample_rule: mixture\ninit_mixture_proportions: [0.7, 0.3]\n"
    _, cfg, file = mixed(ROUNDS + more, component=component)
    assert dict(cfg.mixer.initial) == {"colours": 0.7, "sums": 0.3} and schedule(cfg) == (4, 3, 2, 1)
    if component == "static":
        assert dict(cfg.mixer.proportions) == {"colours": 1, "sums": 1}  # DataFlex's, where a component names none
    _, cfg, file = mixed(ROUNDS, component=component)
    assert dict(cfg.mixer.initial) == {"colours": 1, "sums": 1}
    assert "mixture_sample_rule is missing, for which DataFlex stops: mixture" in file.notes


def test_rules_that_a_mixer_does_not_move(dataflex):
    _, cfg, _ = mixed(f"{ROUNDS}mixture_sample_rule: stratified", component="odm")
    assert cfg.mixer._target_.endswith("Static") and cfg.mixer.proportions is None
    _, cfg, file = mixed(f"{ROUNDS}mixture_sample_rule: uniform\ninit_mixture_proportions: [0.7, 0.3]", component="odm")
    assert dict(cfg.mixer.proportions) == {"colours": 1, "sums": 1}
    assert "mixture_sample_rule=uniform decides them" in file.skipped["init_mixture_proportions"]
    assert any(
        line.startswith("mixture_sample_rule=uniform: proportions stay, and component_name") for line in file.notes
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("update_times: -1", (4, 3, 5, 1)),  # 17 steps: 4 and 5 rounds of 3, the last one whole
        ("update_times: -1\ntrain_step: 10", (4, 3, 2, 1)),
        ("update_times: 0", (4, 3, 0, 1)),  # the warm-up alone
        ("update_times: 2\ntrain_step: 99", (4, 3, 2, 1)),  # which DataFlex does not look at
        ("update_times: 2\nnum_train_epochs: 3", (4, 3, 2, 1)),
    ],
)
def test_how_long_a_mix_of_rounds_is(dataflex, more, expected):
    rounds = ROUNDS.replace("update_times: 2\n", "")
    gone = (*GONE, "num_train_epochs") if "num_train" in more else GONE
    _, cfg, file = mixed(f"{rounds}mixture_sample_rule: mixture\n{more}", component="random", gone=gone)
    assert schedule(cfg) == expected
    for key in ("train_step", "num_train_epochs"):
        if f"{key}:" in more and "-1" not in more:
            assert f"{key}: the rounds decide the length, in DataFlex too" in file.notes


INTERLEAVED = "dataset: colours,sums\nmix_strategy: {}\n"


@pytest.mark.parametrize(
    ("text", "shares", "steps"),
    [
        ("interleave_under\ninterleave_probs: 0.5,0.5", {"colours": 0.5, "sums": 0.5}, 5),  # 10 rows: the sums are gone
        ("interleave_over\ninterleave_probs: 0.5,0.5", {"colours": 0.5, "sums": 0.5}, 30),  # 60: the colours, too
        ("interleave_under\ninterleave_probs: [0.9, 0.1]", {"colours": 0.9, "sums": 0.1}, 17),  # 33
        ("interleave_under", {"colours": 1, "sums": 1}, 5),
        ("interleave_over\nmax_steps: 4", {"colours": 1, "sums": 1}, 4),
    ],
)
def test_interleaved_data_sets(dataflex, text, shares, steps):
    _, cfg, file = mixed(INTERLEAVED.format(text))
    assert dict(cfg.mixer.proportions) == shares and schedule(cfg) == (0, steps, 1, 1)
    assert not file.skipped


def test_what_interleaving_is_not(dataflex):
    options, _, file = mixed(INTERLEAVED.format("interleave_once\ninterleave_probs: 0.5,0.5"))
    assert options["trainer"] == "static" and not file.skipped  # all rows of both, shuffled: as concat
    _, file = translate("random", INTERLEAVED.format("interleave_under"), without=("dataset",))
    assert list(file.skipped) == ["mix_strategy"]
    for text, says in (
        ("dataset: colours,sums\ninterleave_probs: 0.5,0.5", "interleave_probs=0.5,0.5 goes with mix_strategy"),
        (
            INTERLEAVED.format("interleave_undr"),
            "mix_strategy=interleave_undr is not known; did you mean interleave_under",
        ),
        (INTERLEAVED.format("interleave_under\ninterleave_probs: 0.5"), "are not 2 numbers >=0, one for each"),
        (
            INTERLEAVED.format("interleave_under").replace("sums", "hub"),
            "depends on the rows, which can't be counted",
        ),
    ):
        with pytest.raises(UserError, match=says):
            translate("", text, without=GONE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{STATIC}init_mixture_proportions: [0.5]", "are not 2 numbers >=0, one for each data set"),
        (f"{STATIC}init_mixture_proportions: [1, -1]", "are not 2 numbers >=0"),
        (f"{STATIC}init_mixture_proportions: [a, b]", "init_mixture_proportions=a,b are not numbers"),
        (
            STATIC.replace("rule: mixture", "rule: mixtur"),
            "mixture_sample_rule=mixtur is not known; did you mean mixture",
        ),
        (STATIC.replace("sums", "hub"), "static_mix depends on the rows, which can't be counted; give train_step"),
        (STATIC.replace("colours,sums", "colours"), "mixes data sets, and dataset=colours is one"),
    ],
)
def test_mixes_that_can_not_be(dataflex, text, says):
    with pytest.raises(UserError, match=says):
        translate("", text, without=GONE)


def test_a_length_that_is_typed_needs_no_rows(dataflex):
    typed = ("trainer.update_step=6",)
    options, file = translate("", STATIC.replace("sums", "hub"), typed, without=GONE)
    assert options["trainer"] == "dynamic_mix"
    cfg = configured("train", *(str(word) for word in file.words if word.key != "trainer.update_step"), *typed)
    assert schedule(cfg) == (0, 6, 1, 1)


def test_data_that_is_typed_has_sources_of_its_own(dataflex):
    options, file = translate("", f"{STATIC}train_step: 4", ("data=demo",), without=GONE)
    assert options["mixer"] == "static" and not {"mixer.proportions", "mixer.initial"} & set(options)
    assert any("type mixer.proportions" in line for line in file.notes)


@pytest.mark.model
@pytest.mark.process
@pytest.mark.slow
def test_a_static_mix_trains_what_it_says(dataflex):
    """A file of the kind of DataFlex's test_static_mix.yaml, and the rows that it trained."""
    text = f"{STATIC}init_mixture_proportions: [0.3, 0.7]\ntrain_step: 10\ndisable_tqdm: true\n"
    path = wrote("", text, GONE)
    env = {"NEAR_CACHE": str(dataflex / "cache"), "OMP_NUM_THREADS": "1"}
    done = process(str(ROOT / "train.py"), f"from_yaml={path}", cwd=dataflex, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    run = Path("saves/run")
    lines = [json.loads(line) for line in (run / "rounds" / "rounds.jsonl").read_text().splitlines()]
    order = np.load(run / "rounds" / "000_order.npy")
    assert len(lines) == 1 and lines[0]["steps"] == 10 and len(order) == 20
    assert lines[0]["mix"]["draws"] == {"colours": 6, "sums": 14}
    assert (order < 30).sum() == 6  # the pool's first 30 rows are colours
    assert json.loads((run / "train_metrics.json").read_text())["steps"] == 10
