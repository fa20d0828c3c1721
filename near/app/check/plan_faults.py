"""Whether a plan's stages fit each other, the trainer and the typed groups."""

from collections.abc import Iterator, Mapping

from omegaconf import DictConfig

from near.common.config import CONF, select
from near.common.errors import UserError
from near.selection.plan.kinds import check_order, stage_kinds
from near.training.rounds.schedule import Schedule

MIX = "near.selection.mixers.selector.Mix"
WITH_ROUNDS = "use trainer=dynamic_select"
COMPONENTS = {  # of a kind's stages: the group, and some of its choices
    "filter": ("selector", "loss, near, column"),
    "mix": ("mixer", "static, random, doremi, odm"),
    "draw": ("selector", "random, near, loss"),
    "order": ("order", "saw, stair, sorting"),
    "weigh": ("weighter", "linupper, quadratic, extremes"),
}


def plan_faults(cfg: DictConfig, words: Mapping[str, str]) -> Iterator[str]:
    """Faults of the group plan. words: the overrides of the command by key."""
    name = words.get("plan", "...")
    if (CONF / "selector" / f"{name}.yaml").is_file():
        yield f"plan={name} has the name of a selector, by which reports know runs; rename its file"
    trainer = str(select(cfg, "trainer._target_")).rpartition(".")[2]
    if trainer in ("DynamicMixTrainer", "DynamicWeightTrainer"):
        mode, kind, instead = "mix", "mix", WITH_ROUNDS
        if trainer == "DynamicWeightTrainer":
            mode, kind, instead = "weight", "weigh", "use trainer=static"
        yield (
            f"plan={name} and trainer=dynamic_{mode} both decide what is trained; {instead}, and a {kind} stage of the "
            "plan"
        )
        return
    stages = stage_kinds(cfg.plan)
    for stage, kind in stages.items():
        if kind is None:
            yield (
                f"plan.{stage} is not a stage; give it one of conf/stage, as +stage@plan.{stage}=filter does, or leave "
                "it out"
            )
        elif select(cfg.plan, f"{stage}.by") is None:
            group, choices = COMPONENTS[kind]
            where = group if _reads(cfg.plan, stage, group) else f"+{group}@plan.{stage}.by"
            yield f"plan.{stage} has no {group}; use {where}={choices}"
        elif select(cfg.plan, f"{stage}.by._target_") == MIX:
            yield f"plan.{stage}: selector=mix picks rows by their source itself; use a mix stage and another selector"
    if None in stages.values():
        return
    if not stages:
        yield f"plan={name} has no stage left; leave it out"
    try:
        check_order(stages)
    except UserError as error:
        yield str(error)
    if "update_step" not in cfg.trainer:
        for stage, kind in stages.items():
            if kind != "weigh":
                yield f"plan.{stage} acts on rounds, and trainer=static has none; {WITH_ROUNDS}, or ~plan.{stage}"
            elif select(cfg.plan, f"{stage}.period") not in (1, None):
                yield f"plan.{stage}.period counts rounds, and trainer=static has none; {WITH_ROUNDS}, or set it to 1"
    yield from _late(cfg, stages)
    if "order" in stages.values() and select(cfg, "trainer.group_by_length") is True:
        yield "trainer.group_by_length=true would undo the order of the plan; leave one of them out"
    for group in ("selector", "mixer", "order", "weighter"):
        if group in words and words[group] != "null" and not any(_reads(cfg.plan, stage, group) for stage in stages):
            yield f"{group}={words[group]} would have no effect: no stage of plan={name} reads it; leave it out"


def _late(cfg: DictConfig, stages: Mapping[str, str]) -> Iterator[str]:
    """Faults of stages that would never act, because training ends before."""
    if "update_step" not in cfg.trainer:
        steps, last_round = select(cfg, "trainer.args.max_steps"), None
    else:
        numbers = [cfg.trainer[key] for key in ("warmup_step", "update_step", "update_times", "cycles")]
        if not all(isinstance(number, int) for number in numbers):
            return
        schedule = Schedule(*numbers)
        steps, last_round = schedule.total, schedule.total - schedule.update_step
        if not schedule.update_times:
            for stage, kind in stages.items():
                if kind != "mix":  # which warm-ups have, too
                    yield f"plan.{stage} acts on rounds, and trainer.update_times=0 leaves only the warm-up; raise it"
            return
    for stage, kind in stages.items():
        start = select(cfg.plan, f"{stage}.start")
        last, where = (steps - 1 if isinstance(steps, int) else None), "last step,"
        if kind != "weigh":
            last, where = last_round, "start of the last round, step"
        if isinstance(start, int) and last is not None and 0 <= last < start:
            yield (
                f"plan.{stage}.start={start} is behind the {where} {last}, so the stage would have no effect; lower it"
            )


def _reads(plan: DictConfig, stage: str, group: str) -> bool:
    """Whether a stage's component is what the group `group` chose."""
    node = plan._get_node(stage)
    raw = node._get_node("by") if isinstance(node, DictConfig) and "by" in node._content else None
    return raw is not None and raw._is_interpolation() and f"{group}," in str(raw._value())
