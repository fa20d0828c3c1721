"""The merged model answers as the adapter, and its folder is complete or absent."""

import errno
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from near.app.faults import fault_line
from near.common.errors import UserError
from near.common.outputs import LIST, list_files
from near.data.builtin.assets import resolve
from near.export import merge as module
from near.training.train import train
from tests.conftest import configured, process
from tests.merging import IDS, adapted_logits, logits, merged, tiny_base, write_adapter

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache, small_data):
    folder = tmp_path_factory.mktemp("runs") / "summing"
    few = ["trainer.warmup_step=1", "trainer.update_step=2", "trainer.update_times=1"]
    few += ["trainer.args.learning_rate=0.05", "trainer.args.save_steps=2", "selector=random", "model=tiny"]
    train(configured("train", *small_data, f"cache_dir={cache}", *few, "evaluation.max_new_tokens=4"), folder)
    return folder


@pytest.fixture(scope="module")
def adapter(run):
    return run / "adapter"


@pytest.mark.parametrize(("legacy", "pattern"), [("false", "*.safetensors"), ("true", "pytorch_model*.bin")])
@pytest.mark.parametrize("size", ["5", "0.00005"])
def test_merged_logits_are_the_adapters(adapter, cache, tmp_path, legacy, pattern, size):
    model = merged(adapter, cache, tmp_path / "out", f"export_legacy_format={legacy}", f"export_size={size}")
    plain, expected = adapted_logits(adapter, cache)
    assert (plain - expected).abs().max() > 0.01  # the adapter does something
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    weights = {p for p in (tmp_path / "out").iterdir() if p.suffix in (".safetensors", ".bin")}
    assert weights == set((tmp_path / "out").glob(pattern))
    assert (len(weights) > 1) == (size != "5")  # export_size is heeded
    assert (tmp_path / "out" / f"{pattern.replace('*', 'model' if legacy == 'false' else '')}.index.json").exists() == (
        len(weights) > 1
    )
    if legacy == "true":
        for path in weights:  # and nothing in them but tensors
            assert all(torch.is_tensor(t) for t in torch.load(path, weights_only=True).values())


def test_files_beside_the_weights(run, adapter, cache, tmp_path):
    merged(adapter, cache, tmp_path / "out")
    tokenizer, config = (kind.from_pretrained(tmp_path / "out") for kind in (AutoTokenizer, AutoConfig))
    base = resolve("builtin:tiny", cache)
    chat = [{"role": "user", "content": "what is 1 and 2"}, {"role": "assistant", "content": "3"}]
    expected = AutoTokenizer.from_pretrained(base).apply_chat_template(chat)["input_ids"]
    assert tokenizer.apply_chat_template(chat)["input_ids"] == expected
    ends = [GenerationConfig.from_pretrained(folder).eos_token_id for folder in (tmp_path / "out", base)]
    assert ends[0] == ends[1] == 2
    assert config.architectures == ["LlamaForCausalLM"]
    record = json.loads((tmp_path / "merge.json").read_text())
    assert record["max_logit_difference"] < 1e-4
    assert record["compared_on"] == "5 rows of the run's evaluation"
    assert not [p for p in tmp_path.iterdir() if p.name not in ("out", "merge.json", LIST)]


def test_another_template_and_its_end_of_turn(adapter, cache, tmp_path):
    merged(adapter, cache, tmp_path / "out", "template=alpaca")
    text = AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("Below is an instruction that describes a task. ")
    assert text.endswith("\n\n### Instruction:\nhello\n\n### Response:\n")
    base = tiny_base(cache)
    base.generation_config.eos_token_id = 0
    base.save_pretrained(tmp_path / "other_end")
    AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache)).save_pretrained(tmp_path / "other_end")
    merged(adapter, cache, tmp_path / "chatml", "template=chatml", f"model_name_or_path={tmp_path}/other_end")
    assert GenerationConfig.from_pretrained(tmp_path / "chatml").eos_token_id == [2, 0]


