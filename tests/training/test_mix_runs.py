"""trainer=dynamic_mix on a model of random weights: each mixer's proportions in the record, and resumes to the bit."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from near.common.errors import UserError
from near.selection.mixers.doremi import Doremi
from near.selection.select import select
from near.training import train as training
from near.training.picking import Picker
from near.training.train import train
from tests.app.test_configs import choices
from tests.conftest import RANKS, configured, process
from tests.training.test_training import history, stopped

pytestmark = pytest.mark.model


def mix(tiny: list[str], mixer: str, *more: str) -> list[str]:
    options = ["mixer.sample=3"] if mixer in ("odm", "doremi", "dynamic_moe") else []
    return [*tiny, "trainer=dynamic_mix", f"mixer={mixer}", "evaluation.answers=false", *options, *more]


def of_experts(mixer: str, mixture: Path) -> list[str]:
    """Options of a mixture of experts; peft adapts its experts without dropout alone."""
    return [f"model.name_or_path={mixture}", "finetuning.lora_dropout=0"] if mixer == "dynamic_moe" else []


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rounds" / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mixer", choices("mixer"))
def test_the_rows_trained_are_in_the_proportions_of_the_record(tiny, tmp_path, mixer, mixture):
    train(configured("train", *mix(tiny, mixer, *of_experts(mixer, mixture))), tmp_path)
    rounds = lines(tmp_path)
    assert [line["selector"] for line in rounds] == ["warm-up", "mix", "mix"]
    for line in rounds:
        order = np.load(tmp_path / "rounds" / f"{line['round']:03d}_order.npy")
        shares, draws = line["mix"]["proportions"], line["mix"]["draws"]
        drawn = np.bincount(order % 3, minlength=3)  # rows of the pool are colour, sum, animal in turn
        assert [draws[name] for name in ("colour", "sum", "animal")] == drawn.tolist()
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5) and drawn.sum() == line["draws"]
        assert all(abs(draws[name] - line["draws"] * shares[name]) < 1 for name in shares)


@pytest.mark.parametrize("mixer", choices("mixer"))
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tiny, tmp_path, monkeypatch, mixer, mixture):
    """Stopped within the first round that is mixed; the second goes on from the first one's state."""
    options = ["trainer.args.save_steps=4", "finetuning.lora_dropout=0.1", "trainer.update_times=3"]
    settings = mix(tiny, mixer, *options, *of_experts(mixer, mixture))
    train(configured("train", *settings), tmp_path / "whole")
    stopped(monkeypatch, settings, tmp_path / "broken")
    train(configured("train", *settings), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    mixes = [[line["mix"] for line in lines(tmp_path / name)] for name in ("broken", "whole")]
    assert mixes[0] == mixes[1] and len(mixes[0]) == 4
    files = [f"rounds/{i:03d}{end}.npy" for i in range(4) for end in ("", "_order")]
    for name in [*files, "adapter/adapter_model.safetensors"]:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_mix_made_after_the_last_checkpoint_is_not_made_again(tiny, tmp_path, monkeypatch, caplog):
    """Checkpoint at step 5; round 2 is selected at step 6, and the run stopped as it was."""
    caplog.set_level(logging.INFO)
    settings = mix(tiny, "doremi", "trainer.args.save_steps=5")
    train(configured("train", *settings), tmp_path / "whole")
    take = Picker.take

    def stopping(self, subset, phase):
        if phase.index == 2:
            raise KeyboardInterrupt
        return take(self, subset, phase)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Picker, "take", stopping)
        train(configured("train", *settings), tmp_path / "broken")
    monkeypatch.setattr(Doremi, "proportions", lambda *a: pytest.fail("mixed again"))
    train(configured("train", *settings), tmp_path / "broken")
    assert "round 2 was selected before the restart" in caplog.text
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    assert lines(tmp_path / "broken")[2]["mix"] == lines(tmp_path / "whole")[2]["mix"]


def test_proportions_hold_for_a_source_that_is_smaller_than_its_share(tiny, tmp_path):
    """All of 20 rows for 30 draws: 10 rows come twice, in the next round the other 10."""
    proportions = "mixer.proportions={sum: 3, animal: 1}"
    more = [proportions, "trainer.update_step=20", "trainer.warmup_step=0", "trainer.group_by_length=true"]
    train(configured("train", *mix(tiny, "static", *more)), tmp_path)
    orders = [np.load(tmp_path / "rounds" / f"00{i}_order.npy") for i in range(2)]
    assert [np.bincount(order % 3, minlength=3).tolist() for order in orders] == [[0, 30, 10]] * 2
    both = np.bincount(np.concatenate(orders), minlength=60)
    assert set(both[1::3]) == {3} and set(both[2::3]) == {1}
    assert lines(tmp_path)[0]["rows"] == 30 and lines(tmp_path)[0]["never_seen"] == 1


def test_the_untrained_base_is_the_default_reference(tiny, tmp_path):
    """Before the first step there is no excess over the base model, be it under an adapter or trained itself."""
    for kind, finetuning in (("lora", ["finetuning.r=4"]), ("full", ["finetuning=full"])):
        others = [word for word in tiny if not word.startswith("finetuning")]
        settings = mix([*others, *finetuning], "doremi", "trainer.warmup_step=0", "trainer.args.learning_rate=0.05")
        train(configured("train", *settings), tmp_path / kind)
        first, second = lines(tmp_path / kind)
        assert set(first["mix"]["excess"].values()) == {0.0}
        assert max(second["mix"]["excess"].values()) > 0, kind


