"""DataFlex's components.yaml: the translation of the params of a selector, weighter or mixer."""

import math
from pathlib import Path

import yaml
from omegaconf._utils import get_yaml_loader  # noqa: PLC2701 - as in file.py

from near.app.from_yaml.file import File
from near.app.from_yaml.keys import COMPONENTS, TABLES
from near.common.config import CONF
from near.common.errors import UserError, did_you_mean
from near.common.records import SelectionManifest

TARGETLESS = ("random", "loss", "delta_loss", "full", "coincide", "custom", "first")  # selectors that need no target
COMPARING = ("adapt", "joint_update_aware")  # weighters that need one


def named(file: File, mode: str) -> str:
    """The component that a file of `mode` (its train_type) names; UserError for none, or an unknown one."""
    kinds = {"dynamic_weight": "weighter", "dynamic_mix": "mixer", "dynamic_reorder": "reorder"}
    kind = "pipeline" if mode == "dynamic_lego" else kinds.get(mode, "selector")
    table = COMPONENTS[f"{kind}s"] if "any" not in COMPONENTS[f"{kind}s"] else {}  # pipelines have names of the user's
    name = str(file.take("component_name", "")).lower()
    if not name:
        raise UserError(f"{file.path}: component_name is missing; name a {kind}{did_you_mean('', table)}")
    if table and name not in table:
        raise UserError(f"{file.path}: component_name={name} is not a {kind} here{did_you_mean(name, table)}")
    return name


def params_of(file: File, kind: str, name: str) -> dict:
    """The params of a component in the file's components.yaml.

    Args:
        file: whose components_cfg_file it is.
        kind: selectors, weighters or mixers.
        name: of the component.

    Raises:
        UserError: the components.yaml can't be read or does not contain it.
    """
    named = file.take("components_cfg_file")
    path = None if named is None else file.locate(str(named))
    if path is None:
        if named is not None:
            file.skip("components_cfg_file", f"{named} does not exist: DataFlex's published params are used")
        if name not in TABLES["published"][kind] and "any" in COMPONENTS[kind]:
            known = TABLES["published"][kind]
            raise UserError(f"component_name={name} is not among DataFlex's {kind}{did_you_mean(name, known)}")
        return dict(TABLES["published"][kind].get(name, {}))
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), get_yaml_loader())
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"components_cfg_file={path} can't be read as YAML ({problem}); fix it") from error
    entries = content.get(kind) if isinstance(content, dict) else None
    entries = entries if isinstance(entries, dict) else {}
    if name not in entries:
        raise UserError(f"component_name={name} is not among the {kind} of {path}{did_you_mean(name, entries)}")
    params = (entries[name].get("params") if isinstance(entries[name], dict) else entries[name]) or {}
    if not isinstance(params, dict):
        raise UserError(
            f"components_cfg_file={path}: the params of {name} are not a mapping; write params: {{key: value}}"
        )
    return {**TABLES["defaults"].get(name, {}), **params}


def selector(file: File, name: str) -> None:
    """Translate a selector and its params. UserError as for `params_of`."""
    params = params_of(file, "selectors", name)
    _choose(file, "selector", name)
    _translate(file, "selectors", name, params)


def weighter(file: File, name: str) -> None:
    """Translate a weighter (`loss` by its strategy) and its params; UserError for an unknown strategy."""
    params = params_of(file, "weighters", name)
    if name == "loss":
        params = {"strategy": "linupper", **params}
        _choose(file, "weighter", params.pop("strategy"))
    elif params.get("objective_mode") == "uniform":
        file.put("weighter", "uniform")
        return
    else:
        _choose(file, "weighter", name)
    _translate(file, "weighters", name, params)


def mixer(file: File, name: str) -> None:
    """Translate a mixer and its params. UserError as for `params_of`."""
    params = params_of(file, "mixers", name)
    _choose(file, "mixer", name)
    _translate(file, "mixers", name, {"proportions": None, **params} if name == "static" else params)


def _choose(file: File, group: str, choice: object) -> None:
    if own := TABLES["names"].get(choice, {}).get(f"{group}s"):
        file.notes.append(
            f"component_name={choice}: {group}={own}, what DataFlex's example does; of code of your own type "
            f"{group}._target_"
        )
        choice = own
    choices = [path.stem for path in (CONF / group).glob("*.yaml")]
    if choice not in choices:
        raise UserError(f"{file.path}: {group}={choice} is not known{did_you_mean(str(choice), choices)}")
    file.put(group, choice)


def _translate(file: File, kind: str, name: str, params: dict) -> None:
    table = COMPONENTS[kind][name]
    for option, value in TABLES["sets"].get(name, {}).items():
        file.put(option, value)
    for key, value in params.items():
        known = table.get(key)
        if known is None and key != "cache_dir":
            file.skip(f"{name}.{key}", f"unknown param{did_you_mean(key, table)}", value)
        elif known is not None and known.becomes:
            if key in _SPECIAL:
                _SPECIAL[key](file, name, key, value, params)
            else:
                file.put(known.becomes.split(",")[0], value)
        elif known is not None and known.reason and not (key == "seed" and value == file.seed):
            file.skip(f"{name}.{key}", known.reason, value, known.quiet)


