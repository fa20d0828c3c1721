"""An untrusted run folder executes nothing: one function reads its configuration, tried here with many attacks."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from near.app.check.check import check, read_run_config
from near.common.config import CONF, public
from near.common.errors import user_error
from near.common.foreign import allowed_modules, read_config, read_overrides
from near.common.records import EvalMetrics, RunIdentity, TrainMetrics
from near.evaluation.eval import evaluate, with_run
from near.evaluation.measure import graders_of
from near.export.lineage import adapters_of
from near.report.compare import Group
from near.report.page.pool import pool_of
from near.report.runs import Run
from near.selection.selectors.model import named
from tests.conftest import configured

NODES = [
    *("selector", "selector.shortlist.selector", "selector.mixer", "embedder", "index", "similarity", "scoring"),
    *("tracker", "trainer", "trainer.args", "finetuning", "model.quantization", "mixer", "weighter"),
    *("evaluation.graders.exact", "evaluation.graders.selector", "data.candidates", "hydra.launcher"),
    "hydra.callbacks.mine",
]


def evil(mark: Path) -> list[dict]:
    """What Hydra would call, and what leaves the file `mark`."""
    touch, code = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    os_system = {"_target_": "os.system", "command": touch}
    values = [
        {"_target_": name, "_args_": list(arguments)}
        for name, *arguments in [
            ("os.system", touch),
            ("os.popen", touch),
            ("os.mkdir", str(mark)),
            ("posix.system", touch),
            ("subprocess.Popen", ["touch", str(mark)]),
            ("subprocess.run", ["touch", str(mark)]),
            ("subprocess.check_output", ["touch", str(mark)]),
            ("builtins.eval", code),
            ("builtins.exec", code),
            ("builtins.open", str(mark), "w"),
            ("builtins.__import__", "os"),
            ("pathlib.Path", str(mark)),
            ("shutil.copy", "/etc/hostname", str(mark)),
            ("importlib.import_module", "antigravity"),
            ("runpy.run_path", str(mark)),
            ("code.InteractiveInterpreter",),
            ("functools.partial", "${oc.env:HOME}"),
            ("hydra.utils.call", os_system),
            ("hydra.utils.instantiate", os_system),
            ("hydra._internal.instantiate._instantiate2.instantiate", os_system),
            ("near.app.scripts.os.system", touch),
            ("near.app.jobs.os.mkdir", str(mark)),
            ("near.selection.selectors.near.np.save", str(mark), 1),
            ("near.selection.selectors.base.instantiate", os_system),
            ("near.evaluation.graders.judge.json.loads", "1"),
            ("near.evaluation.graders.judge.write_json", str(mark), 1),
            ("near.evaluation.graders.judge.Verdicts", str(mark)),
            ("near.evaluation.graders.pass_at_1.run", code),
            ("near.common.files.write_json", str(mark), 1),
            ("near.common.bounded.Bounded", "x", 1),
            ("near.embedding.store.Store", str(mark), {}, "float32", "x"),
            ("near.selection.selectors.near._hidden",),
            ("near.selection.selectors..near.Near",),
            ("near.selection.selectors.near.Near.select", 1),
            ("near.selection.selectors.near.Selector",),
            ("near.training.rounds.schedule.Schedule", 1, 1, 1, 1),
            ("tests.spy.SpyTrainer",),
            ("../tests.spy.SpyTrainer",),
            ("peft.PeftModel.from_pretrained", "x"),
            ("torch.load", str(mark)),
            ("near",),
            ("",),
            (3,),
            (None,),
            (["os.system"],),
            ({"_target_": "os.system"},),
        ]
    ]
    return [*values, {"_target_": "functools.partial", "func": os_system, "_partial_": True}, os_system]


def written(folder: Path, config: object) -> Path:
    (folder / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return folder / "config.yaml"


def placed(place: str, value: object) -> dict:
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


def refused(work) -> str:
    """The UserError that `work` ends with, whatever wraps it."""
    with pytest.raises(Exception) as caught:
        work()
    assert user_error(caught.value) is not None, caught.value
    return str(user_error(caught.value))


@pytest.mark.parametrize("place", NODES)
def test_nothing_that_hydra_would_call_is_called(tmp_path, place):
    mark = tmp_path / "mark"
    for number, node in enumerate(evil(mark)):
        nested = {"_target_": "near.selection.selectors.near.Near", "nested": [{"deeper": node}]}
        cfg = read_config(written(tmp_path, placed(place, nested if number % 3 == 0 and place == "selector" else node)))
        part = OmegaConf.select(cfg, place)
        assert "config.yaml" in refused(lambda part=part: instantiate(part)), node
        public(cfg)
    assert not mark.exists()


def test_every_choice_of_conf_is_taken(tmp_path):
    """Classes in the project's configurations are allowed in their places."""
    seen = 0
    for path in CONF.rglob("*.yaml"):
        node, group = yaml.safe_load(path.read_text()), path.parent.relative_to(CONF)
        if isinstance(node, dict) and "_target_" in node and group.parts[0] != "hydra":
            cfg = read_config(written(tmp_path, placed(".".join(group.parts), {"_target_": node["_target_"]})))
            assert OmegaConf.select(cfg, ".".join(group.parts))._target_ == node["_target_"]
            seen += 1
    assert seen > 30
    for overrides in (["finetuning=qlora"], ["trainer=dynamic_mix"], ["selector=less_shortlist"], ["tracker=wandb"]):
        whole = OmegaConf.to_container(configured("train", *overrides), resolve=True)
        cfg = read_config(written(tmp_path, whole))
        assert OmegaConf.to_container(cfg, resolve=True)["trainer"] == whole["trainer"]
        check(cfg)


