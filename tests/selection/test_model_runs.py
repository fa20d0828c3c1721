"""Selectors that need the model, through train.py and select.py: refused early, the same on ranks and after a kill."""

import json

import numpy as np
import pytest

from near.common.errors import UserError
from near.common.files import read_json
from near.selection.needs import Needs
from near.selection.select import select
from near.training.arguments import check_training
from near.training.train import train
from tests.conftest import RANKS, configured, process

pytestmark = pytest.mark.model
SELECTORS = ["less", "loss", "delta_loss", "cluster_less", "nice", "less_shortlist"]


def run(tiny, folder, *overrides: str):
    if "finetuning=full" in overrides:
        tiny = [word for word in tiny if word != "finetuning.r=4"]
    cfg = configured("train", *tiny, f"output_dir={folder}", "evaluation.answers=false", *overrides)
    train(cfg, folder)
    return [np.load(path) for path in sorted((folder / "rounds").glob("[0-9][0-9][0-9].npy"))]


@pytest.mark.parametrize("name", SELECTORS)
def test_a_run(tiny, tmp_path, name):
    extra = {
        "less_shortlist": ["selector.shortlist.size=12"],
        "nice": ["selector.samples=1", "selector.max_new_tokens=2"],
    }
    rounds = run(tiny, tmp_path, f"selector={name}", *extra.get(name, []))
    assert [len(ids) for ids in rounds] == [4, 8, 8]
    lines = [json.loads(line) for line in (tmp_path / "rounds" / "rounds.jsonl").read_text().splitlines()]
    assert lines[1]["selector"] == name and lines[2]["select_seconds"] > 0


def test_queries_alone_are_trained_on(tiny, tmp_path):
    """The warm-up too; their ids follow the pool's 60, and the record has their source."""
    rounds = run(tiny, tmp_path, "selector=queries")
    assert all(set(ids) == {60, 61, 62, 63} for ids in rounds)
    queries = next(w for w in tiny if w.startswith("data.queries.path=")).partition("=")[2]
    held_out = [f"data.eval.path={tmp_path}/eval.jsonl", "selector=queries"]
    (tmp_path / "eval.jsonl").write_text("".join(open(queries).readlines()[:1]))
    assert set(run([*tiny, *held_out], tmp_path / "c")[1]) == {61, 62, 63}  # query 0 is evaluated
    (tmp_path / "more.jsonl").write_text("".join(open(queries).readlines()[1:2]))
    held_out.append(f"data.more_eval={{more: {tmp_path}/more.jsonl}}")
    assert set(run([*tiny, *held_out], tmp_path / "d")[1]) == {62, 63}  # and query 1, in another set
    with pytest.raises(UserError, match="set data.eval.path"):
        run([*tiny, "data.eval.path=null"], tmp_path / "b", "selector=queries")


def test_gradients_as_similarity(tiny, tmp_path):
    """near, uot and tsds over gradients differ from those over embeddings, and from round to round."""
    by = {s: run(tiny, tmp_path / s, "selector=near", f"similarity={s}") for s in ("gradients", "embeddings")}
    assert by["gradients"][1].tolist() != by["embeddings"][1].tolist()
    assert by["gradients"][1].tolist() != by["gradients"][2].tolist()
    listed = run(
        tiny, tmp_path / "l", "selector=uot", "similarity=gradients", "similarity.shortlist={selector:near,size:9}"
    )
    assert len(listed[1]) == 8


@pytest.mark.parametrize("name", ["less", "delta_loss"])
def test_resumed_within_a_round(tiny, tmp_path, name):
    """From the checkpoint at step 4 and 7: rows, order, losses and weights as if never stopped."""
    extra = [f"selector={name}", "trainer.args.save_steps=1", "trainer.args.save_total_limit=20"]
    whole = run(tiny, tmp_path / "a", *extra)
    for step in (4, 7):
        folder = tmp_path / str(step)
        again = run(tiny, folder, *extra, f"resume={tmp_path}/a/checkpoints/checkpoint-{step}")
        for one, two in zip(whole, again, strict=True):
            np.testing.assert_array_equal(one, two)
        for name_ in ("adapter/adapter_model.safetensors", "rounds/002_order.npy"):
            assert (folder / name_).read_bytes() == (tmp_path / "a" / name_).read_bytes()
        logs = [read_json(f / "train_metrics.json")["history"] for f in (tmp_path / "a", folder)]
        assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


