"""The best round: which weights are kept, when training ends early, and that the reported rows have no part in it."""

import logging
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import TrainerCallback

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.evaluation.measure import evaluation_sets
from near.report.compare import at_equal_tokens, groups_of
from near.report.page.charts import curve
from near.report.record import record
from near.report.runs import collect
from near.report.tables import notes, run_table
from near.training import train as training
from near.training.best_round import BEST, best_step, without_better
from near.training.train import train
from near.training.trainer import DynamicSelectTrainer
from tests.conftest import RANKS, ROOT, configured, evaluate, run_script, write_rows
from tests.training.test_training import history

pytestmark = pytest.mark.model
VALIDATION = "eval.validation"
MIDDLE = {0: 5.0, 2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5, 10: 1.0}  # by step: the best is the second round's end


@pytest.fixture()
def words(tiny) -> list[str]:
    """A warm-up of 2 steps and four rounds of 2; two of the five eval rows are for validation."""
    schedule = ["trainer.update_step=2", "trainer.update_times=4", "trainer.args.save_steps=3"]
    others = [word for word in tiny if not word.startswith("trainer.update")]
    return [*others, *schedule, "data.eval.validation=2", "selector=random", "evaluation.answers=false"]


@pytest.fixture()
def scripted(monkeypatch):
    """`scripted(losses)`: validation losses by step, in place of the model's."""
    real = training.loss_on

    def script(losses: dict[int, float]) -> None:
        def loss_on(settings, tokenizer, rows):
            return (lambda _, step: losses[step]) if rows.name == VALIDATION else real(settings, tokenizer, rows)

        monkeypatch.setattr(training, "loss_on", loss_on)

    return script


def run(folder: Path, *overrides: str) -> RunFolder:
    train(configured("train", *overrides), folder)
    return RunFolder(folder)


def weights(folder: Path) -> bytes:
    (path,) = (p for p in folder.glob("*/*model*.safetensors") if p.parent.name in ("adapter", "model"))
    return path.read_bytes()


def test_the_first_of_the_lowest_losses_is_the_best():
    assert best_step(MIDDLE) == 4 and without_better(MIDDLE) == 3
    assert best_step({0: 1.0}) is None and without_better({0: 1.0}) == 0
    assert best_step({0: 1.0, 2: None, 4: float("nan")}) is None
    assert best_step({0: 1.0, 2: None, 4: 7.0}) == 4


@pytest.mark.parametrize("finetuning", [["finetuning.r=4", "finetuning.lora_dropout=0.1"], ["finetuning=full"]])
def test_the_best_rounds_weights_are_saved_and_evaluated(words, tmp_path, scripted, caplog, finetuning):
    """Equal to those of a run of the same schedule that is stopped there, which a checkpoint of step 4 has."""
    caplog.set_level(logging.INFO)
    words = [
        *(w for w in words if not w.startswith("finetuning")),
        *finetuning,
        "trainer.args.save_steps=4",
        "trainer.args.save_total_limit=null",
    ]
    scripted(MIDDLE)
    last = run(tmp_path / "last", *words)
    best = run(tmp_path / "best", *words, "trainer.keep=best")
    assert history(last.path) == history(best.path), "the same training"
    name = "model.safetensors" if "finetuning=full" in finetuning else "adapter_model.safetensors"
    after_4 = load_file(tmp_path / "last" / "checkpoints" / "checkpoint-4" / name)
    kept = load_file(best.weights()[1] / name)
    assert after_4.keys() == kept.keys() and all(np.array_equal(after_4[n], kept[n]) for n in kept)
    assert weights(last.path) != weights(best.path)
    assert best.metrics.target_loss == best.rounds[2].target_loss, "measured at the end of round 1"
    assert best.metrics.rows == 3 and best.training.steps == 10
    decided = best.training.validation
    assert (decided.kept_round, decided.kept_step, decided.saved_steps) == (1, 4, None)
    assert decided.losses == [[step, loss] for step, loss in MIDDLE.items()]
    assert (last.training.validation.kept_round, last.training.validation.kept_step) == (4, 10)
    assert (
        "kept the best round, 1 (step 4 of 10): validation loss 1.0000 on 2 rows, which are not reported" in caplog.text
    )
    assert "the lowest was 1.0000 at step 4; trainer.keep=best would keep that" in caplog.text


