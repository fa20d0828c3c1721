"""Every key of DataFlex and LLaMA-Factory: known, and honoured or named where its value is not its default."""

import pytest

from near.app.from_yaml.defaults import changes_nothing, defaults, groups, same
from near.app.from_yaml.expanded import translated
from near.app.from_yaml.keys import MERGE, TRAIN, family
from near.app.from_yaml.kinds import FIELDS
from near.common.errors import UserError
from near.common.signature import keywords
from tests.dataflex_files import translate, words, wrote

# Values where the default does not show what else there is.
VALUES = {
    "train_type": "dynamic_weight",
    "stage": "dpo",
    "finetuning_type": "freeze",
    "dataset": "sums",
    "eval_dataset": "sums",
    "template": "chatml",
    "quantization_bit": 8,
    "max_samples": 3,
    "preprocessing_num_workers": 4,
    "mix_strategy": "interleave_under",
    "mixture_sample_rule": "uniform",
    "init_mixture_proportions": [0.2, 0.8],
    "deepspeed": "examples/deepspeed/ds_z3_config.json",
    "fsdp": "full_shard auto_wrap",
    "optim": "adafactor",
    "report_to": "tensorboard",
    "train_sampling_strategy": "group_by_length",
    "enable_thinking": None,
    "per_gpu_train_batch_size": 3,
    "per_gpu_eval_batch_size": 3,
    "loraplus_lr_ratio": 16,
    "lora_alpha": 3,
    "val_size": 3,
    "max_steps": 9,
    "seed": 7,
    "warmup_ratio": 0.3,
    "update_times": 4,
    "train_step": 3,
    "component_name": "loss",
    "additional_target": "embed_tokens",
}
# With what else a key is written; without that nobody there looks at it either.
BESIDE = {
    "loraplus_lr_embedding": "loraplus_lr_ratio: 16",
    "pissa_iter": "pissa_init: true",
    "interleave_probs": "mix_strategy: interleave_under",
    "max_new_tokens": "predict_with_generate: true",
    "quantization_type": "quantization_bit: 4",
    "double_quantization": "quantization_bit: 4",
    "eval_on_each_dataset": "eval_dataset: colours,sums",
    "create_new_adapter": "adapter_name_or_path: saves/run",
    "adapter_folder": "adapter_name_or_path: saves/run",
    "swanlab_project": "use_swanlab: true",
}
STATIC = ("train_type", "components_cfg_file", "warmup_step", "update_step", "update_times")
# of dynamic training, which no other kind looks at there either
DYNAMIC_ONLY = {*STATIC[1:], "train_step", "component_name"}
MIXED = {"static_mix", "mixture_sample_rule", "init_mixture_proportions", "mixer_eval_dataset", "freeze_gate"}


def off_default(key: str) -> object:
    """A value of `key` that is not its default."""
    usual = defaults()[key]
    if key in VALUES:
        return VALUES[key]
    if isinstance(usual, bool):
        return not usual
    return usual + 1 if isinstance(usual, int | float) else "zz"


def outcome(kind: str, key: str, text: str) -> tuple[set, dict, list[str], str]:
    """The words, skipped keys, lines and the refusal of a file of `kind` with `text` at its end."""
    gone, component = {key, *(line.partition(":")[0] for line in text.splitlines())}, "random"
    if kind == "static":
        gone |= set(STATIC)
        component = ""
    if kind == "mix":
        text = text if key == "train_type" else f"train_type: dynamic_mix\n{text}"
        text = text if key == "dataset" else f"dataset: colours,sums\n{text}"
        gone |= {"train_type", "components_cfg_file", "dataset"}
    elif key in ("mix_strategy", "interleave_probs"):
        text, gone = f"dataset: colours,sums\n{text}", gone | {"dataset"}
    path = wrote(component, "", tuple(gone))
    lines = [line for line in path.read_text().splitlines() if line.partition(":")[0] not in gone]
    path.write_text("\n".join([*lines, text]) + "\n")
    try:
        file = translated("train", path, [])
    except UserError as error:
        return set(), {}, [], str(error)
    return set(words(file).items()), file.skipped, file.notes, ""


@pytest.mark.parametrize("kind", ["static", *(pytest.param(k, marks=pytest.mark.slow) for k in ("select", "mix"))])
@pytest.mark.parametrize("key", sorted(defaults()))
def test_a_value_off_its_default_is_never_dropped_in_silence(dataflex, key, kind):
    """It changes the run, is named as not honoured, told of, or refused; what changes no result is listed as such."""
    if kind == "static" and key in DYNAMIC_ONLY | MIXED or kind == "select" and key in MIXED - {"static_mix"}:
        kind = "mix"  # where it is looked at
    beside = BESIDE.get(key, "")
    value = "0.3,0.7" if key == "interleave_probs" else off_default(key)
    text = f"{key}: {'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"
    options, skipped, noted, refused = outcome(kind, key, f"{beside}\n{text}" if beside else text)
    without = outcome(kind, key, beside)
    if TRAIN.get(key) is not None and (TRAIN[key].needless or same(off_default(key), *TRAIN[key].quiet[:1] or ("?",))):
        assert key not in skipped and not refused
        return
    assert key in refused or key in skipped or any(key in line for line in noted) or options != without[0], (
        "nothing came of it"
    )


