"""`from_yaml=FILE` on a command line: beside what is typed, for every script, and the printed command's run."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from near.app.from_yaml.expanded import expanded, translated
from near.common.command_line import Command
from near.common.errors import UserError
from tests.conftest import ROOT, configured, process
from tests.dataflex_files import TRAIN_PY, words, wrote

# --- beside what is typed -------------------------------------------------------------------------------------------


def test_what_is_typed_wins(dataflex):
    path = wrote("less")

    def line(*typed: str) -> list[str]:
        options = expanded(TRAIN_PY, [f"from_yaml={path}", *typed])
        assert options[-len(typed) :] == [word for word in typed if "=" in word] + [w for w in typed if "=" not in w]
        return [word for word in options if word != "-m"]

    assert "seed=42" not in line("-m", "seed=0,1")
    options = line("-m", "selector=near,random", "seed=0,1")
    assert not [word for word in options if word.startswith("selector=less") or word.startswith("seed=42")]
    options = line("trainer=static", "trainer.args.max_steps=3")
    assert "trainer.warmup_step=2" not in options and "trainer.args.learning_rate=0.001" in options
    options = line("data.candidates.path=mine.jsonl")
    assert not [word for word in options[:-1] if word.startswith("data.candidates.")]
    assert not [word for word in line("data=demo")[:-1] if word.startswith("data.")]
    assert "+trainer.args.bf16=true" not in line("+trainer.args.bf16=false")
    assert "+trainer.args.bf16=true" in line("trainer.args.bf16=false")  # an added one is there to be overridden
    assert not [word for word in line("sweeps=selectors") if word.startswith(("selector=", "seed="))]
    for typed in (["seed=7"], ["trainer.args.bf16=false"], ["finetuning=full"], ["selector=random"], ["data=demo"]):
        configured("train", *line(*typed))
    cfg = configured("train", *line("selector=random"))
    assert "max_K=30" in line("-m", "selector=near,tsds")  # no more than there are rows
    near = expanded(TRAIN_PY, [f"from_yaml={wrote('near')}"])
    assert "max_K=6" in near

    def reach(*typed: str) -> list[str]:
        return [word for word in expanded(TRAIN_PY, ["from_yaml=near.yaml", *typed]) if word.startswith("max_K=")]

    assert reach("trainer.update_step=2") == ["max_K=4"] and reach("trainer.update_step=9") == ["max_K=18"]
    assert reach("trainer.args.per_device_train_batch_size=4") == ["max_K=12"]
    assert reach("trainer.args.gradient_accumulation_steps=3", "trainer.update_step=1") == ["max_K=6"]
    assert reach("-m", "trainer.update_step=1,4,2") == ["max_K=8"]  # of a sweep the longest
    assert reach("trainer.update_step=99") == ["max_K=30"]  # the pool's rows
    assert reach("trainer.update_step=99", "data.candidates.limit=7") == ["max_K=7"]
    assert reach("trainer.update_step=2", "max_K=5") == ["max_K=5"]
    assert (cfg.data.queries.path, cfg.data.eval.path) == (None, "sums")


def test_the_word_itself(dataflex, capsys):
    path = wrote("random")
    assert expanded(TRAIN_PY, ["seed=1"]) == ["seed=1"]
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="is for train.py, merge.py, select.py, not for eval.py"):
        expanded(Command("eval", ("near", "eval")), [f"from_yaml={path}"])
    with pytest.raises(UserError, match="takes one file"):
        expanded(TRAIN_PY, [f"from_yaml={path}", f"from_yaml={path}"])
    expanded(TRAIN_PY, [f"from_yaml={path}", "--cfg", "job"])
    assert capsys.readouterr().out == ""  # what is asked for is the configuration
    words = expanded(Command("train", ("near", "train")), [f"from_yaml={path}", "-m", "seed=0,1"])
    printed = capsys.readouterr().out.splitlines()
    assert shlex.split(printed[1]) == ["near", "train", *words]


# --- merge.py and select.py -----------------------------------------------------------------------------------------

MERGE_FILE = """
### model
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
adapter_name_or_path: saves/run
template: chatml
trust_remote_code: true

