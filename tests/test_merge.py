"""The merged model is the adapter's, whole or not there."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from near import merge as module
from near.errors import UserError
from near.merge import merge
from near.model import load_base, with_adapter
from near.training import train
from tests.conftest import configured

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, cache, small_data):
    folder = tmp_path_factory.mktemp("run")
    few = [
        "trainer.warmup_step=1",
        "trainer.update_step=2",
        "trainer.update_times=1",
        "trainer.args.learning_rate=0.05",
    ]
    settings = [*small_data, f"cache_dir={cache}", "selector=random", "model=tiny", "evaluation.answers=false"]
    train(configured("train", *settings, *few), folder)
    return folder / "adapter"


def merged(adapter, cache, folder, *more):
    cfg = configured("merge", f"adapter_name_or_path={adapter}", f"export_dir={folder}", f"cache_dir={cache}", *more)
    merge(cfg, folder.parent)
    return AutoModelForCausalLM.from_pretrained(folder)


IDS = torch.arange(3, 43)[None]


def adapted_logits(adapter, cache):
    cfg = configured("train", "model=tiny", f"cache_dir={cache}")
    base = load_base(cfg.model, str(cache)).eval()
    plain = base(IDS).logits
    return plain, with_adapter(base, adapter).eval()(IDS).logits


@pytest.mark.parametrize(("legacy", "pattern"), [("false", "*.safetensors"), ("true", "pytorch_model*.bin")])
def test_merged_logits_are_the_adapters(adapter, cache, tmp_path, legacy, pattern):
    model = merged(adapter, cache, tmp_path / "out", f"export_legacy_format={legacy}", "export_size=0.00005")
    plain, wanted = adapted_logits(adapter, cache)
    assert (plain - wanted).abs().max() > 0.01  # the adapter does something
    torch.testing.assert_close(model(IDS).logits, wanted, atol=1e-5, rtol=1e-5)
    weights = {p for p in (tmp_path / "out").iterdir() if p.suffix in (".safetensors", ".bin")}
    assert weights == set((tmp_path / "out").glob(pattern))
    assert len(weights) > 1  # export_size is heeded
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "<|im_start|>" in tokenizer.chat_template
    assert json.loads((tmp_path / "merge.json").read_text())["max_logit_difference"] < 1e-3


def test_dtype(adapter, cache, tmp_path):
    model = merged(adapter, cache, tmp_path / "out", "export_dtype=bfloat16")
    assert model.dtype == torch.bfloat16


def test_a_difference_stops_the_export(adapter, cache, tmp_path, monkeypatch):
    logits = iter([[torch.zeros(3)], [torch.ones(3)]])
    monkeypatch.setattr(module, "_logits", lambda *a: next(logits))
    with pytest.raises(UserError, match="nothing was exported"):
        merged(adapter, cache, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bad_input(adapter, cache, tmp_path):
    def told(*more, folder=tmp_path / "out", path=adapter):
        with pytest.raises(UserError) as caught:
            merged(path, cache, folder, *more)
        return str(caught.value)

    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("x")
    assert "is not empty; name another folder or empty it" in told(folder=full)
    assert "no adapter_config.json there" in told(path=tmp_path)
    assert "no such folder" in told("model_name_or_path=./nowhere")


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
    with pytest.raises(UserError, match="weights differ, first"):
        merged(wide, cache, tmp_path / "out")
    assert not (tmp_path / "out").exists()
