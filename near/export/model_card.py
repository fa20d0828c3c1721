"""The README.md of an export: its training data, selector, evaluation, and the commands that made it.

The card leaves this machine, so it shows hub and built-in names whole, and only the last part of paths.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml
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

    def metrics(self) -> dict:
        """The export's part of merge.json; max_logit_difference is that of the written files."""
        return {
            "base": self.base,
            "revision": self.revision,
            "adapters": [str(adapter.path) for adapter in self.adapters],
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


def label(name: str | None) -> str:
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
    last = export.adapters[-1]
    parts = [f"---\n{yaml.safe_dump(front_matter(export), sort_keys=False, allow_unicode=True)}---", _title(export)]
    for adapter in export.adapters:
        if adapter.run is not None:
            parts.append(_training(adapter, len(export.adapters) > 1))
    if last.run is not None and last.run.metrics:
        parts.append(_metrics(last.run.metrics))
    parts += [_merge(export), _lineage(export)]
    return "\n\n".join(parts) + "\n"


def front_matter(export: Export) -> dict:
    front: dict = {}
    if not on_disk(export.base) and not export.base.startswith("builtin:"):
        front |= {"base_model": export.base, "base_model_relation": "finetune"}
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    runs = [adapter.run for adapter in export.adapters if adapter.run is not None]
    selectors = [run.trained.selector for run in runs if run.trained.selector]
    front["tags"] = list(dict.fromkeys(["near", "data-selection", *(f"selector:{name}" for name in selectors)]))
    paths = dict.fromkeys(name for run in runs for part in _parts(run) for name in _paths(run, part).values())
    if datasets := [name for name in paths if HUB.fullmatch(name) and not on_disk(name)]:
        front["datasets"] = datasets
    return front


def _title(export: Export) -> str:
    names = ", then ".join(f"`{label(str(a.path)) if a.run is None else _run_name(a.run)}`" for a in export.adapters)
    base = label(export.base) + (f" at revision {export.revision}" if export.revision else "")
    return (
        f"# {Path(export.cfg.export_dir).name}\n\n{base} with the fine-tuning of {names} merged into its weights "
        f"({export.cfg.export_dtype}). The licence is that of the base model; its terms and those of the data hold."
    )


def _run_name(run: AdapterRun) -> str:
    return run.folder.name


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


def _training(adapter: Adapter, several: bool) -> str:
    run, config = adapter.run, public(adapter.run.config)
    prints = run.trained.identity.fingerprints
    lines = [
        f"## Training{f' of {_run_name(run)}' if several else ''}",
        "",
        "| data | source | fingerprint |",
        "|---|---|---|",
    ]
    for part in _parts(run):
        limit = config["data"][part].get("limit")
        more = f" (the first {limit:,} rows)" if limit else ""
        lines.append(f"| {part} | {_sources(run, part)}{more} | {prints.get(part, '')} |")
    items = [f"- Selector: {_selector(run, config)}", *_schedule(run, config["trainer"])]
    items.append(f"- Adapter: {_adapter_kind(adapter)}")
    if not run.final:
        items.append(f"- Weights: of {adapter.path.name}, not of the run's end")
    return "\n".join([*lines, "", *items])


def _schedule(run: AdapterRun, trainer: dict) -> list[str]:
    """Lines about schedule, rows and optimizer, as far as the run's files say."""
    items, trained, rounds = [], run.trained, run.files.rounds
    if rounds:
        keys = ("warmup_step", "update_step", "update_times", "cycles")
        schedule = ", ".join(f"{key}={trainer[key]}" for key in keys if key in trainer)
        items.append(
            f"- Schedule: {plural(len(rounds), 'round')}, "
            f"{plural(sum(line.steps or 0 for line in rounds), 'step')} ({schedule})"
        )
    if trained.rows_trained is not None:
        distinct = "" if trained.distinct_rows is None else f", {trained.distinct_rows:,} distinct ones"
        items.append(f"- Rows trained: {trained.rows_trained:,}{distinct}; seed {trained.seed}")
    if counts := sum((Counter(line.sources) for line in rounds), Counter()):
        shown = ", ".join(f"{label(source)} {count:,}" for source, count in counts.most_common(SOURCES))
        items.append(f"- Rows picked, by source, over all rounds: {shown}{', ...' if len(counts) > SOURCES else ''}")
    args = trainer["args"]
    options = {key: args[key] for key in ("learning_rate", "lr_scheduler_type") if args.get(key) is not None}
    size = args.get("per_device_train_batch_size", 1) * args.get("gradient_accumulation_steps", 1)
    items.append(
        f"- Optimizer: {', '.join(f'{k}={v}' for k, v in options.items())}, {plural(size, 'row')} per step and process"
    )
    return items


def _selector(run: AdapterRun, config: dict) -> str:
    options = {
        key: value
        for key, value in (config.get("selector") or {}).items()
        if not key.startswith("_") and isinstance(value, str | int | float) and len(str(value)) <= SETTINGS
    }
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


def _metrics(metrics: EvalMetrics) -> str:
    """The run's evaluation of the adapter, beside the base's."""
    base = metrics.base
    sets: dict[str, tuple[SetMetrics, SetMetrics | None]] = {"target": (metrics, base)}
    for name, values in metrics.more.items():
        sets[name] = (values, base.more.get(name) if base else None)
    lines = ["## Evaluation", "", "| set | metric | this model | base model |", "|---|---|---|---|"]
    for name, (ours, theirs) in sets.items():
        lines.append(f"| {name} ({plural(ours.rows, 'row')}) | loss | {_loss(ours)} | {_loss(theirs)} |")
        for grader, score in ours.scores.items():
            other = theirs.scores.get(grader) if theirs else None
            lines.append(f"| {name} | {grader} | {_score(score)} | {_score(other)} |")
    base_tasks = (base.lm_eval if base else None) or {}
    for task, scores in (metrics.lm_eval or {}).items():
        for metric, value in scores.items():
            if isinstance(value, dict):
                other_value = base_tasks.get(task, {}).get(metric, {}).get("value")
                lines.append(f"| {task} | {metric} | {_number(value.get('value'))} | {_number(other_value)} |")
    seen = " The selection saw these rows: they are its queries." if metrics.selection_saw_them else ""
    about = f"Measured on the adapter before it was merged. Loss in nats a token, 95% intervals over examples.{seen}"
    return "\n".join([*lines, "", about, f"Fingerprint of the target's rows: {metrics.eval_fingerprint}."])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _loss(metrics: SetMetrics | None) -> str:
    if metrics is None:
        return ""
    interval = metrics.target_loss_interval
    return _number(metrics.target_loss) + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _score(score: Score | None) -> str:
    return f"{_number(score.mean)} ({score.right} of {score.graded})" if score and score.graded else ""


def _merge(export: Export) -> str:
    read, cfg = export.reading, export.cfg
    bound = f"{cfg.tolerance} (largest)" if cfg.export_dtype == "float32" else f"{cfg.rounding_tolerance} (share)"
    lines = ["## Merge", "", f"Merged in float32, written in {cfg.export_dtype}. Logits on {export.compared_on}:", ""]
    lines += ["| compared with the adapter | largest difference | share of the logits' spread | same likeliest token |"]
    lines += ["|---|---|---|---|"]
    rows = [
        (f"{label(str(a.path)) if a.run is None else _run_name(a.run)}, merged", measured)
        for a, measured in zip(export.adapters, export.merging, strict=True)
    ]
    if export.quantised and "max_logit_difference" in export.quantised:
        rows.append(("the adapter on its quantised base", export.quantised))
    for name, measured in [*rows, ("these files, read back", read)]:
        largest, share = measured["max_logit_difference"], measured["share_logit_difference"]
        lines.append(f"| {name} | {largest:.2e} | {share:.2e} | {measured['same_top_token']:.1%} |")
    lines += ["", f"Files above {bound} are not written."]
    if export.quantised is not None:
        unmeasured = "" if "max_logit_difference" in export.quantised else " (by how much was not measured)"
        lines.append(
            "The adapter was trained on a quantised base; merged into the float32 base, the model differs from the "
            f"one that was trained and evaluated{unmeasured}."
        )
    return "\n".join(lines)


def _lineage(export: Export) -> str:
    merge = provenance()
    lines = [
        "## Lineage",
        "",
        f"- Base model: {label(export.base)}" + (f", revision {export.revision}" if export.revision else ""),
    ]
    commands = []
    for adapter in export.adapters:
        lines.append(
            f"- Adapter: {label(str(adapter.path))}" + (f" of run {_run_name(adapter.run)}" if adapter.run else "")
        )
        if named := adapter.base[0]:
            if named != export.base:
                lines.append(f"  - It names {label(named)} as its base")
        if adapter.run is not None and (trained := adapter.run.trained).command:
            commands.append(without_folders(trained.command))
            lines.append(f"  - Trained {trained.created} with {_versions(trained.versions)}")
    lines.append(f"- Merged {merge['created']} with {_versions(merge['versions'])}")
    commands.append(without_folders(merge["command"]))
    return "\n".join([*lines, "", "Paths are cut to their last part:", "", "```bash", *commands, "```"])


def _versions(versions: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
