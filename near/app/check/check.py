"""The check of a composed configuration: every fault in one error, before anything heavy is imported."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from near.app.check.modes import mode_faults
from near.app.check.option_types import CARRIED, HYDRA_KEYS, RUNTIME, below
from near.app.check.option_values import ShapeFault, type_faults
from near.common import secrets
from near.common.config import CONF, choices_with, flat_keys, is_refused, raw_nodes, select
from near.common.errors import UserError, did_you_mean
from near.common.files import expanded_user, refuse_special, refuse_special_in
from near.common.foreign import allowed_modules, read_config
from near.common.moved import update_targets
from near.common.signature import attribute, keywords
from near.data.builtin.assets import generated_fault
from near.data.sources.paths import absence
from near.evaluation import sandbox
from near.models.optimizers import optimizer_faults
from near.training.options import ELSEWHERE, REFUSED, SCHEDULED


def check(cfg: DictConfig, typed: Sequence[str] = ()) -> None:
    """Check a composed configuration; imports nothing heavy.

    Args:
        cfg: it may change: whole numbers written as 1e3 become integers.
        typed: the overrides of the command, to detect those that add a key that is never read.

    Raises:
        UserError: one, that lists every fault.
    """
    if isinstance(cfg.get("sweeps"), DictConfig):  # of a sweep Hydra moves these keys to the top, under hydra.sweeper
        raise UserError("sweeps=wandb/NAME is for W&B's agents: wandb sweep sweeps/wandb/NAME.yaml; or use sweeps=NAME")
    update_targets(cfg)
    faults = [f"{key} is missing: set {key}=..." for key in _missing(OmegaConf.to_container(cfg))]
    whole = not faults
    try:
        allowed_modules(cfg.get("allow_targets"))
    except UserError as error:
        faults.append(str(error))
    faults += type_faults(cfg)
    if whole and not any(isinstance(fault, ShapeFault) for fault in faults):  # the other checks rely on the shape
        faults += _target_faults(cfg, "") + _unread_faults(cfg, typed) + secrets.faults(cfg)
        faults += _named_set_faults(cfg) + _schedule_faults(cfg) + _subset_faults(cfg) + mode_faults(cfg, typed)
        faults += _path_faults(cfg, "") + _start_faults(cfg, typed)
        if select(cfg, "data.train_on_prompt") is True and select(cfg, "data.mask_history") is True:
            faults.append("data.train_on_prompt=true trains on what data.mask_history=true leaves out; set one of them")
    if faults:
        raise UserError("; ".join(faults))


def read_run_config(path: Path, allow_targets: object = None) -> DictConfig:
    """The configuration at `path`, a run's config.yaml, checked like a composed one."""
    cfg = read_config(path, allow_targets)
    check(cfg)
    return cfg


def _missing(node: object, path: str = "") -> list[str]:
    """Keys without a value (???). OmegaConf's missing_keys would resolve interpolations."""
    if isinstance(node, dict):
        return sorted(key for k, v in node.items() for key in _missing(v, below(path, k)))
    if isinstance(node, list):
        return [key for i, v in enumerate(node) for key in _missing(v, f"{path}[{i}]")]
    return [path] if node == "???" else []


def _present(cfg: DictConfig, key: str) -> bool:
    """Whether `cfg` has `key`, null included; values that may not be read count as absent."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent, throw_on_missing=False) if parent else cfg
    if not isinstance(node, DictConfig) or leaf not in node or OmegaConf.is_missing(node, leaf):
        return False
    return not is_refused(node._get_node(leaf)._value())


NAMED_SETS = ("data.more_eval", "data.decontaminate.benchmarks")  # sources by names that the user chooses


def _named_set_faults(cfg: DictConfig) -> list[str]:
    """Faults of further evaluation sets and benchmarks, whose names are the user's choice."""
    known, faults = OmegaConf.load(CONF / "data" / "source" / "default.yaml"), []
    for option in NAMED_SETS:
        for name, source in (select(cfg, option) or {}).items():
            where = f"{option}.{name}"
            if not isinstance(source, DictConfig):
                if not isinstance(source, str | ListConfig):
                    faults.append(f"{where}={source} is not a path, or a mapping with one; give one of them")
                continue
            if source.get("path") is None:
                faults.append(f"{where}.path is missing: set it to a file")
            faults += [
                f"{below(where, key)} is not in the configuration{did_you_mean(key, known)}"
                for key in source
                if key not in known
            ]
    return faults


