"""Rounds inside the Hugging Face Trainer, on a model of random weights: exact steps, exact rows, exact resumes."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from near.app.faults import fault_line
from near.common.errors import UserError
from near.common.outputs import LIST
from near.searching import material
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector
from near.selection.selectors.near import Near
from near.training import train as training
from near.training.outcome import plot
from near.training.train import train
from near.training.trainer import DynamicSelectTrainer
from tests.conftest import configured

near = Near.select
HISTORY = ("step", "loss", "grad_norm", "learning_rate")


class Probe(Selector):
    """Takes the first rows and remembers the step and the weights it was shown."""

    seen: list = []

    def __init__(self, subset_size: int | None = None, shift: int = 0):
        super().__init__(subset_size)
        self.shift = shift

    def select(self, round: Round) -> Subset:
        weights = torch.cat([p.detach().ravel() for p in round.model.parameters() if p.requires_grad])
        Probe.seen.append((round.index, round.step, weights.clone()))
        return Subset(np.roll(round.eligible, -5 * round.index - self.shift)[: round.size])


class Watch(TrainerCallback):
    """The weights after every optimizer step."""

    after: dict = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        Watch.after[state.global_step] = torch.cat([p.detach().ravel() for p in model.parameters() if p.requires_grad])


@pytest.fixture()
def spied(monkeypatch):
    """Every batch's rows as the collator sees them, and the weights after every step."""
    Probe.seen, Watch.after, batches = [], {}, []
    made = DynamicSelectTrainer.__init__

    def init(self, *args, **kwargs):
        made(self, *args, **kwargs)
        table, collate = self.train_dataset, self.data_collator
        rows = {tuple(table[i]["input_ids"]): i for i in range(len(table))}

        def watching(batch):
            batches.append([rows[tuple(r["input_ids"])] for r in batch])
            return collate(batch)

        self.data_collator = watching
        self.add_callback(Watch())

    monkeypatch.setattr(DynamicSelectTrainer, "__init__", init)
    return batches


pytestmark = pytest.mark.model
PROBE = ["selector=random", "selector._target_=tests.training.test_training.Probe"]


def history(folder: Path) -> list[dict]:
    lines = json.loads((folder / "train_metrics.json").read_text())["history"]
    return [{k: line[k] for k in HISTORY} for line in lines]


def test_the_selector_sees_the_weights_after_exactly_the_steps_before(tiny, tmp_path, spied):
    """Also under gradient accumulation; the pinned transformers must make every round boundary an epoch's."""
    more = ["trainer.warmup_step=4", "trainer.update_step=6", "trainer.update_times=3"]
    more += ["trainer.args.gradient_accumulation_steps=2"]
    train(configured("train", *tiny, *more, *PROBE), tmp_path)
    assert [(index, step) for index, step, _ in Probe.seen] == [(1, 4), (2, 10), (3, 16)]
    for _, step, weights in Probe.seen:
        assert torch.equal(weights, Watch.after[step])
    assert len(Watch.after) == 22


def test_the_rows_trained_are_exactly_the_rounds_rows(tiny, tmp_path, spied):
    train(configured("train", *tiny, *PROBE), tmp_path)
    rounds = [np.load(tmp_path / "rounds" / f"{i:03d}.npy") for i in range(3)]
    lengths = [2, 4, 4]
    start = 0
    for ids, steps in zip(rounds, lengths, strict=True):
        trained = [row for batch in spied[start : start + steps] for row in batch]
        assert sorted(trained) == sorted(ids.tolist())
        start += steps
    assert start == len(spied)


def test_rounds_are_logged_without_an_epoch_that_counts_their_slices(tiny, tmp_path):
    train(configured("train", *tiny, "evaluation.answers=false", "selector=random"), tmp_path)
    history = json.loads((tmp_path / "train_metrics.json").read_text())["history"]
    assert history and all("round" in line and "epoch" not in line for line in history)


def test_fewer_rows_than_draws_are_passed_over_again(tiny, tmp_path, spied, caplog):
    caplog.set_level(logging.INFO)
    train(configured("train", *tiny, *PROBE, "selector.subset_size=3"), tmp_path)
    rows = [row for batch in spied[2:6] for row in batch]
    assert sorted(np.bincount(rows)[np.unique(rows)].tolist()) == [2, 3, 3]
    assert "3 distinct rows, 2.7 passes" in caplog.text


