"""Plans on a model of random weights: their short forms to the bit, kept results, resumes, records and refusals."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import HydraException

from near.app.check.check import read_run_config
from near.app.check.plan_faults import plan_faults
from near.common.errors import UserError
from near.selection.plan.choice import selection_of
from near.selection.scoring.scoring import Scorer
from near.training import trainer as trainer_module
from near.training.train import train
from tests.conftest import RANKS, configured, process
from tests.training.test_kills import timeless
from tests.training.test_mix_runs import lines
from tests.training.test_training import history, stopped

pytestmark = pytest.mark.model

LESS = ["evaluation.answers=false"]


def same(one: Path, other: Path, rounds: int) -> None:
    """Weights, losses, and the rows of all rounds, to the bit."""
    assert history(one) == history(other)
    names = [f"rounds/{i:03d}{end}.npy" for i in range(rounds) for end in ("", "_order")]
    for name in ["adapter/adapter_model.safetensors", *names]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("selector", ["loss", "near_sample", "less"])
def test_one_draw_is_dynamic_select(tiny, tmp_path, selector):
    words = [*tiny, *LESS, f"selector={selector}", "selector.subset_size=5", "finetuning.lora_dropout=0.1"]
    train(configured("train", *words), tmp_path / "select")
    train(configured("train", *words, "plan=select_only"), tmp_path / "plan")
    same(tmp_path / "plan", tmp_path / "select", 3)
    metrics = json.loads((tmp_path / "plan" / "metrics.json").read_text())
    assert metrics["selector"] == "select_only"
    assert [line["selector"] for line in lines(tmp_path / "plan")] == ["warm-up", "select_only", "select_only"]


@pytest.mark.parametrize("mixer", ["odm", "static"])
def test_a_mix_with_random_rows_is_dynamic_mix(tiny, tmp_path, mixer):
    words = [*tiny, *LESS, f"mixer={mixer}", "trainer.update_times=3", "finetuning.lora_dropout=0.1"]
    words += ["mixer.sample=3"] if mixer == "odm" else []
    train(configured("train", *words, "trainer=dynamic_mix"), tmp_path / "mix")
    train(configured("train", *words, "plan=mix_then_weight", "~plan.weigh", "~weighter"), tmp_path / "plan")
    same(tmp_path / "plan", tmp_path / "mix", 4)
    assert [line["mix"] for line in lines(tmp_path / "plan")] == [line["mix"] for line in lines(tmp_path / "mix")]


def test_rows_that_are_weighted_together_are_not_sorted_by_length(tiny, tmp_path, monkeypatch):
    """With gradient accumulation rows of like length share a batch, but not where a weigher compares a batch's rows."""
    words = [*tiny, *LESS, "trainer.args.gradient_accumulation_steps=2", "selector=random", "trainer.update_times=1"]
    sorted_rows = []
    whole = trainer_module.sorted_in_steps
    monkeypatch.setattr(trainer_module, "sorted_in_steps", lambda *args: sorted_rows.append(1) or whole(*args))
    train(configured("train", *words), tmp_path / "plain")
    assert sorted_rows
    sorted_rows.clear()
    train(configured("train", *words, "plan=mix_then_weight", "~plan.mix", "~mixer"), tmp_path / "weighted")
    assert not sorted_rows


@pytest.mark.parametrize("whole", ["false", "true"])
def test_weights_alone_are_dynamic_weight(tiny, tmp_path, whole):
    others = [word for word in tiny if not word.startswith(("trainer.update", "trainer.warmup"))]
    words = [*others, *LESS, "trainer.args.gradient_accumulation_steps=2", "finetuning.lora_dropout=0.1"]
    more = ["trainer=dynamic_weight", "trainer.warmup_step=2", "trainer.train_step=6", f"trainer.whole_step={whole}"]
    train(configured("train", *words, *more), tmp_path / "weight")
    more = ["trainer=static", "trainer.args.max_steps=6", "plan=weigh_only", "plan.weigh.start=2"]
    train(configured("train", *words, *more, f"plan.weigh.whole_step={whole}"), tmp_path / "plan")
    assert history(tmp_path / "plan") == history(tmp_path / "weight")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "plan" / name).read_bytes() == (tmp_path / "weight" / name).read_bytes()
    logged = [json.loads((tmp_path / n / "train_metrics.json").read_text())["history"] for n in ("plan", "weight")]
    weights = [[line.get("largest_weight") for line in one] for one in logged]
    assert weights[0] == weights[1] and weights[0][:2] == [None, None] and None not in weights[0][2:]


def whole(tiny: list[str], *more: str) -> list[str]:
    """All kinds of stages, with a filter that keeps its rows for two rounds."""
    words = [*tiny, *LESS, "plan=hierarchical", "plan.filter.period=2", "plan.weigh.start=4", "mixer.sample=3"]
    return [*words, "finetuning.lora_dropout=0.1", "trainer.update_times=4", *more]