FREE = (
    "parallel.",
    "data.more_eval.",
    "data.decontaminate.benchmarks.",
    "evaluation.graders.",
    "evaluation.engine.",
)  # names are the user's, or a library's


def _unread_faults(cfg: DictConfig, typed: Sequence[str]) -> list[str]:
    """Keys added with + to a node that has no class: no code would read them."""
    faults = []
    for override in typed:
        key = override.lstrip("+").split("=", 1)[0]
        others = key == "experiment" or key.startswith(FREE)
        if not override.startswith("+") or "@" in key or "/" in key or others:
            continue
        parents = key.split(".")[:-1]
        nodes = [cfg, *(select(cfg, ".".join(parents[: i + 1])) for i in range(len(parents)))]
        if not any(isinstance(n, DictConfig) and "_target_" in n for n in nodes):
            known = [k for k in flat_keys(cfg) if k != key and k.rpartition(".")[0] == ".".join(parents)]
            faults.append(f"{key} is not in the configuration{did_you_mean(key, known)}")
    return faults


# Keys whose values are paths, and those among them that may name a folder whose files are all read.
PATHS = {*("path", "dataset_info", "indices_path", "resume", "run", "runs", "adapter_name_or_path", "name_or_path")}
PATHS |= {*("model_name_or_path", "model", "export_dir", "output_dir", "cache_dir", "include_path", "reference")}
PATHS |= {"checkpoints", "adapter"}
READ = {
    "adapter",
    "model",
    "resume",
    "run",
    "adapter_name_or_path",
    "name_or_path",
    "model_name_or_path",
    "checkpoints",
}


def _path_faults(node: DictConfig | ListConfig, path: str, name: str = "") -> list[str]:
    """Faults of paths: devices, FIFOs and the like, and homes of unknown users. No file is opened."""
    faults = []
    for key, child in raw_nodes(node):
        full = below(path, key)
        option = name if name in PATHS else str(key)  # of a list or mapping of paths, the key above it
        if isinstance(child, DictConfig | ListConfig):
            if not (child._is_none() or child._is_missing() or child._is_interpolation()):
                faults += _path_faults(child, full, option)
        elif is_refused(child._value()) or child._is_missing():
            continue
        elif isinstance(value := node[key] if child._is_interpolation() else child._value(), str) and (
            value or option in PATHS
        ):
            faults += [fault] if (fault := _path_fault(value, full, option)) else []
    return faults


def _start_faults(cfg: DictConfig, typed: Sequence[str]) -> list[str]:
    """Several adapters as a start, and a mode without one. That the adapter fits is checked by the script."""
    adapter, mode = select(cfg, "model.adapter"), select(cfg, "model.adapter_mode")
    if isinstance(adapter, ListConfig) or isinstance(adapter, str) and "," in adapter and not Path(adapter).exists():
        names = ",".join(map(str, adapter)) if isinstance(adapter, ListConfig) else adapter
        return [
            f"model.adapter=[{names}] names several adapters, and training goes on from one; merge them first: python "
            f"merge.py 'adapter_name_or_path=[{names}]' export_dir=OUT, then model.name_or_path=OUT"
        ]
    if adapter is None and any(word.lstrip("+").startswith("model.adapter_mode=") for word in typed):
        return [f"model.adapter_mode={mode} would have no effect without model.adapter; set it, or leave this out"]
    return []


def _path_fault(value: str, full: str, option: str) -> str | None:
    try:
        path = expanded_user(value, full) if option in PATHS else Path(value)
        if option in READ and path.is_dir():
            refuse_special_in(path, full)
        elif "\n" not in value:
            refuse_special(path, full)
    except (UserError, OSError) as error:
        return str(error) if isinstance(error, UserError) else None  # the code that opens it reports this
    return None


