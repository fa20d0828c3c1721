"""Training that can't be: one line with the fault, before a model is loaded or a text is embedded, and nothing left."""

import pytest

from near.app import scripts as app
from near.common.command_line import Command
from near.training import train as training
from near.training.train import train
from tests.conftest import configured

pytestmark = pytest.mark.model
ARGS = "trainer.args."
# overrides, what the line says
CASES = [
    (("trainer.warmup_step=-1",), "trainer.warmup_step=-1 is too small"),
    (("trainer.update_step=0",), "trainer.update_step=0 is too small"),
    (("trainer.update_step=many",), "trainer.update_step=many is not a whole number"),
    (("trainer.update_times=-1",), "trainer.update_times=-1 is too small"),
    (("trainer.cycles=0",), "trainer.cycles=0 is too small"),
    (("trainer.warmup_step=0", "trainer.update_times=0"), "trains no step"),
    (("trainer.group_by_length=maybe",), "trainer.group_by_length=maybe is not true or false"),
    (("trainer.update_steps=4",), "trainer.update_steps is not an option"),
    ((f"+{ARGS}max_steps=5",), "max_steps is set by the schedule; use trainer.warmup_step"),
    ((f"+{ARGS}num_train_epochs=2",), "num_train_epochs is set by the schedule"),
    ((f"+{ARGS}eval_strategy=epoch",), "eval_strategy=epoch counts slices of rounds"),
    ((f"{ARGS}save_strategy=epoch",), "save_strategy=epoch counts slices of rounds"),
    ((f"+{ARGS}logging_strategy=epoch",), "logging_strategy=epoch counts slices of rounds"),
    ((f"+{ARGS}dataloader_persistent_workers=true",), "dataloader_persistent_workers=true breaks the rounds"),
    ((f"+{ARGS}ignore_data_skip=true",), "ignore_data_skip=true breaks the rounds"),
    ((f"+{ARGS}auto_find_batch_size=true",), "auto_find_batch_size=true breaks the rounds"),
    ((f"+{ARGS}output_dir=elsewhere",), "output_dir is decided elsewhere; use output_dir"),
    ((f"+{ARGS}seed=3",), "seed is decided elsewhere; use seed"),
    ((f"+{ARGS}report_to=wandb",), "report_to is decided elsewhere; use tracker"),
    ((f"+{ARGS}resume_from_checkpoint=x",), "decided elsewhere; use resume"),
    ((f"+{ARGS}deepspeed=ds.json",), "deepspeed is decided elsewhere; use parallel=deepspeed_z2"),
    ((f"+{ARGS}fsdp=true",), "fsdp is decided elsewhere; use parallel=fsdp"),
    ((f"+{ARGS}warmup_ratio=0.1",), "warmup_ratio is not an option of TrainingArguments; did you mean"),
    ((f"{ARGS}learning_rate=fast",), "learning_rate=fast is not a number"),
    ((f"{ARGS}learning_rate=-1",), "learning_rate=-1 is too small"),
    ((f"{ARGS}lr_scheduler_type=cosinus",), "trainer.args are refused: cosinus is not a valid"),
    ((f"+{ARGS}optim=adamx",), "trainer.args are refused: adamx is not a valid"),
    ((f"{ARGS}save_strategy=sometimes",), "trainer.args are refused: sometimes"),
    ((f"+{ARGS}bf16=true", f"+{ARGS}fp16=true"), "trainer.args are refused: At most one of fp16 and bf16"),
    ((f"{ARGS}per_device_train_batch_size=0",), "per_device_train_batch_size=0 is too small"),
    ((f"{ARGS}gradient_accumulation_steps=0",), "gradient_accumulation_steps=0 is too small"),
    ((f"{ARGS}save_steps=0",), "save_steps=0 is too small"),
    ((f"+{ARGS}dataloader_num_workers=-1",), "dataloader_num_workers=-1 is too small"),
    (("selector=nearest",), "selector=nearest: no such choice; did you mean near"),
    (("selector.subset_size=0",), "selector.subset_size=0 is too small"),
    (("selector.subset_size=1.5",), "selector.subset_size=1.5 is not a whole number"),
    (("selector.subset_size=61",), "subset_size=61 is more than the 60 eligible rows"),
    (("selector.policy=forward",), "selector.policy=forward is not one of repeat, advance, sample"),
    (("selector.temperature=0",), "selector.temperature=0 is too small"),
    (("selector.mix=1",), "selector.mix=1 is too large"),
    (("+selector.foo=1",), "selector.foo is not an option of Near"),
    (("selector._target_=near.selection.selectors.nowhere.Near",), "near.selection.selectors.nowhere"),
    (("selector={_target_: near.searching.indexes.flat.Flat}",), "selector.subset_size is not an option of Flat"),
    (("max_K=0",), "max_K=0 is too small"),
    (("max_K=61",), "max_K=61 is more than the 60 candidates"),
    (("indices_path=nowhere/top_indices.npy",), "no top_indices.npy"),
    (("finetuning=lore",), "finetuning=lore: no such choice; did you mean lora"),
    (("finetuning.r=0",), "finetuning.r=0 is too small"),
    (("finetuning.lora_dropout=2",), "finetuning.lora_dropout=2 is too large"),
    (("finetuning.rank=4",), "finetuning.rank is not an option of LoraConfig"),
    (("finetuning=qlora",), 'pip install "near[qlora]"'),
    (("parallel=deepspeed_z2",), 'pip install "near[deepspeed]"'),
    (("parallel=fsdp",), "parallel=fsdp needs an accelerator"),
    (("model.name_or_path=./nowhere",), "no such folder"),
    (("model.name_or_path=no-such-org/no-such-model",), "without access to a hub use model=smollm2"),
    (("model.template=mistrall",), "model.template=mistrall is not known; did you mean mistral"),
    (("model.dtype=int8",), "model.dtype=int8 is not one of auto, float32"),
    (("data.cutoff_len=1",), "data.cutoff_len=1 is too small"),
    (("data.num_proc=0",), "data.num_proc=0 is too small"),
    (("data.queries.path=null",), "data.queries.path is missing"),
    (("data.eval.path=nowhere.jsonl",), "nowhere.jsonl: no such file"),
    (("resume=nowhere",), "resume=nowhere is not a complete checkpoint"),
    (("evaluation.batch_size=0",), "evaluation.batch_size=0 is too small"),
    (("seed=-1",), "seed=-1 is too small"),
    (("tracker=null",), "a group takes one of its choices"),
]


@pytest.mark.parametrize(("overrides", "says"), CASES, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_one_line(tiny, tmp_path, monkeypatch, packages, overrides, says):
    monkeypatch.setattr(training, "load_start", lambda *a: pytest.fail("loaded a model"))
    packages(deepspeed=False, bitsandbytes=False)
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr("near.common.command_line._current", Command("train", ("python", "train.py")))
    groups = {override.partition("=")[0] for override in overrides}
    settings = [word for word in tiny if word.partition(".")[0] not in groups - {"selector"}]
    with pytest.raises(Exception) as caught:
        train(configured("train", *settings, *overrides), tmp_path / "out")
    line = app.fault_line(caught.value)
    assert line is not None, f"a traceback: {caught.value!r}"
    assert "\n" not in line and says in line
    assert not (tmp_path / "out").exists()


def test_there_are_enough_of_them():
    assert len(CASES) >= 40