def test_the_measured_loss_is_the_models(words, tmp_path):
    """Real losses: that of the adapter that was kept, on the validation rows alone, is the one it was chosen by."""
    folder = run(tmp_path / "run", *words, "trainer.keep=best", "trainer.args.learning_rate=0.3")
    decided = folder.training.validation
    losses = dict(decided.losses)
    assert list(losses) == [0, 2, 4, 6, 8, 10] and losses[decided.kept_step] == min(list(losses.values())[1:])
    assert [line.validation_loss for line in folder.rounds] == list(losses.values())[:-1]
    both = tmp_path / "both"
    shared = [word for word in words if word.startswith("cache_dir=")]
    evaluate(configured("eval", *shared, f"run={folder.path}", f"output_dir={both}", "data.eval.validation=null"), both)
    by_row = {line["row"]: line for line in RunFolder(both).answers()}
    assert len(by_row) == 5 and set(decided.rows) < set(by_row)
    chosen = [by_row[row] for row in decided.rows]
    again = sum(line["loss"] * line["tokens"] for line in chosen) / sum(line["tokens"] for line in chosen)
    assert again == pytest.approx(losses[decided.kept_step], abs=1e-6)
    assert {line["row"] for line in folder.answers()} == set(by_row) - set(decided.rows)


def test_patience_ends_training(words, tmp_path, scripted, caplog):
    caplog.set_level(logging.INFO)
    scripted(MIDDLE)
    words += ["trainer.patience=2"]
    ended = run(tmp_path / "best", *words, "trainer.keep=best")
    assert ended.training.steps == 8 and len(ended.rounds) == 4
    decided = ended.training.validation
    assert (decided.kept_step, decided.saved_steps) == (4, 2)
    assert decided.saved_tokens == round(ended.training.tokens_trained * 2 / 8) and decided.saved_seconds >= 0
    assert "trainer.patience ended training at step 8 and saved 2 steps" in caplog.text
    last = run(tmp_path / "last", *words)
    assert last.training.validation.kept_step == 8
    assert weights(last.path) != weights(ended.path)


def test_stopped_and_resumed_the_best_round_is_the_same(words, tmp_path, scripted, monkeypatch):
    """Stopped right after step 4 (a round's end), 7, or 8, where patience ends training; checkpoints are of 3, 6, 8."""
    words += [
        "trainer.keep=best",
        "trainer.patience=2",
        "finetuning.lora_dropout=0.1",
        "trainer.args.save_total_limit=1",
    ]
    scripted(MIDDLE)
    whole = run(tmp_path / "whole", *words)
    assert [path.name for path in whole.checkpoints()] == ["checkpoint-8"]
    assert (whole.checkpoints()[0] / BEST).samefile(whole.path / "checkpoints" / BEST), "one copy on disk"

    class Stop(TrainerCallback):
        def __init__(self, at: int):
            self.at = at

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == self.at:
                raise KeyboardInterrupt

        def on_train_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    made = DynamicSelectTrainer.__init__
    broken = RunFolder(tmp_path / "broken")
    for at in (4, 7, 8):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(
                DynamicSelectTrainer,
                "__init__",
                lambda self, at=at, **kw: (made(self, **kw), self.add_callback(Stop(at)))[0],
            )
            train(configured("train", *words), broken.path)
    run(broken.path, *words)
    assert weights(broken.path) == weights(whole.path) and history(broken.path) == history(whole.path)
    for name in ("rows", "losses", "kept_step", "saved_steps", "saved_tokens"):
        assert getattr(broken.training.validation, name) == getattr(whole.training.validation, name), name


