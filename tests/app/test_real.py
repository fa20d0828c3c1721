"""The whole job on the real model and real data, with few steps."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from near.data.loading import load
from near.export.merge import merge
from near.models.encoding import IGNORED, Encoder
from near.selection.select import select
from near.training.train import train
from tests.conftest import ROOT, configured, evaluate, report

pytestmark = pytest.mark.real
LIMIT = 150
DATA = ["data.eval.limit=4", "data.queries.limit=8", f"data.candidates.limit={LIMIT}", "data.cutoff_len=96"]
FEW = [*DATA, "max_K=40"]
STEPS = ["trainer.warmup_step=1", "trainer.update_step=2", "trainer.update_times=2", "evaluation.max_new_tokens=8"]
STEPS += [
    "trainer.args.per_device_train_batch_size=2",
    "trainer.args.gradient_accumulation_steps=1",
    "+trainer.args.disable_tqdm=true",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, real_cache):
    """select, train with near and random, merge, evaluate the base and the merged model, report: as folders."""
    folder, cache = tmp_path_factory.mktemp("real"), f"cache_dir={real_cache}"
    select(configured("select", *FEW, cache), folder / "select")
    for selector, rounds in (("near", 2), ("random", 1)):
        words = [*FEW, *STEPS, cache, f"selector={selector}", f"trainer.update_times={rounds}"]
        train(configured("train", *words), folder / selector)
    adapter, out = f"adapter_name_or_path={folder}/near/adapter", f"export_dir={folder}/merged"
    merge(configured("merge", adapter, out, cache), folder / "merge")
    tokens = "evaluation.max_new_tokens=8"
    evaluate(configured("eval", *DATA, cache, tokens), folder / "base")
    model = f"model.name_or_path={folder}/merged"
    evaluate(configured("eval", *DATA, cache, tokens, model), folder / "evaluated")
    report(configured("report", f"runs={folder}"), folder)
    return folder


def read(path) -> dict:
    return json.loads(path.read_text())


def test_neighbours_are_brute_forces_on_real_embeddings(runs, real_cache):
    from sentence_transformers import SentenceTransformer

    cfg = configured("select", *FEW, f"cache_dir={real_cache}")
    pool, queries = (load(cfg.data, part, str(real_cache)) for part in ("candidates", "queries"))
    model = SentenceTransformer(str(real_cache / "assets" / "all-MiniLM-L6-v2"), device="cpu")
    texts = [rows.texts(rows.eligible(), "prompt") for rows in (pool, queries)]
    vectors = [model.encode(t, normalize_embeddings=True).astype(np.float64) for t in texts]
    scores = vectors[1] @ vectors[0].T
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :40]
    ids, kept = np.load(runs / "select" / "top_indices.npy"), np.load(runs / "select" / "top_scores.npy")
    assert ids.shape == (8, 40)
    by_rank = np.take_along_axis(scores, wanted, axis=1)
    np.testing.assert_allclose(kept, by_rank, atol=2e-5)
    swapped = ids != wanted  # only where two rows' similarities are the same to float32 rounding
    np.testing.assert_allclose(np.take_along_axis(scores, ids, axis=1)[swapped], by_rank[swapped], atol=2e-5)


def test_embedding_by_tokens_gives_the_librarys_vectors_with_little_padding(real_cache):
    from hydra.utils import instantiate
    from sentence_transformers import SentenceTransformer

    cfg = configured("select", f"cache_dir={real_cache}", "embedder.max_length=64")
    embedder = instantiate(cfg.embedder, cache_dir=str(real_cache))
    pool = load(cfg.data, "candidates", str(real_cache))
    texts = pool.texts(np.arange(300), "prompt")
    model = SentenceTransformer(str(real_cache / "assets" / "all-MiniLM-L6-v2"), device="cpu")
    model.max_seq_length = 64
    own = model.encode(texts, normalize_embeddings=True)
    vectors = embedder.embed(texts)
    assert (vectors * own).sum(1).min() > 0.99999
    whole = [len(ids) for ids in model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
    assert embedder.truncated == sum(n > 64 for n in whole) > 0
    assert embedder.tokens == sum(min(n, 64) for n in whole)
    assert embedder.padding / (embedder.tokens + embedder.padding) < 0.05


def test_the_demos_pool_is_large_and_of_many_domains(real_cache):
    rows = load(configured("train").data, "candidates", str(real_cache))
    assert len(rows) == len(rows.eligible()) >= 5000
    assert len(set(rows.sources())) == 11


def test_nears_rows_come_from_the_targets_domain(runs, real_cache):
    lines = [json.loads(x) for x in (runs / "near" / "rounds" / "rounds.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        assert line["sources"].get("imperial_date_to_string", 0) / line["rows"] >= 0.9
    rows = load(configured("select", *FEW).data, "candidates", str(real_cache))
    share = (rows.sources() == "imperial_date_to_string").mean()
    assert share < 0.3


def test_loss_only_on_answer_tokens_of_the_real_tokenizer(real_cache):
    from near.models.loading import load_tokenizer

    cfg = configured("train", *FEW, f"cache_dir={real_cache}")
    tokenizer = load_tokenizer(cfg.model, str(real_cache))
    rows = load(cfg.data, "eval", str(real_cache))
    for at in range(len(rows)):
        coded = Encoder(tokenizer, {"cutoff_len": 512}).encode(rows.messages(at))
        trained = tokenizer.decode([t for t in coded.labels if t != IGNORED])
        assert trained == rows.messages(at)[-1]["content"] + "<|im_end|>"


def test_training_helps_and_every_figure_is_there(runs):
    near, random, base = (read(runs / n / "metrics.json") for n in ("near", "random", "base"))
    assert near["target_loss"] < base["target_loss"]
    assert near["base"]["target_loss"] == random["base"]["target_loss"] == base["target_loss"]
    assert near["rows"] == base["rows"] == 4
    assert len((runs / "near" / "answers.jsonl").read_text().splitlines()) == 4


def test_the_merged_model_evaluates_as_the_adapter(runs):
    near, merged = read(runs / "near" / "metrics.json"), read(runs / "evaluated" / "metrics.json")
    assert merged["target_loss"] == pytest.approx(near["target_loss"], abs=1e-4)
    assert merged["answers_right"] == near["answers_right"]


def test_the_report_shows_all_of_them(runs, capsys):
    report(configured("report", f"runs={runs}"), runs)
    shown = capsys.readouterr().out
    text = (runs / "report.html").read_text()
    for name in ("near", "random", "base"):
        loss = f"{read(runs / name / 'metrics.json')['target_loss']:.4f}"
        assert loss in shown
        assert loss in text
    assert "imperial_date_to_string" in text


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_bit(tmp_path, real_cache):
    """SIGKILL in the middle of a round, on the real model; the same losses and the same adapter as without."""
    words = [str(ROOT / "train.py"), *FEW, *STEPS, f"cache_dir={real_cache}", "trainer.update_step=4"]
    words += ["trainer.args.save_steps=3", "finetuning.lora_dropout=0.1", "evaluation.answers=false"]

    def start(name: str, *more: str) -> subprocess.Popen:
        command = [sys.executable, *words, f"output_dir={tmp_path}/{name}", *more]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    broken = start("broken")
    while not (tmp_path / "broken" / "checkpoints" / "checkpoint-6" / "trainer_state.json").exists():
        assert broken.poll() is None
        time.sleep(0.05)
    os.kill(broken.pid, signal.SIGKILL)
    broken.wait()
    assert not (tmp_path / "broken" / "metrics.json").exists()
    assert start("broken", "resume=auto").wait() == 0
    lines = [read(tmp_path / n / "train_metrics.json")["history"] for n in ("whole", "broken")]
    kept = [[(line["step"], line["loss"], line["grad_norm"], line["learning_rate"]) for line in run] for run in lines]
    assert kept[0] == kept[1]
    weights = [(tmp_path / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert (
        read(tmp_path / "whole" / "metrics.json")["target_loss"]
        == read(tmp_path / "broken" / "metrics.json")["target_loss"]
    )
