"""Data sets in proportions: DataFlex's dynamic and static mixes, and LLaMA-Factory's interleaved data sets."""

import math

from near.app.from_yaml.components import mixer
from near.app.from_yaml.data import PoolSizes
from near.app.from_yaml.file import File
from near.app.from_yaml.schedule import draws, put_rounds
from near.common.errors import UserError, did_you_mean
from near.common.text import plural

RULES = ("mixture", "stratified", "uniform")
STRATEGIES = ("concat", "interleave_under", "interleave_over", "interleave_once")


def is_static_mix(file: File) -> bool:
    """Whether proportions stay as they are, so that no component is needed."""
    return bool(file.values.get("static_mix"))


def is_interleaved(file: File, mode: str) -> bool:
    """Whether a plain training draws several data sets in proportions, by mix_strategy.

    Raises UserError for values of mix_strategy and interleave_probs that LLaMA-Factory refuses, too.
    """
    strategy, probabilities = file.take("mix_strategy", "concat"), file.take("interleave_probs")
    if strategy not in STRATEGIES:
        raise UserError(f"{file.path}: mix_strategy={strategy} is not known{did_you_mean(str(strategy), STRATEGIES)}")
    if probabilities is not None and strategy == "concat":
        raise UserError(
            f"{file.path}: interleave_probs={probabilities} goes with mix_strategy: interleave_under or "
            "interleave_over; set one, or leave it out"
        )
    sets = file.names("dataset")
    if strategy in ("concat", "interleave_once") or len(sets) < 2:  # rows are shuffled afterwards
        return False
    if mode == "static":
        return True
    for key in ("mix_strategy", "interleave_probs"):
        if file.take(key) is not None:
            file.skip_always(key, f"train_type={mode} picks from the concatenated data sets")
    return False


def interleave(file: File, pool: PoolSizes) -> None:
    """Translate mix_strategy: one round of rows, drawn from the data sets in the proportions of interleave_probs.

    Its length is that of LLaMA-Factory: until the first data set is used up (interleave_under), or the last one
    (interleave_over).
    """
    strategy, sets = str(file.take("mix_strategy")), file.names("dataset")
    shares = numbers(file, "interleave_probs", sets) or [1.0] * len(sets)
    total = file.take("max_steps", -1)
    epochs = file.number("num_train_epochs", 3)
    if total == -1 and file.typed_value("trainer.update_step") is None:
        if pool.rows is None:
            raise UserError(
                f"{file.path}: mix_strategy={strategy} depends on the rows, which can't be counted; give max_steps, "
                "or type trainer.update_step=STEPS"
            )
        ends = [count * sum(shares) / share for count, share in zip(pool.counts, shares, strict=True) if share]
        rows = math.floor(min(ends)) if strategy == "interleave_under" else math.ceil(max(ends))
        total = math.ceil(epochs * math.ceil(rows / draws(file)))
        file.notes.append(f"mix_strategy={strategy}: about {plural(rows, 'row')} a pass, drawn by mixer=static")
    _stretch(file, total)
    _static(file, dict(zip(sets, shares, strict=True)))


def mix(file: File, name: str, pool: PoolSizes) -> None:
    """Translate a mix: `trainer=dynamic_mix` with its mixer and length.

    Args:
        file: to translate.
        name: the component; empty for a static mix.
        pool: the sizes of the data sets.

    Raises:
        UserError: the proportions don't fit the data sets, or the length depends on rows that can't be counted.
    """
    file.take("static_mix")
    sets, typed = file.names("dataset"), _typed_data(file)
    if len(sets) == 1 and not typed:
        raise UserError(
            f"{file.path}: train_type=dynamic_mix mixes data sets, and dataset={sets[0]} is one; name several"
        )
    rule = _rule(file)
    proportions = numbers(file, "init_mixture_proportions", sets)
    if rule != "mixture" and proportions is not None:
        file.skip_always("init_mixture_proportions", f"mixture_sample_rule={rule} decides them, in DataFlex too")
    shares = dict(zip(sets, proportions or [1.0] * len(sets), strict=True))
    if is_static_mix(file):
        _static_length(file, pool)
    else:
        _rounds(file, pool)
    if is_static_mix(file) or rule != "mixture":
        _static(file, None if rule == "stratified" else shares if rule == "mixture" else dict.fromkeys(sets, 1.0))
        _without_component(file, rule)
    else:
        mixer(file, name)
        file.put("mixer.initial", shares)
    if typed:  # typed data has sources of other names
        file.words = [word for word in file.words if word.key not in ("mixer.proportions", "mixer.initial")]
        file.notes.append("the typed data has sources of other names: type mixer.proportions, mixer.initial")


