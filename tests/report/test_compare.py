"""Selections beside random rows, by hand."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from near.report.compare import (
    NOTHING,
    TOO_FEW,
    Difference,
    at_equal_tokens,
    baseline_of,
    beside_base,
    beside_random,
    groups_of,
    label_of,
)
from near.report.runs import collect
from near.report.verdict import answer, notes, parts, show, table

ROWS = 30
BASE = 2.0


def run(root: Path, selector: str, seed: int, loss: float, tokens: int = 900, max_K: int = 10, **more) -> None:
    """A finished run whose examples have `loss` in the mean, and whose loss fell in a line from 2.0 over its tokens."""
    folder = root / f"{selector}-{max_K}-{seed}"
    (folder / "rounds").mkdir(parents=True, exist_ok=True)
    line = {"round": 0, "selector": "warm-up", "step": 0, "rows": 2}
    rounds = [{**line, "tokens": tokens // 3, "target_loss": BASE}]
    rounds += [{**line, "tokens": tokens - tokens // 3, "target_loss": BASE + (loss - BASE) / 3}]
    (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    config = {"seed": seed, "max_K": max_K, "selector": {"policy": "repeat"}, "evaluation": {"batch_size": seed}}
    training = {"identity": {"config": config}, "distinct_rows": 8, "tokens_trained": tokens, "train_seconds": 1.5}
    (folder / "train_metrics.json").write_text(json.dumps({**training, "select_seconds": 0.5, "embed_seconds": 2.0}))
    noise = np.random.default_rng(seed).normal(0, 0.05, ROWS)
    for name, mean in (("answers", loss), ("base_answers", BASE)):
        losses = mean + noise - noise.mean()
        rows = [{"set": "target", "row": i, "loss": float(x), "tokens": 3} for i, x in enumerate(losses)]
        rows += [{"set": "law", "row": 0, "loss": 9.0, "tokens": 3}]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    metrics = {"rows": ROWS, "tokens": 3 * ROWS, "eval_fingerprint": "e", "answers_right": 4, "model": "x/tiny"}
    metrics |= {"scores": {"exact": {"mean": 0.2}}}
    base = {**metrics, "target_loss": BASE, "more": {"law": {**metrics, "target_loss": 2.5}}}
    metrics["more"] = {"law": {**metrics, "target_loss": 3.0}}
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
    """Many settings differ between two embedders; one word was typed that decides the outcome. Where words do not tell
    groups apart, settings do."""
    for seed in (1, 2):
        for max_K, word, more in (
            (10, "embedder=minilm", ""),
            (50, "embedder=rds", "- sweep_name=beside/a\n- hydra.sweep.dir=/b\n"),
        ):
            run(sweep, "near", seed, 0.5, max_K=max_K)
            folder = sweep / f"near-{max_K}-{seed}" / ".hydra"
            folder.mkdir()
            (folder / "overrides.yaml").write_text(f"- selector=near\n- seed={seed}\n- data=files\n- {word}\n{more}")
    (sweep / "near-10-3").rename(sweep.parent / "elsewhere")  # it has another set of words
    assert {g.label for g in groups_of(collect(sweep)[0])} == {
        *("near embedder=minilm", "near embedder=rds", "other", "random")
    }
    for path in sweep.glob("near-50-*/.hydra/overrides.yaml"):
        path.write_text(path.read_text().replace("rds", "minilm"))
    assert "near max_K=50" in {g.label for g in groups_of(collect(sweep)[0])}


def test_a_label_names_few_settings():
    """One option decides three paths, and another group's class: short ones that somebody typed come first."""

    def kind(target: str, embed: str, similarity: str, *typed: str):
        paths = {f"data.{part}.path": f"builtin:{target}/{part}" for part in ("pool", "eval")}
        settings = {"data.target": target, **paths, "embedder.embed": embed, "similarity._target_": similarity}
        settings |= {"similarity.b": "0.75"} if similarity == "Bm25" else {}
        run = SimpleNamespace(typed={"selector=near", *typed})
        return "near", settings, {1: run}

    kinds = [
        kind("sort-0", "prompt", "FromEmbeddings", "data.target=sort-0"),
        kind("sort-0", "answer", "FromEmbeddings", "data.target=sort-0", "embedder.embed=answer"),
        kind("sort-0", "prompt", "Bm25", "data.target=sort-0", "similarity=bm25"),
        kind("last-4", "prompt", "FromEmbeddings", "data.target=last-4"),
        kind("last-4", "answer", "FromEmbeddings", "data.target=last-4", "embedder.embed=answer"),
    ]
    assert [label_of(one, kinds) for one in kinds] == [
        "near target=sort-0 embed=prompt similarity=FromEmbeddings",
        "near target=sort-0 embed=answer",
        "near target=sort-0 similarity=bm25",
        "near target=last-4 embed=prompt",
        "near target=last-4 embed=answer",
    ]


