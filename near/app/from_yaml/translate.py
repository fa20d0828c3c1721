"""A DataFlex or LLaMA-Factory file as overrides of train.py, merge.py and select.py.

A key that a file leaves out gets the other system's default, not near's: the same file should mean the same run.
"""

from near.app.from_yaml.components import COMPARING, TARGETLESS, named
from near.app.from_yaml.data import data
from near.app.from_yaml.file import File
from near.app.from_yaml.keys import MERGE, MULTIMODAL, TEXT, TRAIN, Key, family
from near.app.from_yaml.kinds import check_kind
from near.app.from_yaml.mixing import interleave, is_interleaved, is_static_mix, mix
from near.app.from_yaml.orders import reorder
from near.app.from_yaml.pipelines import is_targeted, pipeline
from near.app.from_yaml.schedule import trainer
from near.app.from_yaml.start import adapter_in, start
from near.app.from_yaml.training import arguments, component, parallel, place
from near.app.from_yaml.watching import tracker
from near.common.errors import UserError, did_you_mean
from near.common.secrets import is_secret
from near.data.templates.named import TEMPLATES

MODES = ("dynamic_select", "dynamic_weight", "dynamic_mix", "dynamic_reorder", "dynamic_lego", "static")
COMPOSED = ("dynamic_reorder", "dynamic_lego")  # of dynamic_select's rounds here
PREFERENCES = ("rm", "ppo", "dpo", "kto")


def train(file: File) -> None:
    """Translate a file for train.py; UserError where near can't train in the same way."""
    check_kind(file, "train")
    for part in ("train", "eval"):
        file.rename(f"per_gpu_{part}_batch_size", f"per_device_{part}_batch_size")
    mode, plain = _mode(file), is_plain(file)
    _model(file, plain)
    start(file)
    lora = _finetuning(file)
    name = "full" if mode == "static" or mode == "dynamic_mix" and is_static_mix(file) else named(file, mode)
    interleaved = is_interleaved(file, mode)
    chosen = file.typed_value("selector") or name
    targeted = mode == "dynamic_select" and any(selector not in TARGETLESS for selector in chosen.split(","))
    targeted |= mode == "dynamic_lego" and is_targeted(file, name)
    targeted |= mode == "dynamic_weight" and (file.typed_value("weighter") or name) in COMPARING
    pool = data(file, targeted, plain)
    if mode == "dynamic_mix":
        mix(file, name, pool)
    elif mode == "dynamic_reorder":
        reorder(file, name, pool.rows)
    elif mode == "dynamic_lego":
        pipeline(file, name, pool.rows)
    elif interleaved:
        interleave(file, pool)
    else:
        trainer(file, mode, pool.rows)
        component(file, mode, name, pool.rows)
    place(file)
    parallel(file)
    tracker(file)
    arguments(file, "dynamic_mix" if interleaved else "dynamic_select" if mode in COMPOSED else mode, lora)
    _evaluation(file)
    others(file, TRAIN)


def _mode(file: File) -> str:
    mode = str(file.take("train_type", "static"))
    if not file.take("do_train"):
        raise UserError(
            f"{file.path}: it asks for no training (do_train); set do_train: true as LLaMA-Factory requires, or "
            "evaluate a run: python eval.py run=RUN"
        )
    if mode not in MODES:
        raise UserError(f"{file.path}: train_type={mode} is not known{did_you_mean(mode, MODES)}")
    return mode


def is_plain(file: File) -> bool:
    """Whether whole texts are trained (stage: pt); UserError for another stage than sft and pt."""
    stage = file.take("stage", "sft")
    if stage in PREFERENCES:
        raise UserError(f"{file.path}: stage={stage} trains on preferences, which near does not; use sft or pt")
    if stage not in ("sft", "pt"):
        raise UserError(
            f"{file.path}: stage={stage} is not known{did_you_mean(str(stage), ('sft', 'pt', *PREFERENCES))}"
        )
    if stage == "pt" and file.take("packing") is not False:
        file.skip_always(
            "packing",
            "stage: pt packs texts into rows of cutoff_len; here each text is a row, cut at that length",
        )
    return stage == "pt"


def _model(file: File, plain: bool) -> None:
    name = file.take("model_name_or_path")
    if name is None and file.typed_value("model") is None and file.typed_value("model.name_or_path") is None:
        raise UserError(f"{file.path}: model_name_or_path is missing; name a folder or a hub id, or type model=...")
    if name is not None:
        file.put("model.name_or_path", str(name))
    if (revision := file.take("model_revision", "main")) != "main":
        file.put("model.revision", str(revision))
    if file.take("pure_bf16"):
        file.put("model.dtype", "bfloat16")
    if file.take("upcast_layernorm"):
        file.put("model.upcast_layernorm", True)
    _template(file, "model.template", plain)


def _template(file: File, key: str, plain: bool = False) -> None:
    """Translate the template by its name. UserError for one that near does not have, as another would give other
    tokens, unless one was typed. Plain text (`plain`) has none."""
    name = file.take("template")
    typed = file.typed_value(key) is not None or file.typed_value(key.partition(".")[0]) is not None
    if name is None or typed:
        return
    name = str(name)
    if name in TEMPLATES:
        file.put(key, name)
    elif name in MULTIMODAL:
        raise UserError(
            f"{file.path}: template={name} is of a model for images or audio; near trains and merges models of text"
        )
    elif plain and name in TEXT:
        file.notes.append(f"template={name}: plain text has none")
    elif name in TEXT:
        raise UserError(
            f"{file.path}: near has no template={name}, only {', '.join(TEMPLATES)}; use one, or type {key}=null "
            "for the tokenizer's template"
        )
    else:
        raise UserError(f"{file.path}: template={name} is not known{did_you_mean(name, {*TEMPLATES, *TEXT})}")


