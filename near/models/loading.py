"""Loads the base model, its tokenizer, and adapters; `load_start`: what training starts from."""

import importlib.util
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import safe_open
from transformers.integrations import is_deepspeed_zero3_enabled

from near.common.errors import UserError, as_user_error, reading
from near.common.extras import install
from near.common.files import read_json
from near.common.text import plural
from near.data.templates.named import set_template, set_thinking
from near.models.hub import model_folder, resolve_dtype
from near.models.patterns import check_patterns
from near.models.pissa import keep_initial
from near.models.start import adapter_digest, check_beneath, mode_of, start_folder
from near.models.tied_embeddings import retie, untie


def base_folder(cfg: DictConfig, cache_dir: str) -> str:
    """The folder of the base model; a hub model is downloaded."""
    return model_folder("model.name_or_path", cfg.name_or_path, cfg.revision, cache_dir, "model=smollm2")


def model_config(cfg: DictConfig, cache_dir: str):
    """transformers' configuration of the base model; UserError if it can't be read."""
    from transformers import AutoConfig

    with reading(f"model.name_or_path={cfg.name_or_path}"):
        return AutoConfig.from_pretrained(base_folder(cfg, cache_dir), trust_remote_code=cfg.trust_remote_code)


def load_tokenizer(cfg: DictConfig, cache_dir: str, folder: str | None = None, template_key: str = "model.template"):
    """The base model's tokenizer with a chat template and a padding token (default: its end token).

    Args:
        cfg: the node `model` of the configuration.
        cache_dir: where built-in assets are cached.
        folder: load the tokenizer from here; None: from the base model's folder.
        template_key: the option that sets the chat template, for error messages.

    Raises:
        UserError: the tokenizer can't be loaded, is not a fast one, or has no chat template.
    """
    from transformers import AutoTokenizer

    folder = base_folder(cfg, cache_dir) if folder is None else folder
    options = {"split_special_tokens": True} if cfg.get("split_special_tokens") else {}
    with reading(f"the tokenizer in {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=cfg.trust_remote_code, **options)
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer in {folder} is not a fast one, which is needed to locate answers in a chat; use a "
            "model with tokenizer.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_template(tokenizer, cfg.template, template_key)
    set_thinking(tokenizer, cfg.get("enable_thinking"))
    return tokenizer


def check_quantization(cfg: DictConfig, finetuning: DictConfig) -> None:
    """UserError if `cfg.quantization` is set but not installed, or does not work with this kind of fine-tuning."""
    if cfg.get("quantization") is None:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantization needs bitsandbytes; {install('qlora')}")
    if "_target_" not in finetuning:
        raise UserError("finetuning=full can't train quantised weights; set model.quantization=null")


def load_base(cfg: DictConfig, cache_dir: str, device: str | None = None):
    """The base causal language model; with model.adapter_mode=stack, model.adapter is merged into it.

    Args:
        cfg: the node `model` of the configuration; `quantization` is a BitsAndBytesConfig or None.
        cache_dir: where built-in assets are cached.
        device: None: the accelerator, else the CPU.

    Raises:
        UserError: the model or the adapter is missing or can't be read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder, dtype = base_folder(cfg, cache_dir), getattr(torch, resolve_dtype(cfg.dtype))
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    quantised = _quantised(cfg, dtype, device)
    stacked = mode_of(cfg) == "stack"
    with reading(f"model.name_or_path={cfg.name_or_path}"):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if stacked else dtype, trust_remote_code=cfg.trust_remote_code, **quantised
        )
    if stacked:
        model = with_merged(model, start_folder(cfg), dtype)
    if cfg.get("upcast_layernorm"):
        upcast_norms(model)
    if not quantised:
        return model if is_deepspeed_zero3_enabled() else model.to(device)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # otherwise a forward pass without gradients packs the weights into a form that has no gradient
            layer.support_avx512bf16_for_cpu = False
    return model


def upcast_norms(model) -> None:
    """Convert normalisation layers to float32; their output keeps the dtype of their input."""
    import torch

    def back(layer, inputs, output):
        return output.to(inputs[0].dtype)

    for name, layer in model.named_modules():
        weights = dict(layer.named_parameters(recurse=False))
        if "norm" in f"{name.rpartition('.')[2]} {type(layer).__name__}".lower() and weights:
            layer.to(torch.float32)
            layer.register_forward_hook(back)


def _quantised(cfg: DictConfig, dtype, device) -> dict:
    """Arguments of from_pretrained for quantisation; {} without it."""
    if cfg.get("quantization") is None:
        return {}
    # quantised weights are stored in the dtype of all others, so that ZeRO-3 and FSDP can shard them
    numbers = {"bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_storage": dtype}
    made = {"quantization_config": instantiate(cfg.quantization, **numbers)}
    return made if is_deepspeed_zero3_enabled() else made | {"device_map": {"": device}}


def load_start(cfg: DictConfig, cache_dir: str, device: str | None = None, finetuning: DictConfig | None = None):
    """The model that training starts from: the base, with model.adapter (its weights require gradients) if it is set.

    Args:
        cfg, cache_dir, device: as for load_base.
        finetuning: how the adapter is trained further (a peft config of the same LoRA, by check_start); None: as its
            files say.

    Raises:
        UserError: the model or the adapter is missing, can't be read, or they don't fit.
    """
    model = load_base(cfg, cache_dir, device)
    if mode_of(cfg) != "continue":
        return model
    config = None if finetuning is None else instantiate(finetuning, _convert_="all")
    if finetuning is not None:
        model = _prepared(model)
    return with_adapter(model, start_folder(cfg), trainable=True, config=config)


def with_merged(model, folder: Path, dtype):
    """A float32 `model` with the adapter in `folder` merged into its weights, in `dtype`: the weights of an export."""
    adapted = with_adapter(model, folder).eval()
    untie(adapted)
    return _in_dtype(merge_adapter(adapted, folder), dtype).requires_grad_()  # peft froze all weights


def merge_adapter(adapted, folder: Path):
    """The base of `adapted` with its adapter, that of `folder`, merged into the weights. UserError if it can't be."""
    errors = (ValueError, AttributeError, NotImplementedError, RuntimeError)
    with as_user_error(errors, f"{folder} cannot be merged", "name the base it was trained on"):
        model = adapted.merge_and_unload()  # safe_merge would copy weights to find NaN, which evaluations find
    retie(model)
    model.merged_adapter = adapter_digest(folder)  # check_beneath of near/models/start.py reads it
    return model


def _in_dtype(model, dtype):
    """A float32 model in `dtype`, by transformers' rules for what stays in float32."""
    import torch

    if dtype == torch.float32:
        return model
    kind, weights = type(model), model.state_dict()
    converted = kind.from_pretrained(None, config=model.config, state_dict=weights, dtype=dtype)
    converted.generation_config, converted.merged_adapter = model.generation_config, model.merged_adapter
    converted.config.name_or_path = model.config.name_or_path
    return converted


def _prepared(model):
    """`model`, prepared for training an adapter on it if it is quantised."""
    if not getattr(model, "is_quantized", False):
        return model
    from peft import prepare_model_for_kbit_training

    # norms and embeddings become float32; trainer.args decides on gradient checkpointing
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def add_finetuning(model, finetuning: DictConfig):
    """`model` with a new adapter by `finetuning` (a peft config), or unchanged if all weights are trained, or if an
    adapter is trained further.

    Raises UserError if peft refuses the configuration.
    """
    if "_target_" not in finetuning or hasattr(model, "peft_config"):
        return model
    from peft import get_peft_model

    model = _prepared(model)
    with as_user_error((ValueError, TypeError), "finetuning: peft refuses these values", "change them"):
        adapted = get_peft_model(model, instantiate(finetuning, _convert_="all"))
    keep_initial(adapted)
    return adapted


def with_adapter(model, path: str | Path, trainable: bool = False, config=None):
    """`model` with the adapter in folder `path`.

    Args:
        model: the base model.
        path: a folder with adapter_config.json and adapter_model.safetensors.
        trainable: whether the adapter's weights require gradients.
        config: its peft config; None: that of the folder.

    Raises:
        UserError: files are missing or damaged, or the adapter was made for another model, or on top of another
            adapter that is not merged into `model`.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    path = Path(path)
    weights = path / "adapter_model.safetensors"
    if not (path / "adapter_config.json").is_file() or not weights.is_file():
        raise UserError(
            f"adapter_name_or_path={path}: no adapter_config.json or no adapter_model.safetensors; name an "
            "adapter's folder"
        )
    check_beneath(model, path)
    check_patterns(path, read_json(path / "adapter_config.json"), (name for name, _ in model.named_modules()))
    misfit = f"adapter_name_or_path={path} does not fit the model {model.name_or_path}"
    with reading(weights), safe_open(weights, framework="numpy") as file:
        stored = set(file.keys())
    with reading(f"{misfit}: it", "name the base it was trained on"):
        adapted = PeftModel.from_pretrained(model, str(path), is_trainable=trainable, config=config)
    known = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # an adapter may include embeddings
    whole = set(get_peft_model_state_dict(adapted, save_embedding_layers=True)) | known
    if odd := (stored - whole) | (known - stored):
        raise UserError(
            f"{misfit} ({plural(len(odd), 'weight differs', 'weights differ')}, first {min(odd)}); name the "
            "base it was trained on"
        )
    return adapted