def test_beside_random(sweep):
    """Differences of the seeds: -0.4, -0.395, -0.405; t(2) = 4.3027, s = 0.005."""
    near, groups = group(sweep, "near")
    difference = beside_random(near, baseline_of(near, groups))
    assert difference.mean == pytest.approx(-0.4)
    half = 4.30265 * 0.005 / 3**0.5
    assert difference.seeds == pytest.approx((-0.4 - half, -0.4 + half), abs=1e-6)
    assert difference.examples == pytest.approx((-0.4, -0.4), abs=1e-6), "examples move alike in these"
    assert difference.verdict == "better"
    other, groups = group(sweep, "other")
    assert beside_random(other, baseline_of(other, groups)).verdict == NOTHING


def test_beside_the_base(sweep):
    difference = beside_base(group(sweep, "near")[0])
    assert difference.mean == pytest.approx(-1.5) and difference.verdict == "better"


def test_at_equal_tokens(sweep):
    """NEAR ends after 600 tokens at 0.5; random had come from 2.0 to 2.0 - 1.1 x 2/3 there: linear, 2.0 - 1.1 / 3 at
    300 tokens and 0.9 at 900."""
    near, groups = group(sweep, "near")
    random = baseline_of(near, groups)
    interpolated = (2.0 - 1.1 / 3 + 0.9) / 2
    assert at_equal_tokens(near, random).mean == pytest.approx(0.5 - interpolated, abs=1e-6)
    assert at_equal_tokens(random, near).mean == pytest.approx(interpolated - 0.5, abs=1e-6)


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
    assert near["vs. random"].startswith("-0.4000 [-0.4124, -0.3876] seeds") and near["verdict"] == "better"
    assert near["vs. base"] == "-1.5000 (better)"
    assert (near["exact"], near["law loss"]) == ("0.200", "3.0000 (+0.5000)")
    assert (near["tokens"], near["training (s)"], near["selection (s)"]) == ("600", "1.5", "0.5")
    assert dict(zip(heads, cells[1], strict=True))["verdict"] == NOTHING
    show(runs)
    printed = capsys.readouterr().out
    assert NOTHING in printed and "in 88% where they are as skewed" in printed


def test_answers_that_contain_nothing_to_grade_are_counted_over_all_seeds(tmp_path, capsys):
    for seed in (1, 2):
        scores = {"mean": 0.25, "graded": 30, "right": 7, "no_answer": 5 * seed}
        run(
            tmp_path, "near", seed, 0.5, scores={"number": scores, "exact": {"mean": 0.0, "graded": 30, "no_answer": 0}}
        )
        run(tmp_path, "random", seed, 0.9, scores={"number": {"mean": 0.5}})  # as older runs record it
    runs, _ = collect(tmp_path)
    heads, cells = table(runs)
    near, random = (dict(zip(heads, row, strict=True)) for row in cells)
    assert (near["number"], near["exact"]) == ("0.250 (15 of 60 no answer)", "0.000")
    assert (random["number"], random["exact"]) == ("0.500", "-")
    show(runs)
    assert "no answer: the answer contained nothing that the grader compares" in capsys.readouterr().out
    assert not any("no answer" in note for note in notes([r for r in runs if r.selector == "random"]))


@pytest.mark.parametrize(("count", "verdict"), [(1, TOO_FEW), (2, TOO_FEW), (3, "better"), (None, "better")])
def test_fewer_than_three_seeds_give_no_verdict(count, verdict):
    assert Difference(-1.5, (-2, -1), (-1.6, -1.4), count).verdict == verdict


@pytest.mark.parametrize("count", [1, 2])
def test_few_seeds_are_named_wherever_a_verdict_stands(count, tmp_path):
    for seed in range(count):
        run(tmp_path, "near", seed, 0.5)
        run(tmp_path, "random", seed, 0.9)
    runs = collect(tmp_path)[0]
    heads, cells = table(runs)
    near = dict(zip(heads, cells[0], strict=True))
    assert near["verdict"] == TOO_FEW and near["vs. base"] == f"-1.5000 ({TOO_FEW})"
    assert answer(runs).startswith(f"Can't tell yet: {count} seed")
    assert "near (-0.4000" in answer(runs)