def test_every_stage_leaves_its_record(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(configured("train", *whole(tiny)), tmp_path)
    warm_up, *rounds = lines(tmp_path)
    assert "stages" not in warm_up and "mix" in warm_up
    kept = [np.load(tmp_path / "rounds" / f"00{i}.npy") for i in range(1, 5)]
    for number, (line, ids) in enumerate(zip(rounds, kept, strict=True)):
        stages = {stage["name"]: stage for stage in line["stages"]}
        assert list(stages) == ["filter", "mix", "draw", "order"]
        assert [stage["kind"] for stage in stages.values()] == list(stages)
        assert [stage["by"] for stage in stages.values()] == ["Loss", "Odm", "Random", "Saw"]
        assert stages["filter"]["acted"] == (number % 2 == 0) and stages["order"]["acted"]
        assert (stages["filter"]["rows_before"], stages["filter"]["rows_after"]) == (60, 30)
        assert stages["mix"]["rows_before"] == 30 and stages["draw"]["rows_after"] == line["rows"] == len(ids)
        assert sum(line["mix"]["draws"].values()) == line["draws"] == 8
    assert all("filter left 30 of 60 rows" in caplog.text for _ in rounds)
    assert caplog.text.count("left 30 of 60 rows as before") == 2
    logged = json.loads((tmp_path / "train_metrics.json").read_text())["history"]
    assert ["largest_weight" in line for line in logged] == [False] * 4 + [True] * 14
    read = read_run_config(tmp_path / "config.yaml")  # as reports and merges do
    assert list(selection_of(read).stages) == ["filter", "mix", "draw", "order", "weigh"]


def test_a_resumed_plan_is_the_uninterrupted_one_to_the_bit(tiny, tmp_path, monkeypatch):
    """Stopped in the round in which the filter's rows are kept for the next one."""
    settings = whole(tiny, "trainer.args.save_steps=5")
    train(configured("train", *settings), tmp_path / "whole")
    stopped(monkeypatch, settings, tmp_path / "broken")
    train(configured("train", *settings), tmp_path / "broken")
    same(tmp_path / "broken", tmp_path / "whole", 5)
    assert timeless(tmp_path / "broken") == timeless(tmp_path / "whole")


def test_what_two_stages_ask_of_the_model_is_computed_once(tiny, tmp_path, monkeypatch):
    """The filter asks for the losses of 60 rows, the draw and the order for those of rows among them."""
    asked, losses = [], Scorer._losses
    monkeypatch.setattr(
        Scorer,
        "_losses",
        lambda self, model, ids, work, name: asked.append((name, len(ids))) or losses(self, model, ids, work, name),
    )
    words = [*tiny, *LESS, "plan=select_then_reorder", "selector=loss"]
    train(configured("train", *words), tmp_path)
    assert asked == [("losses", 60)] * 2


def test_planned_rounds_restore_their_state(tiny, tmp_path, monkeypatch):
    """A plan without the model is selected ahead in a sweep; resumed outside of one, its filter keeps the same rows."""
    words = [*tiny, *LESS, "plan=select_then_reorder", "selector@plan.filter.by=random", "order.score=length"]
    words += ["plan.filter.period=3", "trainer.update_times=4", "trainer.args.save_steps=5"]
    train(configured("train", *words), tmp_path / "alone")
    with monkeypatch.context() as patch:
        patch.setattr("near.training.train.in_sweep", lambda: True)
        stopped(patch, words, tmp_path / "sweep" / "job")
    train(configured("train", *words), tmp_path / "sweep" / "job")
    same(tmp_path / "sweep" / "job", tmp_path / "alone", 5)


def test_rounds_selected_ahead_leave_the_weighers_state_alone(tiny, tmp_path, monkeypatch):
    """A sweep selects such a plan ahead; the target's vector is refreshed as in a run alone, not in every round."""
    words = [*tiny, *LESS, "plan=weigh_only", "weighter=adapt", "weighter.tau=0.1", "weighter.refresh=1000"]
    train(configured("train", *words), tmp_path / "alone")
    with monkeypatch.context() as patch:
        patch.setattr("near.training.train.in_sweep", lambda: True)
        train(configured("train", *words), tmp_path / "sweep" / "job")
    same(tmp_path / "sweep" / "job", tmp_path / "alone", 0)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            "plan=hierarchical trainer=dynamic_mix",
            "plan=hierarchical and trainer=dynamic_mix both decide what is trained",
        ),
        ("plan=weigh_only trainer=dynamic_weight", "use trainer=static, and a weigh stage of the plan"),
        (
            "plan=hierarchical trainer=static",
            "plan.filter acts on rounds, and trainer=static has none; use trainer=dyn",
        ),
        (
            "plan=weigh_only trainer=static plan.weigh.period=2",
            "plan.weigh.period counts rounds, and trainer=static has",
        ),
        ("plan=select_only mixer=odm", "mixer=odm would have no effect: no stage of plan=select_only reads it"),
        ("plan=weigh_only selector=near", "selector=near would have no effect: no stage of plan=weigh_only reads it"),
        ("plan=hierarchical ~mixer", "plan.mix has no mixer; use mixer=static, random, doremi, odm"),
        ("plan=hierarchical plan.filter.keep=1.5", "plan.filter.keep=1.5"),
        ("plan=hierarchical plan.filter.keeps=2", "keeps"),
        ("plan=hierarchical +plan.filter.keeps=2", "plan.filter.keeps is not an option of FilterStage; did you mean"),
        (
            "plan=hierarchical plan.filter.by.focus=highest",
            "plan.filter.by.focus=highest is not one of low, medium, high",
        ),
        ("plan=hierarchical plan.weigh.start=-1", "plan.weigh.start=-1 is too small"),
        ("plan=hierarchical +plan.x=1", "plan.x is not a stage; give it one of conf/stage"),
        ("plan=select_only selector=mix", "plan.draw: selector=mix picks rows by their source itself"),
        (
            "plan=hierarchical trainer.warmup_step=2 trainer.update_step=3 trainer.update_times=2 plan.filter.start=6",
            "plan.filter.start=6 is behind the start of the last round, step 5, so the stage would have no effect",
        ),
        (
            "plan=hierarchical trainer.warmup_step=2 trainer.update_step=3 trainer.update_times=2 plan.weigh.start=8",
            "plan.weigh.start=8 is behind the last step, 7, so the stage would have no effect; lower it",
        ),
        (
            "plan=weigh_only trainer=static trainer.args.max_steps=4 plan.weigh.start=4",
            "plan.weigh.start=4 is behind the last step, 3",
        ),
        (
            "plan=select_only trainer.warmup_step=2 trainer.update_times=0",
            "plan.draw acts on rounds, and trainer.update_times=0 leaves only the warm-up; raise it",
        ),
        ("plan=hierarchical trainer.group_by_length=true", "would undo the order of the plan"),
        (
            "plan=select_only +stage@plan.cut=filter +selector@plan.cut.by=near",
            "plan.draw (draw) stands before plan.cut (filter), and stages act in the order",
        ),
        ("plan=select_only ~plan.draw", "plan=select_only has no stage left; leave it out"),
    ],
)
def test_plans_that_do_not_fit_are_refused(words, fault):
    with pytest.raises((UserError, HydraException)) as caught:
        configured("train", *words.split())
    assert fault in str(caught.value)


