"""Target loss and answers, against a slow reference; the base model once; a run's folder evaluated again."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf, open_dict

from near.common.errors import UserError
from near.common.records import Score
from near.data.loading import load
from near.evaluation import base_model
from near.evaluation import measure as module
from near.evaluation.measure import measure
from near.evaluation.settings import EvalSettings
from near.models.encoding import IGNORED, Encoder
from near.models.loading import load_base, load_tokenizer
from near.training.train import train
from tests.conftest import ROOT, configured, evaluate, needs_sandbox, write_rows

pytestmark = pytest.mark.model


@pytest.fixture()
def parts(tiny, cache):
    cfg = configured("train", *tiny)
    tokenizer = load_tokenizer(cfg.model, str(cache))
    return cfg, load_base(cfg.model, str(cache)), tokenizer, load(cfg.data, "eval", str(cache))


def test_loss_is_the_mean_over_answer_tokens(parts):
    cfg, model, tokenizer, rows = parts
    metrics, answers = measure(model, tokenizer, rows, EvalSettings.of(cfg, cfg.cache_dir))
    total, count = 0.0, 0
    for at in range(len(rows)):
        coded = Encoder(tokenizer, cfg.data).encode(rows.messages(at))
        ids = torch.tensor(np.asarray(coded.input_ids))[None]
        logs = torch.log_softmax(model.eval()(ids).logits[0].double(), -1)
        token_losses = [-logs[i - 1, t].item() for i, t in enumerate(coded.labels) if t != IGNORED]
        assert answers[at]["loss"] == pytest.approx(np.mean(token_losses), abs=1e-5)
        assert answers[at]["tokens"] == len(token_losses)
        total, count = total + sum(token_losses), count + len(token_losses)
    assert metrics.target_loss == pytest.approx(total / count, abs=1e-5)
    assert metrics.perplexity == pytest.approx(np.exp(total / count), rel=1e-4)
    assert metrics.tokens == count


def test_batch_size_changes_nothing_but_rounding(parts):
    cfg, model, tokenizer, rows = parts
    results = []
    for size in (1, 2, 5):
        cfg = OmegaConf.merge(cfg, {"evaluation": {"batch_size": size}})
        results.append(measure(model, tokenizer, rows, EvalSettings.of(cfg, cfg.cache_dir)))
    for metrics, answers in results[1:]:
        assert metrics.target_loss == pytest.approx(results[0][0].target_loss, abs=1e-6)
        assert [a["answer"] for a in answers] == [a["answer"] for a in results[0][1]]


def test_answers_are_scored_by_normalised_exact_match(parts, monkeypatch):
    cfg, model, tokenizer, rows = parts
    right = rows.messages(2)[-1]["content"]
    monkeypatch.setattr(module, "with_transformers", lambda *a: ["x", "x", f"  {right}. ", "x", "x"])
    metrics, answers = measure(model, tokenizer, rows, EvalSettings.of(cfg, cfg.cache_dir))
    assert (metrics.answers_right, metrics.rows) == (1, 5)
    assert [a["scores"]["exact"] for a in answers] == [0, 0, 1, 0, 0]
    [(name, score)] = metrics.scores.items()
    assert (name, score.mean, score.graded, score.right, score.no_answer) == ("exact", 0.2, 5, 1, 0)
    assert score.interval[0] <= 0.2 <= score.interval[1]
    assert answers[2]["reference"] == right
    assert answers[2]["question"] == rows.messages(2)[0]["content"]


def test_a_run_is_evaluated_as_at_its_end(tiny, tmp_path):
    train(configured("train", *tiny), tmp_path / "run")
    before = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (tmp_path / "run" / "metrics.json").unlink()
    cache_dir = next(t for t in tiny if t.startswith("cache_dir"))
    evaluate(configured("eval", f"run={tmp_path}/run", cache_dir), tmp_path / "run")
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in (
        "selector",
        "seed",
        "max_K",
        "model",
        "base",
        "target_loss",
        "rows",
        "answers_right",
        "eval_fingerprint",
        "columns_fingerprint",
    ):
        assert again[name] == before[name], name
    fewer = configured("eval", f"run={tmp_path}/run", cache_dir, "data.eval.limit=2", "evaluation.answers=false")
    evaluate(fewer, tmp_path / "fewer")  # the run's own data, under what the command names
    few = json.loads((tmp_path / "fewer" / "metrics.json").read_text())
    assert (few["rows"], few["answers_right"], few["model"]) == (2, None, "builtin:tiny")
    assert few["base"]["rows"] == 2


def test_the_base_model_is_measured_once(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = [t for t in tiny if t.split(".")[0].split("=")[0] in ("data", "cache_dir", "model")]
    for name in ("a", "b"):
        evaluate(configured("eval", *settings, "evaluation.max_new_tokens=3"), tmp_path / name)
    assert caplog.text.count("is in the cache") == 1
    first, second = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in "ab")
    assert (first["selector"], first["model"]) == (None, "builtin:tiny")
    assert first["target_loss"] == second["target_loss"]
    assert (tmp_path / "a" / "answers.jsonl").read_text() == (tmp_path / "b" / "answers.jsonl").read_text()


def test_the_base_model_is_loaded_once_for_all_sets_that_are_not_cached(tiny, small_data, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(base_model, "load_start", lambda *words: loads.append(words) or load_base(*words))
    pool = small_data[1].split("=")[1]
    more = f"data.more_eval={{a: {{path: {pool}, limit: 2}}, b: {{path: {pool}, limit: 3}}}}"
    settings = [t for t in tiny if t.split(".")[0].split("=")[0] in ("data", "model")]
    words = [*settings, f"cache_dir={tmp_path}/cache", "evaluation.answers=false", more]
    evaluate(configured("eval", *words), tmp_path / "first")
    assert len(loads) == 1
    evaluate(configured("eval", *words), tmp_path / "again")
    assert len(loads) == 1, "all of it is in the cache"


def test_queries_stand_in_for_eval(tiny, tmp_path):
    train(configured("train", *tiny, "data.eval.path=null"), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["selection_saw_them"] is True
    assert (metrics["evaluated_on"], metrics["rows"]) == ("queries", 4)


def test_further_sets(tiny, small_data, tmp_path, caplog):
    """Evaluated beside the target, base included, and left out of the pool like the target's rows."""
    caplog.set_level(logging.INFO)
    pool = small_data[1].split("=")[1]
    train(configured("train", *tiny, f"data.more_eval={{colours: {{path: {pool}, limit: 1}}}}"), tmp_path)
    assert "1 row left out with the prompt of a query or an eval row" in caplog.text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["more"]["colours"]["rows"] == metrics["base"]["more"]["colours"]["rows"] == 1
    assert metrics["more"]["colours"]["target_loss"] != metrics["base"]["more"]["colours"]["target_loss"]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [a["set"] for a in answers] == ["target"] * 5 + ["colours"]
    assert len((tmp_path / "base_answers.jsonl").read_text().splitlines()) == 6