def test_classes_of_a_room_are_taken(tmp_path):
    target = "near.embedding.embedders.vllm_server.VllmServerEmbedder"  # which no file of conf/ names
    assert read_config(written(tmp_path, placed("embedder._target_", target))).embedder._target_ == target
    cfg = read_config(written(tmp_path, placed("selector._target_", target)))
    assert "is not a class of this package for selector" in refused(lambda: cfg.selector._target_)
    cfg = read_config(written(tmp_path, placed("evaluation.graders.x._target_", "peft.LoraConfig")))
    assert "allow_targets=peft" in refused(lambda: instantiate(cfg.evaluation.graders.x))


def test_a_module_that_is_allowed(tmp_path):
    path = written(tmp_path, placed("evaluation.graders.x._target_", "tests.scored.Away"))
    for allow in ("tests.scored", "tests", ["near", "tests.scored"], "tests.scored.Away"):
        assert read_config(path, allow).evaluation.graders.x._target_ == "tests.scored.Away"
    for allow in (None, "test", "tests.score", "tests.scored.Away.x", "tests.scored.Aw"):
        fault = refused(lambda allow=allow: read_config(path, allow, retyped=True).evaluation.graders.x._target_)
    assert fault == (
        f"{path}: evaluation.graders.x._target_=tests.scored.Away is not a class of this package for "
        "evaluation.graders.x; if you trust it, type allow_targets=tests.scored, or "
        "++evaluation.graders.x._target_=tests.scored.Away"
    )
    for target in ("tests.scored.json.dump", "tests.conftest.os.system", "tests.conftest.process", "tests.scored.None"):
        cfg = read_config(written(tmp_path, placed("evaluation.graders.x._target_", target)), "tests")
        assert "is not a class that" in refused(lambda cfg=cfg: instantiate(cfg.evaluation.graders.x))
    for odd in (3, "a b", "a;b", {"a": 1}, ["a", None], "../a", ""):
        assert "allow_targets=" in refused(lambda odd=odd: allowed_modules(odd))
    for word in ("3", "{a: 1}", "[a,3]", "'a b'"):
        assert "allow_targets=" in refused(lambda word=word: configured("report", "runs=x", f"allow_targets={word}"))


