"""The entry scripts as real processes, and the standard library's `select` beside ours."""

import json
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from near.training.rounds.sampler import draws
from tests.conftest import RANKS, ROOT, process, run_script

SCRIPTS = ("select", "train", "merge", "eval", "report")


HEAVY = {"torch", "transformers", "peft", "datasets", "faiss", "sentence_transformers", "wandb", "matplotlib"}


@pytest.mark.process
def test_help_and_a_mistyped_option_answer_before_heavy_imports(tmp_path):
    cases = [(script, ["--help"], 0) for script in SCRIPTS if script != "select"]
    cases += [("train", ["+selector.foo=1"], 1), ("select", ["--cfg", "job"], 0)]
    with ThreadPoolExecutor(2) as pool:  # each waits for a process

        def start(case):
            return process("-X", "importtime", str(ROOT / f"{case[0]}.py"), *case[1], cwd=tmp_path)

        folders = list(pool.map(start, cases))
    for (_, words, status), done in zip(cases, folders, strict=True):
        assert done.returncode == status, (words, done.stderr[-500:])
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
        assert "hydra" in imported
        assert not imported & HEAVY, words
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["max_k=3"], "max_k is not in the configuration; did you mean max_K?"),
        (["from_yml=near.yaml"], "from_yml is not in the configuration; did you mean from_yaml?"),
        (["from_yaml=near.yaml"], "from_yaml=near.yaml can't be read (no such file or directory)"),
        (["selector=neer"], "selector=neer: no such choice; did you mean near?"),
        (["trainer=static", "trainer.warmup_step=1"], "leave it out, or use one that has it: trainer=dynamic_mix, "),
        (
            ["selector=random", "selector.policy=advance"],
            "selector.policy is not an option of selector=random; leave",
        ),
        (["embedder=hashing", "embedder.model=x"], "use one that has it: embedder=answer_states, e5, gtr_t5, "),
        (
            ["plan=filter_only", "selector@plan.filter.by=coincide"],
            "selector@plan.filter.by=coincide: coincide sets embedder, too, and can't be placed in plan.filter.by",
        ),
        (["plan=filter_only", "selector@plan.filter.by=mix"], "mix sets mixer, too, and can't be placed in"),
        (
            ["trainer=dynamic_mix", "mixer=static", "mixer.shares={code: 0.3, maths: 0.7}"],
            "mixer.shares is not an option of mixer=static; use mixer.proportions={...}, of mixer=static",
        ),
        (["trainer=static", "trainer.agrs=1"], "trainer.agrs is not an option of trainer=static; did you mean args?"),
        (
            ["selector=nosuch"],
            "selector=nosuch: no such choice; there are: cluster_less, coincide, column, delta_loss, ",
        ),
        (["data=files", "data.candidates.path=no.jsonl"], "data.queries.path is missing, the target's rows"),
        (["trainer.args.learning_rat=1"], "is not an option of TrainingArguments; did you mean learning_rate"),
        (["trainer.args.eval_steps=3"], "write +trainer.args.eval_steps=..."),
        (["+selector.foo=1"], "selector.foo is not an option of Near"),
        (["seed=0,1"], "for a sweep add -m"),
        (["nonsense"], "nonsense can't be read as key=value"),
        (["data.candidates.path=a=b.jsonl"], "put quotes around the value"),
        (["tracker=null"], "a group takes one of its choices, not null"),
        (["max_K=${foo}"], "Interpolation key 'foo' not found"),
        (["output_dir=/dev/null/x"], "/dev/null/x: not a directory"),
        (["trainer.update_step=0"], "use trainer.update_step>=1"),
        pytest.param(["data=files", "data.queries.path=no.jsonl"], "no.jsonl: no such file", marks=pytest.mark.model),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing(words, says, tmp_path, monkeypatch, capsys):
    """In this process, the script run as __main__; a real process is started by the tests around it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    GlobalHydra.instance().clear()
    assert caught.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.model
@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failing_job(tiny, tmp_path):
    words = ["-m", *tiny, "max_K=61,15", f"output_dir={tmp_path}/sweep", "selector=near"]
    done = process(str(ROOT / "train.py"), *words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: 1 of the sweep's jobs failed; the first: max_K=61 is more than the 60 candidates; use max_K<=60"
    )
    finished = [p.parent.name for p in (tmp_path / "sweep").glob("*/metrics.json")]
    assert len(finished) == 1
    again = process(str(ROOT / "train.py"), *words, cwd=tmp_path)
    assert "is done already" in again.stdout
    assert [p.name for p in (tmp_path / "sweep").glob("*/")].count(finished[0]) == 1


@pytest.mark.slow
def test_a_sweep_file_runs_its_jobs_in_folders_of_their_own(tiny, tmp_path):
    words = ["sweeps=smoke", *tiny, f"output_dir={tmp_path}/sweep", "seed=0,1"]
    done = process(str(ROOT / "train.py"), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = {p.parent.name: json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("*/metrics.json")}
    assert len(runs) == 4
    assert {(m["selector"], m["seed"]) for m in runs.values()} == {(s, n) for s in ("near", "random") for n in (0, 1)}


@pytest.mark.model
def test_select_from_another_folder_embeds_nothing_the_second_time(small_data, tmp_path):
    words = [str(ROOT / "select.py"), *small_data, "embedder=hashing", "max_K=7"]
    env = {"NEAR_CACHE": str(tmp_path / "cache")}
    first = run_script(*words, "output_dir=one", cwd=tmp_path, env=env)
    assert first.returncode == 0, first.stderr
    assert "embedded 64 texts" in first.stdout
    second = run_script(*words, "output_dir=two", cwd=tmp_path, env=env)
    assert "embedded 0 texts" in second.stdout
    third = run_script(*words[:-1], "max_K=9", "output_dir=three", cwd=tmp_path, env=env)
    assert "embedded 0 texts" in third.stdout  # another max_K costs a search, no embedding
    ids = [np.load(tmp_path / n / "top_indices.npy") for n in ("one", "two", "three")]
    assert (ids[0].dtype, ids[0].shape) == (np.int64, (4, 7))
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids[0], ids[2][:, :7])
    scores = np.load(tmp_path / "one" / "top_scores.npy")
    assert scores.dtype == np.float32
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.model
@pytest.mark.parametrize(
    ("ranks", "accumulation", "workers"),
    [
        pytest.param(2, 1, 0, marks=pytest.mark.slow),
        (2, 2, 0),
        pytest.param(1, 2, 2, marks=pytest.mark.slow),
    ],
)
def test_ranks_train_exactly_the_rounds_rows(tiny, tmp_path, ranks, accumulation, workers):
    """All ranks together, each row by one of them; each selects at the stated steps, seeing the weights after exactly
    that many; the model and the files are written once."""
    run, batch = tmp_path / "run", 2
    words = [*RANKS, str(ROOT / "train.py")] if ranks > 1 else [str(ROOT / "train.py")]
    words += [w for w in tiny if "accumulation" not in w]
    words += ["trainer._target_=tests.spy.SpyTrainer", "selector._target_=tests.spy.Sees", f"output_dir={run}"]
    words += [f"trainer.args.gradient_accumulation_steps={accumulation}"]
    words += [f"+trainer.args.dataloader_num_workers={workers}"]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NEAR_TEST_SEEN": str(run)}
    done = run_script(*words, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr[-3000:]

    def lines(name: str) -> list[list]:
        return [[json.loads(x) for x in (run / f"{name}-{r}.jsonl").read_text().splitlines()] for r in range(ranks)]

    for seen, after in zip(lines("seen"), lines("after"), strict=True):
        weights = {line["step"]: line["weights"] for line in after}
        assert len(set(weights.values())) == 10
        assert [(line["step"], line["weights"]) for line in seen] == [(2, weights[2]), (6, weights[6])]
    assert lines("seen")[0] == lines("seen")[-1]
    start, batches = 0, [] if workers else lines("trained")
    for index, steps in enumerate((2, 4, 4)):
        size, ids = steps * batch * accumulation * ranks, np.load(run / "rounds" / f"{index:03d}.npy")
        order = np.load(run / "rounds" / f"{index:03d}_order.npy")
        assert order.tolist() == draws(ids, size, 42, index).tolist()
        count = steps * accumulation
        trained = [row for rank in batches for batch in rank[start : start + count] for row in batch]
        assert workers or sorted(trained) == sorted(order.tolist())
        start += count
    assert all(len(rank) == start for rank in batches)
    assert (run / "metrics.json").is_file()


# --- our select.py beside the standard library's `select` ------------------------------------------------------------

USES_SELECT = "import select, selectors, subprocess, asyncio; select.poll; selectors.DefaultSelector(); "
PROGRAMS = {
    "c": USES_SELECT + "print('ok')",
    "pool": """