def test_every_key_is_known():
    """Each is translated, needless, named by itself or by how it begins, or an argument of the Trainer."""
    fields = keywords(FIELDS)
    strangers = [key for key in defaults() if key not in TRAIN and not family(key) and key not in fields]
    assert set(strangers) == {"hf_hub_token", "ms_hub_token", "om_hub_token", "push_to_hub_token"}  # secrets
    assert len(defaults()) > 400 and sum(map(len, groups().values())) == len(defaults())  # no key twice
    assert set(MERGE) <= set(defaults())
    known_here = {"evaluation_strategy", *groups()["megatron"]}  # of older versions
    assert set(TRAIN) - set(defaults()) <= known_here


def test_what_is_the_default():
    assert same([0.3, 0.7], "0.3, 0.7") and same("ALL", "all") and same(1e-6, 0.000001) and same(3, 3.0)
    assert not same(True, 1) and not same(False, 0) and not same("no", False)
    assert changes_nothing("enable_thinking", True) and not changes_nothing("enable_thinking", False)
    assert changes_nothing("ignore_pad_token_for_loss", True) and not changes_nothing(
        "ignore_pad_token_for_loss", False
    )
    assert changes_nothing("galore_rank", 16) and not changes_nothing("galore_rank", 128)
    assert changes_nothing("rope_scaling", None) and not changes_nothing("rope_scaling", "linear")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ignore_pad_token_for_loss: false", "padding has no loss"),
        ("use_fast_tokenizer: false", "tokenizers are the fast ones"),
        ("save_safetensors: false", "weights are saved as safetensors"),
        ("freeze_vision_tower: false", "texts only: no vision tower trains"),
        ("skip_special_tokens: false", "special tokens are left out of answers"),
        ("profiler_with_stack: false", "no profiler runs"),
        ("use_distributed_optimizer: false", "an option of Megatron; parallel decides how processes share the model"),
    ],
)
def test_false_counts(dataflex, text, named):
    assert translate("random", text)[1].skipped == {text.partition(":")[0]: named}
    assert translate("random", text.replace("false", "true"))[1].skipped == {}


def test_false_is_handed_on(dataflex):
    text = "average_tokens_across_devices: false\ndataloader_pin_memory: false\nlogging_nan_inf_filter: false\n"
    options, file = translate("random", f"{text}double_quantization: false\nquantization_bit: 4")
    for key in ("average_tokens_across_devices", "dataloader_pin_memory", "logging_nan_inf_filter"):
        assert options[f"+trainer.args.{key}"] == "false"
    assert options["model.quantization.bnb_4bit_use_double_quant"] == "false"
    assert not file.skipped


@pytest.mark.parametrize(
    ("template", "thinking", "passed", "named"),
    [
        ("template: qwen3\n", "false", {"model.enable_thinking": "false"}, None),
        ("template: qwen3\n", "true", {"model.enable_thinking": "true"}, None),
        ("template: qwen3\n", "null", {}, "null keeps thinking"),
        ("template: llama3\n", "false", {}, "template=llama3 is not of a reasoning model, so it changes nothing there"),
        ("template: qwen3_nothink\n", "false", {}, "template=qwen3_nothink is not of a reasoning model"),
        ("template: llama3\n", "true", {}, None),
        ("", "false", {"model.enable_thinking": "false", "data.reasoning": "drop"}, None),  # the tokenizer's own
        ("", "true", {"model.enable_thinking": "true"}, None),
    ],
)
def test_thinking_means_something_to_reasoning_templates(dataflex, template, thinking, passed, named):
    options, file = translate("random", f"{template}enable_thinking: {thinking}", without=("template",))
    assert {k: v for k, v in options.items() if k in ("model.enable_thinking", "data.reasoning")} == passed
    assert file.skipped.get("enable_thinking", "").startswith(named or "") and bool(file.skipped) == bool(named)


def test_a_typed_template_decides_what_thinking_means(dataflex):
    options, file = translate("random", "enable_thinking: false", ("model.template=qwen3",))
    assert options["model.enable_thinking"] == "false" and "data.reasoning" not in options and not file.skipped
    assert translate("random", "enable_thinking: false", ("model.template=null",))[0]["data.reasoning"] == "drop"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("learning_rat: 1e-4", "learning_rat is not a key of LLaMA-Factory or DataFlex; did you mean learning_rate"),
        ("lora_rnk: 3", "lora_rnk is not a key of LLaMA-Factory or DataFlex; did you mean lora_rank"),
        ("Learning_Rate: 1e-4", "Learning_Rate is not a key"),
        ("quux: 1", "quux is not a key of LLaMA-Factory or DataFlex; take it out"),
        ("cutoff_length: 5\nval_sise: 3", "val_sise is not a key of LLaMA-Factory or DataFlex; did you mean val_size"),
    ],
)
def test_a_mistyped_key_stops(dataflex, line, says):
    for script in ("train", "select"):
        with pytest.raises(UserError) as caught:
            translated(script, wrote("near", line), [])
        assert says in str(caught.value) and "\n" not in str(caught.value)
    if "\n" in line:
        assert "cutoff_length is not a key of LLaMA-Factory or DataFlex; did you mean cutoff_len" in str(caught.value)
