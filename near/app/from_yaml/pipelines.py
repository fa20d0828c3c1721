"""DataFlex's pipelines: the stages of a plan."""

import math
from collections.abc import Callable

from near.app.from_yaml.components import COMPARING, TARGETLESS, mixer, params_of, selector, weighter
from near.app.from_yaml.file import File, Word
from near.app.from_yaml.keys import COMPONENTS
from near.app.from_yaml.mixing import numbers
from near.app.from_yaml.orders import arrange
from near.app.from_yaml.schedule import trainer
from near.common.config import CONF
from near.common.errors import UserError, did_you_mean

FAMILIES = ("selector", "mixer", "reorder", "weighter")  # in the order in which they act


def stages_of(file: File, name: str) -> list[dict]:
    """The stages of a pipeline that are enabled, in the order in which they act.

    Raises:
        UserError: as for `params_of`, and for a stage that near can't do.
    """
    params = params_of(file, "pipelines", name)
    entries = params.get("stages")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"{file.path}: the pipeline {name} has no stages; write stages: [{{family: ..., component: ...}}]"
        )
    stages = [entry for entry in entries if entry.get("enabled", True) is not False]
    for entry in stages:
        family, component = entry.get("family"), entry.get("component")
        where = f"{file.path}: the stage {family}: {component} of the pipeline {name}"
        if family not in FAMILIES:
            raise UserError(f"{where} is of no family{did_you_mean(str(family), FAMILIES)}")
        if family != "reorder" and component not in COMPONENTS[f"{family}s"]:
            known = COMPONENTS[f"{family}s"]
            raise UserError(f"{where}: not a {family} here{did_you_mean(str(component), known)}")
        if family != "weighter" and [other.get("family") for other in stages].count(family) > 1:
            raise UserError(f"{where} is not its only {family}, in DataFlex neither; leave one")
    return sorted(stages, key=_place)


def is_targeted(file: File, name: str) -> bool:
    """Whether a stage needs the target."""
    stages = stages_of(file, name)
    return any(
        entry["family"] == "selector"
        and entry["component"] not in TARGETLESS
        or entry["family"] == "weighter"
        and entry["component"] in COMPARING
        for entry in stages
    )


def pipeline(file: File, name: str, rows: int | None) -> None:
    """Translate a pipeline (train_type: dynamic_lego). UserError as for `stages_of` and the components."""
    stages = stages_of(file, name)
    trainer(file, "dynamic_select", rows)
    file.take("mixture_sample_rule")  # of DataFlex's mixes alone
    file.put("plan._target_", "near.selection.plan.plan.Plan", added=True)
    if is_targeted(file, name):
        file.put("max_K", None)
    if len(file.names("dataset")) < 2 and any(entry["family"] == "mixer" for entry in stages):
        stages = [entry for entry in stages if entry["family"] != "mixer"]
        file.notes.append("one data set: the mixer is left out (in DataFlex rows are drawn uniformly then)")
    families = [entry["family"] for entry in stages]
    if "mixer" in families and _draws(stages):
        file.notes.append("the mixer decides how many rows of each source are drawn, and the selector which")
    for number, entry in enumerate(stages):
        family, component = entry["family"], entry["component"]
        if family == "reorder" and "mixer" not in families and not _draws(stages):
            _stage(file, "draw", {})  # an order chooses among all rows that are left
            file.put("selector", "full")
        if family == "selector":
            _select(file, entry)
        elif family == "mixer":
            _stage(file, "mix", entry)
            mixer(file, component)
            if shares := numbers(file, "init_mixture_proportions", file.names("dataset")):
                file.put("mixer.initial", dict(zip(file.names("dataset"), shares, strict=True)))
        elif family == "reorder":
            _stage(file, "order", entry)
            params = params_of(file, "reorders", component)
            if params.get("apply_at") == "raw":
                raise UserError(
                    f"{file.path}: the reorder {component} has apply_at: raw, which a pipeline refuses in DataFlex, "
                    "too; use index"
                )
            arrange(file, component, params)
        else:
            _weigh(file, entry, families[:number].count("weighter"))
    table = COMPONENTS["pipelines"]["any"]
    for place, known in [(name, params_of(file, "pipelines", name))] + [(f"{name}.{e['family']}", e) for e in stages]:
        for key, value in known.items():
            if key not in table and key != "cache_dir":
                file.skip(f"{place}.{key}", f"unknown param{did_you_mean(key, table)}", value)
    if not stages:
        raise UserError(f"{file.path}: the pipeline {name} has no stage left; enable one")


def _place(entry: dict) -> float:
    """Of a stage among the others; a selector that draws comes behind the mixer, whose shares it takes."""
    return FAMILIES.index("mixer") + 0.5 if _draws([entry]) else FAMILIES.index(entry["family"])


def _draws(stages: list[dict]) -> bool:
    return any(entry["family"] == "selector" and entry.get("mode") == "draw" for entry in stages)


def _select(file: File, entry: dict) -> None:
    name, mode = entry["component"], entry.get("mode", "filter")
    if mode not in ("filter", "draw"):
        raise UserError(f"{file.path}: mode={mode} of the stage selector: {name} is not known; use filter or draw")
    if mode == "draw":
        _stage(file, "draw", entry)
        selector(file, name)
        return
    if (CONF / "selector" / f"{name}.yaml").is_file() and "@package" in _text(name):
        raise UserError(f"{file.path}: the stage selector: {name} sets more than a selector, which no filter can; draw")
    _stage(file, "filter", entry)
    _within(file, "selector", "plan.filter.by", lambda: selector(file, name))
    file.put("plan.filter.keep", float(file.checked("keep_ratio", entry.get("keep_ratio", 0.5))))


def _text(name: str) -> str:
    return (CONF / "selector" / f"{name}.yaml").read_text(encoding="utf-8")


def _weigh(file: File, entry: dict, earlier: int) -> None:
    """Translate a weighter, behind so many others: the first one is of the group, as only one can be."""
    entry = {**entry, "every": None}  # DataFlex's weighters act at every step, whatever `every`
    if not earlier:
        _stage(file, "weigh", entry)
        weighter(file, entry["component"])
        return
    stage = f"plan.weigh{earlier + 1}"
    file.put(f"{stage}._target_", "near.training.weighters.stage.Weigh", added=True)
    file.put(f"{stage}.start", file.checked("warmup_step", entry.get("warmup_step") or 0), added=True)
    _within(file, "weighter", f"{stage}.by", lambda: weighter(file, entry["component"]))


def _stage(file: File, kind: str, entry: dict) -> None:
    """Add a stage: its first step, and every how many rounds it acts anew."""
    file.put(f"stage@plan.{kind}", kind, added=True)
    if start := file.checked("warmup_step", entry.get("warmup_step") or 0):
        file.put(f"plan.{kind}.start", start)
    step = file.typed_number("trainer.update_step") or file.whole("update_step", 0)
    if (every := file.checked("every", entry.get("every") or 0)) and step:
        file.put(f"plan.{kind}.period", max(1, math.ceil(every / step)))


def _within(file: File, group: str, place: str, translate: Callable[[], None]) -> None:
    """Put what `translate` sets of a group at another place."""
    before, file.words = file.words, []
    translate()
    translated, file.words = file.words, before
    for word in translated:
        if word.key == group:
            word = Word(f"{group}@{place}", word.text, added=True)
        elif word.key.startswith(f"{group}."):
            word = Word(place + word.key.removeprefix(group), word.text, word.added)
        file.words.append(word)