def test_a_plan_with_the_name_of_a_selector_is_refused():
    """A report would compare other runs with it as with random rows."""
    cfg = configured("train", "plan=filter_only")
    assert list(plan_faults(cfg, {"plan": "mine"})) == []
    (fault,) = plan_faults(cfg, {"plan": "random"})
    assert fault == "plan=random has the name of a selector, by which reports know runs; rename its file"


def test_a_plan_that_needs_no_rounds_of_a_model_runs_dry(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(configured("train", *whole(tiny, "dry_run=true")), tmp_path / "out")
    assert "plan.filter: filter by Loss, from step 0, every 2 rounds, keeps 0.5" in caplog.text
    assert "plan.weigh: weigh by LinUpper, from step 4, each round" in caplog.text


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_run_a_plan_alike(tiny, tmp_path):
    """One row on each of two processes is two on one: the same stages, rows and order."""
    words = whole(tiny, "finetuning.lora_dropout=0")
    batch = "trainer.args.per_device_train_batch_size=1"
    ran = process(*RANKS, "train.py", *words, batch, f"output_dir={tmp_path / 'two'}", env={"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr[-2000:]
    train(configured("train", *words), tmp_path / "one")
    for a, b in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    one, two = timeless(tmp_path / "one"), timeless(tmp_path / "two")
    assert [line["stages"] for line in one] == [line["stages"] for line in two] and len(one) == 5
    for index in range(5):
        orders = [np.load(tmp_path / name / "rounds" / f"{index:03d}_order.npy") for name in ("one", "two")]
        np.testing.assert_array_equal(*orders)


def test_twins_of_a_plan(tiny, tmp_path, monkeypatch):
    """A sweep's jobs with the same rows are trained once, whichever form they have; weights make another training."""
    monkeypatch.setattr("near.training.train.in_sweep", lambda: True)
    words = [*tiny, *LESS, "selector=random"]
    train(configured("train", *words), tmp_path / "selector")
    train(configured("train", *words, "plan=select_only"), tmp_path / "plan")
    weighted = ["plan=mix_then_weight", "~plan.mix", "~mixer", "plan.weigh.start=4"]
    train(configured("train", *words, *weighted), tmp_path / "weighted")
    twins = [json.loads((tmp_path / n / "metrics.json").read_text()).get("same_rows_as") for n in ("plan", "weighted")]
    assert twins == ["selector", None]
    orders = [(tmp_path / n / "rounds" / "002_order.npy").read_bytes() for n in ("selector", "weighted")]
    assert orders[0] == orders[1] and history(tmp_path / "weighted") != history(tmp_path / "selector")