def test_the_runs_template_is_the_exports(cache, small_data, tmp_path):
    few = ["trainer.warmup_step=1", "trainer.update_times=0", "selector=random", "model=tiny", "model.template=alpaca"]
    train(configured("train", *small_data, f"cache_dir={cache}", *few, "evaluation.answers=false"), tmp_path / "run")
    merged(tmp_path / "run" / "adapter", cache, tmp_path / "out")
    assert "### Instruction" in AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_a_generation_config_that_contradicts_itself_is_mended(adapter, cache, tmp_path):
    """As Llama 2's did: transformers would not save it."""
    base = tiny_base(cache)
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache)).save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.6, "top_p": 0.9, "do_sample": False}))
    merged(adapter, cache, tmp_path / "out", f"model_name_or_path={tmp_path}/base")
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.6, 0.9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_another_bound(adapter, cache, tmp_path, dtype):
    model = merged(adapter, cache, tmp_path / "out", f"export_dtype={dtype}")
    assert model.dtype == getattr(torch, dtype)
    expected = adapted_logits(adapter, cache)[1]
    torch.testing.assert_close(logits(model.float()), expected, atol=0.01, rtol=0.05)
    record = json.loads((tmp_path / "merge.json").read_text())
    assert record["merging"][0]["max_logit_difference"] < 1e-5 < record["max_logit_difference"]
    with pytest.raises(UserError, match=rf"rounded to {dtype} .* more than rounding_tolerance=1e-06; nothing was"):
        merged(adapter, cache, tmp_path / "no", f"export_dtype={dtype}", "rounding_tolerance=1e-6")
    assert not (tmp_path / "no").exists()


def test_weights_too_large_for_float16_are_refused(cache, tmp_path):
    base = tiny_base(cache)
    with torch.no_grad():
        base.model.layers[0].mlp.down_proj.weight[0, 0] = 1e6
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache)).save_pretrained(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base, base=str(tmp_path / "base"))
    with pytest.raises(UserError, match="nothing was exported"):
        merged(tmp_path / "adapter", cache, tmp_path / "out", "export_dtype=float16")


