"""Every preset of DataFlex's components.yaml: what it becomes, that it composes, and what is named as not honoured."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from near.app.from_yaml.expanded import left, translated
from near.app.from_yaml.keys import COMPONENTS, TABLES
from near.common.errors import UserError
from near.training.train import train
from tests.conftest import configured
from tests.dataflex_files import COMMON, words
from tests.dataflex_presets import PRESETS

TYPES = {"selectors": "dynamic_select", "mixers": "dynamic_mix", "weighters": "dynamic_weight"}
TYPES |= {"reorders": "dynamic_reorder", "pipelines": "dynamic_lego"}
EVERY = [(kind, name) for kind, presets in PRESETS.items() for name in presets]

BECOMES = {  # the groups that are chosen, and what shows the params
    "nice": {"selector": "nice", "selector.samples": "4"},
    "less": {"selector": "less", "scoring.dim": "4096"},
    "icons": {"selector": "icons", "scoring.dim": "4096", "scoring.seed": "123"},
    "cluster_less": {"selector": "cluster_less", "selector.members": "4"},
    "coincide": {"selector": "coincide", "selector.clusters": "10000", "embedder.states": "layer"},
    "selectors loss": {"selector": "loss", "selector.focus": "medium"},
    "delta_loss": {"selector": "delta_loss", "selector.window_size": "0.2"},
    "tsds": {"selector": "tsds"},
    "near": {"selector": "near"},
    "selectors random": {"selector": "random"},
    "selectors custom": {"selector": "first"},
    "mixers random": {"mixer": "random"},
    "doremi": {"mixer": "doremi", "mixer.eta": "0.1", "mixer.c": "0.01"},
    "static": {"mixer": "static", "mixer.proportions": "{colours:0.5,sums:0.5}"},
    "odm": {"mixer": "odm", "mixer.alpha": "0.9"},
    "dynamic_moe": {"mixer": "dynamic_moe", "mixer.eta": "10.0", "mixer.c": "0.05", "mixer.sample": "160"},
    "weighters loss": {"weighter": "linupper", "weighter.delta": "1.0"},
    "adapt": {"weighter": "adapt", "weighter.tau": "1.0", "weighter.refresh": "50", "weighter.clip": "null"},
    "joint_update_aware": {"weighter": "joint_update_aware", "weighter.target_rows": "1", "weighter.objective": "full"},
    "weighters custom": {"weighter": "uniform"},
    "sorting": {"order": "sorting", "order.ascending": "true", "order.score": "column", "order.column": "score"},
    "shuffle": {"order": "shuffle"},
    "segment": {"order": "segment", "order.first": "0.1", "order.first_from": "low", "order.last_from": "high"},
    "folding": {"order": "folding", "order.layers": "3", "order.window": "1"},
    "zigzag": {"order": "zigzag", "order.layers": "3"},
    "stair": {"order": "stair", "order.sections": "2", "order.radius": "0.225", "order.layers": "3"},
    "saw": {"order": "saw", "order.sections": "3", "order.radius": "0.075", "order.layers": "2"},
    "dynamic_saw": {"order": "saw", "order.score": "loss", "order.every": "1", "order.consume_once": "true"},
    "dynamic_folding": {"order": "folding", "order.score": "loss", "order.layers": "3"},
    "reuse_selector_scores": {"order": "saw", "order.score": "loss", "order.every": "null"},
    "hierarchical": {
        "+stage@plan.filter": "filter",
        "+selector@plan.filter.by": "loss",
        "plan.filter.by.focus": "medium",
        "plan.filter.keep": "0.5",
        "plan.filter.start": "10",
        "plan.filter.period": "67",  # 200 steps are 66.7 rounds of 3
        "mixer": "odm",
        "plan.mix.period": "17",
        "order": "saw",
        "weighter": "linupper",
        "plan.weigh.start": "10",
    },
    "select_then_reorder": {"selector": "full", "+stage@plan.order": "order", "plan.order.period": "7"},
    "mix_then_weight": {"+stage@plan.mix": "mix", "mixer": "odm", "weighter": "linupper"},
    "select_only": {"+stage@plan.draw": "draw", "selector": "loss", "plan.draw.start": "10"},
}
NAMED = {  # the params that are named as not honoured
    "nice": {"nice.reward_model_backend"},
    "cluster_less": {"cluster_less.clustering_max_iter"},
    "coincide": {"coincide.clustering_max_iter"},
    "tsds": {"tsds.probs_path"},
    "near": {"near.indices_path"},
    "doremi": {"doremi.reference_model_path"},
    "odm": {
        "odm.warmup_steps",
        "odm.reward_scale",
        "odm.min_exploration_rate",
        "odm.initial_proportions",
    },
    "dynamic_moe": {"dynamic_moe.eval_samples"},
    "dynamic_saw": {"dynamic_saw.max_samples"},
    "dynamic_folding": {"dynamic_folding.max_samples"},
    "reuse_selector_scores": {"reuse_selector_scores.cache_path"},
}
NAMED |= {"hierarchical": NAMED["odm"] | NAMED["dynamic_saw"], "mix_then_weight": NAMED["odm"]}
NAMED |= {"select_then_reorder": NAMED["dynamic_saw"]}


def file_of(kind: str, name: str, more: str = "", presets: dict | None = None) -> Path:
    """A file that names a preset, beside a components.yaml with all of them (or with `presets`)."""
    entries = {k: {n: {"name": n, "params": p} for n, p in v.items()} for k, v in (presets or PRESETS).items()}
    Path("c.yaml").write_text(yaml.safe_dump(entries))
    gone = ("train_type", "components_cfg_file", "dataset")
    lines = [line for line in COMMON.splitlines() if line.split(":")[0] not in gone]
    lines += [f"train_type: {TYPES[kind]}", "components_cfg_file: c.yaml", f"component_name: {name}"]
    lines += ["mixture_sample_rule: mixture"] * (kind == "mixers")
    usual = {"dataset": "colours,sums", "eval_dataset": "sums", "train_step": "20"}
    lines += [f"{key}: {value}" for key, value in usual.items() if not more.startswith(key)] + [more]
    path = Path("file.yaml")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_preset_is_taken(dataflex, kind, name):
    file = translated("train", file_of(kind, name), [])
    expected = BECOMES.get(f"{kind} {name}") or BECOMES[name]
    assert words(file) | expected == words(file), {k: words(file).get(k) for k in expected}
    assert set(file.skipped) == NAMED.get(f"{kind} {name}", NAMED.get(name, set()))
    cfg = configured("train", *map(str, file.words))
    if kind in ("reorders", "pipelines"):
        static = PRESETS[kind][name].get("kind") == "static"
        schedule = cfg.trainer.warmup_step, cfg.trainer.update_step, cfg.trainer.update_times
        assert schedule == ((0, 24, 1) if static else (2, 3, 2)) and cfg.trainer.cycles == (1 if static else 3)
    if kind == "pipelines":
        kinds = [stage["family"] for stage in PRESETS[kind][name]["stages"]]
        assert len([key for key in cfg.plan if key != "_target_"]) == len(kinds) + (name == "select_then_reorder")


def test_every_kind_and_component_has_its_table():
    for kind in ("selectors", "mixers", "weighters"):
        assert set(PRESETS[kind]) == set(COMPONENTS[kind])
    for kind in ("reorders", "pipelines"):
        assert set(TABLES["published"][kind]) == set(PRESETS[kind])


@pytest.mark.parametrize(
    ("kind", "name", "params", "says"),
    [
        ("weighters", "joint_update_aware", {"target_num_batches": "x"}, "joint_update_aware.target_num_batches=x"),
        ("mixers", "dynamic_moe", {"eval_samples": None}, "dynamic_moe.eval_samples=None is not a number >=1; set one"),
        ("reorders", "segment", {"pattern_params": {"x_pct": "a"}}, "segment.x_pct=a is not a number >=0; set one"),
        ("reorders", "saw", {"window_size": "a"}, "saw.window_size=a is not a number >=0; set one"),
        ("reorders", "saw", {"pattern_params": [1]}, r"saw.pattern_params=\[1\] is not a mapping; write"),
        ("reorders", "saw", {"score_params": [1]}, r"saw.score_params=\[1\] is not a mapping; write"),
    ],
)
def test_params_that_are_no_numbers(dataflex, kind, name, params, says):
    with pytest.raises(UserError, match=says):
        translated("train", file_of(kind, name, presets=changed(kind, name, params)), [])


@pytest.mark.parametrize("name", PRESETS["reorders"] | PRESETS["pipelines"])
def test_published_params_are_those_of_the_presets(dataflex, name):
    """For a file whose components.yaml is elsewhere."""
    kind = "reorders" if name in PRESETS["reorders"] else "pipelines"
    with_file = words(translated("train", file_of(kind, name), []))
    path = file_of(kind, name)
    Path("c.yaml").unlink()
    without = words(translated("train", path, []))
    assert without | {k: v for k, v in with_file.items() if k.startswith(("order", "plan", "stage"))} == without


def changed(group: str, preset: str, params: dict) -> dict:
    presets = copy.deepcopy(PRESETS)
    presets[group][preset].update(params)
    return presets


def test_params_of_the_new_components(dataflex):
    def of(kind, name, more="", **params):
        return translated("train", file_of(kind, name, more, changed(kind, name, params)), [])

    file = of("selectors", "coincide", embedding_layers=[2, 4], embedding_model_dtype="bf16", single_member_density=2)
    assert words(file)["embedder.layers"] == "[2,4]" and words(file)["embedder.dtype"] == "bfloat16"
    assert "coincide.single_member_density" in file.skipped
    assert words(of("selectors", "coincide", embedding_model_name_or_path="a/b"))["embedder.model"] == "a/b"
    two = "eval_dataset: sums,colours"
    assert words(of("selectors", "icons", two))["selector.aggregate"] == "mean"
    assert "selector.aggregate" not in words(of("selectors", "icons", two, task_boundaries=[5, 30]))
    assert "icons.task_boundaries" in of("selectors", "icons", task_boundaries=[2, 3]).skipped
    joint = of(
        "weighters", "joint_update_aware", objective_mode="align_only", target_num_batches=0, pooling="mean_pool"
    )
    shown = [words(joint)[f"weighter.{key}"] for key in ("objective", "target_rows", "pooling")]
    assert shown == ["align", "null", "mean"]
    assert words(of("weighters", "joint_update_aware", objective_mode="uniform"))["weighter"] == "uniform"
    assert words(of("mixers", "dynamic_moe", eval_samples=100))["mixer.sample"] == "100"
    custom = of("selectors", "custom")
    assert any("selector=first, what DataFlex's example does" in line for line in custom.notes)


def test_params_of_orders(dataflex):
    def of(name, **params):
        return translated("train", file_of("reorders", name, presets=changed("reorders", name, params)), [])

    assert words(of("sorting", polarity="higher_earlier"))["order.ascending"] == "false"
    assert words(of("sorting", polarity="lower_is_better", ascending=False))["order.ascending"] == "true"
    assert words(of("folding", window_size=500, pattern_params={"folding_layer": 4}))["order.window"] == "500"
    assert words(of("folding", pattern_params={"folding_layer": 4}))["order.layers"] == "4"
    assert words(of("saw", pattern_params={}))["order.radius"] == "0.0"
    assert words(of("dynamic_saw", reorder_every=3))["order.every"] == "3"
    assert "sorting.score_path" in of("sorting", score_params={"score_path": "x.npy"}).skipped
    assert "sorting.seed" in of("sorting", seed=7).skipped and "sorting.seed" not in of("sorting").skipped
    with pytest.raises(UserError, match="pattern=saww of the reorder saw; did you mean saw"):
        of("saw", pattern="saww")
    with pytest.raises(UserError, match="kind=late of the reorder saw is not known; use static or dynamic"):
        of("saw", kind="late")


def test_pipelines_of_ones_own(dataflex):
    def of(*stages, more="", typed=()):
        presets = copy.deepcopy(PRESETS)
        presets["pipelines"] = {"mine": {"stages": list(stages)}}
        return translated("train", file_of("pipelines", "mine", more, presets), list(typed))

    weigh = {"family": "weighter", "component": "loss"}
    select = {"family": "selector", "component": "less", "mode": "draw", "warmup_step": 4, "every": 6}
    file = of(weigh, select, {"family": "weighter", "component": "adapt", "warmup_step": 7})
    cfg = configured("train", *map(str, file.words))
    assert [key for key in cfg.plan if key != "_target_"] == ["draw", "weigh", "weigh2"]
    assert (cfg.plan.draw.start, cfg.plan.draw.period, cfg.plan.weigh2.start) == (4, 2, 7)
    assert cfg.plan.weigh2.by._target_.endswith(".Adapt") and cfg.data.queries.path == "sums"
    mix = {"family": "mixer", "component": "odm"}
    cfg = configured("train", *map(str, of({**select, "component": "loss"}, mix).words))
    assert [key for key in cfg.plan if key != "_target_"] == ["mix", "draw"], "a draw takes what the mix gives it"
    file = of(mix, weigh, more="dataset: colours")
    assert "+stage@plan.mix" not in words(file) and any("the mixer is left out" in line for line in file.notes)
    assert not [
        word for word in left(of(weigh, typed=["plan=weigh_only"]).words, ["plan=weigh_only"]) if "plan" in word.key
    ]
    assert of({**weigh, "evry": 2}).skipped["mine.weighter.evry"] == "unknown param; did you mean every?"
    for stages, says in [
        ([{**select, "mode": "filter", "keep_ratio": "x"}], "keep_ratio=x is not a number >=0; set one"),
        ([{**select, "warmup_step": "x"}], "warmup_step=x is not a number >=0; set one"),
        ([{**select, "every": -3}], "every=-3 is not a number >=0; set one"),
        ([{**select, "mode": "half"}], "mode=half of the stage selector: less is not known; use filter or draw"),
        ([{**select, "component": "lesss"}], "not a selector here; did you mean less"),
        ([{"family": "selektor", "component": "x"}], "is of no family; did you mean selector"),
        ([select, {**select, "mode": "filter"}], "is not its only selector, in DataFlex neither; leave one"),
        ([{"family": "reorder", "component": "saw"}], "has apply_at: raw, which a pipeline refuses in DataFlex, too"),
        ([{"family": "selector", "component": "coincide"}], "sets more than a selector, which no filter can"),
        ([{**weigh, "enabled": False}], "the pipeline mine has no stage left; enable one"),
    ]:
        with pytest.raises(UserError, match=says):
            of(*stages)


@pytest.mark.model
def test_a_pipeline_trains(dataflex, cache):
    """The published hierarchical one, on two data sets."""
    Path("data/sums.jsonl").write_text(
        "".join(json.dumps({"instruction": f"add {i}", "input": "", "output": str(2 * i)}) + "\n" for i in range(12))
    )
    file = translated("train", file_of("pipelines", "hierarchical", "max_samples: 12"), [])
    more = ["finetuning.lora_dropout=0", "trainer.cycles=2", "plan.filter.start=0", "plan.weigh.start=0"]
    out = Path("out").resolve()
    replaced = {"output_dir", "trainer.cycles", "plan.filter.start", "plan.weigh.start", "trainer.args.bf16"}
    kept = [str(word) for word in file.words if word.key not in replaced]
    train(configured("train", *kept, *more, f"cache_dir={cache}", "embedder=hashing"), out)
    lines = [json.loads(line) for line in (out / "rounds" / "rounds.jsonl").read_text().splitlines()]
    assert [line["selector"] for line in lines] == ["warm-up", "plan", "plan"] * 2
    assert [stage["kind"] for stage in lines[1]["stages"]] == ["filter", "mix", "draw", "order"]
