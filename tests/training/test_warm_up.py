"""Jobs of a sweep with the same warm-up train it once, and each result is that of a job alone."""

import logging

import pytest

from near.common.locks import acquire
from near.common.run_folder import RunFolder
from near.training import train as training
from near.training.train import train
from near.training.warm_up import SharedWarmUp
from tests.conftest import configured
from tests.training.test_training import history

pytestmark = pytest.mark.model
SAID = "another job of this sweep trained the same warm-up"
DROPOUT = ["finetuning.lora_dropout=0.1"]  # uses random numbers, which must go on as they would have


@pytest.fixture()
def sweeping(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(training, "in_sweep", lambda: True)


def weights(folder) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("selector", ["random", "less", "delta_loss", "tsds"])
def test_a_shared_warm_up_changes_nothing(tiny, tmp_path, sweeping, monkeypatch, caplog, selector):
    words = [*tiny, *DROPOUT]
    train(configured("train", *words, "selector=near"), tmp_path / "sweep" / "near")
    assert SAID not in caplog.text
    train(configured("train", *words, f"selector={selector}"), tmp_path / "sweep" / "other")
    assert caplog.text.count(SAID) == 1
    monkeypatch.setattr(training, "in_sweep", lambda: False)
    train(configured("train", *words, f"selector={selector}"), tmp_path / "alone")
    assert history(tmp_path / "sweep" / "other") == history(tmp_path / "alone")
    assert weights(tmp_path / "sweep" / "other") == weights(tmp_path / "alone")
    shared, alone = (RunFolder(p).rounds for p in (tmp_path / "sweep" / "other", tmp_path / "alone"))
    keys = ("round", "selector", "step", "rows", "tokens", "target_loss", "overlap", "never_seen")
    assert [[getattr(line, k) for k in keys] for line in shared] == [[getattr(line, k) for k in keys] for line in alone]
    assert all(line.evaluate_seconds is not None and line.seconds >= 0 for line in shared)
    before = RunFolder(tmp_path / "sweep" / "near").rounds[1]
    assert shared[1].evaluate_seconds == before.evaluate_seconds, "measured once"
    assert shared[1].seconds >= 0.9 * before.seconds - 0.05, "the warm-up's seconds count for each"


def test_columns_that_a_selector_reads_do_not_change_its_warm_up(tiny, tmp_path, sweeping, caplog):
    words = [*tiny, "data.labels=[domain]"]
    train(configured("train", *words, "selector=random"), tmp_path / "sweep" / "random")
    train(configured("train", *words, "selector=oracle"), tmp_path / "sweep" / "oracle")
    assert caplog.text.count(SAID) == 1


@pytest.mark.parametrize(
    "more",
    ["seed=7", "trainer.args.learning_rate=1e-3", "trainer.update_times=3", "data.cutoff_len=40", "finetuning.r=2"],
)
def test_another_warm_up_is_trained(tiny, tmp_path, sweeping, caplog, more):
    train(configured("train", *tiny, "selector=near"), tmp_path / "sweep" / "near")
    train(configured("train", *tiny, "selector=random", more), tmp_path / "sweep" / "other")
    assert SAID not in caplog.text
    assert len(list((tmp_path / "sweep" / ".jobs" / "warm-ups").iterdir())) == 2


def test_a_job_killed_after_it_took_over_a_warm_up_goes_on(tiny, tmp_path, sweeping, monkeypatch, caplog):
    words = [*tiny, *DROPOUT]
    train(configured("train", *words, "selector=near"), tmp_path / "sweep" / "near")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("near.selection.selectors.less.Less.select", _interrupt)
        train(configured("train", *words, "selector=less"), tmp_path / "sweep" / "other")
    train(configured("train", *words, "selector=less"), tmp_path / "sweep" / "other")
    assert caplog.text.count(SAID) == 1 and "resuming from" in caplog.text
    monkeypatch.setattr(training, "in_sweep", lambda: False)
    train(configured("train", *words, "selector=less"), tmp_path / "alone")
    assert weights(tmp_path / "sweep" / "other") == weights(tmp_path / "alone")
    assert history(tmp_path / "sweep" / "other") == history(tmp_path / "alone")


def _interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("fault", ["cut", "missing"])
def test_a_damaged_warm_up_is_trained_again(tiny, tmp_path, sweeping, caplog, fault):
    train(configured("train", *tiny, "selector=near"), tmp_path / "sweep" / "near")
    (state,) = (tmp_path / "sweep" / ".jobs" / "warm-ups").glob("*/*/optimizer.pt")
    state.write_bytes(state.read_bytes()[:100]) if fault == "cut" else state.unlink()
    train(configured("train", *tiny, "selector=random"), tmp_path / "sweep" / "random")
    assert SAID not in caplog.text and "the warm-up is trained again" in caplog.text
    train(configured("train", *tiny, "selector=mean_sim"), tmp_path / "sweep" / "mean_sim")
    assert caplog.text.count(SAID) == 1


def test_a_full_disk_shares_nothing_and_ends_no_run(tiny, tmp_path, sweeping, monkeypatch, caplog):
    def full(path, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("near.training.warm_up.folder_aside", full)
    train(configured("train", *tiny, "selector=near"), tmp_path / "sweep" / "near")
    assert "the warm-up is not shared with other jobs: " in caplog.text
    assert RunFolder(tmp_path / "sweep" / "near").is_evaluated


def test_without_a_warm_up_or_adapter_nothing_is_shared(tiny, tmp_path, sweeping):
    for name, more in {"none": "trainer.warmup_step=0", "full": "finetuning=full"}.items():
        words = [word for word in tiny if name != "full" or not word.startswith("finetuning.")]
        train(configured("train", *words, more), tmp_path / "sweep" / name)
    assert not (tmp_path / "sweep" / ".jobs" / "warm-ups").exists()


def test_a_job_waits_for_another_ones_warm_up(tmp_path):
    first, second = (SharedWarmUp(tmp_path / name, str(tmp_path / "cache"), "a" * 32) for name in ("1", "2"))
    assert first.adopt(tmp_path / "1" / "checkpoints", {}, {}) is None
    assert acquire(second._lock_file, wait=False) is None, "it would wait"
    first.close()
    assert second.adopt(tmp_path / "2" / "checkpoints", {}, {}) is None
    second.close()