def test_files_that_a_run_leaves(tiny, tmp_path):
    train(configured("train", *tiny), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    low, high = metrics["target_loss_interval"]
    assert low < metrics["target_loss"] < high
    assert metrics["perplexity_interval"] == pytest.approx([np.exp(low), np.exp(high)])
    generated = [json.loads(line) for line in (tmp_path / "dataflow.jsonl").read_text().splitlines()]
    assert [set(g) for g in generated] == [{"question", "reference", "model_generated_answer"}] * 5
    rounds = [json.loads(line) for line in (tmp_path / "rounds" / "rounds.jsonl").read_text().splitlines()]
    assert rounds[0]["target_loss"] == metrics["base"]["target_loss"]
    assert rounds[1]["target_loss"] != rounds[2]["target_loss"] != metrics["target_loss"]
    trained = json.loads((tmp_path / "train_metrics.json").read_text())["tokens_trained"]
    assert trained == sum(line["tokens"] for line in rounds) > 0


def test_the_same_seed_gives_the_same_evaluation(parts):
    cfg, model, tokenizer, rows = parts
    (first, answers), (second, others) = (
        measure(model, tokenizer, rows, EvalSettings.of(cfg, cfg.cache_dir)) for _ in range(2)
    )
    assert answers == others
    assert dataclasses.replace(first, evaluation_seconds=None) == dataclasses.replace(second, evaluation_seconds=None)


def test_a_grader_that_fails_costs_its_score_alone(parts, caplog):
    cfg, model, tokenizer, rows = parts
    away = {"_target_": "tests.scored.Away"}
    with open_dict(cfg):
        cfg.evaluation.graders.away = away
    with pytest.raises(UserError, match="the judge is away"):
        measure(model, tokenizer, rows, EvalSettings.of(cfg, cfg.cache_dir))
    metrics, answers = measure(model, tokenizer, rows, EvalSettings.of(cfg, cfg.cache_dir), lenient=True)
    assert "not graded by away: the judge is away" in caplog.text
    assert metrics.scores["away"] == Score(mean=None, interval=None, graded=0, right=0, no_answer=0)
    assert metrics.scores["exact"].graded == 5 and answers[0]["scores"]["away"] is None


def test_bad_input(tiny, tmp_path):
    settings = [t for t in tiny if t.split(".")[0].split("=")[0] in ("data", "cache_dir", "model")]
    for more, message in (
        ("run=nowhere", "has no train_metrics.json"),
        ("adapter_name_or_path=nowhere", "no adapter_config.json"),
        ("model.name_or_path=./nowhere", "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(configured("eval", *settings, more), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_every_key_is_documented(tiny, tmp_path):
    """docs/files.md names all that a run writes."""
    train(configured("train", *tiny), tmp_path)
    documented = (ROOT / "docs" / "files.md").read_text()
    keys = set()
    for name in ("metrics.json", "train_metrics.json"):
        keys |= set(json.loads((tmp_path / name).read_text()))
    for name in ("answers.jsonl", "dataflow.jsonl", "rounds/rounds.jsonl"):
        keys |= set(json.loads((tmp_path / name).read_text().splitlines()[0]))
    keys |= set(json.loads((tmp_path / "metrics.json").read_text())["scores"]["exact"])
    known = {"schema_version", "rows_per_second"}
    assert [key for key in sorted(keys - known) if f"`{key}`" not in documented] == []


def test_an_earlier_runs_answers_do_not_stay(tiny, tmp_path):
    train(configured("train", *tiny), tmp_path)
    assert (tmp_path / "dataflow.jsonl").is_file()
    train(configured("train", *tiny, "evaluation.answers=false", "overwrite=true"), tmp_path)
    assert not (tmp_path / "dataflow.jsonl").exists() and (tmp_path / "base_answers.jsonl").is_file()


def test_the_bases_evaluation_of_code_is_of_the_rows_tests(tiny, tmp_path, cache):
    """The same questions and answers beside other tests have other grades."""
    folders = []
    for number in (1, 2, 1):
        rows = [{"instruction": "write f", "output": "def f(): return 1", "test": f"assert f() == {number}"}]
        path = write_rows(tmp_path / f"{number}.jsonl", rows)
        cfg = configured("train", *tiny, "evaluation=code", f"data.eval.path={path}")
        folders.append(
            base_model._folder(EvalSettings.of(cfg, cfg.cache_dir), cfg.model, load(cfg.data, "eval", str(cache)))
        )
    assert folders[0] == folders[2] != folders[1]


def test_answers_that_hold_nothing_to_grade_are_counted(tiny, tmp_path, cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"instruction": f"q {i}", "output": text} for i, text in enumerate(("#### 1", "#### 2", "#### 3", "words"))]
    words = [*tiny, "evaluation=maths", f"data.eval.path={write_rows(tmp_path / 'maths.jsonl', rows)}"]
    cfg = configured("train", *words)
    monkeypatch.setattr(module, "with_transformers", lambda *args: [" so 1\n", "I don't know", "4", "5"])
    tokenizer, model = load_tokenizer(cfg.model, str(cache)), load_base(cfg.model, str(cache))
    metrics, answers = measure(model, tokenizer, load(cfg.data, "eval", str(cache)), EvalSettings.of(cfg, str(cache)))
    number = metrics.scores["number"]
    assert (number.mean, number.graded, number.right, number.no_answer) == (pytest.approx(1 / 3), 3, 1, 1)
    assert [a["no_answer"] for a in answers] == [[], ["number"], [], []]
    assert [a["scores"]["number"] for a in answers] == [1, 0, 0, None]
    assert "number: 1 of 3 answers without anything to grade, counted as wrong" in caplog.text
    assert "number: 1 of 4 references have nothing to grade and are left out" in caplog.text


@needs_sandbox()
def test_code_is_run_beside_its_rows_tests(tiny, tmp_path, cache, monkeypatch):
    """The answers are stand-ins: no tiny model writes code."""
    rows = [{"instruction": f"write f: {n}", "output": "def f(): return 1", "test": f"assert f() == {n}"} for n in "12"]
    path = write_rows(tmp_path / "code.jsonl", rows)
    words = [*tiny, "evaluation=code", f"data.eval.path={path}"]
    cfg = configured("train", *words)
    monkeypatch.setattr(module, "with_transformers", lambda *args: ["def f(): return 1"] * 2)
    tokenizer, model = load_tokenizer(cfg.model, str(cache)), load_base(cfg.model, str(cache))
    metrics, answers = measure(model, tokenizer, load(cfg.data, "eval", str(cache)), EvalSettings.of(cfg, str(cache)))
    assert (metrics.scores["pass_at_1"].mean, metrics.scores["pass_at_1"].right) == (0.5, 1)
    assert [a["scores"]["pass_at_1"] for a in answers] == [1, 0]
    assert answers[1]["details"] == {"pass_at_1": "AssertionError"}


def test_the_bases_evaluation_is_not_bound_to_where_and_how_fast_it_was_done(tiny, cache):
    rows = load(configured("train", *tiny).data, "eval", str(cache))
    judged = ["evaluation=judged", "evaluation.graders.judge.server.model=wise"]

    def folder(*words):
        cfg = configured("train", *tiny, *judged, *words)
        return base_model._folder(EvalSettings.of(cfg, cfg.cache_dir), cfg.model, rows)

    here = folder("evaluation.graders.judge.server.url=http://127.0.0.1:1/v1")
    assert here == folder("evaluation.graders.judge.server.url=http://127.0.0.1:2/v1", "evaluation.at_rounds=false")
    assert here == folder("+evaluation.engine.gpu_memory_utilization=0.4", "evaluation.lm_eval.limit=3")
    assert here != folder("evaluation.backend=vllm") and here != folder("evaluation.max_new_tokens=5")