def test_a_run_is_a_reference_by_its_folder(tiny, tmp_path, monkeypatch):
    """The model itself, trained to the same step, is no different from it; another rank does not fit."""
    train(configured("train", *mix(tiny, "static", "trainer.update_times=0")), tmp_path / "first")
    run = f"mixer.reference={tmp_path / 'first'}"
    train(configured("train", *mix(tiny, "doremi", run, "trainer.args.learning_rate=0.05")), tmp_path / "second")
    assert max(lines(tmp_path / "second")[1]["mix"]["excess"].values()) > 0
    with pytest.raises(UserError, match=r"mixer.reference: .*adapter does not fit the model \(its r is 4, not 8\)"):
        train(configured("train", *mix(tiny, "doremi", run, "finetuning.r=8")), tmp_path / "third")
    with pytest.raises(UserError, match="has no adapter and no model"):
        train(configured("train", *mix(tiny, "doremi", f"mixer.reference={tmp_path}")), tmp_path / "fourth")


def test_sources_that_cannot_be_mixed_are_refused_before_loading(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_start", lambda *a: pytest.fail("loaded a model"))

    def refused(*settings: str) -> str:
        with pytest.raises(UserError) as caught:
            train(configured("train", *settings), tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
        return str(caught.value)

    message = refused(*mix(tiny, "static", "mixer.proportions={sums: 1}"))
    assert "mixer.proportions.sums: the pool has no source of that name; did you mean sum?" in message
    unlabelled = [word for word in mix(tiny, "odm") if "columns.source" not in word]
    assert "all 60 eligible rows are of one source (pool), so there is nothing to mix; label" in refused(*unlabelled)


def test_the_mix_is_logged_and_tracked(tiny, tmp_path, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    caplog.set_level(logging.INFO)
    words = mix(tiny, "static", "mixer.proportions={sum: 3, animal: 1}", "tracker=tensorboard")
    train(configured("train", *words), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for source, share in (("animal", 0.25), ("colour", 0.0), ("sum", 0.75)):
        assert [(e.step, e.value) for e in events.Scalars(f"mix/{source}")] == [(0, share), (2, share), (6, share)]
    assert "round 1 (mix) at step 2: 8 distinct rows" in caplog.text and "sum 75%, animal 25%" in caplog.text


@pytest.mark.slow
@pytest.mark.process
def test_jobs_with_the_same_rounds_are_trained_once(tiny, tmp_path):
    """A mixer without a model selects its rounds ahead: equal proportions in other units are the same rows."""
    words = [*mix(tiny, "static"), "hydra.sweep.dir=" + str(tmp_path / "sweep")]
    units = "mixer.proportions={sum:3,animal:1},{sum:6,animal:2},{sum:1,animal:1}"
    ran = process("train.py", "-m", *words, units, env={"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr[-3000:]
    twins = [json.loads(path.read_text()).get("same_rows_as") for path in (tmp_path / "sweep").glob("*/metrics.json")]
    assert len(twins) == 3 and sum(name is not None for name in twins) == 1
    for folder in (tmp_path / "sweep").glob("*/rounds"):
        assert lines(folder.parent)[1]["mix"]["proportions"]["sum"] in (0.75, 0.5)


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_mix_alike(tiny, tmp_path):
    """One row on each of two processes is two on one, also where the adapter is put aside between steps."""
    words = mix(tiny, "doremi", "trainer.args.per_device_train_batch_size=1", "trainer.update_times=3")
    ran = process(*RANKS, "train.py", *words, f"output_dir={tmp_path / 'two'}", env={"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr[-2000:]
    train(configured("train", *mix(tiny, "doremi", "trainer.update_times=3")), tmp_path / "one")
    for a, b in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [line["sources"] for line in one] == [line["sources"] for line in two]
    for a, b in zip(one[1:], two[1:], strict=True):
        assert a["mix"]["proportions"] == pytest.approx(b["mix"]["proportions"], abs=1e-4)
        name = f"{a['round']:03d}_order.npy"
        orders = [np.load(tmp_path / n / "rounds" / name) for n in ("one", "two")]
        np.testing.assert_array_equal(*orders)


def test_select_picks_rows_by_source(tiny, tmp_path):
    """Without training: n rows in the proportions; what measures from round to round is refused."""
    shared = [t for t in tiny if t.split(".")[0].split("=")[0] in ("data", "cache_dir", "embedder")]
    words = [*shared, "max_K=15", "selector=mix", "n=8"]
    select(configured("select", *words, "mixer=static", "mixer.proportions={sum: 3, animal: 1}"), tmp_path / "out")
    ids = np.load(tmp_path / "out" / "subset.npy")
    assert np.bincount(ids % 3, minlength=3).tolist() == [0, 6, 2]
    with pytest.raises(UserError, match="selector=mix measures losses from round to round; use it in train.py"):
        select(configured("select", *words, "mixer=odm"), tmp_path / "odm")
    with pytest.raises(UserError, match="mixer.proportions.x: the pool has no source of that name"):
        select(configured("select", *words, "mixer=static", "mixer.proportions={x: 1}"), tmp_path / "x")
