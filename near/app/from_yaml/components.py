"""DataFlex's components.yaml: what the params of a selector, weighter or mixer become."""

from pathlib import Path

import yaml
from omegaconf._utils import get_yaml_loader

from near.app.from_yaml.file import File
from near.app.from_yaml.keys import Key, cannot, needless, to
from near.common.config import CONF
from near.common.errors import UserError, did_you_mean
from near.common.files import read_json

QUIET = needless("changes no result")
GRADIENTS = {
    "gradient_type": to("scoring.adam (adam: true, sgd: false)"),
    "proj_dim": to("scoring.dim"),
    "seed": to("scoring.seed, of the projection"),
    "save_interval": QUIET,
}
LOSSES = {"score_batch_size": QUIET, "score_num_workers": QUIET}
PARAMS: dict[str, dict[str, Key]] = {
    "near": {"indices_path": to("indices_path, of a matrix that select.py wrote; else the matrix is made")},
    "less": GRADIENTS,
    "cluster_less": {
        **GRADIENTS,
        "cluster_size": to("selector.cluster_size"),
        "num_clusters": to("selector.clusters"),
        "samples_per_cluster": to("selector.members"),
        "clustering_batch_size": QUIET,
        "assignment_chunk_size": QUIET,
        "clustering_max_iter": cannot("k-means runs 20 rounds", 20),
        "clustering_method": cannot("k-means", "kmeans"),
        "representative_strategy": cannot("members are drawn by the seed", "random"),
        "lsh_num_bits": cannot("k-means"),
        "embedding_model_name_or_path": cannot("embedder says it"),
        "embedding_model_dtype": cannot("embedder.dtype says it", "auto"),
        "embedding_layer": cannot("embedder says it", -1),
    },
    "nice": {
        **GRADIENTS,
        "mc_samples": to("selector.samples"),
        "generation_temperature": to("selector.temperature"),
        "max_new_tokens": to("selector.max_new_tokens"),
        "reward_model_backend": to("api: selector.reward=judge; local_vllm: not honoured"),
        "reward_backend_params": to("selector.judge.server.url, model, api_key_env (of api)"),
        "max_prompt_length": cannot("data.cutoff_len says it", 4096),
        "policy_model_path": cannot("the model that trains answers"),
        "reward_model_path": cannot("selector.judge.server says it"),
        "prompt_template": cannot("the chat template asks"),
        "reward_prompt_with_ref": cannot("selector.judge.prompt says it"),
        "reward_prompt_without_ref": cannot("selector.judge.prompt says it"),
    },
    "loss": {
        **LOSSES,
        "focus": to("selector.focus"),
        "focus_weight": to("selector.focus_weight"),
        "quantiles": to("selector.quantiles"),
        "temperature": to("selector.temperature"),
        "replacement": cannot("a round's rows are drawn without replacement"),
    },
    "delta_loss": {**LOSSES, "window_size": to("selector.window_size")},
    "tsds": {"probs_path": cannot("probabilities are made here; selector.alpha, C, sigma and kde_K say how")},
    "random": {
        "seed": cannot("seed says it"),
        "replacement": cannot("a round's rows are drawn without replacement"),
    },
}
WEIGHTERS: dict[str, dict[str, Key]] = {
    "loss": {"strategy": to("weighter= (linupper, uniform, quadratic, extremes)"), "delta": to("weighter.delta")}
}
MIXERS: dict[str, dict[str, Key]] = {
    "static": {"proportions": to("mixer.proportions, by data set")},
    "random": {"seed": cannot("seed says it")},
    "doremi": {
        "reference_model_path": to("mixer.reference"),
        "reweight_eta": to("mixer.eta"),
        "reweight_eps": to("mixer.c"),
    },
    "odm": {
        "alpha": to("mixer.alpha"),
        "warmup_steps": cannot("trainer.warmup_step says it"),
        "reward_scale": cannot("rewards are losses as they are", 1, 1.0),
        "min_exploration_rate": cannot("Exp3's own rate of exploration"),
        "initial_proportions": cannot("the first round's proportions are even"),
    },
}
# Of params that a file leaves out, where near's own default is another.
DEFAULTS: dict[str, dict] = {
    "less": {"proj_dim": 8192, "seed": 42},
    "cluster_less": {"seed": 42, "cluster_size": 64, "samples_per_cluster": 3},
    "nice": {"proj_dim": 8192, "seed": 42, "max_new_tokens": 512},
}
# The params that DataFlex's own components.yaml holds, for a file that names one which is not at hand.
PUBLISHED: dict[str, dict[str, dict]] = {
    "selectors": {
        "less": {"gradient_type": "adam", "proj_dim": 4096, "seed": 123},
        "cluster_less": {
            "gradient_type": "adam",
            "proj_dim": 4096,
            "seed": 42,
            "cluster_size": 64,
            "samples_per_cluster": 4,
        },
        "nice": {"gradient_type": "adam", "proj_dim": 4096, "seed": 123, "mc_samples": 4, "max_new_tokens": 512},
        "loss": {"focus": "medium"},
        "delta_loss": {"window_size": 0.2},
    },
    "weighters": {"loss": {"strategy": "linupper", "delta": 1.0}},
    "mixers": {
        "doremi": {"reweight_eta": 0.1, "reweight_eps": 0.01},
        "odm": {"alpha": 0.9, "reward_scale": 15.0, "warmup_steps": 2000, "min_exploration_rate": 0.03},
    },
}
TARGETLESS = ("random", "loss", "delta_loss", "full")  # selectors that look at no target