def test_the_losses_are_drawn(tmp_path):
    """By the function itself: tests/conftest.py leaves the curves of other runs empty."""
    sizes = []
    for losses in ([], [2.0, 1.0, 1.5]):
        plot([{"step": step, "loss": loss} for step, loss in enumerate(losses)], tmp_path / "loss.png")
        content = (tmp_path / "loss.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes.append(len(content))
    assert sizes[0] < sizes[1], "a line more"


@pytest.mark.parametrize("selector", ["near", "random", "full"])
def test_a_run_writes_what_it_promises(tiny, tmp_path, selector, small_data):
    train(configured("train", *tiny, f"selector={selector}"), tmp_path)
    written = {p.name for p in tmp_path.iterdir()} - {LIST}
    assert written == {
        "adapter",
        "rounds",
        "checkpoints",
        "config.yaml",
        "train_metrics.json",
        "metrics.json",
        "answers.jsonl",
        "base_answers.jsonl",
        "dataflow.jsonl",
        "loss.png",
    }
    adapter = tmp_path / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "builtin:tiny"
    assert not list(adapter.glob("*.bin"))  # the Trainer's pickled arguments
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["selector"] == selector
    assert metrics["base"]["target_loss"] != metrics["target_loss"]
    assert len(history(tmp_path)) == 10
    trained = json.loads((tmp_path / "train_metrics.json").read_text())
    assert trained["rows_trained"] == 20 and trained["rows_per_second"] > 0
    rounds = [json.loads(line) for line in (tmp_path / "rounds" / "rounds.jsonl").read_text().splitlines()]
    assert [(r["selector"], r["step"], r["rows"]) for r in rounds] == [
        ("warm-up", 0, 4),
        (selector, 2, 8),
        (selector, 6, 8),
    ]
    if selector == "near":
        assert [r["sources"] for r in rounds[1:]] == [{"sum": 8}, {"sum": 8}]  # the target's domain and no other


def test_policies_move_through_the_matrix(tiny, tmp_path):
    for policy in ("repeat", "advance", "sample"):
        more = [f"selector=near_{policy}", "selector.subset_size=0.1"]
        train(configured("train", *tiny, *more, "trainer.update_times=3"), tmp_path / policy)
    rounds = {
        p: [set(np.load(tmp_path / p / "rounds" / f"00{i}.npy").tolist()) for i in (0, 1, 2, 3)]
        for p in ("repeat", "advance", "sample")
    }
    assert all(len(r) == 6 for sets in rounds.values() for r in sets[1:]), "a tenth of 60 rows"
    assert rounds["repeat"][1] == rounds["repeat"][2] == rounds["repeat"][3]
    warm_up, first, second, _ = rounds["advance"]
    assert not (first & second or first & warm_up or second & warm_up)
    assert rounds["sample"][1] != rounds["sample"][2] != rounds["sample"][3]


def test_batches_by_length_have_less_padding_and_the_same_rows(tiny, tmp_path, spied):
    more = ["selector=full", "trainer.warmup_step=0", "trainer.update_step=30", "trainer.update_times=1"]
    train(configured("train", *tiny, *more), tmp_path / "plain")
    plain = [sorted(batch) for batch in spied]
    spied.clear()
    train(configured("train", *tiny, *more, "trainer.group_by_length=true"), tmp_path / "grouped")
    assert sorted(sum(plain, [])) == sorted(row for batch in spied for row in batch) == list(range(60))
    tokens = np.load(tmp_path / "grouped" / "rounds" / "000_order.npy").reshape(30, 2).tolist()
    assert tokens == spied
    assert [sorted(batch) for batch in spied] != plain


def test_random_selectors_share_their_warm_up(tiny, tmp_path):
    for selector in ("near", "random"):
        train(configured("train", *tiny, f"selector={selector}"), tmp_path / selector)
    warm_ups = [np.load(tmp_path / s / "rounds" / "000.npy").tolist() for s in ("near", "random")]
    assert warm_ups[0] == warm_ups[1]


def test_random_causes_no_embedding_and_needs_no_queries(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(material, "find_neighbours", lambda *a: pytest.fail("embedded"))
    train(configured("train", *tiny, "selector=random"), tmp_path / "with")
    train(configured("train", *tiny, "selector=random", "data.queries.path=null"), tmp_path / "without")
    assert history(tmp_path / "with") == history(tmp_path / "without")


def stopped(monkeypatch, settings: list[str], folder: Path) -> None:
    """Train until the first checkpoint is written, then die."""
    save = DynamicSelectTrainer._save_checkpoint

    def stopping(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DynamicSelectTrainer, "_save_checkpoint", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(configured("train", *settings), folder)


def _once(self: Near, round: Round) -> Subset:
    """Stands in for Near.select after a restart within round 1."""
    assert round.index > 1, "selected again"
    return near(self, round)


KINDS = {
    "lora": ["finetuning.r=4", "finetuning.lora_dropout=0.1"],
    "accumulation": ["finetuning.r=4", "finetuning.lora_dropout=0.1", "trainer.args.gradient_accumulation_steps=2"],
    "boundary": ["finetuning.r=4", "finetuning.lora_dropout=0.1", "trainer.args.save_steps=6"],
    "full": ["finetuning=full"],
    "dora": ["finetuning=dora", "finetuning.r=4", "finetuning.lora_dropout=0.1"],
    "grouped": ["finetuning.r=4", "trainer.group_by_length=true", "selector=near_sample", "selector.mix=0.25"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tiny, tmp_path, monkeypatch, kind):
    """Stopped at step 5, within a round (`boundary`: at step 6, where one ends)."""
    settings = ["trainer.args.save_steps=5", *KINDS[kind], *(t for t in tiny if not t.startswith("finetuning."))]
    train(configured("train", *settings), tmp_path / "whole")
    stopped(monkeypatch, settings, tmp_path / "broken")
    assert not (tmp_path / "broken" / "metrics.json").exists()
    monkeypatch.setattr(Near, "select", _once)
    train(configured("train", *settings), tmp_path / "broken")  # resume=auto is the default
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    for i in range(3):
        name = f"rounds/{i:03d}.npy"
        np.testing.assert_array_equal(np.load(tmp_path / "broken" / name), np.load(tmp_path / "whole" / name))
    assert len((tmp_path / "broken" / "rounds" / "rounds.jsonl").read_text().splitlines()) == 3
    weights = "model/model.safetensors" if kind == "full" else "adapter/adapter_model.safetensors"
    assert (tmp_path / "broken" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_selection_made_after_the_last_checkpoint_is_not_made_again(tiny, tmp_path, monkeypatch, caplog, damaged):
    """Checkpoint at step 5, round 2 selected at step 6, stopped at step 7; a damaged selection is made again."""
    caplog.set_level(logging.INFO)
    settings = [*tiny, "trainer.args.save_steps=5", "finetuning.lora_dropout=0.1"]
    train(configured("train", *settings), tmp_path / "whole")

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    made = DynamicSelectTrainer.__init__
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            DynamicSelectTrainer, "__init__", lambda self, **kw: (made(self, **kw), self.add_callback(Stop()))[0]
        )
        train(configured("train", *settings), tmp_path / "broken")
    selected = tmp_path / "broken" / "rounds" / "selected.npz"
    if damaged:
        selected.write_bytes(selected.read_bytes()[:50])
    else:
        monkeypatch.setattr(Near, "select", lambda *a: pytest.fail("selected again"))
    train(configured("train", *settings), tmp_path / "broken")
    assert ("round 2 was selected before the restart" in caplog.text) is not damaged
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    names = ("rounds/002.npy", "rounds/002_order.npy", "adapter/adapter_model.safetensors")
    assert all((tmp_path / "broken" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)
    assert len((tmp_path / "broken" / "rounds" / "rounds.jsonl").read_text().splitlines()) == 3


def test_a_resume_under_another_configuration_is_refused(tiny, tmp_path, monkeypatch):
    settings = [*tiny, "trainer.args.save_steps=5"]
    stopped(monkeypatch, settings, tmp_path)
    with pytest.raises(UserError, match="belongs to another run: config.selector._target_ was Near, now Random"):
        train(configured("train", *settings, "resume=auto", "selector=random"), tmp_path)
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        train(configured("train", *settings, f"resume={tmp_path}/checkpoints/checkpoint-6"), tmp_path)


def test_a_half_written_checkpoint_is_passed_over(tiny, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    settings = [*tiny, "trainer.args.save_steps=5"]
    stopped(monkeypatch, settings, tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-7").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-best").mkdir()
    train(configured("train", *settings, "resume=auto"), tmp_path)
    assert "skipped a checkpoint: " in caplog.text and "checkpoint-7 is incomplete" in caplog.text
    assert "resuming from" in caplog.text
    assert len(history(tmp_path)) == 10


@pytest.mark.parametrize("size", ["600k", "800k"])
def test_a_disk_that_fills_up_during_a_save_leaves_the_checkpoint_before(tiny, tmp_path, small_disk, caplog, size):
    """At 600 kB torch's zip writer hits the end, at 800 kB safetensors'; neither raises an OSError."""
    caplog.set_level(logging.INFO)
    disk, resize = small_disk
    settings = [t for t in tiny if not t.startswith("finetuning.")]
    settings += ["finetuning=full", "trainer.args.save_steps=2", "evaluation.answers=false"]
    train(configured("train", *settings), tmp_path / "whole")
    resize(size)
    with pytest.raises(Exception) as caught:
        train(configured("train", *settings), disk / "out")
    assert "no space left on the device" in fault_line(caught.value)
    resize("200m")
    train(configured("train", *settings), disk / "out")
    assert "skipped a checkpoint" in caplog.text and "resuming from" in caplog.text
    assert history(disk / "out") == history(tmp_path / "whole")
    weights = "model/model.safetensors"
    assert (disk / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_finished_run_is_not_done_again_and_not_replaced(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(configured("train", *tiny), tmp_path)
    before = (tmp_path / "train_metrics.json").read_bytes()
    train(configured("train", *tiny), tmp_path)
    assert "is done already" in caplog.text
    assert (tmp_path / "train_metrics.json").read_bytes() == before
    with pytest.raises(UserError, match=r"another configuration \(config.seed was 42, now 7\); set overwrite=true"):
        train(configured("train", *tiny, "seed=7"), tmp_path)
    train(configured("train", *tiny, "seed=7", "overwrite=true"), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["seed"] == 7


def test_same_seed_same_run_other_seed_other_run(tiny, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(configured("train", *tiny, f"seed={seed}"), tmp_path / name)
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert history(tmp_path / "a") != history(tmp_path / "c")


def test_static_is_the_plain_trainer_on_the_whole_pool(small_data, cache, tmp_path):
    settings = [*small_data, f"cache_dir={cache}", "model=tiny", "trainer=static", "trainer.args.max_steps=3"]
    train(configured("train", *settings, "selector=random", "evaluation.answers=false"), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["selector"], metrics["answers_right"]) == ("static", None)
    assert len(history(tmp_path)) == 3
    train(configured("train", *settings[:-1], "selector=random", "evaluation.answers=false"), tmp_path / "epoch")
    trained = [
        json.loads((f / "train_metrics.json").read_text())["rows_trained"] for f in (tmp_path, tmp_path / "epoch")
    ]
    assert trained == [24, 60]
    assert len(np.load(tmp_path / "rounds" / "000.npy")) == 60


def refused(tmp_path, *overrides) -> str:
    with pytest.raises(UserError) as caught:
        train(configured("train", *overrides), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir()) if tmp_path.exists() else True
    return str(caught.value)


def test_bad_input_is_refused_before_heavy_work(tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(training, "load_start", lambda *a: pytest.fail("loaded a model"))
    assert "max_K=61 is more than the 60 candidates; use max_K<=60" in refused(out, *tiny, "max_K=61")
    assert "subset_size=61 is more than the 60" in refused(out, *tiny, "selector.subset_size=61")
    assert "data.queries.path is missing" in refused(out, *tiny, "data.queries.path=null")
    assert "data.candidates.path is missing" in refused(out, *tiny, "data.candidates.path=null")
    assert "no such folder" in refused(out, *tiny, "model.name_or_path=./nowhere")
    assert "without access to a hub use model=smollm2" in refused(out, *tiny, "model.name_or_path=some/model")
    assert "did you mean tiny" in refused(out, *tiny, "model.name_or_path=builtin:tinny")
    assert "no top_indices.npy" in refused(out, *tiny, f"indices_path={tmp_path}/top_indices.npy")


def test_faults_of_peft_and_arguments_are_one_line(tiny, tmp_path):
    assert "finetuning: peft refuses" in refused_late(tmp_path, *tiny, "finetuning.target_modules=[nothing_like_it]")
    assert "trainer.args are refused: sometimes" in refused_late(
        tmp_path, *tiny, "trainer.args.save_strategy=sometimes"
    )


def refused_late(tmp_path, *overrides) -> str:
    with pytest.raises(UserError) as caught:
        train(configured("train", *overrides), tmp_path)
    assert not (tmp_path / "adapter").exists()
    return str(caught.value)


def test_indices_of_select_are_used_and_of_another_pool_refused(tiny, tmp_path, small_data):
    from near.selection.select import select

    shared = [t for t in tiny if t.split(".")[0].split("=")[0] in ("data", "cache_dir", "embedder", "max_K")]
    select(configured("select", *shared), tmp_path / "sel")
    path = f"indices_path={tmp_path}/sel/top_indices.npy"
    train(configured("train", *tiny, path), tmp_path / "selected")
    train(configured("train", *tiny), tmp_path / "made")
    assert history(tmp_path / "selected") == history(tmp_path / "made")
    message = refused(tmp_path / "other", *tiny, path, "max_K=20")
    assert "holds 15 neighbours a query, fewer than max_K=20; use max_K<=15" in message
    assert "give the top_indices.npy" in refused(tmp_path / "other", *tiny, f"indices_path={tmp_path}/sel/typo.npy")
    message = refused(tmp_path / "other", *tiny, path, "data.candidates.limit=59")
    assert "was made for other candidates" in message
    assert "60 rows) than data.candidates" in message
    assert "was made for other queries" in refused(tmp_path / "other", *tiny, path, "data.queries.limit=3")


def test_a_refused_run_leaves_the_finished_one_in_its_place(tiny, tmp_path):
    train(configured("train", *tiny), tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError):
        train(configured("train", *tiny, "overwrite=true", "trainer.args.lr_scheduler_type=cosinus"), tmp_path)
    with pytest.raises(UserError):
        train(configured("train", *tiny, "overwrite=true", "finetuning.target_modules=[nothing]"), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_kill_during_the_last_evaluation_is_resumed(tiny, tmp_path, monkeypatch):
    train(configured("train", *tiny), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "write_outcome", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
        train(configured("train", *tiny), tmp_path / "broken")
    assert (tmp_path / "broken" / "adapter").is_dir()
    train(configured("train", *tiny), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    adapters = [(tmp_path / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in ("whole", "broken")]
    assert adapters[0] == adapters[1]
    assert not list(tmp_path.rglob(".adapter.part"))


def test_a_checkpoint_resumed_into_another_folder_brings_its_rounds(tiny, tmp_path, monkeypatch):
    settings = [*tiny, "trainer.args.save_steps=7"]
    stopped(monkeypatch, settings, tmp_path / "old")
    checkpoint = tmp_path / "old" / "checkpoints" / "checkpoint-7"
    train(configured("train", *settings, f"resume={checkpoint}"), tmp_path / "new")
    lines = [json.loads(line) for line in (tmp_path / "new" / "rounds" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / "new" / "rounds").glob("[0-9]*.npy")) == [
        "000.npy",
        "000_order.npy",
        "001.npy",
        "001_order.npy",
        "002.npy",
        "002_order.npy",
    ]


@pytest.mark.parametrize("name", ["selection.npz", "optimizer.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tiny, tmp_path, caplog, name):
    caplog.set_level(logging.INFO)
    settings = [*tiny, "trainer.args.save_steps=4"]
    train(configured("train", *settings), tmp_path)
    whole = history(tmp_path)
    for written in ("metrics.json", "train_metrics.json"):
        (tmp_path / written).unlink()
    state = tmp_path / "checkpoints" / "checkpoint-10" / name
    state.write_bytes(state.read_bytes()[:100])
    train(configured("train", *settings), tmp_path)
    assert "skipped a checkpoint" in caplog.text
    assert "resuming from" in caplog.text
    assert history(tmp_path) == whole


def test_faulty_rows_are_never_trained_on(tiny, tmp_path, spied):
    path = tmp_path / "pool.jsonl"
    rows = [{"instruction": f"what is the sum of {i} and 1", "output": str(i + 1)} for i in range(30)]
    lines = [json.dumps(row) for row in rows]
    lines[3], lines[10], lines[11] = "{broken", json.dumps({"instruction": "x", "output": ""}), "[]"
    path.write_text("\n".join(lines))
    settings = [*tiny, f"data.candidates.path={path}", "data.candidates.columns.source=null", "selector=full"]
    settings = [s for s in settings if s != "data.candidates.columns.source=domain"]
    with pytest.raises(UserError, match="row 3"):
        train(configured("train", *settings), tmp_path / "out")
    train(configured("train", *settings, "data.on_error=skip", "trainer.update_step=20"), tmp_path / "out")
    trained = {row for batch in spied for row in batch}
    assert trained == set(range(30)) - {3, 10, 11}


def test_evaluation_by_steps_is_the_trainers_own(tiny, tmp_path):
    train(configured("train", *tiny, "+trainer.args.eval_strategy=steps", "+trainer.args.eval_steps=5"), tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-10" / "trainer_state.json").read_text())
    assert [line["step"] for line in state["log_history"] if "eval_loss" in line] == [5, 10]
    assert [line["round"] for line in state["log_history"] if "loss" in line] == [0] * 2 + [1] * 4 + [2] * 4