### export
export_dir: saves/merged
export_size: 5
export_device: cpu  # choices: [cpu, auto]
export_legacy_format: false
"""


def test_merge_files(dataflex):
    path = Path("merge.yaml")
    path.write_text(MERGE_FILE + "export_quantization_bit: 4\ninfer_dtype: bfloat16\n")
    file = translated("merge", path, [])
    options = words(file)
    assert (options["adapter_name_or_path"], options["export_dir"], options["export_size"]) == (
        "saves/run",
        "saves/merged",
        "5",
    )
    assert options["export_dtype"] == "bfloat16" and "trust_remote_code" not in options
    assert sorted(file.skipped) == ["export_quantization_bit", "trust_remote_code"]
    assert options["template"] == "chatml" and not file.notes
    configured("merge", *map(str, file.words))
    Path("saves/run/adapter").mkdir(parents=True)
    Path("saves/run/adapter/adapter_config.json").write_text("{}")
    assert words(translated("merge", path, []))["adapter_name_or_path"] == "saves/run/adapter"
    path.write_text(MERGE_FILE.replace("saves/run", "a,b"))
    file = translated("merge", path, [])
    assert words(file)["adapter_name_or_path"] == "[a,b]"
    assert file.notes == [
        "infer_dtype=auto: float32; LLaMA-Factory keeps the model's type (type export_dtype=bfloat16)"
    ]


def test_the_adapter_that_training_goes_on_from(dataflex):
    """LLaMA-Factory's rules: trained further as it is; with create_new_adapter merged, below a new one."""
    path = Path("more.yaml")
    text = "model_name_or_path: builtin:tiny\ndo_train: true\nstage: sft\ndataset: colours\nlora_rank: 32\n"
    path.write_text(f"{text}adapter_name_or_path: saves/run\n")
    assert words(translated("train", path, []))["model.adapter"] == "saves/run"  # train.py says that it is missing
    folder = Path("saves/run/adapter")
    folder.mkdir(parents=True)
    config = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "use_dora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    file = translated("train", path, [])
    options = words(file)
    assert (options["model.adapter"], options["finetuning"]) == ("saves/run/adapter", "dora")
    assert (options["finetuning.r"], options["finetuning.lora_alpha"]) == ("4", "6")
    assert (options["finetuning.target_modules"], options["finetuning.lora_dropout"]) == ("[q_proj,v_proj]", "0.1")
    assert "model.adapter_mode" not in options and not file.skipped
    assert "the options of LoRA are those of the adapter, as LLaMA-Factory has it" in file.notes
    configured("train", *map(str, file.words))
    path.write_text(f"{text}adapter_name_or_path: saves\nadapter_folder: run\ncreate_new_adapter: true\n")
    options = words(translated("train", path, []))
    assert (options["model.adapter"], options["model.adapter_mode"]) == ("saves/run/adapter", "stack")
    assert options["finetuning.r"] == "32"
    for value in ("a,b", "[a, b]"):
        path.write_text(f"{text}adapter_name_or_path: {value}\n")
        with pytest.raises(UserError, match=r"names 2 adapters, .* merge them first: .*'adapter_name_or_path=\[a,b\]'"):
            translated("train", path, [])
    path.write_text(f"{text}adapter_name_or_path: a\nfinetuning_type: full\n")
    with pytest.raises(UserError, match="goes with finetuning_type: lora only, not full"):
        translated("train", path, [])


OFFLINE_CODE = """
import os
near = offline_near_Selector(
    candidate_path="OpenDCAI/DataFlex-selector-openhermes-10w",
    query_path="OpenDCAI/DataFlex-selector-openhermes-10w",
    embed_model="Qwen/Qwen3-Embedding-0.6B",
    embed_method="sentence-transformer",
    batch_size=32,
    save_indices_path="out/top_indices.npy",
    max_K=1000,
)
near.selector()
"""


def test_the_offline_selector(dataflex):
    """Its keywords, from the Python file in which DataFlex has them or as YAML."""
    Path("offline.py").write_text(OFFLINE_CODE)
    file = translated("select", Path("offline.py"), [])
    cfg = configured("select", *map(str, file.words))
    assert (cfg.data.candidates.split, cfg.data.queries.split) == ("train", "validation")
    assert cfg.data.queries.path == cfg.data.candidates.path == "OpenDCAI/DataFlex-selector-openhermes-10w"
    assert (cfg.embedder.model, cfg.embedder.backend) == ("Qwen/Qwen3-Embedding-0.6B", "sentence-transformers")
    assert (cfg.embedder.batch_size, cfg.max_K, cfg.output_dir) == (32, 1000, "out")
    Path("offline.yaml").write_text("candidate_path: data/colours.json\nmax_K: 5\nembed_model: some/model\n")
    with pytest.raises(UserError, match="query_path is missing"):
        translated("select", Path("offline.yaml"), [])
    file = translated("select", Path("offline.yaml"), ["data.queries.path=data/sums.jsonl"])
    cfg = configured("select", *map(str, file.words), *file.typed)
    assert (cfg.data.candidates.path, cfg.data.candidates.split) == ("data/colours.json", None)
    assert (cfg.embedder.model, cfg.max_K) == ("some/model", 5)
    Path("other.py").write_text("print(1)")
    with pytest.raises(UserError, match="no call of an offline selector"):
        translated("select", Path("other.py"), [])


