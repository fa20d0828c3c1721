"""Selections beside random rows, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from near.compare import NOTHING, Difference, at_equal_tokens, baseline_of, beside_base, beside_random, groups_of
from near.runs import collect
from near.verdict import notes, show, table

ROWS = 30
BASE = 2.0


def run(root: Path, selector: str, seed: int, loss: float, tokens: int = 900, max_K: int = 10, **more) -> None:
    """A finished run whose examples have `loss` in the mean, and whose loss fell in a line from 2.0 over its tokens."""
    folder = root / f"{selector}-{max_K}-{seed}"
    (folder / "rounds").mkdir(parents=True, exist_ok=True)
    line = {"round": 0, "selector": "warm-up", "sources": {}}
    rounds = [{**line, "tokens": tokens // 3, "target_loss": BASE}]
    rounds += [{**line, "tokens": tokens - tokens // 3, "target_loss": BASE + (loss - BASE) / 3}]
    (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    config = {"seed": seed, "max_K": max_K, "selector": {"policy": "repeat"}, "evaluation": {"batch_size": seed}}
    training = {"identity": {"config": config}, "distinct_rows": 8, "tokens_trained": tokens, "train_seconds": 1.5}
    (folder / "train_metrics.json").write_text(json.dumps({**training, "select_seconds": 0.5, "embed_seconds": 2.0}))
    own = np.random.default_rng(seed).normal(0, 0.05, ROWS)
    for name, mean in (("answers", loss), ("base_answers", BASE)):
        losses = mean + own - own.mean()
        rows = [{"set": "target", "row": i, "loss": float(x), "tokens": 3} for i, x in enumerate(losses)]
        rows += [{"set": "law", "row": 0, "loss": 9.0, "tokens": 3}]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    metrics = {"rows": ROWS, "tokens": 3 * ROWS, "eval_fingerprint": "e", "answers_right": 4, "model": "x/tiny"}
    metrics |= {"scores": {"exact": {"mean": 0.2}}, "more": {"law": {"target_loss": 3.0}}}
    base = {**metrics, "target_loss": BASE, "more": {"law": {"target_loss": 2.5}}}
    metrics |= {"selector": selector, "seed": seed, "max_K": max_K, "target_loss": loss, "base": base, **more}
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture()
def sweep(tmp_path):
    for seed, noise in ((1, 0.0), (2, 0.01), (3, -0.01)):
        run(tmp_path, "near", seed, 0.5 + noise, tokens=600)
        run(tmp_path, "random", seed, 0.9 + noise / 2)
        run(tmp_path, "other", seed, 0.9 - noise)
    return tmp_path


def group(root, name):
    groups = groups_of(collect(root)[0])
    return next(g for g in groups if g.label == name), groups


def test_groups_are_runs_that_differ_in_the_seed(sweep):
    groups = groups_of(collect(sweep)[0])
    assert [(g.label, sorted(g.runs)) for g in groups] == [(n, [1, 2, 3]) for n in ("near", "other", "random")]
    run(sweep, "near", 1, 0.6, max_K=50)
    assert {g.label for g in groups_of(collect(sweep)[0])} == {"near max_K=10", "near max_K=50", "other", "random"}


def test_labels_are_what_was_typed(sweep):
    """Many settings differ between two embedders; one word was typed. Where words do not tell groups apart, settings
    do."""
    for seed in (1, 2):
        for max_K, word in ((10, "embedder=minilm"), (50, "embedder=rds")):
            run(sweep, "near", seed, 0.5, max_K=max_K)
            folder = sweep / f"near-{max_K}-{seed}" / ".hydra"
            folder.mkdir()
            (folder / "overrides.yaml").write_text(f"- selector=near\n- seed={seed}\n- data=files\n- {word}\n")
    (sweep / "near-10-3").rename(sweep.parent / "elsewhere")  # it has another set of words
    assert {g.label for g in groups_of(collect(sweep)[0])} == {
        *("near embedder=minilm", "near embedder=rds", "other", "random")
    }
    for path in sweep.glob("near-50-*/.hydra/overrides.yaml"):
        path.write_text(path.read_text().replace("rds", "minilm"))
    assert "near max_K=50" in {g.label for g in groups_of(collect(sweep)[0])}


def test_beside_random(sweep):
    """Differences of the seeds: -0.4, -0.395, -0.405; t(2) = 4.3027, s = 0.005."""
    near, groups = group(sweep, "near")
    found = beside_random(near, baseline_of(near, groups))
    assert found.mean == pytest.approx(-0.4)
    half = 4.30265 * 0.005 / 3**0.5
    assert found.seeds == pytest.approx((-0.4 - half, -0.4 + half), abs=1e-6)
    assert found.examples == pytest.approx((-0.4, -0.4), abs=1e-6), "examples move alike in these"
    assert found.verdict == "better"
    other, groups = group(sweep, "other")
    assert beside_random(other, baseline_of(other, groups)).verdict == NOTHING


def test_beside_the_base(sweep):
    found = beside_base(group(sweep, "near")[0])
    assert found.mean == pytest.approx(-1.5) and found.verdict == "better"


def test_at_equal_tokens(sweep):
    """NEAR ends after 600 tokens at 0.5; random had come from 2.0 to 2.0 - 1.1 x 2/3 there: linear, 2.0 - 1.1 / 3 at
    300 tokens and 0.9 at 900."""
    near, groups = group(sweep, "near")
    random = baseline_of(near, groups)
    there = (2.0 - 1.1 / 3 + 0.9) / 2
    assert at_equal_tokens(near, random).mean == pytest.approx(0.5 - there, abs=1e-6)
    assert at_equal_tokens(random, near).mean == pytest.approx(there - 0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("seeds", "examples", "verdict"),
    [
        ((-2, -1), (-3, -0.5), "better"),
        ((-2, -1), None, "better"),
        ((-2, 1), (-3, -0.5), NOTHING),
        ((-2, -1), (-3, 0.5), NOTHING),
        ((1, 2), (0.5, 3), "worse"),
        ((1, 2), (-3, -1), NOTHING),
        (None, None, NOTHING),
    ],
)
def test_verdict(seeds, examples, verdict):
    mean = 1.5 if verdict == "worse" else -1.5
    assert Difference(mean, seeds, examples).verdict == verdict


def test_the_table(sweep, capsys):
    runs, _ = collect(sweep)
    heads, cells = table(runs)
    near = dict(zip(heads, cells[0], strict=True))
    assert near["selection"] == "near" and near["seeds"] == "3" and near["target loss"] == "0.5000 ± 0.0100"
    assert near["less random's"].startswith("-0.4000 [-0.4124, -0.3876] seeds") and near["shown"] == "better"
    assert near["less the base's"] == "-1.5000 (better)"
    assert (near["exact"], near["law loss"]) == ("0.200", "3.0000 (+0.5000)")
    assert (near["tokens"], near["train s"], near["select s"]) == ("600", "1.5", "2.5")
    assert dict(zip(heads, cells[1], strict=True))["shown"] == NOTHING
    show(runs)
    printed = capsys.readouterr().out
    assert NOTHING in printed and "in 88% where they are as skewed" in printed


def test_answers_that_held_nothing_to_grade_are_counted_over_all_seeds(tmp_path, capsys):
    for seed in (1, 2):
        scores = {"mean": 0.25, "graded": 30, "right": 7, "no_answer": 5 * seed}
        run(
            tmp_path, "near", seed, 0.5, scores={"number": scores, "exact": {"mean": 0.0, "graded": 30, "no_answer": 0}}
        )
        run(tmp_path, "random", seed, 0.9, scores={"number": {"mean": 0.5}})  # as older runs say it
    runs, _ = collect(tmp_path)
    heads, cells = table(runs)
    near, random = (dict(zip(heads, row, strict=True)) for row in cells)
    assert (near["number"], near["exact"]) == ("0.250 (15 of 60 no answer)", "0.000")
    assert (random["number"], random["exact"]) == ("0.500", "-")
    show(runs)
    assert "no answer: the answer held nothing that the grader compares" in capsys.readouterr().out
    assert not any("no answer" in note for note in notes([r for r in runs if r.selector == "random"]))


def test_what_a_reader_must_know(tmp_path):
    run(tmp_path, "near", 1, 0.5)
    run(tmp_path, "near", 1, 0.5, max_K=20, same_rows_as="near-10-1")
    found = " ".join(notes(collect(tmp_path)[0]))
    assert "add selector=random" in found and "One seed" in found and "near-20-1: same rows as near-10-1" in found
    heads, cells = table(collect(tmp_path)[0])
    assert cells[0][heads.index("shown")] == "-"
