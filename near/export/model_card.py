"""The README.md of an export: its training data, selector, evaluation, and the commands that made it.

The card leaves this machine, so it shows hub and built-in names whole, and only the last part of paths.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import DictConfig, ListConfig, OmegaConf

from near.common.config import public
from near.common.files import provenance
from near.common.records import EvalMetrics, Score, SetMetrics
from near.common.text import plural
from near.export.lineage import Adapter, AdapterRun

# the folders of a path from /, ~ or the working folder, which may contain spaces; no URL (https://)
FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^/'\",\[\]{}=\n]+/)*")
HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
FILES = (".json", ".jsonl", ".gz", ".zst", ".csv", ".parquet", ".txt")
SOURCES = 12  # sources shown at most
SETTINGS = 40  # longest selector setting shown, in characters


@dataclass
class Export:
    """The parts of an export, and the measured differences of logits."""

    cfg: DictConfig
    base: str
    revision: str | None
    adapters: list[Adapter]
    compared_on: str = ""
    merging: list[dict] = field(default_factory=list)  # for each adapter: merged model against adapter, in memory
    reading: dict = field(default_factory=dict)  # written files against the last adapter
    quantised: dict | None = None  # the last adapter on its quantised base against the float32 merge

    @property
    def trained(self) -> list[Adapter]:
        """All adapters whose training is in the model, each one after those that it is further training of."""
        return [one for adapter in self.adapters for one in (*adapter.earlier, adapter)]

    def metrics(self) -> dict:
        """The export's part of merge.json; max_logit_difference is that of the written files."""
        return {
            "base": self.base,
            "revision": self.revision,
            "adapters": [str(adapter.path) for adapter in self.adapters],
            "further_training_of": [[str(one.path) for one in adapter.earlier] for adapter in self.adapters],
            "dtype": self.cfg.export_dtype,
            "compared_on": self.compared_on,
            **self.reading,
            "merging": self.merging,
            "quantised": self.quantised,
            "tolerance": self.cfg.tolerance,
            "rounding_tolerance": self.cfg.rounding_tolerance,
        }

    def summary(self) -> str:
        """One line for the log."""
        read = self.reading
        return (
            f"{self.cfg.export_dtype}; on {self.compared_on} the files' logits differ from the adapter's by "
            f"{read['max_logit_difference']:.1e} at most, {read['share_logit_difference']:.1e} of their spread, and "
            f"{read['same_top_token']:.1%} of the likeliest tokens are the same"
        )


def label(name: str | Path | None) -> str:
    """A data set's or model's name without folders of this machine."""
    name = str(name)
    return Path(name).name if on_disk(name) else name


def on_disk(name: str) -> bool:
    """Whether `name` is a path on this machine, not a hub or built-in name."""
    if name.startswith("builtin:"):
        return False
    return not HUB.fullmatch(name) or name.endswith(FILES) or Path(name).exists()


def without_folders(text: str) -> str:
    """`text` with each path from /, ~ or the working folder cut to its last part."""
    return FOLDERS.sub("", text)


