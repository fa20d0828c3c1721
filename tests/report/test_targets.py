"""Selectors over many targets in the report: by hand, and on simulated results."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from near.evaluation.power import detectable, smallest_effect_over_targets
from near.report import targets, verdict
from near.report.compare import Difference, groups_of
from near.report.runs import collect
from near.report.targets import Method, targets_of

TARGETS = {"sort-0": 0.0, "up-1": 0.5, "last-2": 1.0, "cut-3": 0.2, "join-4": 0.1}
BASE = 3.0


def run(root: Path, name: str, target: str, seed: int, loss: float, selector: dict | None = None, **more) -> Path:
    """A finished run, evaluated on the rows of `target`."""
    folder = root / f"{name}-{target}-{seed}-{'-'.join(f'{k}{v}' for k, v in (selector or {}).items())}"
    (folder / ".hydra").mkdir(parents=True)
    words = [f"data.target={target}", f"selector={name}", f"seed={seed}"]
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps([*words, *(more.pop("typed", []))]))
    config = {"seed": seed, "data": {"target": target}, "selector": {"_target_": name, **(selector or {})}}
    training = {"identity": {"config": config}, "select_seconds": 2.0, "embed_seconds": 3.0, "search_seconds": 0.0}
    (folder / "train_metrics.json").write_text(json.dumps({**training, **more}))
    rows = {"rows": 4, "tokens": 8, "eval_fingerprint": f"{target}-rows", "answers_right": None, "model": "tiny"}
    base = {**rows, "target_loss": BASE}
    metrics = {**rows, "selector": name, "seed": seed, "target_loss": loss, "base": base}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def groups(root: Path):
    return groups_of(collect(root)[0])


@pytest.fixture()
def sweep(tmp_path):
    """near is 0.2 below random in the mean of every target but the last, where it is 0.1 above; other is random's."""
    for target, shift in TARGETS.items():
        for seed in (1, 2, 3):
            noise = seed / 100
            run(tmp_path, "random", target, seed, 2.0 + shift + noise)
            run(tmp_path, "near", target, seed, (1.8 if target != "join-4" else 2.1) + shift + 2 * noise)
            run(tmp_path, "other", target, seed, 2.0 + shift + noise)
    return tmp_path


def test_methods_over_targets(sweep):
    found = targets_of(groups(sweep))
    assert {one.label for one in found.targets} == set(TARGETS)
    near, other = sorted(found.methods, key=lambda method: method.label)
    assert (near.label, other.label) == ("near", "other")
    values = dict(zip(near.targets, near.values, strict=True))
    assert values == pytest.approx({name: 0.12 if name == "join-4" else -0.18 for name in TARGETS})
    mean, half = -0.12, t.ppf(0.975, 4) * np.std([*values.values()], ddof=1) / np.sqrt(5)
    assert near.interval[0] == pytest.approx(mean - half)
    assert near.interval[1] > mean + half  # widened to the side of the long tail
    assert near.verdict == "no difference shown"
    assert near.rank == pytest.approx((4 * 1 + 3) / 5)
    assert other.rank == pytest.approx((4 * 2.5 + 1.5) / 5)  # level with random
    assert (near.count("better"), near.count("worse")) == (4, 1)
    means = {name: shift + (2.14 if name == "join-4" else 1.84) for name, shift in TARGETS.items()}
    assert near.base == pytest.approx([means[name] - BASE for name in near.targets])
    assert near.seconds == 5.0
    heads, (cells, *_) = targets.table(found)
    row = dict(zip(heads, cells, strict=True))
    assert (row["below random"], row["better / worse"], row["targets"]) == ("4", "4 / 1", "5")
    assert row["gain / s"] == "+0.0240"
    assert row["could show"] == f"{detectable(near.values, smallest_effect_over_targets):.4f}"


def test_a_target_with_other_settings_is_still_the_same_method(sweep):
    for path in sweep.glob("near-up-1-*/train_metrics.json"):
        record = json.loads(path.read_text())
        record["identity"]["config"]["data"]["cutoff_len"] = 7
        path.write_text(json.dumps(record))
    assert [m.label for m in targets_of(groups(sweep)).methods] == ["near", "other"]


def test_a_target_without_random_rows_is_left_out_and_said(sweep):
    for path in sweep.glob("other-up-1-*/metrics.json"):
        path.unlink()
    found = targets_of(groups(sweep))
    other = next(m for m in found.methods if m.label == "other")
    assert len(other.values) == 4 and other.verdict == targets.TOO_FEW
    assert any(note == "other: without up-1." for note in targets.notes(found))
    heads, cells = targets.grid(found)
    assert dict(zip(heads, next(c for c in cells if c[0] == "up-1"), strict=True))["other"] == "-"


def test_selections_without_random_rows_anywhere_are_named(sweep):
    run(sweep, "alone", "sort-0", 9, 1.0)
    for path in sweep.glob("random-*-9-*"):
        pytest.fail(f"{path} is beside it")
    found = targets_of(groups(sweep))
    assert found.alone == ("alone",)
    assert any(note.endswith("beside them: alone.") for note in targets.notes(found))
    assert "alone" not in [method.label for method in found.methods]


def test_one_target_has_no_such_table(tmp_path):
    run(tmp_path, "random", "sort-0", 1, 2.0)
    run(tmp_path, "near", "sort-0", 1, 1.0)
    assert not targets_of(groups(tmp_path))


