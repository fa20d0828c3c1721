"""The rows of a run's rounds in the order of training, and the files of other trainers beside them."""

import ast
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from near.app.check.check import read_run_config
from near.common.config import public
from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.data.loading import load
from near.selection.draws import Content, Draws
from near.selection.other_trainers import WRITERS, Recipe
from near.selection.round_export import chat_of, export_rounds
from near.training.train import train
from tests.conftest import configured, write_rows

pytestmark = pytest.mark.model
ALL = "export_for=[trl,llamafactory,axolotl]"


@pytest.fixture(scope="module")
def words(small_data, cache) -> list[str]:
    """A run of 2 + 2 x 4 steps of 4 rows, of 2 processes' batches of 2."""
    schedule = ["trainer.warmup_step=2", "trainer.update_step=4", "trainer.update_times=2"]
    batches = ["trainer.args.per_device_train_batch_size=2", "trainer.args.gradient_accumulation_steps=2"]
    quick = ["evaluation.answers=false", "+trainer.args.disable_tqdm=true", "finetuning.r=4"]
    return [*small_data, f"cache_dir={cache}", "embedder=hashing", "max_K=2", "model=tiny", *schedule, *batches, *quick]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory) -> RunFolder:
    """max_K=2 of 4 queries: 8 rows at most, which are repeated."""
    folder = tmp_path_factory.mktemp("run")
    train(configured("train", *words), folder)
    return RunFolder(folder)


def export(run: RunFolder, folder: Path, cache: Path, *more: str) -> list[dict]:
    cfg = configured("select", f"cache_dir={cache}", f"run={run.path}", "export=jsonl", *more)
    export_rounds(cfg, folder, read_run_config)
    return [json.loads(line) for line in (folder / "trained.jsonl").read_text().splitlines()]