def _typed_data(file: File) -> bool:
    """Whether another pool than the file's is typed."""
    return any(file.typed_value(key) is not None for key in ("data", "data.candidates.path"))


def _rule(file: File) -> str:
    rule = file.take("mixture_sample_rule")
    if rule is None:
        file.notes.append("mixture_sample_rule is missing, for which DataFlex stops: mixture")
        return "mixture"
    if rule not in RULES:
        raise UserError(f"{file.path}: mixture_sample_rule={rule} is not known{did_you_mean(str(rule), RULES)}")
    return rule


def _without_component(file: File, rule: str) -> None:
    """Note the keys that a static mix does not use."""
    why = "static_mix" if is_static_mix(file) else f"mixture_sample_rule={rule}"
    keys = ("component_name", "components_cfg_file")
    keys += ("warmup_step", "update_step", "update_times") * is_static_mix(file)
    if unused := [key for key in keys if file.take(key) is not None]:
        file.notes.append(f"{why}: proportions stay, and {', '.join(unused)} have no effect, in DataFlex too")


def _static_length(file: File, pool: PoolSizes) -> None:
    """Translate the length of a static mix: train_step, or else num_train_epochs passes of whole steps."""
    steps = file.whole("train_step", 0)
    epochs = file.number("num_train_epochs", 3)
    if not steps and file.typed_value("trainer.update_step") is None:
        steps = int(_steps_a_pass(file, pool, "static_mix") * epochs)
    _stretch(file, steps or 1)


def _stretch(file: File, steps: int) -> None:
    file.put("trainer", "dynamic_mix")
    put_rounds(file, 0, steps, 1)


def _rounds(file: File, pool: PoolSizes) -> None:
    """Translate the schedule of a dynamic mix: one warm-up with its rounds, as DataFlex's mixes have no epochs. With
    update_times below 0 there are as many rounds as train_step or num_train_epochs needs."""
    warmup, step = file.whole("warmup_step", 0), file.whole("update_step", 0)
    times, total = file.whole("update_times", 1, -math.inf), file.whole("train_step", 0)
    epochs = file.number("num_train_epochs", 3)
    if step < 1 and times:
        raise UserError(f"{file.path}: update_step={step} trains no round; use update_step: 1 or more")
    if times < 0:
        total = total or int(_steps_a_pass(file, pool, f"update_times={times}") * epochs)
        times = max(0, math.ceil((total - warmup) / step))
        if total != warmup + step * times:
            file.notes.append(f"rounds are trained whole: {plural(warmup + step * times, 'step')} in place of {total}")
    else:
        for key, idle in (("train_step", total), ("num_train_epochs", epochs if epochs != 1 else 0)):
            if idle:
                file.notes.append(f"{key}: the rounds decide the length, in DataFlex too")
    if not warmup + step * times:
        raise UserError(f"{file.path}: warmup_step={warmup} and update_times={times} train no step; raise one of them")
    file.put("trainer", "dynamic_mix")
    put_rounds(file, warmup, max(1, step), times)


def _steps_a_pass(file: File, pool: PoolSizes, setting: str) -> int:
    """Optimizer steps of a pass over all data sets, as DataFlex counts them: whole ones, at least one. `setting`: that
    needs them, for the message."""
    if pool.rows is None:
        raise UserError(
            f"{file.path}: {setting} depends on the rows, which can't be counted; give train_step"
            + ", or type trainer.update_step=STEPS" * (setting == "static_mix")
        )
    return max(1, pool.rows // draws(file))


def _static(file: File, shares: dict[str, float] | None) -> None:
    file.put("mixer", "static")
    file.put("mixer.proportions", shares)


def numbers(file: File, key: str, sets: list[str]) -> list[float] | None:
    """The numbers under `key`, >=0, one for each data set; None where the file has none."""
    if file.take(key) is None:
        return None
    texts = file.names(key)
    try:
        numbers = [float(text) for text in texts]
    except ValueError as error:
        raise UserError(f"{file.path}: {key}={','.join(texts)} are not numbers; give one for each data set") from error
    if len(numbers) != len(sets) or min(numbers) < 0 or not 0 < sum(numbers) < math.inf:
        raise UserError(
            f"{file.path}: {key}={','.join(texts)} are not {len(sets)} numbers >=0, one for each data set; mend it"
        )
    return numbers
