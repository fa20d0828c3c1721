"""The adapter that the training of a LLaMA-Factory file goes on from (adapter_name_or_path)."""

from pathlib import Path

from near.app.from_yaml.file import File
from near.common.errors import UserError
from near.common.files import read_json

# Keys that LLaMA-Factory ignores where it trains an adapter further, and where the adapter has their values.
OF_ADAPTER = {
    "lora_rank": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target": "target_modules",
    "additional_target": "modules_to_save",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
}


def start(file: File) -> None:
    """Translate the adapter, and whether a new one is trained on top of it. UserError for several, and for another kind
    of fine-tuning."""
    names, new = file.names("adapter_name_or_path"), bool(file.take("create_new_adapter"))
    folder = file.take("adapter_folder")
    if not names:
        return
    kind = file.values.get("finetuning_type") or "lora"
    if kind != "lora":
        raise UserError(
            f"{file.path}: adapter_name_or_path goes with finetuning_type: lora only, not {kind}; set that, or merge "
            f"it first: python merge.py adapter_name_or_path={names[0]} export_dir=OUT"
        )
    if len(names) > 1:
        raise UserError(
            f"{file.path}: adapter_name_or_path names {len(names)} adapters, and training goes on from one; merge them "
            f"first: python merge.py 'adapter_name_or_path=[{','.join(names)}]' export_dir=OUT, and set "
            "model_name_or_path: OUT"
        )
    path = adapter_in(str(Path(file.locate(names[0]) or names[0], *([str(folder)] if folder else []))))
    file.put("model.adapter", path)
    if new:
        file.put("model.adapter_mode", "stack")
    else:
        _same_lora(file, Path(path) / "adapter_config.json")


def _same_lora(file: File, path: Path) -> None:
    """Replace the file's options of LoRA by those of the adapter, as LLaMA-Factory does."""
    if not path.is_file():  # train.py says so
        return
    config = read_json(path)
    theirs = {key: config[name] for key, name in OF_ADAPTER.items() if config.get(name) is not None}
    if any(file.values.get(key) not in (None, value) for key, value in theirs.items()):
        file.notes.append("the options of LoRA are those of the adapter, as LLaMA-Factory has it")
    file.values = {**file.values, **dict.fromkeys(OF_ADAPTER), "pissa_init": None, **theirs}


def adapter_in(path: str) -> str:
    """The folder of the adapter: `path`, or adapter/ in it if it is a run's folder."""
    inner = Path(path) / "adapter"
    is_run = not (Path(path) / "adapter_config.json").is_file() and (inner / "adapter_config.json").is_file()
    return str(inner) if is_run else path