def test_every_draw_in_the_order_of_training(run, words, tmp_path, cache, monkeypatch):
    monkeypatch.setattr("near.selection.draws.BLOCK", 5)
    rows = export(run, tmp_path, cache)
    draws = np.concatenate([run.round_ids(i, "order") for i in range(3)])
    assert [row["row"] for row in rows] == draws.tolist() and len(rows) == 40
    assert len(set(draws[8:].tolist())) <= 8, "rows repeat"
    assert [row["step"] for row in rows] == [i // 4 for i in range(40)]
    assert [row["round"] for row in rows] == [0] * 8 + [1] * 16 + [2] * 16
    pool = load(configured("train", *words).data, "candidates", str(cache))
    for row in rows:
        assert row["messages"] == pool.messages(row["row"]) and row["source"] == pool.sources([row["row"]])[0]
    described = json.loads((tmp_path / "trained.json").read_text())
    assert (described["rows"], described["rounds"], described["steps"], described["draws_per_step"]) == (40, 3, 10, 4)
    assert not any("weight" in row for row in rows), "the run has none"
    assert described["distinct_rows"] == len(np.unique(draws)) and described["kept_step"] is None
    assert not (tmp_path / "trl_train.py").exists()


def test_the_files_of_other_trainers(run, tmp_path, cache):
    export(run, tmp_path, cache, ALL)
    script = ast.parse((tmp_path / "trl_train.py").read_text())
    values = {node.targets[0].id: node.value for node in script.body if isinstance(node, ast.Assign)}
    options, adapter = ast.literal_eval(values["OPTIONS"]), ast.literal_eval(values["ADAPTER"])
    run_args = run.config().trainer.args
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type"):
        assert options[name] == run_args[name]
    assert (options["max_length"], options["seed"], options["warmup_steps"], adapter["r"]) == (1024, 42, 1, 4)
    assert "SequentialSampler" in (tmp_path / "trl_train.py").read_text()
    entry = json.loads((tmp_path / "dataset_info.json").read_text())["near_rounds"]
    assert entry["file_name"] == "trained.jsonl" and entry["formatting"] == "sharegpt"
    assert entry["columns"] == {"messages": "messages"} and entry["tags"]["assistant_tag"] == "assistant"
    lf = yaml.safe_load((tmp_path / "llamafactory.yaml").read_text())
    assert lf["disable_shuffling"] is True and lf["packing"] is False and lf["dataset"] == "near_rounds"
    assert (lf["stage"], lf["finetuning_type"], lf["lora_rank"], lf["lora_target"]) == ("sft", "lora", 4, "all")
    assert lf["num_train_epochs"] == 1 and lf["warmup_steps"] == 1 and "max_steps" not in lf
    ax = yaml.safe_load((tmp_path / "axolotl.yaml").read_text())
    assert (
        ax["shuffle_merged_datasets"] is False and ax["curriculum_sampling"] is True and ax["sample_packing"] is False
    )
    assert (ax["micro_batch_size"], ax["gradient_accumulation_steps"], ax["num_epochs"], ax["lora_r"]) == (2, 2, 1, 4)
    assert ax["datasets"][0]["type"] == "chat_template" and ax["lora_target_linear"] is True
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
    export(run, tmp_path, cache)
    assert not (tmp_path / "axolotl.yaml").exists(), "of the export before"


def test_near_reads_its_own_dataset_info(run, tmp_path, cache):
    rows = export(run, tmp_path, cache, "export_for=[llamafactory]")
    source = [f"data.candidates.dataset_info={tmp_path}/dataset_info.json", "data.candidates.path=near_rounds"]
    cfg = configured("select", "data=files", *source, f"cache_dir={cache}", "data.queries.path=q.jsonl")
    pool = load(cfg.data, "candidates", str(cache))
    assert [pool.messages(i) for i in range(len(pool))] == [row["messages"] for row in rows]


def test_what_the_run_had_and_other_trainers_have_not_is_said(words):
    def notes(*more: str) -> str:
        cfg = public(configured("train", *words, *more))
        return "\n".join(Recipe(cfg, Content(rows=1), "m", {}, 1, 1, 1).notes())

    plain = notes()
    assert "weight" not in plain and "model.adapter" not in plain
    assert "loss weights of rows (data.candidates.columns.weight)" in notes("data.candidates.columns.weight=w")
    assert "plan.weigh" in notes("plan=weigh_only")
    started = notes('model.adapter="a\\"\\"\\"b"')
    assert "model.adapter" in started and '"""' not in started, "the script's docstring holds it"


def test_eight_bits_stay_eight(words, tmp_path):
    options = ["finetuning=qlora", "model.quantization.load_in_4bit=false", "+model.quantization.load_in_8bit=true"]
    cfg = public(configured("train", *words, *options))
    recipe = Recipe(cfg, Content(rows=1), "m", {"seed": 1}, 1, 1, 1)
    WRITERS["llamafactory"](recipe, tmp_path)
    WRITERS["axolotl"](recipe, tmp_path)
    assert yaml.safe_load((tmp_path / "llamafactory.yaml").read_text())["quantization_bit"] == 8
    written = yaml.safe_load((tmp_path / "axolotl.yaml").read_text())
    assert (written["adapter"], written.get("load_in_8bit"), written.get("load_in_4bit")) == ("lora", True, None)


def test_options_of_peft_that_a_trainer_lacks_are_said(words, tmp_path):
    """Axolotl knows more of them than LLaMA-Factory."""
    more = ["+finetuning.exclude_modules=[lm_head]", "+finetuning.rank_pattern={q_proj: 8}"]
    more += ["+finetuning.modules_to_save=[embed_tokens,lm_head]", "+finetuning.init_lora_weights=olora"]
    more += ["finetuning.target_modules='.*(q|v)_proj'"]
    recipe = Recipe(
        public(configured("train", *words, *more)), Content(rows=1), "m", {"seed": 1, "neftune": 5}, 1, 1, 1
    )
    written = {}
    for name in ("llamafactory", "axolotl"):
        WRITERS[name](recipe, tmp_path)
        text = (tmp_path / f"{name}.yaml").read_text()
        written[name] = "".join(line for line in text.splitlines() if line.startswith("#")), yaml.safe_load(text)
    notes, options = written["llamafactory"]
    assert "finetuning.exclude_modules, finetuning.init_lora_weights, finetuning.rank_pattern are left out" in notes
    assert "finetuning.target_modules is a regular expression" in notes
    assert options["additional_target"] == "embed_tokens,lm_head" and "lora_target" not in options
    notes, options = written["axolotl"]
    assert "finetuning.exclude_modules, finetuning.rank_pattern are left out" in notes and "regular" not in notes
    assert "trainer.args.neftune is left out" in notes
    assert options["lora_target_modules"] == ".*(q|v)_proj" and options["peft_init_lora_weights"] == "olora"
    assert options["lora_modules_to_save"] == ["embed_tokens", "lm_head"]


class Template:
    """A chat template that refuses keys without a value, as those do that look for `tool_calls` in a message."""

    def apply_chat_template(self, turns, tools=None, return_dict=True, add_generation_prompt=False):
        assert not any(value is None for turn in turns for value in turn.values())
        ids = [i for turn in turns for i in ((1, 9) if turn["role"] == "assistant" else (2, 8))]
        return [*ids, 1] if add_generation_prompt else ids


@pytest.mark.parametrize(
    ("more", "labels"), [([], [-100, -100, -100, 9]), (["data.train_on_prompt=true"], [2, 8, 1, 9])]
)
def test_a_template_sees_only_keys_that_a_message_has(words, tmp_path, monkeypatch, more, labels):
    """Of rows with and without thinking, which a table of them fills up with nulls."""
    chats = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] for _ in range(2)]
    chats[1][1]["reasoning"] = "hm"
    content = Content()
    for chat in chats:
        content.add(chat)
    write_rows(tmp_path / "trained.jsonl", [{"row": 0} | chat_of(chat, False, None) for chat in chats])
    WRITERS["trl"](Recipe(public(configured("train", *words, *more)), content, "m", {"seed": 1}, 1, 1, 1), tmp_path)
    monkeypatch.setitem(sys.modules, "trl", SimpleNamespace(SFTConfig=None, SFTTrainer=object))
    script = runpy.run_path(str(tmp_path / "trl_train.py"))
    assert script["rows"](Template())["labels"] == [labels] * 2


