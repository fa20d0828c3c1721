"""DataFlex's reorders: the group `order` and its options, and the rounds that train in it."""

from omegaconf import OmegaConf

from near.app.from_yaml.components import params_of
from near.app.from_yaml.file import File
from near.app.from_yaml.keys import COMPONENTS
from near.app.from_yaml.schedule import put_rounds, trainer
from near.common.config import CONF
from near.common.errors import UserError, did_you_mean

PATTERNS = ("shuffle", "sorting", "folding", "zigzag", "segment", "stair", "saw")
LAYERS = ("layers", "folding_layer", "zigzag_layer")  # names of one parameter
DEFAULTS = {"layers": {"folding": 5, "zigzag": 5, "stair": 2, "saw": 2}, "x_pct": 10, "y_pct": 10}
DEFAULTS |= {"num_sections": 2, "folding_ratio": 0.0, "front_is_high": False, "back_is_high": True}
SCHEDULE = tuple(f"trainer.{key}" for key in ("warmup_step", "update_step", "update_times", "cycles"))
EARLIER = {"higher_earlier": True, "lower_is_better": True, "higher_later": False, "higher_is_better": False}


def reorder(file: File, name: str, rows: int | None) -> None:
    """Translate a training whose rows a reorder arranges (train_type: dynamic_reorder).

    A static one arranges the pool once, and its warm-up is the beginning of it: one round of all steps. UserError as
    for `params_of`, `arrange` and `trainer`.
    """
    params = params_of(file, "reorders", name)
    file.put("selector", "full")
    trainer(file, "dynamic_select", rows)
    if arrange(file, name, params) == "static":
        numbers = {word.key: int(word.text) for word in file.words if word.key in SCHEDULE}
        warmup, step, times, cycles = (numbers[key] for key in SCHEDULE)
        put_rounds(file, 0, cycles * (warmup + step * times), 1)


def arrange(file: File, name: str, params: dict) -> str:
    """Translate a reorder into an order; returns its kind, static or dynamic. UserError for one that is not known."""
    kind, pattern = params.get("kind") or name, params.get("pattern", "sorting")
    if kind not in ("static", "dynamic"):
        raise UserError(f"{file.path}: kind={kind} of the reorder {name} is not known; use static or dynamic")
    if pattern not in PATTERNS:
        raise UserError(f"{file.path}: pattern={pattern} of the reorder {name}{did_you_mean(str(pattern), PATTERNS)}")
    file.put("order", pattern)
    has = set(OmegaConf.load(CONF / "order" / f"{pattern}.yaml"))
    provided = {**params, **file.mapping(f"{name}.pattern_params", params.get("pattern_params"))}
    values = {**DEFAULTS, "layers": DEFAULTS["layers"].get(pattern), **provided}  # type: ignore[attr-defined]
    values["layers"] = next((provided[key] for key in LAYERS if provided.get(key) is not None), values["layers"])
    options = {
        "layers": values["layers"],
        "sections": values["num_sections"],
        "radius": values["folding_ratio"],
        "first": file.checked(f"{name}.x_pct", values["x_pct"]) / 100,
        "last": file.checked(f"{name}.y_pct", values["y_pct"]) / 100,
        "first_from": "high" if values["front_is_high"] else "low",
        "last_from": "high" if values["back_is_high"] else "low",
        "window": max(1, file.checked(f"{name}.window_size", values.get("window_size") or 1)),
        "ascending": _ascending(file, name, kind, provided),
    }
    options |= _score(file, name, kind, provided) if "score" in has else {}
    if kind == "dynamic" and provided.get("consume_once") is not None:
        options["consume_once"] = provided["consume_once"]
    for option, value in options.items():
        if option in has:
            file.put(f"order.{option}", value)
    table = COMPONENTS["reorders"]["any"]
    for key, value in provided.items():
        known = table.get(key)
        if known is None and key not in LAYERS:
            file.skip(f"{name}.{key}", f"unknown param{did_you_mean(key, table)}", value)
        elif known is not None and known.reason and not (key == "seed" and value == file.seed):
            file.skip(f"{name}.{key}", known.reason, value, known.quiet)
    return kind


def _ascending(file: File, name: str, kind: str, provided: dict) -> bool:
    polarity = provided.get("polarity", "higher_is_better" if kind == "static" else "lower_is_better")
    if polarity not in EARLIER:
        raise UserError(f"{file.path}: polarity={polarity} of the reorder {name}{did_you_mean(str(polarity), EARLIER)}")
    return bool(provided.get("ascending", True)) != EARLIER[polarity]


def _score(file: File, name: str, kind: str, provided: dict) -> dict[str, object]:
    """The options of the number that ranks rows."""
    source = provided.get("score_source", "precomputed" if kind == "static" else "model_loss")
    params = file.mapping(f"{name}.score_params", provided.get("score_params"))
    if source == "precomputed":
        if path := params.get("score_path"):
            file.skip_always(
                f"{name}.score_path", f"{path}: numbers are read from a column of the rows; add them there"
            )
        return {"score": "column", "column": params.get("score_field", "score"), "every": 1}
    if source not in ("model_loss", "cached_selection"):
        raise UserError(
            f"{file.path}: score_source={source} of the reorder {name} is not known; use precomputed, model_loss or "
            "cached_selection"
        )
    if source == "cached_selection":
        file.skip_always(f"{name}.cache_path", "the losses are computed in the first round, once")
        if (metric := params.get("metric_key", "loss")) != "loss":
            file.skip_always(f"{name}.metric_key", f"{metric}: rows are ranked by their losses")
    if params.get("max_samples"):
        file.skip_always(f"{name}.max_samples", "all rows that a round may draw are scored")
    once = source == "cached_selection" or kind == "static"
    return {"score": "loss", "every": None if once else provided.get("reorder_every", 1)}
