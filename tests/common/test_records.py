"""The records of a run: what older versions wrote is read, newer ones are refused, unknown keys stay."""

import json
import re

import pytest

from near.common.errors import UserError
from near.common.records import EvalMetrics, RoundRecord, TrainMetrics, append_round, read_rounds, write_rounds
from near.common.run_folder import LINES, METRICS, ROUNDS, TRAINING, RunFolder
from near.common.schema import ForeignRecord
from near.report.runs import collect

ROUND = {"round": 1, "selector": "near", "step": 2, "rows": 3}
SET = {"target_loss": 0.5, "rows": 10, "tokens": 90, "answers_right": None, "eval_fingerprint": "e"}
EVAL = {"selector": "near", "model": "builtin:tiny", **SET}

# As the first version wrote them: no version in a round, no max_K, perplexity alone beside the loss.
FIRST_ROUND = {**ROUND, "steps": 6, "draws": 12, "mean_score": 0.7, "sources": {"law": 3}, "select_seconds": 0.1}
FIRST_TRAINING = {
    "schema_version": 1,
    "selector": "near",
    "seed": 42,
    "steps": 10,
    "history": [{"step": 1, "loss": 3.0}],
}
FIRST_EVAL = {**EVAL, "perplexity": 1.6, "evaluated_on": "eval", "base": {**SET, "perplexity": 7.4}}


def test_what_the_first_version_wrote_is_read():
    line = RoundRecord.from_json(FIRST_ROUND, "x")
    assert (line.schema_version, line.rows, line.sources, line.overlap, line.tokens) == (0, 3, {"law": 3}, None, None)
    training = TrainMetrics.from_json(FIRST_TRAINING, "x")
    assert (training.max_K, training.history[0]["loss"], training.identity.fingerprints) == (None, 3.0, {})
    metrics = EvalMetrics.from_json(FIRST_EVAL, "x")
    assert (metrics.base.perplexity, metrics.scores, metrics.more, metrics.base.more) == (7.4, {}, {}, {})


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (RoundRecord, {"schema_version": 1, **FIRST_ROUND, "mix": {"proportions": {"law": 1.0}}}),
        (TrainMetrics, {**FIRST_TRAINING, "identity": {"config": {"seed": 1}, "fingerprints": {"eval": "e"}}}),
        (EvalMetrics, {"schema_version": 2, **FIRST_EVAL, "scores": {"exact": {"mean": 0.2, "graded": 5, "right": 1}}}),
        (EvalMetrics, {"schema_version": 2, **EVAL, "more": {"law": SET}, "lm_eval": {"t": {"n": 2, "acc": {}}}}),
    ],
)
def test_a_record_is_written_as_it_was_read(cls, values):
    """Unknown keys too, at any depth; what an older version did not write reads as null or empty."""
    values = json.loads(json.dumps(values | {"of_tomorrow": {"a": [1]}}))
    for part in (values.get("scores"), values.get("more")):
        for inner in (part or {}).values():
            inner["of_tomorrow"] = "kept"
    written = cls.from_json(values, "x").to_json()
    assert cls.from_json(written, "x").to_json() == written

    def added(before, after):
        assert set(before) <= set(after)
        for name, value in after.items():
            if name not in before:
                assert value in (None, {}, [], False, 0, 0.0), name
            elif isinstance(value, dict) and name in ("base", "scores", "more", "law", "exact", "identity"):
                added(before[name], value)
            else:
                assert before[name] == value, name

    added(values, written)


def test_the_keys_of_the_files_are_those_that_users_know():
    line = list(RoundRecord.from_json(ROUND, "x").to_json())
    assert line[:4] == ["schema_version", "round", "selector", "step"] and line[-2:] == [
        "target_loss",
        "evaluate_seconds",
    ]
    assert "same_rows_as" not in TrainMetrics().to_json() and "same_rows_as" in TrainMetrics(same_rows_as="a").to_json()
    metrics = EvalMetrics(**EVAL).to_json()
    assert list(metrics)[:3] == ["schema_version", "selector", "seed"]
    assert {"base", "more", "scores", "lm_eval", "created", "versions", "target_loss", "perplexity"} <= set(metrics)
    assert not {"extra", "run", "same_rows_as"} & set(metrics)