def _finetuning(file: File) -> bool:
    """Translate the kind of fine-tuning; whether it trains an adapter. UserError for a kind that near does not have,
    and for options that don't go with it."""
    kind, bits = file.take("finetuning_type", "lora"), file.take("quantization_bit")
    if kind not in ("lora", "full"):
        raise UserError(f"{file.path}: finetuning_type={kind} is not supported; use lora or full")
    if bits not in (None, 4, 8):
        raise UserError(f"{file.path}: quantization_bit={bits} is not supported; use 4 or 8")
    if kind == "full":
        for key in ("use_dora", "use_rslora", "pissa_init", "quantization_bit"):
            if file.take(key):
                raise UserError(
                    f"{file.path}: {key}={file.take(key)} goes with finetuning_type: lora only; set that, or leave it "
                    "out"
                )
        file.put("finetuning", "full")
        for key in ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "additional_target"):
            file.take(key)  # LLaMA-Factory ignores them, too
        return False
    dora = file.take("use_dora")
    file.put("finetuning", "qlora" if bits else "dora" if dora else "lora")
    rank = file.whole("lora_rank", 8, 1)
    file.put("finetuning.r", rank)
    file.put("finetuning.lora_alpha", file.number("lora_alpha", 2 * rank) or 2 * rank)
    file.put("finetuning.lora_dropout", file.number("lora_dropout", 0.0))
    target = file.names("lora_target") or ["all"]
    file.put("finetuning.target_modules", "all-linear" if target == ["all"] else target)
    if extra := file.names("additional_target"):
        file.put("finetuning.modules_to_save", extra, added=True)
    if file.take("use_rslora"):
        file.put("finetuning.use_rslora", True, added=True)
    if file.take("pissa_init"):
        if bits:
            raise UserError(f"{file.path}: pissa_init needs weights that are not quantised; leave quantization_bit out")
        steps = file.take("pissa_iter", 16)
        file.put("finetuning.init_lora_weights", "pissa" if steps == -1 else f"pissa_niter_{steps}", added=True)
    if bits:
        _quantization(file, bits, dora)
    return True


def _quantization(file: File, bits: int, dora: object) -> None:
    if dora:
        file.put("finetuning.use_dora", True, added=True)
    if bits == 8:
        file.put("model.quantization.load_in_4bit", False)
        file.put("model.quantization.load_in_8bit", True, added=True)
    if kind := file.take("quantization_type"):
        file.put("model.quantization.bnb_4bit_quant_type", kind)
    if (double := file.take("double_quantization")) is not None:
        file.put("model.quantization.bnb_4bit_use_double_quant", bool(double))


def _evaluation(file: File) -> None:
    answers = bool(file.take("predict_with_generate"))
    file.put("evaluation.answers", answers)
    if answers:
        file.put("evaluation.max_new_tokens", file.whole("max_new_tokens", 1024, 1))
        if file.values.get("do_sample") is not False:
            file.notes.append("answers are greedy, where LLaMA-Factory samples them (do_sample, temperature, top_p)")


def others(file: File, table: dict[str, Key]) -> None:
    """List the keys that are not honoured: secrets, those of the table, and those that this training does not use."""
    for key, value in file.values.items():
        known = table.get(key, Key())
        if is_secret(key):
            file.skip(key, "a secret: put it into an environment variable", value)
        elif key in file.used or known.needless:
            continue
        elif known.reason:
            file.skip(key, known.reason, value, known.quiet)
        elif f"use_{key.partition('_')[0]}" in file.skipped:  # of an optimizer that is skipped
            file.skip_always(key, family(key))
        else:
            file.skip(key, family(key) or "this training does not use it", value)


def merge(file: File) -> None:
    """Translate a file for merge.py."""
    check_kind(file, "merge")
    _template(file, "template")
    for key in ("model_name_or_path", "export_dir"):
        if file.take(key) is not None:
            file.put(key, str(file.take(key)))
    if not file.values.get("adapter_name_or_path") and file.typed_value("adapter_name_or_path") is None:
        raise UserError(f"{file.path}: {_nothing_to_merge(file)}")
    adapters = [adapter_in(path) for path in file.names("adapter_name_or_path")]
    file.put("adapter_name_or_path", adapters[0] if len(adapters) == 1 else adapters)
    for key in ("export_size", "export_device"):
        if file.take(key) is not None:
            file.put(key, file.take(key))
    if file.take("export_legacy_format"):
        file.put("export_legacy_format", True)
    if name := file.take("export_hub_model_id"):
        file.put("push_to_hub", str(name))
    if (dtype := file.take("infer_dtype", "auto")) != "auto":
        file.put("export_dtype", dtype)
    elif file.typed_value("export_dtype") is None:
        file.notes.append(
            "infer_dtype=auto: float32; LLaMA-Factory keeps the model's type (type export_dtype=bfloat16)"
        )
    others(file, MERGE)


def _nothing_to_merge(file: File) -> str:
    model = file.take("model_name_or_path")
    if bits := file.take("export_quantization_bit"):
        return f"near does not quantise (export_quantization_bit={bits}), and there is no adapter_name_or_path to merge"
    return f"there is nothing to merge (no adapter_name_or_path): {model} is a whole model that can be used as it is"