def _target_faults(node: DictConfig | ListConfig, path: str) -> list[str]:
    """Options that the class of their node does not accept: Hydra composes `+selector.foo=1` without complaint."""
    faults = []
    for key, child in raw_nodes(node):
        if isinstance(child, DictConfig | ListConfig) and not child._is_none() and not child._is_missing():
            faults += _target_faults(child, below(path, key))
    if isinstance(node, DictConfig) and "_target_" in node:
        if not isinstance(node._target_, str):
            return [
                *faults,
                f"{path}._target_={node._target_} is not a dotted path to a class; write it like package.module.Class",
            ]
        faults += [f"{path}.{k} is set by the program; leave it out" for k in RUNTIME.get(path, ()) if k in node]
        carried = keywords(CARRIED[path]) if path in CARRIED else set()
        try:
            accepted = keywords(node._target_)
        except UserError as error:
            return [*faults, f"{path}: {error}"]
        if accepted is not None:
            for key in node:
                if key not in accepted | carried and key not in HYDRA_KEYS:
                    cls = node._target_.rpartition(".")[2]
                    full = below(path, key)
                    faults.append(f"{full} is not an option of {cls}{elsewhere(full, accepted, node._target_)}")
    return faults


# Options that users mistake for another one, and that other one.
MEANT = {
    "trainer.warmup_step": "trainer.args.warmup_steps is the learning rate's warm-up",
    "mixer.shares": "use mixer.proportions={...}, of mixer=static",
}


def elsewhere(key: str, accepted: set[str], target: str | None = None) -> str:
    """The fix for `key`, which its class does not accept: other choices of the group that do, or near misses among the
    `accepted`."""
    group, _, option = key.rpartition(".")
    choices = choices_with(group, option, target) if "." not in group else []
    other = f"; {MEANT[key]}" if key in MEANT else ""
    if not choices:
        return other or did_you_mean(option, accepted)
    return f"; leave it out, or use one that has it: {group}={', '.join(choices)}{other}"


def _schedule_faults(cfg: DictConfig) -> list[str]:
    args = select(cfg, "trainer.args")
    if args is None:
        return []
    faults = [f"trainer.args.{k} is decided elsewhere; use {v}" for k, v in ELSEWHERE.items() if k in args]
    faults += optimizer_faults(args.get("optim"))
    if select(cfg, "trainer.loraplus.lr_ratio") is not None and "_target_" not in cfg.finetuning:
        faults.append(
            "trainer.loraplus.lr_ratio is of adapters, and finetuning=full has none; use finetuning=lora, or null"
        )
    if _present(cfg, "trainer.train_step"):
        lengths = ("max_steps", "num_train_epochs")
        return faults + [f"trainer.args.{k} is set by trainer.train_step" for k in lengths if k in args]
    if not _present(cfg, "trainer.update_step"):
        return faults
    faults += [f"trainer.args.{k} is set by the schedule; use {v}" for k, v in SCHEDULED.items() if k in args]
    for key in ("eval_strategy", "save_strategy", "logging_strategy"):
        if str(args.get(key, "")).endswith("epoch"):
            faults.append(f"trainer.args.{key}=epoch counts slices of rounds, not passes; use steps")
    faults += [f"trainer.args.{k}=true breaks the rounds; leave it false" for k in REFUSED if args.get(k)]
    if (cfg.trainer.warmup_step, cfg.trainer.update_times) == (0, 0):
        faults.append("trainer.warmup_step=0 with trainer.update_times=0 trains no step; raise one of them")
    return faults


def check_sources(cfg: DictConfig) -> None:
    """Check that the data sources exist; imports nothing heavy.

    Raises:
        UserError: one, that lists required sources without a path, paths without a file, and a missing sandbox.
    """
    faults = _missing_paths(cfg) + _sandbox_faults(cfg)
    for option, source in sources_of(cfg):
        if source is None or source.get("dataset_info") is not None:  # its paths are names of entries
            continue
        paths = source.path.values() if isinstance(source.path, DictConfig) else source.path
        for path in paths if not isinstance(paths, str | None) else [paths]:
            if isinstance(path, str) and (fault := generated_fault(path)):
                faults.append(fault)
            elif isinstance(path, str) and (absent := absence(path)):
                faults.append(f"{option}.path={path}: {absent}")
    if faults:
        raise UserError("; ".join(dict.fromkeys(faults)))


def sources_of(cfg: DictConfig) -> Iterator[tuple[str, DictConfig | None]]:
    """The options of data sources, those with names of the user's included, and their values."""
    for part in ("candidates", "queries", "eval"):
        yield f"data.{part}", select(cfg, f"data.{part}")
    for option in NAMED_SETS:
        for name, source in (select(cfg, option) or {}).items():
            yield f"{option}.{name}", source if isinstance(source, DictConfig) else OmegaConf.create({"path": source})