def test_a_difference_stops_the_export(adapter, cache, tmp_path, monkeypatch):
    made = iter([[torch.zeros(1, 3)], [torch.ones(1, 3)]])
    monkeypatch.setattr(module, "logits_of", lambda *a: next(made))
    with pytest.raises(UserError, match=r"differ from the adapter's by 1, more than tolerance=0.001; nothing was"):
        merged(adapter, cache, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("legacy", ["false", "true"])
def test_the_written_files_are_compared(adapter, cache, tmp_path, monkeypatch, legacy):
    """A weight that goes wrong on its way to the disk."""

    def spoilt(model, *more):
        model.model.layers[1].mlp.up_proj.weight.data.mul_(-1)
        write(model, *more)

    write = module.write_weights
    monkeypatch.setattr(module, "write_weights", spoilt)
    with pytest.raises(UserError, match="the logits of the files written differ from the adapter's"):
        merged(adapter, cache, tmp_path / "out", f"export_legacy_format={legacy}")
    assert list(tmp_path.iterdir()) == []


def test_several_adapters_one_after_another(adapter, cache, tmp_path):
    first = write_adapter(tmp_path / "first", tiny_base(cache))
    one = merged(tmp_path / "first", cache, tmp_path / "one")
    torch.testing.assert_close(logits(one), first, atol=1e-5, rtol=1e-5)
    expected = write_adapter(tmp_path / "second", one, seed=1)
    for name, adapters in (
        ("list", f"[{tmp_path}/first,{tmp_path}/second]"),
        ("commas", f"'{tmp_path}/first,{tmp_path}/second'"),
    ):
        model = merged(adapters, cache, tmp_path / name)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
        assert len(json.loads((tmp_path / "merge.json").read_text())["merging"]) == 2
    text = (tmp_path / "list" / "README.md").read_text()
    assert "`first`, then `second`" in text
    assert "first, merged" in text and "second, merged" in text
    both = merged(f"[{tmp_path}/second,{tmp_path}/first,{adapter}]", cache, tmp_path / "three")
    assert not torch.allclose(logits(both), expected, atol=1e-3)


def test_a_checkpoint_of_a_run(run, cache, tmp_path):
    checkpoint = next((run / "checkpoints").iterdir())
    model = merged(checkpoint, cache, tmp_path / "out", "export_device=auto")
    torch.testing.assert_close(logits(model), adapted_logits(checkpoint, cache)[1], atol=1e-5, rtol=1e-5)
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"Weights: of {checkpoint.name}, not of the run's end" in text
    assert "## Evaluation" not in text, "the run's metrics are of other weights"


def test_existing_files_are_not_replaced_without_overwrite(adapter, cache, tmp_path):
    def refusal(*more, folder=tmp_path / "full", path=adapter):
        with pytest.raises(UserError) as caught:
            merged(path, cache, folder, *more)
        return str(caught.value)

    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("x")
    assert "is not empty; name another folder or empty it" in refusal()
    (full / "config.json").write_text("{}")
    assert f"{full} holds config.json, a file that near did not write" in refusal("overwrite=true")
    assert (full / "x").read_text() == "x"
    assert "or set overwrite=true" not in refusal()
    out = tmp_path / "out"
    merged(adapter, cache, out)
    assert "or set overwrite=true" in refusal("export_dtype=bfloat16", folder=out)
    (out / "src").mkdir()
    (out / "src" / "thesis.tex").write_text("years")
    assert f"{out} holds src/thesis.tex, a file that near did not write" in refusal("overwrite=true", folder=out)
    assert (out / "src" / "thesis.tex").read_text() == "years" and (out / "model.safetensors").exists()
    (out / "src" / "thesis.tex").unlink()
    merged(adapter, cache, out, "export_dtype=bfloat16", "overwrite=true")
    write_adapter(out / "adapter", tiny_base(cache))
    list_files(out, merged={})
    assert "which is merged; name another folder" in refusal("overwrite=true", folder=out, path=out / "adapter")
    (tmp_path / "file").write_text("x")
    assert "is not empty" in refusal(folder=tmp_path / "file")
    assert "is not empty" in refusal("overwrite=true", folder=tmp_path / "file")


def test_bad_input(adapter, cache, tmp_path):
    def refusal(*more, path=adapter):
        with pytest.raises(UserError) as caught:
            merged(path, cache, tmp_path / "deep" / "out", *more)
        return str(caught.value)

    assert "has no adapter_config.json" in refusal(path=tmp_path)
    assert "needs no merge" in refusal(path=resolve("builtin:tiny", cache))
    assert "no such folder" in refusal("model_name_or_path=./nowhere")
    assert "names no adapter" in refusal(path="'a,,b'")
    assert "names no adapter; give a folder, or several as [a,b]" in refusal(path="[]")
    assert not (tmp_path / "deep").exists()


def test_an_adapter_of_another_model_is_refused(adapter, cache, tmp_path):
    wide = tmp_path / "wide"
    wide.mkdir()
    weights = load_file(adapter / "adapter_model.safetensors")
    (wide / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    save_file({k: v.repeat(1, 2) for k, v in weights.items()}, wide / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit the model"):
        merged(wide, cache, tmp_path / "out")
    fewer = {k: v for k, v in weights.items() if "layers.1." not in k}
    save_file(fewer, wide / "adapter_model.safetensors")
    with pytest.raises(UserError, match="weights? differs?, first"):
        merged(wide, cache, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_that_lacks_weights_is_refused(adapter, cache, tmp_path):
    tiny_base(cache).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache)).save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if "layers.1.mlp" not in k}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"are incomplete \(3 are missing or of another shape, first model.layers.1.mlp"
    ):
        merged(adapter, cache, tmp_path / "out", f"model_name_or_path={tmp_path}/base")


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("step", ["_read_back", "list_files", "claim", "write_json"])
def test_a_merge_killed_at_any_step_is_finished_by_the_next(adapter, cache, tmp_path, caplog, step):
    words = [f"adapter_name_or_path={adapter}", f"export_dir={tmp_path}/out", f"cache_dir={cache}"]
    words += [f"output_dir={tmp_path}"]
    code = (
        "import os, sys, near.export.merge as m\n"
        f"sys.path.insert(0, {os.getcwd()!r})\n"
        "from tests.conftest import configured\n"
        f"m.{step} = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        f"m.merge(configured('merge', *{words!r}), __import__('pathlib').Path({str(tmp_path)!r}))\n"
    )
    assert process("-c", code).returncode == -signal.SIGKILL
    assert not (tmp_path / "merge.json").exists()
    whole = step in ("claim", "write_json")
    if whole:
        before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    else:
        left = [p.name for p in tmp_path.iterdir()]
        assert len(left) == 1 and left[0].startswith(".out.") and left[0].endswith(".part")
        assert (tmp_path / left[0] / "model.safetensors").exists()
    with caplog.at_level("INFO", "near"):
        merged(adapter, cache, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"out", "merge.json", LIST}
    assert ("out is done already" in caplog.text) == whole
    record = json.loads((tmp_path / "merge.json").read_text())
    assert record["base"] == "builtin:tiny" and record["export_dir"] == f"{tmp_path}/out" and "sizes" not in record
    if whole:
        assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before