def named(file: File, mode: str) -> str:
    """The component that a file of `mode` (its train_type) names; UserError where it names none, or one not here."""
    kind, table = {"dynamic_weight": ("weighter", WEIGHTERS), "dynamic_mix": ("mixer", MIXERS)}.get(
        mode, ("selector", PARAMS)
    )
    name = str(file.take("component_name", "")).lower()
    if not name:
        raise UserError(f"{file.path}: component_name is missing; name a {kind}{did_you_mean('', table)}")
    if name not in table:
        raise UserError(f"{file.path}: component_name={name} is no {kind} here{did_you_mean(name, table)}")
    return name


def params_of(file: File, kind: str, name: str) -> dict:
    """The params of component `name` of `kind` (selectors, weighters, mixers) in the file's components.yaml.

    Raises UserError for a components.yaml that can't be read or does not hold it.
    """
    given = file.take("components_cfg_file")
    path = None if given is None else file.found(str(given))
    if path is None:
        if given is not None:
            file.skip("components_cfg_file", f"{given} is not there: the values of DataFlex's own are taken")
        return dict(PUBLISHED[kind].get(name, {}))
    try:
        told = yaml.load(Path(path).read_text(encoding="utf-8-sig"), get_yaml_loader())
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"components_cfg_file={path} can't be read as YAML ({problem}); mend it") from error
    held = told.get(kind) if isinstance(told, dict) else None
    held = held if isinstance(held, dict) else {}
    if name not in held:
        raise UserError(f"component_name={name} is not among the {kind} of {path}{did_you_mean(name, held)}")
    params = (held[name].get("params") if isinstance(held[name], dict) else held[name]) or {}
    if not isinstance(params, dict):
        raise UserError(f"components_cfg_file={path}: the params of {name} are not options by name")
    return {**DEFAULTS.get(name, {}), **params}


def selector(file: File, name: str) -> None:
    """`selector=name` and what its params become; UserError as of `params_of`."""
    params = params_of(file, "selectors", name)
    file.put("selector", name)
    _translate(file, name, PARAMS[name], params)


def weighter(file: File, name: str) -> None:
    """`weighter=` by its strategy; UserError where there is no such strategy here."""
    params = {"strategy": "linupper", **params_of(file, "weighters", name)}
    _choose(file, "weighter", params.pop("strategy"))
    _translate(file, name, WEIGHTERS[name], params)


def mixer(file: File, name: str) -> None:
    """`mixer=name` and what its params become; UserError as of `params_of`."""
    params = params_of(file, "mixers", name)
    _choose(file, "mixer", name)
    _translate(file, name, MIXERS[name], {"proportions": None, **params} if name == "static" else params)


def _choose(file: File, group: str, choice: object) -> None:
    there = [path.stem for path in (CONF / group).glob("*.yaml")]
    if choice not in there:
        raise UserError(f"{file.path}: {group}={choice} is not there{did_you_mean(str(choice), there)}")
    file.put(group, choice)


def _translate(file: File, name: str, table: dict[str, Key], params: dict) -> None:
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
        file.skip(f"{name}.{key}", "adam and sgd only", value)
    else:
        file.put("scoring.adam", value == "adam")


def _indices_path(file: File, name: str, key: str, value: object, params: dict) -> None:
    path = None if value is None else file.found(str(value))
    manifest = None if path is None else Path(path).parent / "manifest.json"
    if path is None:
        if value is not None:
            file.skip(f"{name}.{key}", f"{value} is not there: the matrix is made here")
    elif not manifest.is_file():
        file.skip(
            f"{name}.{key}", f"{path} has no manifest.json that says whose rows it holds: the matrix is made here"
        )
    else:
        file.put("indices_path", path)
        file.put("max_K", read_json(manifest)["max_K"])


def _reward(file: File, name: str, key: str, value: object, params: dict) -> None:
    if value != "api":
        file.skip(f"{name}.{key}", "no judge runs in the process: serve it and give selector.judge.server.url", value)
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
        raise UserError(f"{file.path}: {key}={value} of {name} are not one number for each of {len(sets)} data sets")
    file.put("mixer.proportions", dict(zip(sets, value, strict=True)))


def _reference(file: File, name: str, key: str, value: object, params: dict) -> None:
    if value is not None and (path := file.found(str(value))):
        file.put("mixer.reference", path)
    elif value is not None:
        file.skip(f"{name}.{key}", f"{value} is not there: the base model is the reference")


_SPECIAL = {
    "gradient_type": _gradient_type,
    "indices_path": _indices_path,
    "reward_model_backend": _reward,
    "reward_backend_params": lambda *_: None,  # read with the backend
    "proportions": _proportions,
    "reference_model_path": _reference,
}
