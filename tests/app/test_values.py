"""Every option of every script under hostile values: refused in a line, or of the right type, finite and in bounds."""

import math
import re
from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from near.app.check.check import check
from near.app.check.option_types import HYDRA_KEYS, type_of
from near.app.faults import fault_line
from near.app.options import groups
from near.common.command_line import Command
from near.common.config import CONF
from near.common.errors import UserError
from near.common.signature import inspected, parameters
from near.training.options import ELSEWHERE
from tests.conftest import composed
from tests.hydra_cache import copied

NEEDED = {"merge": ("adapter_name_or_path=a", "export_dir=b"), "report": ("runs=r",)}
MODES = {"mixer": ["trainer=dynamic_mix"], "weighter": ["trainer=dynamic_weight"]}
LISTED = 2000  # values that are tried, at the least
ZERO = """
answers data.dedup_threshold embedder.server.retries evaluation.graders.judge.server.retries
evaluation.lm_eval.num_fewshot finetuning.lora_alpha finetuning.lora_dropout mixer.alpha mixer.c mixer.eta neighbours
queries rounding_tolerance row scoring.seed seed selector.alpha selector.judge.server.retries selector.min_overlap
selector.mix selector.sigma tolerance tracker.table_chars tracker.table_rows trainer.args.adam_beta1
trainer.args.adam_beta2
trainer.args.adam_epsilon trainer.args.dataloader_num_workers trainer.args.eval_delay
trainer.args.label_smoothing_factor trainer.args.learning_rate trainer.args.local_rank trainer.args.max_grad_norm
trainer.args.max_steps trainer.args.neftune_noise_alpha trainer.args.warmup_steps trainer.args.weight_decay
trainer.loraplus.lr_embedding trainer.update_times trainer.warmup_step data.data_seed data.decontaminate.cosine
data.difficulty data.noise data.own_rows order.first order.last order.radius selector.draw similarity.b similarity.k1
mixer.layer plan.draw.start plan.filter.above plan.filter.below plan.filter.start plan.mix.start plan.order.start
plan.weigh.start weighter.beta weighter.layer
"""
FRACTION = """
embedder.server.timeout evaluation.graders.judge.server.timeout evaluation.graders.pass_at_1.seconds export_size
finetuning.lora_alpha mixer.eta mixer.temperature rounding_tolerance selector.C selector.epsilon selector.focus_weight
selector.judge.server.timeout selector.reg_queries selector.reg_rows selector.sigma selector.temperature tolerance
trainer.args.eval_delay trainer.args.eval_steps trainer.args.learning_rate trainer.args.logging_steps
trainer.args.max_grad_norm trainer.args.neftune_noise_alpha trainer.args.num_train_epochs trainer.args.save_steps
trainer.args.warmup_steps trainer.args.weight_decay trainer.loraplus.lr_embedding trainer.loraplus.lr_ratio
weighter.delta weighter.r scoring.damping similarity.k1 data.eval.validation plan.filter.above plan.filter.below
plan.filter.by.focus_weight plan.filter.by.temperature weighter.beta weighter.clip weighter.tau
"""
NULL = (
    "embedder.max_length order.every plan.filter.keep scoring.dim selector.shortlist.size trainer.args.save_total_limit"
)
# options of generated data, absent in other data; its own check refuses null, before anything is made
NULL += " data.data_seed data.difficulty data.eval_rows data.longest data.noise data.own_rows data.query_rows data.rows"
NULL += " data.rows_per_task selector.min_overlap"


def commands() -> Iterator[tuple[str, ...]]:
    """Every script as it is, and train.py with every choice of a group that names an option for the first time."""
    for script in ("train", "select", "merge", "eval", "report"):
        yield (script, *NEEDED.get(script, ()))
    seen = set(leaves(composed("train", ())[1]))
    for group, choices in groups().items():
        for choice, file in choices.items():
            names = {option.name for option in file.options}
            if group not in ("data/source", "stage") and names - seen:  # stage: of plan=hierarchical, below
                yield ("train", *MODES.get(group, ()), f"{group}={choice}")
            seen |= names
    yield ("train", "plan=hierarchical")


def whole(command: tuple[str, ...]) -> DictConfig:
    """The configuration, with every option that TrainingArguments and LoraConfig have beside those in conf/."""
    cfg = copied(composed(command[0], command[1:])[1])
    OmegaConf.set_struct(cfg, False)
    for path in ("trainer.args", "finetuning"):
        node = OmegaConf.select(cfg, path)
        if command[1:] == () and node is not None:
            for name in parameters(node._target_)[0]:
                if name not in node and not (path == "trainer.args" and name in ELSEWHERE):
                    node[name] = None
    return cfg