@pytest.mark.slow
def test_two_ranks_share_the_scoring_and_pick_the_same(tiny, tmp_path):
    """Two processes compute each chunk once, and every round is one process's."""
    words = [*tiny, "selector=less", "evaluation.answers=false", "scoring.chunk=10", f"cache_dir={tmp_path}/cache"]
    done = process(*RANKS, "train.py", *words, f"output_dir={tmp_path}/two", env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    chunks = {p.parent.name: len(list(p.parent.glob("*.safetensors"))) for p in (tmp_path / "cache").glob("scores/*/*")}
    assert sorted(chunks.values()) == [1, 1, 6, 6]  # two rounds: 4 queries and 60 rows
    first = np.load(tmp_path / "two" / "rounds" / "001.npy")
    assert len(set(first.tolist())) == 16


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["selector=less", "finetuning=full"], "scoring.modules="),
        (["selector=less", "finetuning=dora"], "DoRA"),
        (["selector=less", "data.queries.path=null"], "data.queries.path is missing"),
        (["selector=less", "similarity=gradients"], "leave it at embeddings"),
        (["selector=cluster_less", "similarity=gradients"], "leave it at embeddings"),
        (["selector=random", "similarity=gradients"], "leave it at embeddings"),
        (["selector=less", "+trainer.args.optim=sgd"], "scoring.adam=false"),
        (["selector=less", "scoring.modules=[nothing]"], "is no trained linear layer"),
        (["selector=less", "selector.shortlist={selector:nera,size:3}"], "did you mean near"),
        (["selector=less", "scoring.modules=q_proj"], "write it like scoring.modules=\\[q_proj\\]"),
        (["selector=less", "scoring.checkpoints=[nowhere]"], "nowhere is no checkpoint"),
        (["selector=loss", "scoring.checkpoints=[nowhere]"], "losses are the current model's"),
        (["selector=nice", "selector.reward=judge"], "selector.judge.server.url is missing"),
    ],
)
def test_what_is_impossible_is_one_line(tiny, tmp_path, overrides, line):
    with pytest.raises(Exception, match=line) as caught:
        run(tiny, tmp_path, *overrides)
    from near.app.faults import fault_line

    assert fault_line(caught.value) and "\n" not in fault_line(caught.value)


def test_spread_models_are_refused():
    class Args:
        deepspeed, fsdp, optim = {"zero_optimization": {"stage": 3}}, [], "adamw_torch"

    scoring = configured("train", "data=files").scoring
    for requires in ("losses", "gradients"):
        with pytest.raises(UserError, match="parallel=none"):
            check_training(Needs(requires=requires), Args(), scoring)
    check_training(Needs(), Args(), scoring)


def test_full_fine_tuning_by_named_layers(tiny, tmp_path):
    rounds = run(tiny, tmp_path, "selector=less", "finetuning=full", "scoring.modules=[q_proj,v_proj]")
    assert len(rounds[1]) == 8


# outside training


def export(tiny, folder, *overrides: str) -> np.ndarray:
    words = [w for w in tiny if not w.startswith(("trainer", "finetuning", "evaluation", "+trainer"))]
    cfg = configured("select", *words, f"output_dir={folder}", *overrides)
    select(cfg, folder)
    return np.load(folder / "subset.npy")


def test_offline_less_by_checkpoints(tiny, tmp_path):
    """select.py asks the weights of a run's checkpoints; train.py can, too."""
    run(tiny, tmp_path / "run", "selector=random", "trainer.args.save_steps=4", "trainer.args.save_total_limit=5")
    folders = [f"{tmp_path}/run/checkpoints/checkpoint-{step}" for step in (4, 8)]
    checkpoints = f"scoring.checkpoints=[{','.join(folders)}]"
    ids = export(tiny, tmp_path / "s", "selector=less", "n=8", checkpoints, "export=jsonl")
    assert len(set(ids.tolist())) == 8
    rows = [json.loads(line) for line in (tmp_path / "s" / "subset.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in rows] == list(range(1, 9)) and rows[0]["score"] >= rows[1]["score"]
    again = run(tiny, tmp_path / "t", "selector=less", checkpoints)
    np.testing.assert_array_equal(again[1], ids)
    np.testing.assert_array_equal(again[2], ids)  # the checkpoints do not change
    by_walk = export(tiny, tmp_path / "w", "selector=near", "similarity=gradients", "n=8", checkpoints)
    assert len(set(by_walk.tolist())) == 8


def test_losses_of_the_base_model(tiny, tmp_path):
    """The queries are not used, so they need no answers."""
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps({"instruction": "what is the sum of 1 and 2"}) + "\n")
    ids = export(tiny, tmp_path, "selector=loss", "n=8", f"data.queries.path={path}")
    assert len(set(ids.tolist())) == 8


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["selector=less"], "scoring.checkpoints=\\[RUN"),
        (["selector=queries"], "trains on the queries"),
        (["selector=delta_loss"], "compares rounds of training"),
        (["selector=near", "similarity=gradients"], "scoring.checkpoints"),
    ],
)
def test_what_makes_no_sense_outside_training(tiny, tmp_path, overrides, line):
    with pytest.raises(UserError, match=line):
        export(tiny, tmp_path, "n=4", *overrides)
    assert not (tmp_path / "subset.npy").exists()