def _sandbox_faults(cfg: DictConfig) -> list[str]:
    """Why the answers' code can't be isolated, if it is going to be run."""
    graders = (select(cfg, "evaluation.graders") or {}).values()
    if select(cfg, "evaluation.unsafe") is True or not any(
        isinstance(grader, DictConfig) and str(grader.get("_target_")).endswith(".PassAt1") for grader in graders
    ):
        return []
    return [sandbox.refusal(reason)] if (reason := sandbox.missing()) else []


def _missing_paths(cfg: DictConfig) -> list[str]:
    """Sources that the script needs and that have no path."""
    training, selecting = _present(cfg, "trainer"), _present(cfg, "export")
    if not (training or selecting):
        return []
    fix = "set it to a file, a folder or a hub id (or data=demo)"
    faults = [] if _has_path(cfg, "candidates") else [f"data.candidates.path is missing: {fix}"]
    if _has_path(cfg, "queries"):
        return faults
    picks = _selectors(cfg) if selecting or _present(cfg, "trainer.update_step") else []
    if selecting and not picks:
        why = "whose nearest candidates are searched"
    elif needing := [one for one in picks if _needs_queries(cfg, one)]:
        why = f"which selector {needing[0].rpartition('.')[2]} needs"
    elif _weighs_by_target(cfg):
        why = f"which weighter {cfg.weighter._target_.rpartition('.')[2]} compares rows with"
    elif training and not _has_path(cfg, "eval"):
        why = "which are the evaluation rows where data.eval.path is not set"
    else:
        return faults
    return [*faults, f"data.queries.path is missing, the target's rows, {why}: {fix}"]


def _weighs_by_target(cfg: DictConfig) -> bool:
    target = select(cfg, "weighter._target_")
    return isinstance(target, str) and target.startswith("near.") and attribute(target, "needs_target") is True


def _has_path(cfg: DictConfig, part: str) -> bool:
    return select(cfg, f"data.{part}.path") is not None


def _selectors(cfg: DictConfig) -> list[str]:
    """The classes that select: those of the plan's stages, or the selector's."""
    keys = [f"plan.{name}.by._target_" for name in select(cfg, "plan") or ()] or ["selector._target_"]
    return [target for key in keys if isinstance(target := select(cfg, key), str)]


def _needs_queries(cfg: DictConfig, selector: str) -> bool:
    """Whether the class of a selector of near needs the target; those of other projects are checked when loaded."""
    if not selector.startswith("near."):
        return False
    needs = [attribute(selector, name) for name in ("needs_neighbours", "trains_on_queries", "requires")]
    return needs[0] is True or needs[1] is True or needs[2] == "gradients"


def _round_export_faults(cfg: DictConfig) -> list[str]:
    """Faults of the export of a run's rounds, which selects nothing."""
    faults = [
        f"{key} selects rows, and run={cfg.run} has selected them; leave {key} out"
        for key in ("selector", "n")
        if select(cfg, key) is not None
    ]
    if cfg.export != "jsonl":
        faults.append(f"run={cfg.run} writes its rows as jsonl; add export=jsonl")
    if cfg.page or cfg.dry_run:
        faults.append(f"run={cfg.run} selects nothing: page and dry_run would have no effect; leave them out")
    return faults


def _subset_faults(cfg: DictConfig) -> list[str]:
    """Faults of select.py's subset: `selector` and `n` together pick it, and `export` writes its rows."""
    if not _present(cfg, "export"):
        return []
    if select(cfg, "run") is not None:
        return _round_export_faults(cfg)
    if select(cfg, "export_for") is not None:
        return ["export_for writes files that train on a run's rounds; add run=RUN export=jsonl"]
    options = {key: value for key in ("export", "n", "selector") if (value := select(cfg, key)) is not None}
    typed = [f"{key}={value}" if key != "selector" else key for key, value in options.items()]
    missing = {key: fix for key, fix in (("selector", "selector=near"), ("n", "n=ROWS")) if key not in options}
    faults = []
    if typed and missing:
        faults.append(
            f"{' '.join(typed)} picks no rows without {' and '.join(missing)}; add {' '.join(missing.values())}"
        )
    if size := select(cfg, "selector.subset_size"):
        faults.append(f"selector.subset_size={size} bounds a round of training; use n={size}")
    return faults