def test_an_export_takes_the_place_of_no_run(run, adapter, cache, tmp_path):
    for folder in (run, run / "adapter"):
        with pytest.raises(UserError, match="a file that near did not write"):
            merged(adapter, cache, folder, "overwrite=true")
    assert (run / "adapter" / "adapter_model.safetensors").exists()


def test_only_the_same_merge_counts_as_done(adapter, cache, tmp_path):
    merged(adapter, cache, tmp_path / "out")
    merged(adapter, cache, tmp_path / "out")
    with pytest.raises(UserError, match="is not empty"):
        merged(adapter, cache, tmp_path / "out", "export_dtype=bfloat16")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="is not empty"):
        merged(adapter, cache, tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    merged(adapter, cache, tmp_path / "link", "overwrite=true")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out" / "model.safetensors").stat().st_size > 1000


@pytest.mark.parametrize("legacy", ["false", "true"])
def test_a_full_disk_is_one_line(cache, small_disk, tmp_path, legacy):
    disk, resize = small_disk
    base = tiny_base(cache)
    base.resize_token_embeddings(30_000, mean_resizing=False)  # some 4 MB
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache)).save_pretrained(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base, base=str(tmp_path / "base"))
    resize("3m")
    words = [f"export_legacy_format={legacy}"]
    with pytest.raises(UserError, match=r"needs 0.0 GB, but 0.0 GB are free; free some space or name another folder"):
        merged(tmp_path / "adapter", cache, disk / "out", *words)
    with pytest.MonkeyPatch.context() as patch:  # it fills up after that
        patch.setattr(module, "_check_room", lambda *a: None)
        with pytest.raises(OSError, match="No space left") as caught:
            merged(tmp_path / "adapter", cache, disk / "out", *words)
    assert caught.value.errno == errno.ENOSPC
    assert "no space left on the device" in fault_line(caught.value)
    assert list(disk.iterdir()) == []
    resize("200m")
    assert logits(merged(tmp_path / "adapter", cache, disk / "out", *words)).shape == (1, IDS.shape[1], 30_000)


def test_a_bfloat16_and_a_pickled_base(adapter, cache, tmp_path):
    """Bases are read weight by weight, in whatever dtype and form they lie there."""
    expected = None
    for name, dtype, legacy in (("half", "bfloat16", "false"), ("bin", "bfloat16", "true")):
        merged(adapter, cache, tmp_path / name, f"export_dtype={dtype}", f"export_legacy_format={legacy}")
        folder = tmp_path / f"{name}_merged"
        model = merged(adapter, cache, folder, f"model_name_or_path={tmp_path / name}")
        assert model.dtype == torch.float32
        expected = logits(model) if expected is None else expected
        torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=1e-6)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
