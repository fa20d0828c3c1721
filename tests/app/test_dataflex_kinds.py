"""Files of other systems that train nothing here: told at once what they are, and which key says so."""

import json
from pathlib import Path

import pytest
import yaml

from near.app.from_yaml.expanded import translated
from near.app.from_yaml.keys import MULTIMODAL, TEXT
from near.common.errors import UserError
from near.data.templates.named import TEMPLATES
from tests.conftest import ROOT, configured, process
from tests.dataflex_files import translate, words, wrote

NAMED = {"model_name_or_path": "a/b", "template": "llama3"}
ADAPTER = {**NAMED, "adapter_name_or_path": "saves/run", "export_dir": "out"}
KINDS = [
    ({"model": "a/b", "train_dataset": "d.yaml", "micro_batch_size": 1}, "v1 (model, train_dataset, micro_batch_size)"),
    ({"model": "a/b", "peft_config": {"name": "lora"}}, "v1 (model, peft_config)"),
    ({"train_dataset": "d.yaml", "output_dir": "x"}, "v1 (train_dataset)"),
    ({"distributed_type": "FSDP", "fsdp_config": {}, "num_machines": 1}, "configures accelerate (distributed_type,"),
    (
        {"compute_environment": "LOCAL_MACHINE", "mixed_precision": "bf16"},
        "configures accelerate (compute_environment)",
    ),
    ({"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}, "configures DeepSpeed (zero_optimization)"),
    ({"train_micro_batch_size_per_gpu": "auto"}, "configures DeepSpeed (train_micro_batch_size_per_gpu)"),
    ({"selectors": {"near": {}}}, "contains DataFlex's components (selectors)"),
    ({"identity": {"path": "a.json", "converter": "alpaca"}}, "lists data sets (identity: path)"),
    ({"colours": {"file_name": "colours.json"}}, "lists data sets (colours: file_name)"),
    ({"<|a|>": "begins", "<|b|>": "ends"}, "lists tokens (<|a|>, <|b|>)"),
    ({**NAMED, "infer_backend": "vllm"}, "is for answering with a model (infer_backend) and trains nothing"),
    (NAMED, "is for answering with a model (neither do_train nor dataset) and trains nothing"),
    (ADAPTER, "is for merging (export_dir): python merge.py from_yaml=FILE"),
    ({**NAMED, "task": "mmlu_test", "n_shot": 5}, "asks for an evaluation (task=mmlu_test)"),
    ({"services": {"a": 1}, "version": 3}, "none of its keys is a key of a training file (services, version)"),
    ({**NAMED, "dataset": "colours", "stage": "sft"}, "it asks for no training (do_train)"),
    ({**NAMED, "do_predict": True, "eval_dataset": "sums"}, "it asks for no training (do_train)"),
]


@pytest.mark.parametrize(("values", "says"), KINDS)
def test_kinds(dataflex, values, says):
    for name, text in (("f.yaml", yaml.safe_dump(values)), ("f.json", json.dumps(values))):
        Path(name).write_text(text)
        with pytest.raises(UserError) as caught:
            translated("train", Path(name), [])
        assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({**NAMED, "export_dir": "out"}, "nothing to merge (no adapter_name_or_path): a/b is a whole model"),
        (
            {**NAMED, "export_dir": "out", "export_quantization_bit": 4},
            "near does not quantise (export_quantization_bit=4)",
        ),
        (
            {**NAMED, "do_train": True, "dataset": "x"},
            "is for training (do_train, dataset): python train.py from_yaml=FILE",
        ),
        ({**NAMED, "infer_backend": "vllm"}, "is for answering (infer_backend), not for merging"),
        ({**ADAPTER, "template": "qwen2_vl"}, "template=qwen2_vl is of a model for images or audio"),
        (
            {**ADAPTER, "exprt_size": 5},
            "exprt_size is not a key of LLaMA-Factory or DataFlex; did you mean export_size",
        ),
    ],
)
def test_what_is_not_for_merging(dataflex, values, says):
    Path("f.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        translated("merge", Path("f.yaml"), [])
    assert says in str(caught.value)


@pytest.mark.parametrize("stage", ["rm", "ppo", "dpo", "kto"])
def test_preferences_by_their_stage(dataflex, stage):
    with pytest.raises(UserError, match=f"stage={stage} trains on preferences, which near does not; use sft or pt"):
        translate("random", f"stage: {stage}", without=("stage",))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"ranking": True}, "contains preferences (ranking)"),
        ({"columns": {"kto_tag": "label"}}, "contains preferences (columns.kto_tag)"),
        ({"columns": {"chosen": "c", "rejected": "r"}}, "contains preferences (columns.chosen)"),
        ({"columns": {"images": "images"}}, "contains images (columns.images)"),
        ({"columns": {"videos": "v"}}, "contains videos (columns.videos)"),
        ({"columns": {"audios": "a"}}, "contains audios (columns.audios)"),
    ],
)
def test_data_sets_that_are_not_trained(dataflex, entry, says):
    """By their entry alone: the file is not there."""
    entries = json.loads(Path("data/dataset_info.json").read_text())
    Path("data/dataset_info.json").write_text(json.dumps({**entries, "odd": {"file_name": "gone.json", **entry}}))
    for text, without in (("dataset: colours,odd", ("dataset",)), ("eval_dataset: odd", ("eval_dataset",))):
        with pytest.raises(UserError) as caught:
            translate("random", text, without=without)
        assert f"dataset=odd {says}" in str(caught.value)