CASES = {ROUNDS + "/" + LINES: ROUND, TRAINING: FIRST_TRAINING, METRICS: EVAL}
READERS = {TRAINING: "training", METRICS: "metrics", ROUNDS + "/" + LINES: "rounds"}


def written(folder, name: str, values: object) -> RunFolder:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(values) + "\n")
    return RunFolder(folder)


@pytest.mark.parametrize("name", CASES)
def test_a_newer_version_is_refused_in_one_line(tmp_path, name):
    files = written(tmp_path, name, CASES[name] | {"schema_version": 99})
    with pytest.raises(UserError, match=f"{name} has schema_version=99, .* update near") as caught:
        getattr(files, READERS[name])
    assert "\n" not in str(caught.value) and not isinstance(caught.value, ForeignRecord)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", ["1", 1.5, True, -1, None, [1]])
def test_a_version_that_is_none_is_damage(tmp_path, name, version):
    files = written(tmp_path, name, CASES[name] | {"schema_version": version})
    with pytest.raises(UserError, match=f"{name} is damaged .schema_version={re.escape(repr(version))} is not a whole"):
        getattr(files, READERS[name])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        (ROUNDS + "/" + LINES, "sources", ["law"]),
        (ROUNDS + "/" + LINES, "mix", 1),
        (TRAINING, "history", {"step": 1}),
        (TRAINING, "identity", "x"),
        (TRAINING, "versions", [1]),
        (METRICS, "scores", [1]),
        (METRICS, "scores", {"exact": 0.5}),
        (METRICS, "base", "x"),
        (METRICS, "more", {"law": 2}),
        (METRICS, "lm_eval", "x"),
        (METRICS, "evaluation", 3),
    ],
)
def test_a_part_of_another_type_is_damage_and_null_is_nothing(tmp_path, name, key, value):
    with pytest.raises(UserError, match=f"{name} is damaged .*not a") as caught:
        getattr(written(tmp_path, name, CASES[name] | {key: value}), READERS[name])
    assert "\n" not in str(caught.value)
    getattr(written(tmp_path, name, CASES[name] | {key: None}), READERS[name])


@pytest.mark.parametrize("missing", ["selector", "model", "target_loss", "rows", "tokens", "eval_fingerprint"])
def test_a_report_passes_over_what_another_program_wrote(tmp_path, missing):
    for name, values in (("ours", EVAL), ("theirs", {k: v for k, v in EVAL.items() if k != missing})):
        (tmp_path / name).mkdir()
        written(tmp_path / name, METRICS, values)
    assert [run.folder.name for run in collect(tmp_path)[0]] == ["ours"]


def test_rounds_are_read_as_they_were_written(tmp_path):
    path = tmp_path / LINES
    assert read_rounds(path) == []
    rounds = [RoundRecord(round=i, selector="near", step=2 * i, rows=3, extra={"x": i}) for i in range(3)]
    write_rounds(path, rounds)
    assert read_rounds(path) == rounds
    path.write_text(json.dumps({"round": 1}) + "\n")
    with pytest.raises(UserError, match="was not written by near .it has no selector"):
        read_rounds(path)


def test_rounds_are_appended_and_an_unfinished_line_is_left_out(tmp_path):
    path = tmp_path / LINES
    rounds = [RoundRecord(round=i, selector="näher", step=2 * i, rows=3, sources={"法": 3}) for i in range(3)]
    write_rounds(path, rounds)
    whole = path.read_bytes()
    write_rounds(path, rounds[:1])
    for line in rounds[1:]:
        append_round(path, line)
    assert path.read_bytes() == whole and read_rounds(path) == rounds
    second = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(second, len(whole)):  # also within a character
        path.write_bytes(whole[:cut])
        assert read_rounds(path) == rounds[:2]
    path.write_bytes(whole[:second].replace(b"}", b"", 1))
    with pytest.raises(UserError, match="is damaged"):
        read_rounds(path)