def test_select_takes_a_training_files_data(dataflex):
    file = translated("select", wrote("near"), [])
    cfg = configured("select", *map(str, file.words))
    assert (cfg.data.candidates.path, cfg.data.queries.path, cfg.max_K) == ("colours", "sums", 30)


# --- end to end -----------------------------------------------------------------------------------------------------


def same_runs(one: Path, two: Path) -> None:
    names = sorted(p.name for p in (one / "rounds").glob("*.npy"))
    assert len(names) == 8 and names == sorted(p.name for p in (two / "rounds").glob("*.npy"))
    for name in names:
        np.testing.assert_array_equal(np.load(one / "rounds" / name), np.load(two / "rounds" / name))
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (one, two)]
    assert weights[0] == weights[1]
    losses = [json.loads((run / "metrics.json").read_text())["target_loss"] for run in (one, two)]
    assert losses[0] == losses[1]


@pytest.mark.model
@pytest.mark.process
@pytest.mark.slow
def test_a_near_yaml_trains_and_its_printed_command_is_the_same_to_the_bit(dataflex):
    path = wrote("near", "disable_tqdm: true\n")
    env = {"NEAR_CACHE": str(dataflex / "cache"), "OMP_NUM_THREADS": "1"}
    script, small = str(ROOT / "train.py"), "embedder=hashing"
    first = process(script, f"from_yaml={path}", small, cwd=dataflex, env=env)
    assert first.returncode == 0, first.stderr[-3000:]
    command = shlex.split(first.stdout.splitlines()[1])
    assert command[:2] == ["python", script] and not any("from_yaml" in word for word in command)
    run = dataflex / "saves" / "run"
    run.rename(dataflex / "first")
    env["NEAR_CACHE"] = str(dataflex / "another cache")
    second = process(*command[1:], cwd=dataflex, env=env)
    assert second.returncode == 0, second.stderr[-3000:]
    same_runs(dataflex / "first", run)
    assert [np.load(run / "rounds" / f"{i:03d}.npy").size for i in range(3)] == [4, 6, 6]

    Path("merge.yaml").write_text(MERGE_FILE.replace("Qwen/Qwen2.5-7B-Instruct", "builtin:tiny"))
    done = process(str(ROOT / "merge.py"), "from_yaml=merge.yaml", cwd=dataflex, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    command = shlex.split(done.stdout.splitlines()[1])
    (dataflex / "saves" / "merged").rename(dataflex / "first merged")
    assert process(*command[1:], cwd=dataflex, env=env).returncode == 0
    both = [dataflex / name / "model.safetensors" for name in ("first merged", "saves/merged")]
    assert both[0].read_bytes() == both[1].read_bytes()


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.process
def test_a_sweep_of_a_file(dataflex):
    """Flags may stand anywhere; jobs' folders are named by what is swept."""
    path, env = wrote("random", "disable_tqdm: true\n"), {"NEAR_CACHE": str(dataflex / "cache"), "OMP_NUM_THREADS": "1"}
    words = [f"from_yaml={path}", "output_dir=saves/sweep", "-m", "seed=0,1", "trainer.update_times=1"]
    done = process(str(ROOT / "train.py"), *words, cwd=dataflex, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = {path.parent.name for path in (dataflex / "saves" / "sweep").glob("*/metrics.json")}
    assert folders == {"seed-0", "seed-1"}


@pytest.mark.process
def test_no_heavy_import_before_the_configuration_is_checked(dataflex):
    path = wrote("less")
    done = process("-X", "importtime", str(ROOT / "train.py"), f"from_yaml={path}", "--cfg", "job", cwd=dataflex)
    assert done.returncode == 0, done.stderr[-500:]
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "transformers", "datasets", "peft"}
    done = process(str(ROOT / "train.py"), "from_yaml=nothing.yaml", cwd=dataflex)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: from_yaml=nothing.yaml can't be read")