def test_templates(dataflex):
    assert not set(TEXT) & set(MULTIMODAL) and {"llama3", "alpaca", "chatml"} <= set(TEXT)
    far = next(name for name in TEXT if name not in TEMPLATES)
    for name, says in (
        (far, f"near has no template={far}, only "),
        ("qwen2_vl", "template=qwen2_vl is of a model for images or audio"),
        ("llama33", "template=llama33 is not known; did you mean llama3"),
        ("nosuch", "template=nosuch is not known"),
    ):
        with pytest.raises(UserError) as caught:
            translate("random", f"template: {name}", without=("template",))
        assert says in str(caught.value)
        options, _ = translate("random", f"template: {name}", ("model.template=null",), without=("template",))
        assert "model.template" not in options
    assert "model.template" not in translate("random", without=("template",))[0]


# --- plain text -----------------------------------------------------------------------------------------------------


def plain_sets() -> None:
    entries = json.loads(Path("data/dataset_info.json").read_text())
    for name in ("wiki", "web"):
        Path(f"data/{name}.jsonl").write_text("".join(json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(6)))
        entries[name] = {"file_name": f"{name}.jsonl", "columns": {"prompt": "text"}}
    entries["pages"] = {"hf_hub_url": "a/pages", "columns": {"prompt": "text"}, "subset": "en"}
    entries["bodies"] = {"file_name": "web.jsonl", "columns": {"prompt": "body"}}
    Path("data/dataset_info.json").write_text(json.dumps(entries))


def test_plain_text(dataflex):
    plain_sets()
    options, file = translate("random", "stage: pt\ndataset: wiki,web", without=("stage", "dataset"))
    assert (options["data.candidates.format"], options["data.candidates.columns.text"]) == ("text", "text")
    assert options["data.candidates.path"] == "{wiki:data/wiki.jsonl,web:data/web.jsonl}"
    assert "data.candidates.dataset_info" not in options and options["data.eval.format"] == "text"
    assert file.skipped["packing"].startswith("stage: pt packs texts into rows of cutoff_len")
    configured("train", *map(str, file.words))
    options, file = translate("random", "stage: pt\npacking: false\ndataset: pages", without=("stage", "dataset"))
    expected = {"path": "a/pages", "name": "en", "split": "train", "format": "text"}
    assert {key: options[f"data.candidates.{key}"] for key in expected} == expected and not file.skipped
    for sets, says in (
        ("colours", "dataset=colours does not name one column of plain text"),
        ("web,bodies", "dataset=web,bodies differ in columns.text"),
    ):
        with pytest.raises(UserError, match=says):
            translate("random", f"stage: pt\ndataset: {sets}", without=("stage", "dataset"))
    with pytest.raises(UserError, match="mask_history goes with stage: sft"):
        translate("random", "stage: pt\ndataset: wiki\nmask_history: true", without=("stage", "dataset"))


