"""The length of training: the trainer, its rounds and steps, and how many rows a round needs."""

import math

from omegaconf import DictConfig, OmegaConf

from near.app.from_yaml.components import TARGETLESS
from near.app.from_yaml.file import File
from near.common.config import CONF
from near.common.errors import UserError
from near.common.processes import world_size
from near.common.text import plural

BATCH = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}  # transformers' defaults


def options(mode: str) -> DictConfig:
    """The options in conf/trainer/<mode>.yaml; of a mode of rounds, those of dynamic_select."""
    listed = OmegaConf.load(CONF / "trainer" / f"{mode}.yaml")
    listed = listed.get("trainer", listed)
    return listed if "args" in listed else OmegaConf.load(CONF / "trainer" / "dynamic_select.yaml")


def has_rounds(mode: str) -> bool:
    return "update_step" in options(mode)


def draws(file: File) -> int:
    """Rows of an optimizer step, over all processes; typed batch sizes take precedence over the file's."""
    sizes = [file.typed_number(f"trainer.args.{key}") or file.whole(key, usual, 1) for key, usual in BATCH.items()]
    return math.prod(sizes) * world_size()


def trainer(file: File, mode: str, rows: int | None) -> None:
    """Translate the trainer and the length of its training.

    Args:
        file: to translate.
        mode: the trainer.
        rows: of the pool; None where they can't be counted.

    Raises:
        UserError: the schedule trains nothing, or its length depends on rows that can't be counted.
    """
    file.put("trainer", mode)
    passes = file.number("num_train_epochs", 3)
    if mode == "static":
        file.put("trainer.args.num_train_epochs", passes)
        if (steps := file.take("max_steps", -1)) != -1:
            file.put("trainer.args.max_steps", steps)
        return
    file.skip("max_steps", "the schedule decides the length, in DataFlex too", file.take("max_steps"))
    warmup, step = file.whole("warmup_step", 0), file.whole("update_step", 0)
    times, total = file.whole("update_times", 1, -math.inf), file.whole("train_step", 0)
    if not has_rounds(mode):
        _weighted(file, warmup, total, passes, rows)
        return
    if step < 1:
        raise UserError(f"{file.path}: update_step={step} trains no round; use update_step: 1 or more")
    cycles = 1
    if times < 1:
        if not total and rows is None:
            raise UserError(
                f"{file.path}: update_times={times} depends on the rows, which can't be counted; give train_step"
            )
        total = total or math.ceil(passes * math.ceil(rows / draws(file)))
        times = max(1, math.ceil((total - warmup) / step))
    else:
        cycles = max(1, math.ceil(total / (warmup + step * times) if total else passes))
        total = total or math.ceil(passes * (warmup + step * times))
    if total != cycles * (warmup + step * times):
        by = "train_step" if file.take("train_step") else "num_train_epochs"
        whole = cycles * (warmup + step * times)
        file.notes.append(f"rounds are trained whole: {plural(whole, 'step')} in place of {total}, by {by}")
    put_rounds(file, warmup, step, times, cycles)


def put_rounds(file: File, warmup: int, step: int, times: int, cycles: int = 1) -> None:
    """Set `cycles` times a warm-up and `times` rounds of `step` steps."""
    for key, value in (("warmup_step", warmup), ("update_step", step), ("update_times", times), ("cycles", cycles)):
        file.put(f"trainer.{key}", value)


def _weighted(file: File, warmup: int, total: int, passes: float, rows: int | None) -> None:
    """Translate the length of training without rounds: train_step, or passes over the pool."""
    if not total and rows is None:
        raise UserError(f"{file.path}: train_step is missing, and the rows can't be counted; give it")
    file.put("trainer.warmup_step", warmup)
    file.put("trainer.train_step", total or math.ceil(passes * math.ceil(rows / draws(file))))


def most(file: File, selectors: list[str], rows: int | None) -> int | None:
    """max_K, at most the number of rows; None for the default of the script.

    For near it is the number of rows that a round draws (the longest of several that are typed for a sweep), because
    near takes no more of a query's neighbours.
    """
    if all(name in TARGETLESS for name in selectors):
        return None
    limit = min([1000, *(count for count in (rows, file.typed_number("data.candidates.limit")) if count)])
    if selectors != ["near"]:
        return None if rows is None else limit
    step = file.typed_number("trainer.update_step") or file.whole("update_step", 0)
    return min(limit, step * draws(file))
