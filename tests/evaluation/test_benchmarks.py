"""evaluation.lm_eval: a local task file, offline; what it finds by hand."""

import json
import os

import numpy as np
import pytest
import torch

from near.common.errors import UserError
from near.evaluation import benchmarks as module
from near.evaluation.benchmarks import check_benchmarks, first, shown
from near.models.loading import load_base, load_tokenizer
from near.report import verdict
from near.report.runs import collect
from near.training.train import train
from tests.conftest import configured, evaluate, write_rows

pytestmark = pytest.mark.model
TASK = """task: colours
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
target_delimiter: " "
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture()
def task(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [
        {"question": f"pot {i} is", "choices": ["red", "a cat", "12"], "answer": int(rng.integers(3))}
        for i in range(12)
    ]
    data = write_rows(tmp_path / "colours.jsonl", rows)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(TASK.format(data=data))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    yield ["evaluation.lm_eval.tasks=[colours]", f"evaluation.lm_eval.include_path={tmp_path}/tasks"], rows
    module._tasks.cache_clear()


def by_hand(model, tokenizer, rows) -> float:
    """The share of questions whose right answer has the largest log likelihood."""
    right = 0
    for row in rows:
        prefix_ids = tokenizer(row["question"], add_special_tokens=False)["input_ids"]
        sums = []
        for choice in row["choices"]:
            ids = tokenizer(f"{row['question']} {choice}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = torch.log_softmax(model.eval()(torch.tensor([ids])).logits[0].float(), -1)
            sums.append(sum(logs[i - 1, ids[i]].item() for i in range(len(prefix_ids), len(ids))))
        right += int(np.argmax(sums)) == row["answer"]
    return right / len(rows)


@pytest.mark.extras
def test_a_local_task_in_train_and_in_eval(tiny, task, tmp_path, caplog):
    words, rows = task
    cfg = configured("train", *tiny, *words)
    train(cfg, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["lm_eval"]) == {"colours"} and metrics["lm_eval"]["colours"]["n"] == 12
    model, tokenizer = load_base(cfg.model, cfg.cache_dir), load_tokenizer(cfg.model, cfg.cache_dir)
    base = metrics["base"]["lm_eval"]["colours"]["acc"]
    assert base["value"] == pytest.approx(by_hand(model, tokenizer, rows)) and base["higher_is_better"]
    assert base["stderr"] == pytest.approx(np.sqrt(base["value"] * (1 - base["value"]) / (12 - 1)))
    table = dict(zip(*(lambda heads, cells: (heads, cells[0]))(*verdict.table(collect(tmp_path)[0])), strict=True))
    value = metrics["lm_eval"]["colours"]["acc"]["value"]
    assert table["colours"] == f"{value:.3f} ({value - base['value']:+.3f})"
    again = configured("eval", f"run={tmp_path}/run", f"cache_dir={cfg.cache_dir}")
    with caplog.at_level("INFO", "near"):
        evaluate(again, tmp_path / "again")
    assert "base model: benchmarks are in the cache" in caplog.text
    metrics_again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert (metrics_again["lm_eval"], metrics_again["base"]["lm_eval"]) == (
        metrics["lm_eval"],
        metrics["base"]["lm_eval"],
    )


@pytest.mark.extras
def test_the_bases_scores_are_of_the_tasks_data(tiny, task, tmp_path, caplog):
    """Data that changed under the same file name is another task."""
    words, rows = task
    cfg = configured("train", *tiny, *words)
    model, tokenizer = load_base(cfg.model, cfg.cache_dir), load_tokenizer(cfg.model, cfg.cache_dir)
    files = model.config._name_or_path

    def scores():
        return module.base_benchmarks(cfg.evaluation, cfg.model, files, cfg.cache_dir, lambda: (model, tokenizer))

    first_scores = scores()
    write_rows(tmp_path / "colours.jsonl", rows[:7])
    module._tasks.cache_clear()
    assert scores()["colours"]["n"] == 7
    assert first_scores["colours"]["n"] == 12


@pytest.mark.extras
def test_errors_are_raised_before_anything_is_trained(tiny, task, tmp_path):
    words, _ = task
    with pytest.raises(UserError, match="tasks: colour is no task; did you mean colours"):
        check_benchmarks(configured("train", *tiny, *words, "evaluation.lm_eval.tasks=[colour]").evaluation)
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        with pytest.raises(UserError, match="can't be loaded"):
            check_benchmarks(configured("train", *tiny, "evaluation=gsm8k").evaluation)


def test_a_missing_library_is_an_error(tiny, packages):
    packages(lm_eval=False)
    with pytest.raises(UserError, match=r'lm-eval is not installed; pip install "near\[lm-eval\]"'):
        check_benchmarks(configured("train", *tiny, "evaluation=mmlu").evaluation)
    check_benchmarks(configured("train", *tiny).evaluation)


def test_a_model_that_is_spread_is_evaluated_later(tiny):
    with pytest.raises(UserError, match="spread over all processes; later: eval.py run=RUN"):
        check_benchmarks(configured("train", *tiny, "evaluation=mmlu").evaluation, sharded=True)


def test_a_line_shows_every_tasks_first_metric():
    scores = {"mmlu": {"n": 9, "acc": {"value": 0.25}, "acc_norm": {"value": 0.5}}, "group": {"n": None}}
    assert first(scores["mmlu"]) == 0.25 and shown(scores) == ", mmlu 0.250" and shown(None) == ""