def leaves(node: DictConfig, path: str = "") -> list[str]:
    found = []
    for key in node:
        raw, full = node._get_node(key), f"{path}{key}"
        if key in HYDRA_KEYS or raw._is_interpolation() and isinstance(node[key], DictConfig):
            continue
        branch = isinstance(raw, DictConfig) and not raw._is_none() and len(raw)
        found += leaves(raw, f"{full}.") if branch else [full]
    return found


FREE = ("parallel.", "evaluation.engine", "embedder.engine")  # another program's own options: finite is all we know
NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e30": 1e30, "10**40": 10**40, "-1e30": -1e30}
NUMBERS |= {"-1": -1, "0": 0, "1.5": 1.5}
OTHERS = {"true": True, "text": "nosuchthing", "empty": "", "list": [1, "a"], "mapping": {"a": 1}, "null": None}


@pytest.fixture(scope="module")
def accepted() -> dict[str, dict[str, object]]:
    """Under each hostile value the options that take it, with their own value; all options under "".

    The value stands at every option at once, so that a check names all that refuse it; options are tried under the
    first choice that has them.
    """
    found: dict[str, dict[str, object]] = {name: {} for name in ("", *NUMBERS, *OTHERS)}
    for command in commands():
        base = whole(command)
        new = {k: OmegaConf.select(base, k) for k in leaves(base) if k not in found[""]}
        found[""] |= new
        for name, value in (NUMBERS | OTHERS).items() if new else ():
            cfg = copied(base)
            for key in new:
                OmegaConf.update(cfg, key, value, merge=False)
            faults = []
            try:
                check(cfg)
            except UserError as error:
                assert "\n" not in str(error)
                faults = str(error).split("; ")
            refused = {fault.split("=")[0] for fault in faults}
            took = {k: v for k, v in new.items() if not any(r == k or r.startswith(f"{k}.") for r in refused)}
            if name in NUMBERS:  # texts that YAML reads as numbers become texts again
                took = {k: v for k, v in took.items() if not isinstance(OmegaConf.select(cfg, k), str)}
            found[name] |= took
    return found


def test_there_are_enough_of_them(accepted):
    assert len(accepted[""]) * len(NUMBERS | OTHERS) >= LISTED


@pytest.mark.parametrize("name", ["nan", "inf", "-inf", "1e30", "10**40", "-1e30"])
def test_no_option_takes_what_is_not_finite_or_beyond_any_bound(accepted, name):
    assert set(accepted[name]) == set()


def numbers(accepted, name: str) -> set[str]:
    return {key for key in accepted[name] if not key.startswith(FREE)}


def test_what_may_be_negative(accepted):
    assert numbers(accepted, "-1") == {
        *("trainer.args.max_steps", "trainer.args.local_rank", "mixer.layer", "weighter.layer"),
        *("plan.filter.above", "plan.filter.below"),
    }


def test_what_may_be_0(accepted):
    assert numbers(accepted, "0") == set(ZERO.split())


def test_what_may_be_a_fraction_above_1(accepted):
    assert numbers(accepted, "1.5") == set(FRACTION.split())


@pytest.mark.parametrize("name", ["true", "text", "empty", "list", "mapping"])
def test_numbers_and_switches_take_nothing_else(accepted, name):
    wrong = {k for k, default in accepted[name].items() if isinstance(default, int | float) and not k.startswith(FREE)}
    assert {k for k in wrong if name != "true" or not isinstance(accepted[""][k], bool)} == set()


def test_numbers_that_may_be_null(accepted):
    assert {
        k for k, default in accepted["null"].items() if isinstance(default, int | float) and not k.startswith(FREE)
    } == set(NULL.split())


