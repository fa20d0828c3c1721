"""Scripts that need a model: here one with random weights."""

import pytest
import yaml

from tests.bench.conftest import numbers, row

pytestmark = pytest.mark.model


def test_trainer(run, small_data):
    """Both train on the same rows in the same order; a resume builds no batch of the steps before it."""
    lines = run(
        "trainer", "model=tiny", "embedder=hashing", "pairs=1", "steps=8", "resumed=4", "workers=0", *small_data
    )
    lines = [line for line in lines if not line.startswith("{")]  # the Trainer's
    assert lines[0] == "tiny, 8 steps of 4 rows, 1 pairs"
    for kind in ("rounds", "plain"):
        seconds, least, most, outside, memory = row(lines, f"{kind:8} ")
        assert 0 < least == seconds == most and 0 <= outside <= seconds and memory > 50
    median, least, most = row(lines, "rounds / plain, pair by pair: median")
    assert 0 < median == least == most
    seconds, before, batches, steps = (
        row(lines, "resumed at step 4:")[0],
        *numbers(next(line for line in lines if line.startswith("resumed")).partition("first step,")[2]),
    )
    assert seconds > 0 and steps == batches == 6 and before <= 2
    assert row(lines, "schedule (10, 7), 0 workers, random weights:")[0] > 0


def test_the_plain_trainer_gets_the_rows_of_the_rounds(run, small_data, tmp_path):
    import numpy as np
    import torch

    from bench import trainer

    words = [
        "model=tiny",
        "embedder=hashing",
        "trainer.warmup_step=2",
        "trainer.update_step=2",
        "trainer.update_times=2",
    ]
    words += [*small_data, "trainer.args.save_strategy=no"]
    rounds = trainer.trainer_of(tmp_path, *words)
    rounds.train()
    plain = trainer.plain(trainer.trainer_of(tmp_path, *words))
    trained = np.concatenate([np.load(path) for path in sorted((tmp_path / "rounds").glob("*_order.npy"))])
    assert plain.train_dataset["input_ids"] == rounds.train_dataset.select(trained)["input_ids"]
    batches = [batch["input_ids"] for batch in plain.get_train_dataloader()]
    assert len(batches) == plain.args.max_steps == 6
    first = rounds.data_collator([rounds.train_dataset[int(i)] for i in trained[:4]])["input_ids"]
    assert torch.equal(batches[0], first)
    plain.train()  # same initial weights and rows, so the same weights at the end
    ours, theirs = (dict(t.model.named_parameters()) for t in (rounds, plain))
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], atol=1e-6), name


@pytest.mark.parametrize(
    "words", [["steps=10"], ["steps=4"], ["pairs=0"], ["resumed=3"], ["resumed=0"], ["traner.x=1"]]
)
def test_trainer_refuses(run, words):
    with pytest.raises(SystemExit, match="^error: .*(use |resumed|traner)"):
        run("trainer", "model=tiny", *words)


def test_merge(run):
    lines = run("merge", "layers=2", "width=32", "smollm2=false", "tokenizer=builtin:tiny", "dtype=bfloat16")
    assert lines[0].startswith("2 layers of 32 in bfloat16 on disk: ")
    for kind in ("peft", "near"):
        most, above, seconds = row(lines, f"{kind}:")
        assert most > 50 and seconds >= 0


def test_merge_refuses(run):
    for word in ("dtype=int8", "width=30"):
        with pytest.raises(SystemExit, match=f"^error: {word}: use "):
            run("merge", word)


def test_encode(run):
    lines = run("encode", "rows=5", "turns=1", "megabytes=1", "model=tiny")
    for template in ("own", "qwen"):
        microseconds, tokens = row(lines, f"template {template}")
        assert microseconds > 0 and tokens > 4
    seconds, rise, tokens = row(lines, "a row of 1 MB:")
    assert seconds > 0 and rise >= 0 and 4 < tokens <= 2048