@pytest.mark.model
@pytest.mark.process
@pytest.mark.slow
def test_plain_text_trains(dataflex):
    plain_sets()
    path = wrote("random", "stage: pt\ndataset: wiki,web\ndisable_tqdm: true", ("stage", "dataset"))
    env = {"NEAR_CACHE": str(dataflex / "cache"), "OMP_NUM_THREADS": "1"}
    done = process(str(ROOT / "train.py"), f"from_yaml={path}", "trainer.update_times=1", cwd=dataflex, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (dataflex / "saves" / "run" / "metrics.json").is_file()


# --- what is typed as a message says ----------------------------------------------------------------------------------


def test_advice_that_is_typed_works(dataflex):
    """What a refusal names, typed beside the file, is translated and composes."""
    remote = "dataset_dir: REMOTE:a/b\n"
    with pytest.raises(
        UserError, match="dataset_dir=REMOTE:a/b is a hub's dataset_info.json, which near does not fetch"
    ):
        translate("random", remote)
    with pytest.raises(UserError, match="contains no dataset_info.json"):
        translate("random", "dataset_dir: nowhere")
    typed = ("data.candidates.path=mine.jsonl", "data.eval.path=mine.jsonl")
    for text, beside in ((remote, typed), ("dataset_dir: nowhere", typed), (remote, ("data=demo",))):
        _, file = translate("random", text, beside)
        configured("train", *map(str, file.words), *beside)
    gone = "deepspeed: nowhere.json"
    with pytest.raises(UserError, match="deepspeed=nowhere.json does not exist; name a JSON file, or type parallel="):
        translate("random", gone)
    options, _ = translate("random", gone, ("parallel=deepspeed_z2",))
    assert "parallel" not in options


def test_num_proc_is_cut_to_the_machine(dataflex, monkeypatch):
    monkeypatch.setattr("near.app.from_yaml.data.os.sched_getaffinity", lambda _: {0, 1, 2})
    for workers, made in ((16, "3"), (2, "2"), (3, "3")):
        text = f"preprocessing_num_workers: {workers}"
        options, file = translate("random", text, without=("preprocessing_num_workers",))
        assert options["data.num_proc"] == made
        assert any("as many as this machine has cores" in line for line in file.notes) == (workers > 3)


def test_how_rows_are_read(dataflex):
    text = "train_on_prompt: true\ndefault_system: 'Be brief, please: yes'\nsplit_special_tokens: true"
    options, file = translate("random", text)
    assert (options["data.train_on_prompt"], options["model.split_special_tokens"]) == ("true", "true")
    assert configured("train", *map(str, file.words)).data.default_system == "Be brief, please: yes"
    _, file = translate("random", 'default_system: ""')
    assert configured("train", *map(str, file.words)).data.default_system == ""
    assert "data.default_system" not in translate("random", "default_system: null")[0]
    assert translate("random", "mask_history: true")[0]["data.mask_history"] == "true"
    with pytest.raises(UserError, match="train_on_prompt and mask_history exclude each other"):
        translate("random", "train_on_prompt: true\nmask_history: true")
    with pytest.raises(UserError, match="val_size=3 and eval_dataset exclude each other"):
        translate("random", "val_size: 3\neval_dataset: sums")
    options, file = translate("random", "eval_on_each_dataset: true\neval_dataset: colours,sums")
    sets = configured("train", *map(str, file.words)).data.more_eval
    assert {name: one.path for name, one in sets.items()} == {"colours": "colours", "sums": "sums"}


def test_answers_as_the_file_bounds_them(dataflex):
    options, file = translate("random", "predict_with_generate: true\ntemperature: 0.5\nmax_new_tokens: 7")
    assert (options["evaluation.answers"], options["evaluation.max_new_tokens"]) == ("true", "7")
    assert file.skipped == {"temperature": "answers are greedy"} and any("greedy" in line for line in file.notes)
    options, file = translate("random", "predict_with_generate: true\ndo_sample: false")
    assert options["evaluation.max_new_tokens"] == "1024" and not file.skipped
    assert not any("greedy" in line for line in file.notes)
    assert words(file)["evaluation.answers"] == "true"


def test_order_and_optimizers(dataflex, packages):
    gone = ("train_type", "components_cfg_file", "warmup_step", "update_step", "update_times")
    options, _ = translate("", "disable_shuffling: true", without=gone)
    assert options["+trainer.args.train_sampling_strategy"] == "sequential"
    assert translate("random", "disable_shuffling: true")[1].skipped == {
        "disable_shuffling": "rows are shuffled by the seed"
    }
    assert translate("random", "adafactor: true")[0]["+trainer.args.optim"] == "adafactor"
    options, _ = translate("random", "loraplus_lr_ratio: 16.0\nloraplus_lr_embedding: 1e-5")
    assert (options["trainer.loraplus.lr_ratio"], options["trainer.loraplus.lr_embedding"]) == ("16", "1e-05")
    packages(bitsandbytes=False, galore_torch=False)
    with pytest.raises(UserError, match="optim=paged_adamw_8bit needs bitsandbytes, which is not installed"):
        translate("random", "optim: paged_adamw_8bit")
    full = "finetuning_type: full\nuse_galore: true\ngalore_rank: 128\ngalore_layerwise: true"
    assert (
        "needs galore_torch, which is not installed"
        in translate("random", full, without=("finetuning_type",))[1].skipped["use_galore"]
    )
    assert translate("random", "use_galore: true")[1].skipped == {"use_galore": "it goes with finetuning_type: full"}
    packages(galore_torch=True)
    options, file = translate("random", full, without=("finetuning_type",))
    assert options["+trainer.args.optim"] == "galore_adamw_layerwise" and not file.skipped
    assert options["+trainer.args.optim_target_modules"] == "all-linear"
    assert options["+trainer.args.optim_args"] == '"rank=128,update_proj_gap=200,scale=2.0,proj_type=std"'
    with pytest.raises(UserError, match="loraplus_lr_ratio=16 goes with finetuning_type: lora"):
        translate("random", "finetuning_type: full\nloraplus_lr_ratio: 16", without=("finetuning_type",))
