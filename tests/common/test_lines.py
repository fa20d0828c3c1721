"""Lines end at line ends only: other characters at which str.splitlines splits stay in rows and labels."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf

from near.common.files import read_json, read_jsonl, write_json, write_jsonl
from near.common.records import EvalMetrics
from near.data.loading import load
from near.data.sources.readers import Kind, read_rows
from near.evaluation.eval import write_metrics
from near.evaluation.graders.judge import Verdicts
from near.report.lookup import seen
from near.report.runs import collect
from near.selection.round import Subset
from near.selection.subset_files import WRITERS
from near.training.rounds.record import Record
from near.training.rounds.schedule import Phase
from tests.conftest import configured, write_rows

SEPARATORS = ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r", "\n", "\r\n", "\ufeff", "\u200b"]


@pytest.fixture(params=SEPARATORS, ids=ascii)
def text(request) -> str:
    return f"what is{request.param}the sum{request.param}"


def test_every_separator_is_tried():
    ends = {chr(i) for i in range(0x11000) if len(f"a{chr(i)}b".splitlines()) > 1}
    assert ends <= set(SEPARATORS)


def test_files_of_json(tmp_path, text):
    rows = [{"a": text, text: {"b": [text]}}] * 2
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "x.jsonl") == rows
    assert [row for _, row in read_rows(tmp_path / "x.jsonl", Kind.of("x.jsonl"))] == rows
    write_json(tmp_path / "x.json", rows[0])
    assert read_json(tmp_path / "x.json") == rows[0]


@pytest.mark.parametrize("kind", WRITERS)
def test_exports(tmp_path, text, kind):
    WRITERS[kind](tmp_path / f"x.{kind}", [{"a": text, "rank": 1}, {"a": "b", "rank": 2}], {})
    assert [row["a"] for _, row in read_rows(tmp_path / f"x.{kind}", Kind.of(f"x.{kind}"))] == [text, "b"]


def test_rows_and_labels(tmp_path, cache, text):
    path = write_rows(tmp_path / "p.jsonl", [{"instruction": text, "output": text + "!", "domain": text}] * 2)
    cfg = configured("select", "data=files", f"data.candidates.path={path}", f"cache_dir={cache}")
    cfg.data.candidates.columns.source = "domain"
    rows = load(cfg.data, "candidates", cfg.cache_dir)
    assert [m["content"] for m in rows.messages(1)] == [text, text + "!"]
    assert rows.sources(np.array([0, 1])).tolist() == [text, text]


def test_rounds(tmp_path, text):
    class Pool(list):
        def sources(self, ids):
            return np.array([text] * len(ids), dtype=object)

    record = Record(tmp_path / "rounds", text, Pool(range(4)), 2, True)
    for number in range(2):
        record.add(Phase(number, number, 1, False), Subset(np.array([1, 2])), 0.0, np.array([2, 1]))
    assert [(hit.line.selector, list(hit.line.sources)) for hit in seen(tmp_path, 2)] == [(text, [text])] * 2


def test_answers(tmp_path, text):
    answers = [{"question": text, "reference": text, "answer": text, "right": True}] * 2
    numbers = {"target_loss": 1.0, "rows": 2, "tokens": 2, "answers_right": 2, "eval_fingerprint": "x"}
    metrics = EvalMetrics(selector=None, model=text, **numbers)
    cfg = OmegaConf.create({"evaluation": {}})
    write_metrics(tmp_path, metrics, answers, answers, cfg)
    for name in ("answers.jsonl", "base_answers.jsonl", "dataflow.jsonl"):
        assert [row["question"] for row in read_jsonl(tmp_path / name)] == [text, text]
    assert collect(tmp_path)[0][0].metrics.model == text


def test_verdicts(tmp_path, text):
    verdicts = Verdicts(tmp_path / "verdicts.jsonl")
    for key in ("a", "b"):
        verdicts.add(key, True, text)
    assert Verdicts(tmp_path / "verdicts.jsonl").known == {"a": (True, text), "b": (True, text)}
    assert all(json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_bytes().split(b"\n")[:-1])
