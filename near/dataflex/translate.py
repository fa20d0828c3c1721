"""A DataFlex or LLaMA-Factory file as overrides of train.py, merge.py and select.py.

What a file leaves out has the other system's default, not ours: the same file is to mean the same run.
"""

from pathlib import Path

from near.config import CONF
from near.dataflex.components import TARGETLESS, named
from near.dataflex.data import data
from near.dataflex.file import File, is_secret
from near.dataflex.keys import MERGE, TRAIN, Key, family
from near.dataflex.training import FIELDS, arguments, component, parallel, place, tracker, trainer
from near.errors import UserError, did_you_mean
from near.signature import keywords
from near.templates import TEMPLATES

MODES = ("dynamic_select", "dynamic_weight", "dynamic_mix", "static")


def train(file: File) -> None:
    """Overrides of train.py; UserError for what could not be trained in a like manner."""
    mode = _mode(file)
    _model(file)
    _finetuning(file)
    name = "full" if mode == "static" else named(file, mode)
    chosen = file.typed_value("selector") or name
    targeted = mode == "dynamic_select" and any(one not in TARGETLESS for one in chosen.split(","))
    rows = data(file, targeted)
    trainer(file, mode, rows)
    component(file, mode, name, rows)
    place(file)
    parallel(file)
    tracker(file)
    arguments(file, mode)
    file.put("evaluation.answers", bool(file.take("predict_with_generate")))
    others(file, TRAIN, keywords(FIELDS) or set())


def _mode(file: File) -> str:
    stage, mode = file.take("stage", "sft"), str(file.take("train_type", "static"))
    if stage != "sft":
        raise UserError(f"{file.path}: stage={stage} is not trained here; only sft is")
    if not file.take("do_train", not file.values.get("do_predict")) or file.values.get("do_train") is False:
        raise UserError(f"{file.path}: it asks for no training (do_train); python eval.py run=RUN evaluates a run")
    if mode not in MODES:
        raise UserError(f"{file.path}: train_type={mode} is not trained here{did_you_mean(mode, MODES)}")
    if not (CONF / "trainer" / f"{mode}.yaml").is_file():
        raise UserError(f"{file.path}: train_type={mode} is not available in this version of near")
    return mode


def _model(file: File) -> None:
    name = file.take("model_name_or_path")
    if name is None and file.typed_value("model") is None and file.typed_value("model.name_or_path") is None:
        raise UserError(f"{file.path}: model_name_or_path is missing; name a folder or a hub id, or type model=...")
    if name is not None:
        file.put("model.name_or_path", str(name))
    if file.take("trust_remote_code"):
        file.put("model.trust_remote_code", True)
    if (revision := file.take("model_revision", "main")) != "main":
        file.put("model.revision", str(revision))
    if file.take("pure_bf16"):
        file.put("model.dtype", "bfloat16")
    _template(file, "model.template")


def _template(file: File, key: str) -> None:
    name = file.take("template")
    if isinstance(name, str) and name in TEMPLATES:
        file.put(key, name)
    elif name is not None:
        file.said.append(f"template={name}: the tokenizer's own chat template is used")


def _finetuning(file: File) -> None:
    kind, bits = file.take("finetuning_type", "lora"), file.take("quantization_bit")
    if kind not in ("lora", "full"):
        raise UserError(f"{file.path}: finetuning_type={kind} is not trained here; use lora or full")
    if bits not in (None, 4, 8):
        raise UserError(f"{file.path}: quantization_bit={bits} can't be had; use 4 or 8")
    dora = file.take("use_dora")
    if kind == "full":
        if bits is not None:
            raise UserError(f"{file.path}: quantization_bit={bits} goes with finetuning_type: lora only")
        file.put("finetuning", "full")
        for key in ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "additional_target"):
            file.take(key)
        return
    choice = "qlora" if bits else "dora" if dora else "lora"
    file.put("finetuning", choice)
    rank = file.number("lora_rank", 8, 1)
    file.put("finetuning.r", rank)
    file.put("finetuning.lora_alpha", file.number("lora_alpha", 2 * rank))
    file.put("finetuning.lora_dropout", file.number("lora_dropout", 0.0))
    target = file.names("lora_target") or ["all"]
    file.put("finetuning.target_modules", "all-linear" if target == ["all"] else target)
    if extra := file.names("additional_target"):
        file.put("finetuning.modules_to_save", extra, added=True)
    if file.take("use_rslora"):
        file.put("finetuning.use_rslora", True, added=True)
    if file.take("pissa_init"):
        steps = file.take("pissa_iter", 16)
        file.put("finetuning.init_lora_weights", "pissa" if steps == -1 else f"pissa_niter_{steps}", added=True)
    if bits:
        _quantization(file, bits, dora)


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


def others(file: File, table: dict[str, Key], fields: set[str]) -> None:
    """Name what is left: secrets, what the table says is not honoured, and keys in neither it nor `fields`."""
    for key, value in file.values.items():
        known = table.get(key)
        if is_secret(key):
            file.skip(key, "a secret: put it into the environment", value)
        elif known is not None and known.reason:
            file.skip(key, known.reason, value, known.quiet)
        elif known is None and key not in file.taken:
            file.skip(key, family(key) or f"unknown key{_near(key, {*table, *fields})}", value, (None,))


def _near(key: str, known: set[str]) -> str:
    hint = did_you_mean(key, known)
    return hint if hint.startswith("; did") else ""


def merge(file: File) -> None:
    """Overrides of merge.py."""
    for key in ("model_name_or_path", "export_dir"):
        if file.take(key) is not None:
            file.put(key, str(file.take(key)))
    adapters = file.names("adapter_name_or_path")
    if len(adapters) > 1:
        raise UserError(f"{file.path}: adapter_name_or_path names {len(adapters)} adapters; merge one after another")
    for adapter in adapters:
        inner = Path(adapter) / "adapter"
        own = not (Path(adapter) / "adapter_config.json").is_file() and (inner / "adapter_config.json").is_file()
        file.put("adapter_name_or_path", str(inner) if own else adapter)
    for key in ("export_size", "export_device"):
        if file.take(key) is not None:
            file.put(key, file.take(key))
    for key in ("export_legacy_format", "trust_remote_code"):
        if file.take(key):
            file.put(key, True)
    if (dtype := file.take("infer_dtype", "auto")) != "auto":
        file.put("export_dtype", dtype)
    _template(file, "template")
    others(file, MERGE, set())
