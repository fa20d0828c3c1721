"""The exported script really trains with TRL: the run's rows, in its order, from the same loss on."""

import importlib.util
import json

import pytest

from near.app.check.check import read_run_config
from near.common.run_folder import RunFolder
from near.models.encoding import IGNORED, Encoder
from near.selection.round_export import export_rounds
from near.training.train import train
from tests.conftest import configured

pytestmark = pytest.mark.extras


@pytest.mark.parametrize("kind", ["chats", "several", "assistants", "full", "prompts"])
def test_trl_trains_the_exported_rows_in_their_order(tiny, tmp_path, cache, kind):
    """Two steps of 2 x 2 rows. The adapter changes nothing before the first step, so the first losses are equal."""
    pytest.importorskip("trl")
    more = {"full": ["finetuning=full"], "prompts": ["data.train_on_prompt=true"]}.get(kind, [])
    others = [word for word in tiny if kind != "full" or not word.startswith("finetuning")]
    words = [*others, "trainer.warmup_step=1", "trainer.update_step=1", "trainer.update_times=1", "selector=random"]
    words += ["trainer.args.gradient_accumulation_steps=2", "evaluation.answers=false", *more]
    if kind in ("several", "assistants"):
        path = tmp_path / "pool.jsonl"
        turns = [("user", "one"), ("assistant", "a cat"), ("user", "two"), ("assistant", "red and blue")]
        chat = [{"role": role, "content": content} for role, content in turns]
        path.write_text("".join(json.dumps({"messages": [*chat, *chat[: i % 3 * 2]]}) + "\n" for i in range(12)))
        words += [
            f"data.candidates.path={path}",
            "data.candidates.columns.source=null",
            f"data.mask_history={str(kind == 'several').lower()}",
        ]
    train(configured("train", *words), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    cfg = configured("select", f"cache_dir={cache}", f"run={run.path}", "export=jsonl", "export_for=[trl]")
    export_rounds(cfg, tmp_path / "out", read_run_config)
    exported = [json.loads(line) for line in (tmp_path / "out" / "trained.jsonl").read_text().splitlines()]

    spec = importlib.util.spec_from_file_location("trl_train", tmp_path / "out" / "trl_train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    trainer, batches = script.trainer(str(tmp_path / "trl")), []
    step = trainer.training_step

    def training_step(model, inputs, *args):
        batches.append({name: inputs[name].clone() for name in ("input_ids", "labels")})
        return step(model, inputs, *args)

    trainer.training_step = training_step
    trainer.train()
    rows = [row for batch in batches for row in zip(batch["input_ids"], batch["labels"], strict=True)]
    assert len(rows) == 8 == len(exported) and trainer.state.global_step == 2
    data = configured("train", *words).data
    (newline,) = trainer.processing_class("\n", add_special_tokens=False)["input_ids"]
    encoder = Encoder(trainer.processing_class, data)
    for (ids, labels), row in zip(rows, exported, strict=True):
        ours = encoder.encode(row["messages"])
        assert ids[: len(ours.input_ids)].tolist() == ours.input_ids.tolist(), row["row"]
        answers = [[i for i in part.tolist() if i not in (IGNORED, newline)] for part in (labels, ours.labels)]
        assert answers[0] == answers[1], "TRL also trains on the newline after an answer's end"
    ours, theirs = (h[0]["loss"] for h in (run.training.history, trainer.state.log_history))
    assert theirs == pytest.approx(ours, abs=1e-5 if kind == "prompts" else 0.02)