def losses(root, **by_selector):
    """Runs of three seeds, by selector their loss."""
    for selector, loss in by_selector.items():
        for seed, noise in ((1, 0.0), (2, 0.003), (3, -0.002)):
            run(root, selector, seed, loss + noise)
    return answer(collect(root)[0])


@pytest.mark.parametrize(
    ("by_selector", "pattern"),
    [
        (
            {"near": 0.5, "random": 0.9},
            "^Yes: the target loss is below random rows' with near .-0.4000, 95% interval -0.4",
        ),
        ({"near": 0.5, "tsds": 0.6, "random": 0.9}, "^Yes: .* with near .*, tsds .*[.]$"),
        ({"near": 0.5, "loss": 1.2, "random": 0.9}, "^Yes: .* near [^.]*.*[.] It is above random rows' with loss"),
        ({"loss": 1.2, "random": 0.9}, "^No: the target loss is above random rows' with loss .[+]0.3000"),
        ({"near": 0.5}, "^Can't tell: no run on random rows"),
        ({"random": 0.5}, "^Can't tell: no other selection"),
    ],
)
def test_the_answer_in_a_sentence(by_selector, pattern, tmp_path):
    assert re.search(pattern, losses(tmp_path, **by_selector))


def test_the_answer_where_nothing_is_shown(sweep):
    assert "No difference to random rows is shown with other (+0.0000" in answer(collect(sweep)[0])


def test_what_selection_saw_is_in_the_answer(tmp_path):
    for seed in (1, 2, 3):
        run(tmp_path, "near", seed, 0.5, selection_saw_them=True)
        run(tmp_path, "random", seed, 0.9, selection_saw_them=True)
    assert answer(collect(tmp_path)[0]).endswith("on the queries, which selection saw.")


def test_a_sweep_is_shown_in_the_order_of_its_jobs(sweep):
    (sweep / ".jobs").mkdir()
    for number, (selector, seed) in enumerate((s, n) for s in ("random", "other", "near") for n in (1, 2, 3)):
        path = sweep / ".jobs" / f"{selector}-10-{seed}.json"
        path.write_text(json.dumps({"state": "done", "number": number}))
    assert [g.label for g in groups_of(collect(sweep)[0])] == ["random", "other", "near"]
    path.unlink()  # of one it is not known
    assert [g.label for g in groups_of(collect(sweep)[0])][0] == "near"


def test_no_table_is_wider_than_a_page():
    heads = [f"c{i}" for i in range(30)]
    shown = parts(heads)
    assert all(at[0] == 0 and len(at) <= 10 for at in shown)
    assert sorted(i for at in shown for i in at if i) == list(range(1, 30))


def test_embedding_is_charged_to_no_selection_and_noted_once(tmp_path):
    for selector in ("near", "random", "tsds"):
        run(tmp_path, selector, 1, 0.5)
        path = tmp_path / f"{selector}-10-1" / "train_metrics.json"
        metrics = {**json.loads(path.read_text()), "embed_seconds": 33.2, "search_seconds": 0.4}
        if selector == "random":
            metrics |= {"embed_seconds": None, "search_seconds": None}
        path.write_text(json.dumps(metrics))
    runs = collect(tmp_path)[0]
    heads, cells = table(runs)
    assert {row[heads.index("selection (s)")] for row in cells} == {"0.5"}
    (line,) = [note for note in notes(runs) if "embedding" in note]
    assert line.endswith("near, tsds: 33.2 s and 0.4 s.")


def test_rows_of_the_warm_up_are_counted_apart_from_those_picked(tmp_path):
    run(tmp_path, "near", 1, 0.5)
    folder = tmp_path / "near-10-1" / "rounds"
    np.save(folder / "000.npy", np.arange(4))
    np.save(folder / "001.npy", np.array([3, 5, 6, 7, 8]))
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[1] |= {"selector": "near", "round": 1}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = collect(tmp_path)[0]
    heads, cells = table(runs)
    assert cells[0][heads.index("distinct rows")] == "8 (5 picked)"
    assert any("the warm-up drew" in note for note in notes(runs))


def test_what_a_reader_must_know(tmp_path):
    run(tmp_path, "near", 1, 0.5)
    run(tmp_path, "near", 1, 0.5, max_K=20, same_rows_as="near-10-1")
    text = " ".join(notes(collect(tmp_path)[0]))
    assert "add selector=random" in text and "One seed" in text and "near-20-1: same rows as near-10-1" in text
    heads, cells = table(collect(tmp_path)[0])
    assert cells[0][heads.index("verdict")] == "-"