@pytest.mark.slow
def test_gradients_without_traker(run, small_data, monkeypatch):
    """If traker cannot be downloaded, its row says so, and everything else is measured."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    words = "model=tiny rows=10 timed=3 seeds=1 turns=1 dims=256,512".split()
    lines = run("gradients", *words, *small_data)
    for name in ("plain forward and backward", "features, 4096 dimensions", "features, 8192 dimensions"):
        seconds, factor, *_ = row(lines, name)
        assert seconds > 0 and factor > 0
    assert row(lines, "DataFlex: batches of one")[0] > 0
    assert "not measured: could not download traker" in next(line for line in lines if "its projection" in line)
    for dim in (256, 512):
        for kind in ("sparse, 1 a coordinate", "sparse, 4 a coordinate", "dense Rademacher"):
            (line,) = [line for line in lines if line.startswith(kind) and line[26:].split()[0] == str(dim)]
            _, error, rank, share = numbers(line[26:])
            assert 0 < error < 1 and -1 <= rank <= 1 and 0 <= share <= 1


@pytest.mark.real
@pytest.mark.slow
def test_embed(run_real):
    words = "rows=40 sample=20 queries=5 max_K=4 turns=1 tasks=demo".split()
    lines = run_real("embed", *words)
    for name in ("near", "encode"):
        assert row(lines, f"{name} ")[1] > 0
    assert 0 <= row(lines, "padding")[0] < 50
    assert row(lines, "cold")[:3:2] == [45, 100] and row(lines, "again, another max_K")[0] == 0
    assert row(lines, "1% new rows")[1] == 1 or row(lines, "1% new rows")[0] == 1


def test_skills(run, monkeypatch):
    """By words that are hashed, prompts find the wording; the pool of `upper` in wording 3 has 28 rows of the skill."""
    from bench import skills

    fields = {field: ["embedder=hashing", f"embedder.embed={field}"] for field in ("prompt", "answer")}
    monkeypatch.setattr(skills, "methods", lambda dtype: fields)
    lines = run("skills", "targets=upper-3", "queries=4", "size=24")
    (skill, wording, _), (of_answer, *_) = (row(lines[:3], field) for field in fields)
    assert wording > 50 > skill >= 0 and 0 <= of_answer <= 100
    with pytest.raises(SystemExit, match="^error: targets=upper: use ten, chosen, demo, or cells"):
        run("skills", "targets=upper")


@pytest.mark.real
def test_padding(run_real):
    lines = run_real("padding", "rows=4", "batch=2", "cutoff=24", "turns=1", "model=tiny")
    passed = [int(next(line for line in lines if line.startswith(name)).split()[-3]) for name in ("as drawn", "sorted")]
    assert passed[0] >= passed[1] > 0
    assert row(lines, "without padding")[0] > 0


@pytest.mark.real
def test_embed_field(run_real):
    target = "imperial_date_to_string"
    lines = run_real("embed_field", "embedder=hashing", f"targets={target}", "depths=2,5")
    shares = row(lines, target)
    assert len(shares) == 6 and all(0 <= share <= 1 for share in shares)
    assert row(lines, "mean") == shares
    with pytest.raises(SystemExit, match="^error: targets=imperial is not a task"):
        run_real("embed_field", "targets=imperial")


@pytest.mark.real
@pytest.mark.slow
def test_select(run_real):
    """With real processes and the peer's package."""
    words = "rows=40 queries=3 embed=prompt swept=4,8 cold=8 larger=10,12 smaller=4,2 tasks=demo turns=1"
    lines = run_real("select", *words.split(), "peer_sweep=estimate")
    assert row(lines, "near, embed=prompt")[0] > 0 and row(lines, "dataflex   ")[0] > 0
    assert "cold, max_K=8" in "\n".join(lines) and "sweep, max_K=4,8" in "\n".join(lines)
    assert any(line.startswith("cold: dataflex / near") for line in lines)


def test_select_refuses(run):
    for words in (["rows=10"], ["peer_sweep=guess"], ["embed=all"], ["cold=5"], ["larger=2000,1500"], ["queries=0"]):
        with pytest.raises(SystemExit, match="^error: .*use "):
            run("select", *words)


@pytest.mark.real
@pytest.mark.slow
def test_search_on_the_demos_vectors_beside_the_peer(run_real, monkeypatch):
    import bench.search

    monkeypatch.setattr(bench.search, "REST", 0.0)
    lines = run_real("search", *"rows=3000 dim=16 queries=20 max_K=10 depths=20 turns=1 hnsw=false".split())
    peers = [numbers(line.removeprefix("DataFlex, IVF nprobe 10")) for line in lines if line.startswith("DataFlex")]
    assert len(peers) == 2
    for *_, recall, short in peers:
        assert 0 < recall <= 1 and short >= 0