def test_they_are_shown_in_the_terminal(sweep, capsys):
    verdict.show(collect(sweep)[0])
    shown = capsys.readouterr().out
    assert "Over 5 targets" in shown
    assert "No difference shown: near (-0.1200, below in 4 of 5), other" in shown
    assert "-0.180 ↓" in shown and "+0.120 ↑" in shown


def simulated(values: np.ndarray) -> Method:
    each = [Difference(float(value), None, None, 3) for value in values]
    return Method("m", [str(i) for i in range(len(values))], each, np.full(len(values), np.nan), None, None)


@pytest.mark.parametrize("count", [5, 10, 30])
def test_no_effect_is_rarely_called_better(count):
    rng = np.random.default_rng(count)
    drawn = [simulated(rng.normal(0, 0.3, count)).verdict for _ in range(2000)]
    assert drawn.count("better") / 2000 <= 0.06
    assert drawn.count("worse") / 2000 <= 0.06


@pytest.mark.parametrize("count", [5, 10, 30])
def test_no_effect_that_differs_by_target_and_has_a_long_tail_is_rarely_called_better(count):
    """Differences as skewed as an exponential: a few targets on which choosing does much harm."""
    rng = np.random.default_rng(count)
    drawn = [simulated(rng.exponential(0.3, count) - 0.3).verdict for _ in range(2000)]
    assert drawn.count("better") / 2000 <= (0.08 if count == 5 else 0.06)
    assert drawn.count("worse") / 2000 <= 0.06


@pytest.mark.parametrize("count", [5, 10, 30])
def test_the_effect_that_it_promises_to_see_is_seen(count):
    rng = np.random.default_rng(count)
    drawn = [simulated(rng.normal(-0.3 * smallest_effect_over_targets(count), 0.3, count)).verdict for _ in range(2000)]
    assert drawn.count("better") / 2000 >= 0.78  # 80%, less what 2,000 draws vary by


def widened(folder: Path, **data: object) -> None:
    """Further settings of `data` of a run."""
    path = folder / "train_metrics.json"
    record = json.loads(path.read_text())
    record["identity"]["config"]["data"] |= data
    path.write_text(json.dumps(record))


def test_settings_of_the_data_that_differ_on_one_target_are_methods_of_their_own(tmp_path):
    """The number of candidates is no target: near is far below random rows with many, and above them with few."""
    for target in TARGETS:
        for limit, near in ((100, 3.0), (1000, 1.0)):
            for name, loss in (("near", near), ("random", 2.0)):
                folder = run(tmp_path / str(limit), name, target, 1, loss, typed=[f"data.candidates.limit={limit}"])
                widened(folder, limit=limit)
    found = targets_of(groups(tmp_path))
    assert {m.label: m.values.tolist() for m in found.methods} == {
        "near limit=100": [1.0] * 5,
        "near limit=1000": [-1.0] * 5,
    }


def test_another_tokenizer_is_no_target(tmp_path):
    """The same rows under five cutoffs have other numbers of tokens."""
    for tokens in range(5):
        for name, loss in (("near", 1.0), ("random", 2.0)):
            folder = run(tmp_path / str(tokens), name, "sort-0", 1, loss)
            metrics = json.loads((folder / "metrics.json").read_text())
            (folder / "metrics.json").write_text(json.dumps({**metrics, "tokens": 8 + tokens}))
            widened(folder, cutoff_len=tokens)
    assert not targets_of(groups(tmp_path))


def test_two_models_stand_side_by_side_on_each_target(tmp_path):
    for target in TARGETS:
        for model, near in (("a", 1.0), ("b", 3.0)):
            for name, loss in (("near", near), ("random", 2.0)):
                folder = run(tmp_path / model, name, target, 1, loss, typed=[f"model={model}"])
                metrics = json.loads((folder / "metrics.json").read_text())
                (folder / "metrics.json").write_text(json.dumps({**metrics, "model": model, "tokens": ord(model)}))
    found = targets_of(groups(tmp_path))
    assert {m.label: m.values.tolist() for m in found.methods} == {
        "near model=a": [-1.0] * 5,
        "near model=b": [1.0] * 5,
    }
    assert len(found.targets) == 5


def test_targets_whose_labels_are_alike_are_numbered(tmp_path):
    for rows in ("x", "y"):
        folder = run(tmp_path / rows, "near", "sort-0", 1, 1.0)
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps({**metrics, "eval_fingerprint": rows * 40}))
        run(tmp_path / f"{rows}2", "random", "sort-0", 1, 2.0)
        path = tmp_path / f"{rows}2" / "random-sort-0-1-" / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eval_fingerprint": rows * 40}))
    assert len({one.label for one in targets_of(groups(tmp_path)).targets}) == 2


def test_too_few_targets_promise_nothing(tmp_path):
    for target in ("sort-0", "up-1"):
        run(tmp_path, "random", target, 1, 2.0)
        run(tmp_path, "near", target, 1, 1.0)
    found = targets_of(groups(tmp_path))
    heads, (cells,) = targets.table(found)
    assert dict(zip(heads, cells, strict=True))["could show"] == "-"
    assert targets.answer(found) == "Too few targets for a verdict over targets, of which 5 are needed: near 2."


def test_a_number_of_targets_that_are_there_is_not_asked_for():
    """Nine differences of -0.3 and one of 0.3: Student's t alone would show them, the verdict's interval does not."""
    method = simulated(np.array([-0.3] * 9 + [0.3]))
    assert method.verdict == "no difference shown"
    assert not any("about" in note for note in targets.notes(targets.Targets([], [method])))