def test_resumed_from_an_older_checkpoint_its_best_counts(words, tmp_path, scripted):
    """The best on disk is step 4's, that of the checkpoint step 2's; then step 4 is not better any more."""
    words += ["trainer.keep=best", "trainer.args.save_steps=1", "trainer.args.save_total_limit=null"]
    scripted(MIDDLE)
    whole = run(tmp_path / "run", *words)
    after_2 = load_file(whole.path / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    for name in ("metrics.json", "train_metrics.json"):
        (whole.path / name).unlink()
    scripted({2: 3.0, 4: 9.0, 6: 8.0, 8: 7.0, 10: 6.0})
    resumed = run(whole.path, *words, f"resume={whole.path / 'checkpoints' / 'checkpoint-3'}")
    kept = load_file(resumed.path / "adapter" / "adapter_model.safetensors")
    assert resumed.training.validation.kept_step == 2
    assert all(np.array_equal(after_2[name], kept[name]) for name in kept)


def test_damaged_best_weights_are_named(words, tmp_path, scripted, monkeypatch):
    scripted(MIDDLE)
    monkeypatch.setattr("near.training.best_round.aside", lambda path: open(f"{path}-elsewhere", "w"))
    monkeypatch.setattr("near.training.best_round.save_file", lambda *a: None)
    with pytest.raises(UserError, match="the weights of the best round, of step 4, can't be read"):
        train(configured("train", *words, "trainer.keep=best"), tmp_path / "run")


def test_a_full_disk_is_seen_before(words, tmp_path, scripted, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("Usage", "free")(1000))
    with pytest.raises(UserError, match=r"trainer.keep=best may need .* but 0.0 GB are free"):
        train(configured("train", *words, "trainer.keep=best"), tmp_path / "run")


def test_jobs_of_a_sweep(words, tmp_path, scripted, monkeypatch, caplog):
    """They share warm-ups and trainings only with the same options of the best round."""
    caplog.set_level(logging.INFO)
    scripted(MIDDLE)
    monkeypatch.setattr(training, "in_sweep", lambda: True)
    keep = [*words, "trainer.keep=best"]
    first = run(tmp_path / "sweep" / "near", *keep, "selector=near")
    twin = run(tmp_path / "sweep" / "twin", *keep, "selector=near_repeat")
    assert "same rows as near: not trained again" in caplog.text
    assert twin.training.validation == first.training.validation and weights(twin.path) == weights(first.path)
    other = run(tmp_path / "sweep" / "other", *keep)
    assert caplog.text.count("another job of this sweep trained the same warm-up") == 1
    last = run(tmp_path / "sweep" / "last", *words, "selector=near")
    assert last.training.same_rows_as is None and last.training.training_key != first.training.training_key
    monkeypatch.setattr(training, "in_sweep", lambda: False)
    alone = run(tmp_path / "alone", *keep)
    assert weights(alone.path) == weights(other.path) and alone.training.validation == other.training.validation


def test_the_warm_up_can_be_the_best(words, tmp_path, scripted, monkeypatch):
    """Also in a job that took it over from another one."""
    scripted(dict.fromkeys(MIDDLE, 2.0))
    monkeypatch.setattr(training, "in_sweep", lambda: True)
    runs = [run(tmp_path / "sweep" / s, *words, "trainer.keep=best", f"selector={s}") for s in ("near", "random")]
    assert [one.training.validation.kept_round for one in runs] == [0, 0]
    assert weights(runs[0].path) == weights(runs[1].path), "of the shared warm-up"


@pytest.mark.process
def test_two_processes_keep_the_same_round(words, tmp_path):
    words = [*words, "trainer.keep=best", "trainer.patience=1", "trainer.args.learning_rate=0.3"]
    done = run_script(*RANKS, str(ROOT / "train.py"), *words, f"output_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = RunFolder(tmp_path / "run")
    losses = dict(folder.training.validation.losses)
    assert folder.training.validation.kept_step == best_step(losses)
    assert folder.training.steps == max(losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.keep=best", "data.eval.validation=null"], "set data.eval.validation=0.3"),
        (
            ["trainer.patience=2", "data.eval.validation=null"],
            "trainer.patience=2 chooses by the loss on validation rows",
        ),
        (["data.eval.validation=5"], "leaves none of the 5 eval rows to report"),
        (["data.eval.validation=1.5"], "neither a share below 1 nor a number of rows"),
        (["data.eval.path=null"], "needs data.eval.path"),
        (["+trainer.args.load_best_model_at_end=true"], "trainer.keep=best with data.eval.validation"),
    ],
)
def test_refusals(words, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        train(configured("train", *words, *options), tmp_path / "run")


def test_the_report_names_the_round(words, tmp_path, scripted):
    """And compares on the reported rows alone: the curve ends where the last round began."""
    scripted(MIDDLE)
    for selector in ("near", "random"):
        keep = ["trainer.keep=best", "trainer.patience=2"]
        run(tmp_path / "runs" / selector, *words, *keep, f"selector={selector}")
    runs, _ = collect(tmp_path / "runs")
    names, rows = run_table(runs, tmp_path / "runs")
    assert names[-1] == "kept round" and [row[-1] for row in rows] == ["-", "1", "1"]
    lines = " ".join(notes(runs, []))
    assert "measured on 2 validation rows of data.eval, which are not reported" in lines
    assert "2 runs ended early (trainer.patience): 4 of 20 steps saved" in lines
    assert [one["kept_round"] for one in record(runs)["selections"]] == [[1], [1]]
    near = next(one for one in runs if one.selector == "near")
    assert curve(near, "step") == [(line.step, line.target_loss) for line in near.rounds]
    groups = groups_of(runs)
    assert at_equal_tokens(*groups) is not None and not near.kept_last


def test_a_validation_row_is_in_no_other_reported_set(tiny, tmp_path):
    """A row of data.more_eval with a validation row's prompt would be reported, and have chosen the round."""
    words = [*tiny, "data.eval.validation=2"]
    before = evaluation_sets(configured("train", *words).data, str(tmp_path / "c"))
    first, second = before.validation.eligible()
    write_rows(tmp_path / "more.jsonl", [{"messages": before.validation.messages(first)}])
    more = f"data.more_eval={{again: {{path: {tmp_path}/more.jsonl}}}}"
    sets = evaluation_sets(configured("train", *words, more).data, str(tmp_path / "c"))
    assert sets.validation.eligible().tolist() == [second]
    assert sets.target.eligible().tolist() == sorted([*before.target.eligible(), first])