def test_cost(small_data, tmp_path, monkeypatch, capsys):
    """An estimate beside what then happened; the scripts run in forked children."""
    from bench import cost
    from tests.conftest import run_script

    def run(words):
        result = run_script(*words)
        assert result.returncode == 0, result.stderr
        return 5.0, 1_000_000

    monkeypatch.setattr(cost, "_run", run)
    monkeypatch.setenv("NEAR_CACHE", str(tmp_path / "cache"))
    words = [*small_data, "model=tiny", "embedder=hashing", "scoring.dim=32", "evaluation.max_new_tokens=2"]
    words += ["trainer.warmup_step=1", "trainer.update_step=2", "trainer.update_times=1"]
    cost.main(*words, commands=["less"], small=False, out=str(tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    for stage in ("evaluation of the base", "scoring", "training and saving", "evaluation", "all"):
        estimated, low, high, happened, factor = row(lines, f"{stage:24}")
        assert low <= estimated <= high and happened >= 0 and factor >= 1
    tokens, trained, factor = row(lines, "tokens trained")
    assert 0.5 < tokens / trained < 2 and factor == pytest.approx(max(tokens, trained) / min(tokens, trained), abs=0.01)
    assert " numbers within a factor of 1.5; beyond: " in lines[-1]


def test_forecast(run, tmp_path, monkeypatch):
    """Two of three selections are better on every target, and their gains say so; the cells can become near's."""
    import json

    from bench import forecast
    from near.evaluation.forecast import VerdictForecast, earlier
    from tests.report.test_targets import run as finished

    for number in range(4):
        for seed in (1, 2, 3):
            finished(tmp_path, "random", f"t-{number}", seed, 2.0 + seed / 100)
            for name, loss, gain in (("near", 1.5, 1.1), ("less", 1.4, 1.5), ("first", 2.1, 0.1)):
                folder = finished(tmp_path, name, f"t-{number}", seed, loss + seed / 100)
                known = dict(
                    selection=name, step=2, gain=gain + number / 50, error=0.1, selected=0.1, random=0.0, rows=8
                )
                known |= dict(rows=8, random_rows=8, queries=2, probability=0.5, like=1, came_true=1)
                if seed == 1:
                    VerdictForecast(**known).write(folder / "forecast.json")
    monkeypatch.setattr(forecast, "CELLS", tmp_path / "cells.json")
    lines = run("forecast", f"runs={tmp_path}", "write=true")
    assert lines[0].startswith("12 cells on 4 targets; 8 better than random rows by more than could be shown (67%)")
    assert row(lines, "gradients")[0] < row(lines, "base rate")[0]
    assert row(lines, "same selection elsewhere") == [0]
    cells = earlier(tmp_path / "cells.json")
    assert {(c.selection, c.better) for c in cells} == {("near", True), ("less", True), ("first", False)}
    assert json.loads((tmp_path / "cells.json").read_text())["schema_version"] == 1
    with pytest.raises(SystemExit, match="^error: runs=.* have forecasts on fewer than two targets"):
        run("forecast", f"runs={folder}")


def test_surrogate(run, tiny, tmp_path, cache, monkeypatch):
    """On the gradients that a run of LESS left, half of them; and finished runs of both."""
    from bench import surrogate
    from near.training.train import train
    from tests.conftest import configured

    words = [*(w for w in tiny if not w.startswith(("data", "max_K"))), f"cache_dir={cache}", "seed=1"]
    words += ["data=crossed", "data.target=sort-0", "data.rows=500", "data.query_rows=4", "data.eval_rows=4"]
    words += ["trainer.update_times=1", "max_K=500"]
    for name in ("less", "surrogate_less"):
        out = tmp_path / f"data.target-sort-0_selector-{name}_seed-1"
        train(configured("train", *words, f"selector={name}"), out)
    monkeypatch.setattr(surrogate, "BUDGETS", [(8, 250)])
    lines = run("surrogate", f"runs={tmp_path}", "samples=2", "embedder=hashing")
    overlap, estimated, correlation = row(lines, "1 targets, 8 rows, 250 of 500 gradients: overlap")
    assert 0.2 < overlap <= 1 and 0 < estimated <= 1 and -1 <= correlation <= 1
    gradients, overlap, *_ = row(run("surrogate", f"runs={tmp_path}", "only=runs"), f"{out.name}: gradients")
    assert 50 <= gradients <= 500 and 0 <= overlap <= 1
    less = tmp_path / "data.target-sort-0_selector-less_seed-1"
    (less / ".hydra").mkdir()
    (less / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*words, "selector=less"]))
    words = ["targets=sort-0,count-5", "gradients=0.5", "chosen=0.1", "embedder=hashing"]
    lines = run("surrogate", f"runs={less}", *words)
    near, _ = row(lines, "near with 0% of the gradients: overlap")
    shortlist, score = row(lines, "shortlist with 50% of the gradients: overlap")
    assert 0 <= near <= shortlist <= 1 and score <= 100, "what near has of LESS's rows is in the shortlist, and chosen"
    overlap, score, *_ = row(lines, "surrogate_less with 50% of the gradients: overlap")
    assert 0.4 < overlap <= 1 and 50 < score <= 100
    assert any(line.startswith("count-5: near 0%") for line in lines)
    monkeypatch.setenv("NEAR_CACHE", str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match="^error: .*the gradients of the run are not in this cache; set NEAR_CACHE"):
        run("surrogate", f"runs={less}", *words)
    monkeypatch.setenv("NEAR_CACHE", str(cache))
    with pytest.raises(SystemExit, match="^error: runs=.*no run of surrogate_less with one of less beside it"):
        run("surrogate", f"runs={out}", "only=runs")
