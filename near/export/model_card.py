"""The README.md of an export: what it was trained on, what picked the rows, what came of it, and how to make it again.

It leaves the machine, so it names data and models as a hub or a built-in does, and else by their last part alone.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from near.common.config import public
from near.common.files import provenance
from near.export.lineage import Adapter, AdapterRun

# a path from the root, the home or the working folder up to its last part, which may hold spaces; no address (https://)
PLACE = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^/'\",\[\]{}=\n]+/)*")
HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
FILES = (".json", ".jsonl", ".gz", ".zst", ".csv", ".parquet", ".txt")
SOURCES = 12  # that are shown
SETTINGS = 40  # characters of a selector's setting that are shown


@dataclass
class Export:
    """What an export is made of, and what was measured of it."""

    cfg: DictConfig
    base: str
    revision: str | None
    adapters: list[Adapter]
    compared_on: str = ""
    merging: list[dict] = field(default_factory=list)  # by adapter: merged against adapter, in memory
    reading: dict = field(default_factory=dict)  # the files written against the last adapter
    quantised: dict | None = None  # the quantised forward against the last adapter's in float32

    def told(self) -> dict:
        """What merge.json says of it. max_logit_difference is that of the files written."""
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
        """One line of the log."""
        read = self.reading
        return (
            f"{self.cfg.export_dtype}; on {self.compared_on} the files' logits differ from the adapter's by "
            f"{read['max_logit_difference']:.1e} at most, {read['share_logit_difference']:.1e} of their spread, and "
            f"{read['same_top_token']:.1%} of the likeliest tokens are the same"
        )


def label(name: str | None) -> str:
    """A data set's or model's name without the machine it lies on."""
    name = str(name)
    return Path(name).name if on_disk(name) else name


def on_disk(name: str) -> bool:
    """Whether `name` is a path of this machine, not a hub's or a built-in name."""
    if name.startswith("builtin:"):
        return False
    return not HUB.fullmatch(name) or name.endswith(FILES) or Path(name).exists()


def without_places(text: str) -> str:
    """`text` with each path from the root, the home or the working folder cut to its last part."""
    return PLACE.sub("", text)


def model_card(export: Export) -> str:
    """The card as Markdown with YAML front matter, which a hub reads."""
    last = export.adapters[-1]
    parts = [f"---\n{yaml.safe_dump(_front(export), sort_keys=False, allow_unicode=True)}---", _title(export)]
    for adapter in export.adapters:
        if adapter.run is not None:
            parts.append(_training(adapter, len(export.adapters) > 1))
    if last.run is not None and last.run.metrics:
        parts.append(_metrics(last.run.metrics))
    parts += [_merge(export), _lineage(export)]
    return "\n\n".join(parts) + "\n"


def _front(export: Export) -> dict:
    front: dict = {}
    if not on_disk(export.base) and not export.base.startswith("builtin:"):
        front |= {"base_model": export.base, "base_model_relation": "finetune"}
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    runs = [adapter.run for adapter in export.adapters if adapter.run is not None]
    selectors = [str(run.trained["selector"]) for run in runs if run.trained.get("selector")]
    front["tags"] = list(dict.fromkeys(["near", "data-selection", *(f"selector:{name}" for name in selectors)]))
    found = dict.fromkeys(name for run in runs for part in _parts(run) for name in _paths(run, part).values())
    if hubs := [name for name in found if HUB.fullmatch(name) and not on_disk(name)]:
        front["datasets"] = hubs
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
    """A part's sources by their label, or by their number where they have none."""
    given = OmegaConf.select(run.config, f"data.{part}.path")
    if given is None:
        return {}
    if isinstance(given, DictConfig):
        return {str(key): str(path) for key, path in given.items()}
    return {str(i): str(path) for i, path in enumerate(given if isinstance(given, ListConfig) else [given])}


def _sources(run: AdapterRun, part: str) -> str:
    """A part's sources: hub and built-in names as they are, files by their last part."""
    named = _paths(run, part).items()
    return ", ".join(label(path) if key.isdigit() else f"{key}: {label(path)}" for key, path in named)


def _training(adapter: Adapter, several: bool) -> str:
    run, config = adapter.run, public(adapter.run.config)
    prints = run.trained.get("identity", {}).get("fingerprints", {})
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
    told = [f"- Selector: {_selector(run, config)}", *_schedule(run, config["trainer"])]
    told.append(f"- Adapter: {_adapter_kind(adapter)}")
    if not run.final:
        told.append(f"- Weights: of {adapter.path.name}, not of the run's end")
    return "\n".join([*lines, "", *told])


def _schedule(run: AdapterRun, trainer: dict) -> list[str]:
    """What was trained for how long, as far as the run says."""
    told, done, rounds = [], run.trained, run.files.rounds
    if rounds:
        keys = ("warmup_step", "update_step", "update_times", "cycles")
        schedule = ", ".join(f"{key}={trainer[key]}" for key in keys if key in trainer)
        told.append(f"- Schedule: {len(rounds)} rounds, {sum(line['steps'] for line in rounds)} steps ({schedule})")
    if done:
        distinct = "" if done.get("distinct_rows") is None else f", {done['distinct_rows']:,} distinct ones"
        told.append(f"- Rows trained: {done['rows_trained']:,}{distinct}; seed {done['seed']}")
    if counts := sum((Counter(line["sources"]) for line in rounds), Counter()):
        shown = ", ".join(f"{label(source)} {count:,}" for source, count in counts.most_common(SOURCES))
        told.append(f"- Rows picked, by source, over all rounds: {shown}{', ...' if len(counts) > SOURCES else ''}")
    args = trainer["args"]
    kept = {key: args[key] for key in ("learning_rate", "lr_scheduler_type") if args.get(key) is not None}
    size = args.get("per_device_train_batch_size", 1) * args.get("gradient_accumulation_steps", 1)
    told.append(f"- Optimizer: {', '.join(f'{k}={v}' for k, v in kept.items())}, {size} rows a step, by process")
    return told