@pytest.mark.parametrize(
    "reference",
    [
        "${oc.env:HIDDEN}",
        "${oc.env:HIDDEN,x}",
        "a ${oc.env:HIDDEN} b",
        "${oc.decode:${oc.env:HIDDEN}}",
        "${near.first:'',${oc.env:HIDDEN}}",
        "${oc.env:${oc.env:OTHER}}",
        "\\\\${oc.env:HIDDEN}",
        "${ oc.env : HIDDEN }",
        "${data.hidden}",
        "${now:%Y}",
        "${hydra:runtime.cwd}",
        "${near.refused:'61','61'}",
        "${near.agent:[]}",
        "${unknown:1}",
        "${",
    ],
)
def test_references_are_not_resolved(tmp_path, monkeypatch, reference):
    monkeypatch.setenv("HIDDEN", "swordfish")
    config = {"data": {"eval": {"path": reference}, "list": [reference], "hidden": "swordfish"}, "cache_dir": reference}
    cfg = read_config(written(tmp_path, config))
    for key in ("data.eval.path", "data.list.0", "cache_dir"):
        fault = refused(lambda key=key: OmegaConf.select(cfg, key))
        assert "swordfish" not in fault and key in fault
    refused(lambda: OmegaConf.to_container(cfg, resolve=True))
    assert public(cfg)["data"]["eval"]["path"] == reference
    assert "swordfish" not in json.dumps({k: v for k, v in public(cfg)["data"].items() if k != "hidden"})


def test_what_is_text_stays_text(tmp_path):
    texts = ["it costs $5", "$ {x}", "\\${x}", "\\\\\\${x}", "{{ x }}", "a: b"]
    cfg = read_config(written(tmp_path, {"texts": texts}))
    assert list(cfg.texts)[:2] == texts[:2] and cfg.texts[2] == "${x}"
    again = read_config(written(tmp_path, public(cfg)))
    assert list(again.texts) == list(cfg.texts)


def test_the_cache_of_this_machine_is_our_own_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("NEAR_CACHE", "/elsewhere")
    raw = yaml.safe_load((CONF / "base.yaml").read_text())["cache_dir"]
    assert read_config(written(tmp_path, {"cache_dir": raw, "other": raw})).cache_dir == "/elsewhere"


def test_what_runs_code_counts_only_where_it_is_typed(tmp_path, caplog):
    server = {"url": "http://x/v1", "api_key_env": "AWS_SECRET_ACCESS_KEY"}
    config = {
        "model": {"trust_remote_code": True, "deeper": [{"trust_remote_code": "${x}"}]},
        "embedder": {"trust_remote_code": 1, "engine": {"worker_cls": "os.system"}, "server": server},
        "evaluation": {"engine": {"hf_overrides": 1}, "unsafe": True, "lm_eval": {"include_path": "tasks", "limit": 1}},
        "data": {"candidates": {"filter": {"engine": "x", "unsafe": "y"}}},
    }
    with caplog.at_level("INFO"):
        cfg = read_config(written(tmp_path, config), retyped=True)
    assert cfg.model.trust_remote_code is False and cfg.model.deeper[0].trust_remote_code is False
    assert cfg.embedder.trust_remote_code is False and cfg.embedder.engine == {} and cfg.evaluation.engine == {}
    assert cfg.evaluation.unsafe is False and cfg.embedder.server.api_key_env is None
    assert "type evaluation.lm_eval.include_path=tasks" in refused(lambda: cfg.evaluation.lm_eval.include_path)
    assert cfg.data.candidates.filter == {"engine": "x", "unsafe": "y"}
    assert "model.trust_remote_code=True has no effect unless it is typed" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch mark']",
        "a: !!python/name:os.system",
        "- a",
        "3",
        "",
        "a: [",
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
        "a: " + "[" * 2000 + "]" * 2000,
        "a: 2020-01-01\n",
        "\x00",
        "? [a, b]\n: 1\n? {c: d}\n: 2",
    ],
)
def test_damaged_configurations_are_named(tmp_path, text):
    line = refused(lambda: read_config(written(tmp_path, text)))
    assert re.search(r"config\.yaml (is damaged|can't be read .*it is damaged|has more than 200000 values)", line)


def test_words_of_a_folder_are_words(tmp_path, monkeypatch):
    monkeypatch.setenv("HIDDEN", "swordfish")
    (tmp_path / ".hydra").mkdir()
    file = tmp_path / ".hydra" / "overrides.yaml"
    file.write_text("- +a='${oc.env:HIDDEN}'\n- 3\n")
    assert read_overrides(tmp_path) == ["+a='${oc.env:HIDDEN}'", "3"]
    for odd in ("{a: 1}", "[", "!!python/name:os.system", "3"):
        file.write_text(odd)
        assert read_overrides(tmp_path) == []