def _gradient_type(file: File, name: str, key: str, value: object, params: dict) -> None:
    if value not in ("adam", "sgd"):
        file.skip(f"{name}.{key}", "only adam and sgd are supported", value)
    else:
        file.put("scoring.adam", value == "adam")


def _indices_path(file: File, name: str, key: str, value: object, params: dict) -> None:
    path = None if value is None else file.locate(str(value))
    manifest = None if path is None else Path(path).parent / "manifest.json"
    if path is None:
        if value is not None:
            file.skip(f"{name}.{key}", f"{value} does not exist: the matrix is computed here")
    elif not manifest.is_file():
        file.skip(f"{name}.{key}", f"{path} has no manifest.json that names its rows: the matrix is computed here")
    else:
        file.put("indices_path", path)
        file.put("max_K", SelectionManifest.read(manifest).max_K)


def _reward(file: File, name: str, key: str, value: object, params: dict) -> None:
    if value != "api":
        file.skip(f"{name}.{key}", "near runs no judge in a process: serve it and set selector.judge.server.url", value)
        return
    file.put("selector.reward", "judge")
    api = (params.get("reward_backend_params") or {}).get("api") or {}
    if api.get("api_url"):
        file.put("selector.judge.server.url", str(api["api_url"]).removesuffix("/chat/completions"))
    if api.get("model_name"):
        file.put("selector.judge.server.model", api["model_name"])
    variable = api.get("api_key")
    if isinstance(variable, str) and variable.isupper() and variable.replace("_", "").isalnum() and len(variable) < 40:
        file.put("selector.judge.server.api_key_env", variable)
    elif variable:
        file.skip(f"{name}.api_key", "a secret: put it into the environment variable JUDGE_API_KEY")


def _proportions(file: File, name: str, key: str, value: object, params: dict) -> None:
    sets = file.names("dataset")
    value = [1.0] * len(sets) if value is None else value
    if not isinstance(value, list) or len(value) != len(sets):
        raise UserError(
            f"{file.path}: {key}={value} of {name} is not a list of {len(sets)} numbers; give one for each data set"
        )
    file.put("mixer.proportions", dict(zip(sets, value, strict=True)))


def _reference(file: File, name: str, key: str, value: object, params: dict) -> None:
    if value is not None and (path := file.locate(str(value))):
        file.put("mixer.reference", path)
    elif value is not None:
        file.skip(f"{name}.{key}", f"{value} does not exist: the base model is the reference")


def _task_boundaries(file: File, name: str, key: str, value: object, params: dict) -> None:
    sets = file.names("eval_dataset")
    if value is None and len(sets) > 1:
        file.put("selector.aggregate", "mean")  # one task's vote is that of its mean
    elif value is not None and (not isinstance(value, list) or len(value) != len(sets)):
        file.skip(f"{name}.{key}", "the tasks are the data sets of eval_dataset; name one for each", value)


def _embedding_model(file: File, name: str, key: str, value: object, params: dict) -> None:
    if value is not None:
        file.put("embedder.model", file.locate(str(value)) or str(value))


def _dtype(file: File, name: str, key: str, value: object, params: dict) -> None:
    dtypes = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
    if value in dtypes:
        file.put("embedder.dtype", dtypes[value])
    elif value not in ("auto", None):
        file.skip(f"{name}.{key}", f"not one of auto, {', '.join(dtypes)}", value)


def _layers(file: File, name: str, key: str, value: object, params: dict) -> None:
    if isinstance(value, list) and all(isinstance(number, int) and number > 0 for number in value):
        file.put("embedder.layers", value)
    elif value is not None:
        file.skip(f"{name}.{key}", "layers are numbered from 1: 5 of them are taken", value)


def _target_rows(file: File, name: str, key: str, value: object, params: dict) -> None:
    batches, size = (
        file.checked(f"{name}.{part}", params[part], -math.inf) for part in ("target_num_batches", "target_batch_size")
    )
    file.put("weighter.target_rows", batches * size if batches > 0 else None)


def _pooling(file: File, name: str, key: str, value: object, params: dict) -> None:
    file.put("weighter.pooling", "mean" if value == "mean_pool" else value)


def _objective(file: File, name: str, key: str, value: object, params: dict) -> None:
    file.put("weighter.objective", str(value).removesuffix("_only"))


def _sample(file: File, name: str, key: str, value: object, params: dict) -> None:
    steps, size, most = (
        file.checked(f"{name}.{part}", params[part], 1) for part in ("collect_steps", "eval_batch_size", "eval_samples")
    )
    file.put("mixer.sample", min(steps * size, most))


_SPECIAL = {
    "gradient_type": _gradient_type,
    "indices_path": _indices_path,
    "reward_model_backend": _reward,
    "reward_backend_params": lambda *_: None,  # read with the backend
    "proportions": _proportions,
    "reference_model_path": _reference,
    "task_boundaries": _task_boundaries,
    "embedding_model_name_or_path": _embedding_model,
    "embedding_model_dtype": _dtype,
    "embedding_layers": _layers,
    "target_batch_size": _target_rows,
    "target_num_batches": _target_rows,
    "pooling": _pooling,
    "objective_mode": _objective,
    "collect_steps": _sample,
    "eval_batch_size": _sample,
}
