"""Kinds of adapters, and bases that are quantised: merged right or refused."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from near.common.errors import UserError
from near.data.builtin.assets import resolve
from near.export.lineage import QUANTISED
from tests.merging import logits, merged, tiny_base, write_adapter

pytestmark = pytest.mark.model

KINDS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}},
    "norms": {"modules_to_save": ["input_layernorm", "norm"]},
    "head": {"modules_to_save": ["lm_head"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "both_tied": {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "lora_on_embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "lora_on_head": {"target_modules": ["q_proj", "lm_head"]},
    "tokens": {"trainable_token_indices": {"embed_tokens": [5, 7]}},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_adapter(kind, tied, cache, tmp_path):
    base, words = tiny_base(cache), []
    if not tied:
        base = untied(base, tmp_path / "base", cache)
        words = [f"model_name_or_path={tmp_path}/base"]
    before = logits(base).clone()
    expected = write_adapter(tmp_path / "adapter", base, **KINDS[kind])
    assert (expected - before).abs().max() > 0.01
    for legacy in ("false", "true"):
        model = merged(tmp_path / "adapter", cache, tmp_path / legacy, f"export_legacy_format={legacy}", *words)
        torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-4)


def untied(model, folder, cache):
    """`model` with output embeddings of its own, written to `folder`."""
    from transformers import AutoModelForCausalLM

    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.01)
    model.all_tied_weights_keys = {}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache)).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("rows", [300, 262])
def test_a_resized_vocabulary_with_more_tokens(cache, tmp_path, rows):
    """As trainers save it: the tokenizer and the whole embeddings beside the adapter."""
    base, tokenizer = tiny_base(cache), AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache))
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    base.resize_token_embeddings(rows, mean_resizing=False)
    expected = write_adapter(tmp_path / "adapter", base, base=resolve("builtin:tiny", cache))
    assert stored(tmp_path / "adapter", "embed_tokens")
    tokenizer.save_pretrained(tmp_path / "adapter")
    model = merged(tmp_path / "adapter", cache, tmp_path / "out")
    assert model.config.vocab_size == rows == model.get_input_embeddings().weight.shape[0]
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(again("<think>", add_special_tokens=False)["input_ids"]) == 1


def stored(folder, part: str) -> bool:
    from safetensors.torch import load_file

    return any(part in name for name in load_file(folder / "adapter_model.safetensors"))


def test_tokens_without_embeddings_are_refused(cache, tmp_path):
    write_adapter(tmp_path / "adapter", tiny_base(cache))
    tokenizer = AutoTokenizer.from_pretrained(resolve("builtin:tiny", cache))
    tokenizer.add_tokens(["<think>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="the tokenizer has 260 tokens, the model 259 embeddings"):
        merged(tmp_path / "adapter", cache, tmp_path / "out")


def test_an_unmergeable_adapter_is_refused(cache, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    adapted = get_peft_model(tiny_base(cache), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="cannot be merged"):
        merged(tmp_path / "adapter", cache, tmp_path / "out", "model_name_or_path=builtin:tiny")
    write_adapter(tmp_path / "bias", tiny_base(cache), target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(UserError, match="cannot be merged .*the base layer has no bias"):
        merged(tmp_path / "bias", cache, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "unquantised"),
    [
        ("unsloth/llama-3-8b-Instruct-bnb-4bit", "unsloth/llama-3-8b-Instruct"),
        ("unsloth/Llama-3.2-3B-Instruct-unsloth-bnb-4bit", "unsloth/Llama-3.2-3B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("RedHatAI/Llama-3.1-8B-Instruct-quantized.w4a16", "RedHatAI/Llama-3.1-8B-Instruct"),
        ("RedHatAI/Llama-3.1-8B-Instruct-FP8-dynamic", "RedHatAI/Llama-3.1-8B-Instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("org/llama-unsloth", None),
        ("google/gemma-4b-it", None),
    ],
)
def test_a_quantised_base_is_recognised_by_its_name(cache, tmp_path, name, unquantised):
    if unquantised is None:
        assert not QUANTISED.search(name)
        return
    write_adapter(tmp_path / "adapter", tiny_base(cache), base=name)
    with pytest.raises(UserError) as caught:  # before anything is fetched: tests are offline
        merged(tmp_path / "adapter", cache, tmp_path / "out")
    assert str(caught.value).endswith(
        f"is quantised, and merging would round its weights again; use model_name_or_path={unquantised}"
    )
    assert name in str(caught.value)
    merged(tmp_path / "adapter", cache, tmp_path / "out", "model_name_or_path=builtin:tiny")
    assert "It names" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("folder", "card", "fix"),
    [
        ("mine", "---\nbase_model: org/whole\n---\n", "model_name_or_path=org/whole"),
        ("mine", "---\nbase_model:\n- org/whole\n---\n", "model_name_or_path=org/whole"),
        ("mine-awq", None, "mine"),
        ("mine", "---\n: [\n---\n", "model_name_or_path=NAME of the unquantised model"),
    ],
)
def test_a_quantised_base_is_recognised_by_its_configuration(cache, tmp_path, folder, card, fix):
    base = tmp_path / folder
    shutil.copytree(resolve("builtin:tiny", cache), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    if card is not None:
        (base / "README.md").write_text(card)
    write_adapter(tmp_path / "adapter", tiny_base(cache), base=str(base))
    with pytest.raises(UserError) as caught:
        merged(tmp_path / "adapter", cache, tmp_path / "out")
    assert "is quantised" in str(caught.value)
    assert str(caught.value).endswith(fix)


@pytest.mark.extras
def test_an_adapter_trained_on_four_bits_is_merged_into_the_whole_base(cache, small_data, tmp_path, caplog):
    """The difference from the trained model is reported."""
    import logging

    from near.training.train import train
    from tests.conftest import configured

    few = ["trainer.warmup_step=2", "trainer.update_times=0", "selector=random", "model=tiny", "finetuning=qlora"]
    few += ["trainer.args.learning_rate=0.05", "evaluation.answers=false"]
    train(configured("train", *small_data, f"cache_dir={cache}", *few), tmp_path / "run")
    with caplog.at_level(logging.INFO):
        model = merged(tmp_path / "run" / "adapter", cache, tmp_path / "out")
    assert not hasattr(model.config, "quantization_config")
    record = json.loads((tmp_path / "merge.json").read_text())
    assert record["max_logit_difference"] < 1e-4 < record["quantised"]["max_logit_difference"]
    assert record["quantised"]["quantization"]["bnb_4bit_quant_type"] == "nf4"
    assert "trained on a quantised base: merged into float32 weights" in caplog.text
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| the adapter on its quantised base |" in text
    assert "LORA on a quantised base" in text