def test_a_shortlist_names_no_file_elsewhere(tmp_path):
    (tmp_path / "x.yaml").write_text("_target_: os.system")
    for name in (str(tmp_path / "x"), os.path.relpath(tmp_path / "x", CONF / "selector"), "../selector/near", ""):
        assert "no such selector" in refused(lambda name=name: named(name))


# --- the scripts ----------------------------------------------------------------------------------------------------


@pytest.fixture()
def folder(tmp_path):
    """A run's folder as far as reading its configuration goes, and how to change that."""
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    (run / "train_metrics.json").write_text('{"selector": "near"}')
    whole = OmegaConf.to_container(configured("train"), resolve=True)

    def change(**values: object) -> Path:
        cfg = OmegaConf.create(whole)
        for key, value in values.items():
            OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True, merge=False)
        written(run, OmegaConf.to_container(cfg))
        return run

    return change


def test_eval_takes_no_class_of_a_folder(folder, tmp_path):
    mark = tmp_path / "mark"
    for key in ("evaluation__graders__exact", "evaluation__graders__more", "model__quantization"):
        for node in evil(mark):
            run = folder(**{key: node})
            fault = refused(lambda run=run: evaluate(configured("eval", f"run={run}"), tmp_path, check))
            assert fault.startswith(f"{run}/config.yaml: {key.replace('__', '.')}"), fault
    assert not mark.exists()


def test_eval_takes_what_is_typed_again(folder, tmp_path, monkeypatch):
    run = folder(evaluation__graders__x={"_target_": "tests.scored.Away"}, model__trust_remote_code=True)

    def typed(*words: str):
        cfg = configured("eval", f"run={run}", *words)
        return with_run(cfg, read_config(run / "config.yaml", cfg.allow_targets, retyped=True))

    assert "allow_targets=tests.scored" in refused(lambda: graders_of(typed().evaluation))
    for words in (["allow_targets=tests.scored"], ["++evaluation.graders.x._target_=tests.scored.Away"]):
        cfg = typed(*words)
        check(cfg)
        assert set(graders_of(cfg.evaluation)) == {"exact", "x"} and cfg.model.trust_remote_code is False
    assert typed("model.trust_remote_code=true").model.trust_remote_code is True
    monkeypatch.setenv("ROWS", "rows.jsonl")
    run = folder(data__eval__path="${oc.env:ROWS}", data__candidates__path="${oc.env:ROWS}")
    assert "type data.eval.path='${oc.env:ROWS}'" in refused(lambda: typed().data.eval.path)
    cfg = typed("data.eval.path=${oc.env:ROWS}")
    assert cfg.data.eval.path == "rows.jsonl" and public(cfg)["data"]["eval"]["path"] == "${oc.env:ROWS}"
    check(cfg)  # the candidates' path is nothing that an evaluation reads


def test_reports_take_no_class_of_a_folder(folder, tmp_path):
    mark = tmp_path / "mark"
    for key in ("selector", "embedder", "similarity", "index", "scoring", "tracker"):
        for node in evil(mark)[::4]:
            training = TrainMetrics(identity=RunIdentity(fingerprints={"candidates": "x"}))
            numbers = {"target_loss": 0.5, "rows": 1, "tokens": 1, "answers_right": 0, "eval_fingerprint": "e"}
            metrics = EvalMetrics(selector="near", seed=1, model="x", **numbers)
            run = Run("near", metrics, folder(**{key: node}), training)
            assert "can't be shown" in refused(lambda run=run: pool_of([Group("near", {1: run})], read_run_config))
    assert not mark.exists()


def test_merges_take_no_class_of_a_folder(folder, tmp_path):
    mark = tmp_path / "mark"
    for node in evil(mark):
        [adapter] = adapters_of(str(folder(model__quantization=node, selector=node) / "adapter"))
        assert adapter.run is not None, "a class from outside does not make a run somebody else's"
        refused(lambda adapter=adapter: OmegaConf.to_container(adapter.quantised, resolve=True))
    assert not mark.exists()