@pytest.mark.parametrize(
    ("key", "value", "becomes"),
    [
        ("max_K", 1e3, 1000),
        ("max_K", 1000.5, None),
        ("max_K", "0x10", None),
        ("selector.subset_size", 0.5, 0.5),
        ("selector.subset_size", 5.0, 5),
        ("trainer.args.learning_rate", 1, 1),
        ("model.revision", 20240101, "20240101"),
        ("model.revision", 1.5, None),
        ("output_dir", True, None),
        ("data.candidates.columns", {"source": 5}, {"source": "5"}),
        ("data.candidates.columns", {"source": [1]}, None),
        ("data.candidates.tags", {"role_tag": 2.5}, None),
        ("scoring.modules", ["q_proj", 3], ["q_proj", "3"]),
        ("scoring.modules", [["q_proj"]], None),
        ("evaluation.lm_eval.tasks", "gsm8k", None),
        ("evaluation.engine", {"gpu_memory_utilization": math.nan}, None),
        ("evaluation.engine", {"deep": [{"er": math.inf}]}, None),
        ("evaluation.graders", {"exact": 3}, None),
        ("trainer.loraplus", 3, None),
        ("selector.shortlist", {"selector": "near", "size": 1e30}, None),
    ],
)
def test_what_a_value_becomes(key, value, becomes):
    cfg = copied(composed("train", ("selector=less",) if "shortlist" in key else ())[1])
    OmegaConf.update(cfg, key, value, merge=False)
    if becomes is None:
        with pytest.raises(UserError, match=re.escape(key)):
            check(cfg)
    else:
        check(cfg)
        assert OmegaConf.select(cfg, key) == becomes


def test_the_classes_of_another_project_decide_themselves_but_for_what_is_not_finite():
    cfg = copied(composed("train", ())[1])
    OmegaConf.update(cfg, "selector", {"_target_": "collections.Counter", "mix": -5, "temperature": 0}, merge=False)
    check(cfg)
    OmegaConf.update(cfg, "selector.temperature", math.nan)
    with pytest.raises(UserError, match="selector.temperature=nan is not a finite number"):
        check(cfg)


@pytest.mark.parametrize("key", ["seed", "data", "trainer", "trainer.args", "selector", "selector._target_", "model"])
def test_an_option_that_is_gone_is_said_with_the_fix(key):
    cfg = copied(composed("train", ())[1])
    OmegaConf.set_struct(cfg, False)
    parent, _, leaf = key.rpartition(".")
    del (OmegaConf.select(cfg, parent) if parent else cfg)[leaf]
    with pytest.raises(UserError, match=rf"{key} is missing; set {key}=..., or leave ~{key} out of the command"):
        check(cfg)


GONE = ["seed", "cache_dir", "output_dir", "sweep_name"]
DELETED = [("train", key) for key in ("selector", "data", "trainer.args", "model", "selector._target_", *GONE)]
DELETED += [
    ("train", key) for key in ("trainer", "embedder", "evaluation", "data.more_eval", "data.eval", "finetuning.r")
]
DELETED += [("select", key) for key in ("data", "data.candidates", "index", "embedder._target_", "max_K", "n", *GONE)]
DELETED += [("merge", key) for key in ("adapter_name_or_path", "export_dir", "tolerance", "template", *GONE)]
DELETED += [("eval", key) for key in ("data", "model", "evaluation", "evaluation.graders", "run", *GONE)]
DELETED += [("report", key) for key in ("runs", "map", "row", "queries", *GONE)]


@pytest.mark.parametrize(("script", "key"), DELETED)
def test_a_deletion_is_told_with_the_fix(script, key, monkeypatch):
    words = [*NEEDED.get(script, ()), f"~{key}"]
    monkeypatch.setattr("sys.argv", [f"{script}.py", *words])
    monkeypatch.setattr("near.common.command_line._current", Command(script, ("near", script)))
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(script, overrides=words)
        check(cfg, words)
    except Exception as error:
        line = fault_line(error)
        assert line is not None and f"~{key}" in line and "\n" not in line
    else:
        assert key == "finetuning.r", "what a class has a default for may go"


def test_a_class_that_is_imported_is_typed_as_one_that_is_read():
    found = [OmegaConf.load(path) for path in sorted(CONF.rglob("*.yaml"))]
    targets = {str(node.get("_target_")) for node in found if isinstance(node, DictConfig)}
    near = sorted(target for target in targets if target.startswith("near."))
    assert len(near) > 30
    for target in near:
        module, _, name = target.rpartition(".")
        read, (imported, more) = parameters(target)[0], inspected(target, module, name)
        # a signature does not say to which class **options go; the source does
        assert read.keys() == imported.keys() or (more and imported.keys() < read.keys())
        for key in imported:
            types = [type_of(of[key]) for of in (read, imported)]
            assert types[0].names - {"None"} == types[1].names - {"None"}, (target, key)
            assert types[0].choices == types[1].choices, (target, key)
            assert types[0].bounds == types[1].bounds, (target, key)