def model_card(export: Export) -> str:
    """The card: Markdown with YAML front matter, which hubs read."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"label": label, "without_folders": without_folders, "versions": _versions}
    last = export.adapters[-1].run
    return environment.get_template("card.md").render(
        export=export,
        front=yaml.safe_dump(front_matter(export), sort_keys=False, allow_unicode=True),
        name=Path(export.cfg.export_dir).name,
        base=label(export.base) + (f" at revision {export.revision}" if export.revision else ""),
        adapters=[_described(adapter) for adapter in export.adapters],
        trainings=[_training(adapter) for adapter in export.trained if adapter.run is not None],
        metrics=_metrics(last.metrics) if last is not None and last.metrics else None,
        compared=_compared(export),
        bound=_bound(export.cfg),
        merge=provenance(),
    )


def _described(adapter: Adapter) -> dict:
    """Its names, and the run that trained it if its files say how."""
    run = adapter.run
    name = label(str(adapter.path)) if run is None else run.folder.name
    trained = run.trained if run is not None and run.trained.command else None
    return {
        "path": adapter.path,
        "name": f"`{name}`",
        "run": run and run.folder.name,
        "base": adapter.base[0],
        "trained": trained,
        "earlier": [_described(one) for one in adapter.earlier],
    }


def front_matter(export: Export) -> dict:
    front: dict = {}
    if not on_disk(export.base) and not export.base.startswith("builtin:"):
        front |= {"base_model": export.base, "base_model_relation": "finetune"}
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    runs = [adapter.run for adapter in export.trained if adapter.run is not None]
    selectors = [run.trained.selector for run in runs if run.trained.selector]
    front["tags"] = list(dict.fromkeys(["near", "data-selection", *(f"selector:{name}" for name in selectors)]))
    paths = dict.fromkeys(name for run in runs for part in _parts(run) for name in _paths(run, part).values())
    if datasets := [name for name in paths if HUB.fullmatch(name) and not on_disk(name)]:
        front["datasets"] = datasets
    return front


def _parts(run: AdapterRun) -> list[str]:
    return [part for part in ("candidates", "queries", "eval") if _paths(run, part)]


def _paths(run: AdapterRun, part: str) -> dict[str, str]:
    """Paths of a part's sources by their label, or by their number without one."""
    paths = OmegaConf.select(run.config, f"data.{part}.path")
    if paths is None:
        return {}
    if isinstance(paths, DictConfig):
        return {str(key): str(path) for key, path in paths.items()}
    return {str(i): str(path) for i, path in enumerate(paths if isinstance(paths, ListConfig) else [paths])}


def _sources(run: AdapterRun, part: str) -> str:
    """A part's sources: hub and built-in names whole, files by their last part."""
    named = _paths(run, part).items()
    return ", ".join(label(path) if key.isdigit() else f"{key}: {label(path)}" for key, path in named)


def _training(adapter: Adapter) -> dict:
    """What the card says of the run that trained an adapter."""
    run, config = adapter.run, public(adapter.run.config)
    prints = run.trained.identity.fingerprints
    parts = [
        {
            "name": part,
            "sources": _sources(run, part),
            "limit": config["data"][part].get("limit"),
            "fingerprint": prints.get(part, ""),
        }
        for part in _parts(run)
    ]
    items = [*_schedule(run, config["trainer"]), f"Adapter: {_adapter_kind(adapter)}"]
    if (chosen := run.trained.validation) is not None and run.final and chosen.kept_step != run.trained.steps:
        items.append(
            f"Weights: of round {chosen.kept_round}, step {chosen.kept_step} of {run.trained.steps}, the lowest loss "
            f"on {plural(len(chosen.rows), 'validation row')}"
        )
    if not run.final:
        items.append(f"Weights: of {adapter.path.name}, not of the run's end")
    return {"name": run.folder.name, "parts": parts, "selector": _selector(run, config), "facts": items}


def _schedule(run: AdapterRun, trainer: dict) -> list[str]:
    """Lines about schedule, rows and optimizer, as far as the run's files say."""
    items, trained, rounds = [], run.trained, run.files.rounds
    if rounds:
        keys = ("warmup_step", "update_step", "update_times", "cycles")
        schedule = ", ".join(f"{key}={trainer[key]}" for key in keys if key in trainer)
        items.append(
            f"Schedule: {plural(len(rounds), 'round')}, "
            f"{plural(sum(line.steps or 0 for line in rounds), 'step')} ({schedule})"
        )
    if trained.rows_trained is not None:
        distinct = "" if trained.distinct_rows is None else f", {trained.distinct_rows:,} distinct ones"
        items.append(f"Rows trained: {trained.rows_trained:,}{distinct}; seed {trained.seed}")
    if counts := sum((Counter(line.sources) for line in rounds), Counter()):
        shown = ", ".join(f"{label(source)} {count:,}" for source, count in counts.most_common(SOURCES))
        items.append(f"Rows picked, by source, over all rounds: {shown}{', ...' if len(counts) > SOURCES else ''}")
    args = trainer["args"]
    options = {key: args[key] for key in ("learning_rate", "lr_scheduler_type") if args.get(key) is not None}
    size = args.get("per_device_train_batch_size", 1) * args.get("gradient_accumulation_steps", 1)
    items.append(
        f"Optimizer: {', '.join(f'{k}={v}' for k, v in options.items())}, {plural(size, 'row')} per step and process"
    )
    return items