import concurrent.futures as f, multiprocessing as m
def work(i):
    import select, subprocess
    return i + (select.poll is None)
if __name__ == "__main__":
    for how in ("fork", "spawn"):
        with f.ProcessPoolExecutor(2, mp_context=m.get_context(how)) as pool:
            assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    print("ok")
""",
    "loader": """
import torch
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 6
    def __getitem__(self, i):
        import select, subprocess
        return i + (select.poll is None)
if __name__ == "__main__":
    for how in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(Rows(), batch_size=2, num_workers=1, multiprocessing_context=how)
        assert torch.cat(list(loader)).tolist() == list(range(6))
    print("ok")
""",
    "ranks": """
import select, torch, torch.distributed as dist
select.poll
dist.init_process_group("gloo")
value = torch.ones(1)
dist.all_reduce(value)
print("ok" if value.item() == 1 else "wrong")
dist.destroy_process_group()
""",
}


@pytest.mark.process
def test_python_c_from_the_root():
    done = process("-c", PROGRAMS["c"], cwd=ROOT)
    assert done.stdout.strip() == "ok", done.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "launcher"),
    [
        ("pool", []),
        pytest.param("loader", [], marks=pytest.mark.model),
        pytest.param("ranks", ["torch.distributed.run"], marks=pytest.mark.model),
    ],
)
def test_processes_started_with_the_root_on_the_path(name, launcher, tmp_path):
    path = tmp_path / f"program_{name}.py"
    path.write_text(PROGRAMS[name])
    words = ["-m", *launcher, "--standalone", "--nproc_per_node=1", str(path)] if launcher else [str(path)]
    done = process(*words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("ok") == 1
    assert "wrong" not in done.stdout


@pytest.mark.process
def test_pytest_as_a_module_from_the_root(tmp_path):
    path = tmp_path / "test_it.py"
    ours = str(ROOT / "select.py")
    path.write_text(f"def test_it():\n    {USES_SELECT}\n    assert getattr(select, '__file__', '') != {ours!r}\n")
    done = process("-m", "pytest", "-p", "no:cacheprovider", str(path), cwd=ROOT)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.process
def test_the_guard_hands_over_the_real_module():
    code = "import sys, select; print(select.__spec__.origin, 'hydra' in sys.modules, sys.modules['select'] is select)"
    done = process("-c", code, cwd=ROOT)
    origin, hydra, same = done.stdout.split()
    assert Path(origin) != ROOT / "select.py"
    assert (hydra, same) == ("False", "True")