def _selector(run: AdapterRun, config: dict) -> str:
    options = {
        key: value
        for key, value in (config.get("selector") or {}).items()
        if not key.startswith("_") and isinstance(value, str | int | float) and len(str(value)) <= SETTINGS
    }
    name = run.trained.get("selector") or str(config["selector"].get("_target_", "")).rpartition(".")[2]
    if (width := run.trained.get("max_K", config.get("max_K"))) is not None:
        options["max_K"] = width
    embedder = config.get("embedder") or {}
    model = f", embedder {label(embedder['model'])}" if embedder.get("model") else ""
    return f"{name} ({', '.join(f'{k}={v}' for k, v in options.items())}{model})"


def _adapter_kind(adapter: Adapter) -> str:
    told = adapter.config
    kind = "DoRA" if told.get("use_dora") else "rsLoRA" if told.get("use_rslora") else str(told.get("peft_type"))
    shape = ", ".join(f"{key}={told[key]}" for key in ("r", "lora_alpha", "lora_dropout") if told.get(key) is not None)
    kept = f", whole modules: {', '.join(told['modules_to_save'])}" if told.get("modules_to_save") else ""
    quantised = " on a quantised base" if adapter.quantised is not None else ""
    return f"{kind}{quantised} ({shape}{kept})"


def _metrics(metrics: dict) -> str:
    """The run's evaluation of the adapter, beside the base's."""
    sets = {"target": (metrics, metrics.get("base") or {})}
    for name, found in (metrics.get("more") or {}).items():
        sets[name] = (found, (metrics.get("base") or {}).get("more", {}).get(name, {}))
    lines = ["## Evaluation", "", "| set | metric | this model | base model |", "|---|---|---|---|"]
    for name, (ours, base) in sets.items():
        lines.append(f"| {name} ({ours['rows']} rows) | loss | {_loss(ours)} | {_loss(base)} |")
        for grader, score in (ours.get("scores") or {}).items():
            other = (base.get("scores") or {}).get(grader, {})
            lines.append(f"| {name} | {grader} | {_score(score)} | {_score(other)} |")
    for task, found in (metrics.get("lm_eval") or {}).items():
        for metric, value in found.items():
            if isinstance(value, dict):
                other = ((metrics.get("base") or {}).get("lm_eval") or {}).get(task, {}).get(metric, {})
                lines.append(f"| {task} | {metric} | {_number(value.get('value'))} | {_number(other.get('value'))} |")
    seen = " The selection saw these rows: they are its queries." if metrics.get("selection_saw_them") else ""
    about = f"Measured on the adapter before it was merged. Loss in nats a token, intervals at 95% over examples.{seen}"
    return "\n".join([*lines, "", about, f"Fingerprint of the target's rows: {metrics['eval_fingerprint']}."])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _loss(found: dict) -> str:
    interval = found.get("target_loss_interval")
    return _number(found.get("target_loss")) + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _score(found: dict) -> str:
    return f"{_number(found.get('mean'))} ({found['right']} of {found['graded']})" if found.get("graded") else ""


def _merge(export: Export) -> str:
    read, cfg = export.reading, export.cfg
    bound = f"{cfg.tolerance} (largest)" if cfg.export_dtype == "float32" else f"{cfg.rounding_tolerance} (share)"
    lines = ["## Merge", "", f"Merged in float32, written in {cfg.export_dtype}. Logits on {export.compared_on}:", ""]
    lines += ["| compared with the adapter | largest difference | share of the logits' spread | same likeliest token |"]
    lines += ["|---|---|---|---|"]
    told = [
        (f"{label(str(a.path)) if a.run is None else _run_name(a.run)}, merged", found)
        for a, found in zip(export.adapters, export.merging, strict=True)
    ]
    if export.quantised and "max_logit_difference" in export.quantised:
        told.append(("the adapter on its quantised base", export.quantised))
    for name, found in [*told, ("these files, read back", read)]:
        largest, share = found["max_logit_difference"], found["share_logit_difference"]
        lines.append(f"| {name} | {largest:.2e} | {share:.2e} | {found['same_top_token']:.1%} |")
    lines += ["", f"Files above {bound} are not written."]
    if export.quantised is not None:
        measured = "" if "max_logit_difference" in export.quantised else " (by how much was not measured)"
        lines.append(
            "The adapter was trained on a quantised base; merged into the float32 one, the model is another than the "
            f"one that was trained and evaluated{measured}."
        )
    return "\n".join(lines)


def _lineage(export: Export) -> str:
    made = provenance()
    lines = [
        "## Lineage",
        "",
        f"- Base model: {label(export.base)}" + (f", revision {export.revision}" if export.revision else ""),
    ]
    commands = []
    for adapter in export.adapters:
        done = {} if adapter.run is None else adapter.run.trained
        lines.append(
            f"- Adapter: {label(str(adapter.path))}" + (f" of run {_run_name(adapter.run)}" if adapter.run else "")
        )
        if named := adapter.base[0]:
            if named != export.base:
                lines.append(f"  - It names {label(named)} as its base")
        if done:
            commands.append(without_places(done["command"]))
            lines.append(f"  - Trained {done['created']} with {_versions(done['versions'])}")
    lines.append(f"- Merged {made['created']} with {_versions(made['versions'])}")
    commands.append(without_places(made["command"]))
    return "\n".join([*lines, "", "Paths are cut to their last part:", "", "```bash", *commands, "```"])


def _versions(versions: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