def _selector(run: AdapterRun, config: dict) -> str:
    options = {
        key: value
        for key, value in (config.get("selector") or {}).items()
        if not key.startswith("_") and isinstance(value, str | int | float) and len(str(value)) <= SETTINGS
    }
    if stages := config.get("plan"):
        parts = {name: (stage.get("by") or {}) for name, stage in stages.items() if isinstance(stage, dict)}
        options = {name: str(by.get("_target_", "")).rpartition(".")[2] for name, by in parts.items()}
    name = run.trained.selector or str(config["selector"].get("_target_", "")).rpartition(".")[2]
    width = config.get("max_K") if run.trained.max_K is None else run.trained.max_K
    if width is not None:
        options["max_K"] = width
    embedder = config.get("embedder") or {}
    model = f", embedder {label(embedder['model'])}" if embedder.get("model") else ""
    return f"{name} ({', '.join(f'{k}={v}' for k, v in options.items())}{model})"


def _adapter_kind(adapter: Adapter) -> str:
    config = adapter.config
    kind = "DoRA" if config.get("use_dora") else "rsLoRA" if config.get("use_rslora") else str(config.get("peft_type"))
    shape = ", ".join(
        f"{key}={config[key]}" for key in ("r", "lora_alpha", "lora_dropout") if config.get(key) is not None
    )
    modules = f", whole modules: {', '.join(config['modules_to_save'])}" if config.get("modules_to_save") else ""
    quantised = " on a quantised base" if adapter.quantised is not None else ""
    return f"{kind}{quantised} ({shape}{modules})"


def _metrics(metrics: EvalMetrics) -> dict:
    """The run's evaluation of the adapter, beside the base's."""
    base = metrics.base
    sets: dict[str, tuple[SetMetrics, SetMetrics | None]] = {"target": (metrics, base)}
    for name, values in metrics.more.items():
        sets[name] = (values, base.more.get(name) if base else None)
    rows = []
    for name, (ours, theirs) in sets.items():
        rows.append((f"{name} ({plural(ours.rows, 'row')})", "loss", _loss(ours), _loss(theirs)))
        for grader, score in ours.scores.items():
            rows.append((name, grader, _score(score), _score(theirs.scores.get(grader) if theirs else None)))
    base_tasks = (base.lm_eval if base else None) or {}
    for task, scores in (metrics.lm_eval or {}).items():
        for metric, value in scores.items():
            if isinstance(value, dict):
                other = base_tasks.get(task, {}).get(metric, {}).get("value")
                rows.append((task, metric, _number(value.get("value")), _number(other)))
    before = "base model" if metrics.start is None else f"before training: base model with {label(metrics.start)}"
    seen = {"seen": metrics.selection_saw_them, "fingerprint": metrics.eval_fingerprint}
    return {"rows": rows, "before": before, **seen}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _loss(metrics: SetMetrics | None) -> str:
    if metrics is None:
        return ""
    interval = metrics.target_loss_interval
    return _number(metrics.target_loss) + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _score(score: Score | None) -> str:
    return f"{_number(score.mean)} ({score.right} of {score.graded})" if score and score.graded else ""


def _compared(export: Export) -> list[tuple[str, dict]]:
    """Names and differences of all that was compared with the adapter."""
    names = (label(str(a.path)) if a.run is None else a.run.folder.name for a in export.adapters)
    rows = [(f"{name}, merged", measured) for name, measured in zip(names, export.merging, strict=True)]
    if export.quantised and "max_logit_difference" in export.quantised:
        rows.append(("the adapter on its quantised base", export.quantised))
    return [*rows, ("these files, read back", export.reading)]


def _bound(cfg: DictConfig) -> str:
    return f"{cfg.tolerance} (largest)" if cfg.export_dtype == "float32" else f"{cfg.rounding_tolerance} (share)"


def _versions(versions: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