def test_a_run_of_fewer_steps_than_planned_is_said(words):
    cfg = public(configured("train", *words))
    assert "7 of 10 steps" in "\n".join(Recipe(cfg, Content(rows=1), "m", {}, 1, 10, 7).notes())
    assert "of 10 steps" not in "\n".join(Recipe(cfg, Content(rows=1), "m", {}, 1, 10, 10).notes())


def test_a_models_folder_is_named_from_everywhere(run, tmp_path, cache, monkeypatch):
    draws = Draws.of(run.path, read_run_config)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    draws.cfg.model.name_or_path = "base"
    assert Recipe.of(draws, Content(rows=1), str(cache)).model == str(tmp_path / "base")
    draws.cfg.model.name_or_path = "org/base"
    assert Recipe.of(draws, Content(rows=1), str(cache)).model == "org/base", "a hub id"


CALL = {"role": "assistant", "content": "", "calls": '[{"name": "add", "arguments": {"a": 1}}]', "reasoning": "hm"}
CHAT = [{"role": "tools", "content": '[{"name": "add"}]'}, {"role": "user", "content": "1+1"}, CALL]
CHAT += [{"role": "tool", "content": "2"}, {"role": "assistant", "content": "<think>so</think>two", "train": False}]


def test_messages_in_openais_form():
    exported = chat_of(CHAT, False, None)
    assert exported["tools"] == '[{"name": "add"}]'
    assert [m["role"] for m in exported["messages"]] == ["user", "assistant", "tool", "assistant"]
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert exported["messages"][1] == {
        **{"role": "assistant", "content": "", "reasoning_content": "hm"},
        "tool_calls": [call],
    }
    assert exported["messages"][3]["train"] is False
    trained = chat_of(CHAT, True, "Be brief.")["messages"]
    assert trained[0] == {"role": "system", "content": "Be brief."} and trained[-1]["content"] == "two"
    assert "reasoning_content" not in trained[2]
    assert chat_of([{"role": "assistant", "content": "a text"}], True, "Be brief.") == {"text": "a text"}
    content = Content()
    for chat in (CHAT, [{"role": "assistant", "content": "a text"}]):
        content.add(chat)
    assert content == Content(rows=2, plain=1, several=1, untrained=1, tools=1, calls=1, sparse=1)


def test_refusals(run, words, tmp_path, cache):
    with pytest.raises(UserError, match="is no finished run of train.py"):
        export(RunFolder(tmp_path), tmp_path / "out", cache)
    for more, message in {
        "n=5": "n selects rows",
        "export=parquet": "add export=jsonl",
        "page=true": "page and dry_run would have no effect",
    }.items():
        with pytest.raises(UserError, match=message):
            export(run, tmp_path / "out", cache, more)
    with pytest.raises(UserError, match="add run=RUN export=jsonl"):
        configured("select", "export_for=[trl]")
    order = run.round_file(1, "order")
    content = order.read_bytes()
    order.unlink()
    with pytest.raises(UserError, match="001_order.npy is missing or has not the 16 draws"):
        export(run, tmp_path / "out", cache)
    order.write_bytes(content)
    assert not (tmp_path / "out").exists()


def test_a_changed_pool_is_refused(words, tmp_path, cache):
    pool = write_rows(tmp_path / "pool.jsonl", [{"instruction": f"q {i}", "output": f"a {i}"} for i in range(20)])
    schedule = [
        "trainer.update_times=1",
        "trainer.update_step=2",
        "selector=random",
        "data.candidates.columns.source=null",
    ]
    train(configured("train", *words, f"data.candidates.path={pool}", *schedule), tmp_path / "run")
    write_rows(pool, [{"instruction": f"q {i}", "output": f"b {i}"} for i in range(20)])
    with pytest.raises(UserError, match="has changed since it trained"):
        export(RunFolder(tmp_path / "run"), tmp_path / "out", cache)


def test_rows_with_weights_have_them_in_the_export(words, tmp_path, cache):
    rows = [{"instruction": f"q {i}", "output": f"a {i}", "w": i / 4} for i in range(1, 9)] + [
        {"instruction": "q 9", "output": "a 9"}
    ]
    pool = write_rows(tmp_path / "pool.jsonl", rows)
    schedule = ["trainer.update_times=1", "trainer.update_step=2", "selector=random"]
    columns = ["data.candidates.columns.source=null", "data.candidates.columns.weight=w"]
    train(configured("train", *words, f"data.candidates.path={pool}", *schedule, *columns), tmp_path / "run")
    exported = export(RunFolder(tmp_path / "run"), tmp_path / "out", cache)
    assert [row["weight"] for row in exported] == [rows[row["row"]].get("w", 1.0) for row in exported]


def test_a_run_without_rounds(words, tmp_path, cache):
    others = [word for word in words if not word.startswith(("trainer.warm", "trainer.update"))]
    train(configured("train", *others, "trainer=static", "trainer.args.max_steps=1"), tmp_path / "run")
    with pytest.raises(UserError, match="has no rounds: the Trainer shuffled its rows"):
        export(RunFolder(tmp_path / "run"), tmp_path / "out", cache)
