"""Scripts that look at files and answers, and the demo's steps."""

import gzip
import json
import os

import pytest

from bench import common, demo, material
from near.common.errors import UserError
from tests.bench.conftest import numbers, row
from tests.conftest import configured, needs_sandbox, write_rows
from tests.graded_choices import CASES as CHOICES
from tests.graded_numbers import CASES as NUMBERS


def test_graders(run, tmp_path):
    file = write_rows(
        tmp_path / "gsm8k.jsonl",
        [
            {"question": "?", "answer": "2 + 2 = <<2+2=4>>4 apples\n#### 4"},
            {"question": "?", "answer": "She pays $1,200.\n#### $1,200"},
        ],
    )
    lines = run("graders", str(file))
    assert lines[0] == f"numbers, {len(NUMBERS)} texts:"
    assert row(lines[:4], "number:") == [len(NUMBERS)]  # all cases of tests/
    whole, others = next(line for line in lines if line.startswith("one letter")), lines.index("solutions, 2 texts:")
    assert numbers(whole)[0] <= len(CHOICES)
    assert row(lines[others : others + 4], "number:") == [2]
    assert len(lines) == 4 + 4 + 5 + 4 + 4
    assert len(run("graders")) == 4 + 4 + 5
    for text in ("", "{}", "[]", '{"answer": "no number"}', "no json"):
        (tmp_path / "other.jsonl").write_text(text)
        with pytest.raises(SystemExit, match="other.jsonl: not a file in GSM8K's form"):
            run("graders", str(tmp_path / "other.jsonl"))


def test_foreign_files(run, dataflex):
    folder = dataflex / "examples"
    folder.mkdir()
    good = "model_name_or_path: builtin:tiny\nstage: sft\ndo_train: true\nfinetuning_type: lora\ntemplate: default\n"
    (folder / "good.yaml").write_text(f"{good}dataset: colours\noutput_dir: out\n")
    (folder / "preferences.yaml").write_text(good.replace("sft", "dpo") + "dataset: colours\noutput_dir: out\n")
    (folder / "deepspeed.json").write_text('{"zero_optimization": {"stage": 2}}')
    lines = run("foreign_files", str(folder), "lines=true")
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == f"| | {dataflex.name} |" and numbers(table[-1]) == [3]
    assert sum(numbers(line)[-1] for line in table[2:-1]) == 3
    assert any("preferences" in line and line.endswith("| 1 |") for line in table)
    assert any(line.startswith("| runs") for line in table)
    assert "examples/preferences.yaml: refused:" in "\n".join(lines)
    assert len(run("foreign_files", str(folder))) == len(table)


def test_foreign_keys(run, tmp_path):
    (tmp_path / "hparams").mkdir()
    (tmp_path / "hparams" / "finetuning_args.py").write_text(
        "class A:\n    lora_rank: int = field(default=9)\n    unheard_of: str = field(default='x')\n"
        "    lora_alpha: int = 3\n"
    )
    lines = run("foreign_files", str(tmp_path), "keys=true")
    assert "unheard_of (default x) is not known to near" in lines
    assert any(line.startswith("lora_rank: the default is 9, near has ") for line in lines)
    assert any(line.endswith("no longer exists") for line in lines)


def test_foreign_files_need_a_folder(run, tmp_path):
    for words in ([], [str(tmp_path / "none")]):
        with pytest.raises(SystemExit, match="^error: .*no (such )?folder"):
            run("foreign_files", *words)


HUMAN_EVAL = [
    {
        "task_id": f"HumanEval/{name}",
        "prompt": f"def {name}(a, b):\n",
        "entry_point": name,
        "canonical_solution": f"    return a {sign} b\n",
        "test": f"def check(candidate):\n    assert candidate(7, 2) == {value}\n",
    }
    for name, sign, value in (("add", "+", 9), ("less", "-", 5))
]


@needs_sandbox()
def test_sandbox(run, tmp_path):
    path = tmp_path / "HumanEval.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in HUMAN_EVAL)
    lines = run("sandbox", str(path), "turns=1")
    for name in ("a process alone", "in the sandbox"):
        least, median = row(lines, name)
        assert 0 < least <= median
    assert row(lines, "canonical solutions")[:2] == [2, 2] and row(lines, "bodies of pass")[:2] == [0, 2]


@needs_sandbox()
def test_sandbox_refuses(run, tmp_path):
    for name, content in {
        "a.jsonl": b"",
        "b.jsonl": b"{}",
        "c.jsonl": b"x",
        "d.gz": b"x",
        "e.gz": gzip.compress(b"{}")[:-9],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SystemExit, match=f"^error: .*{name}"):
            run("sandbox", str(tmp_path / name))
    with pytest.raises(SystemExit, match="^error: .*none.jsonl"):
        run("sandbox", str(tmp_path / "none.jsonl"))


def test_sandbox_needs_one(run, monkeypatch):
    from near.evaluation import sandbox

    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap is not installed")
    with pytest.raises(SystemExit, match="^error: no sandbox for programs: bubblewrap is not installed$"):
        run("sandbox")


def test_pictures_say_what_is_missing(run, tmp_path, packages, monkeypatch):
    with pytest.raises(SystemExit, match="report.html: no such file; python report.py"):
        run("pictures", str(tmp_path))
    (tmp_path / "report.html").write_text("<p>")
    packages(selenium=False)
    with pytest.raises(SystemExit, match="^error: selenium is not installed"):
        run("pictures", str(tmp_path))
    packages(selenium=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="^error: chromium and chromedriver not found"):
        run("pictures", str(tmp_path))


def test_the_peer_is_no_script_of_its_own(run):
    with pytest.raises(SystemExit, match="^error: nothing to run here"):
        run("peer")


def test_demo(run, monkeypatch, tmp_path):
    """Its steps are near's commands, in order; a finished merge is not repeated."""
    typed = []
    monkeypatch.setattr(demo, "step", lambda *words: typed.append(words))
    lines = run("demo", str(tmp_path / "runs"))
    assert [words[0] for words in typed] == ["select.py", "train.py", "merge.py", "eval.py", "report.py"]
    for script, *overrides in typed:
        single = {"selector=random,near,oracle": "selector=near", "seed=1,2,3": "seed=1"}  # of the sweep's jobs, one
        words = [single.get(word, word) for word in overrides]
        configured(script.removesuffix(".py"), *words)
    assert numbers(lines[-1])[0] == 0 and "the largest process used" in lines[-1]
    (tmp_path / "runs" / "merged").mkdir(parents=True)
    (tmp_path / "runs" / "merged" / "config.json").write_text("{}")
    typed.clear()
    lines = run("demo", str(tmp_path / "runs"))
    assert len(typed) == 4 and any("exists already" in line for line in lines)


def test_a_step_is_a_process_that_runs_a_script_as_it_is_typed(tmp_path, monkeypatch, capfd):
    """In the repository's root, with its words; a failed step ends the demo."""
    monkeypatch.setattr(common, "ROOT", tmp_path)
    (tmp_path / "good.py").write_text("import os, sys; print(__name__, sys.argv, os.getcwd(), os.getppid())")
    demo.step("good.py", "a=1", "b=2")
    assert (
        f"$ python good.py a=1 b=2\n__main__ ['good.py', 'a=1', 'b=2'] {tmp_path} {os.getpid()}"
        in capfd.readouterr().out
    )
    for body, code in {
        "import sys; sys.exit(3)": 3,
        "raise ValueError": 1,
        "import sys; sys.exit('error: so')": 1,
    }.items():
        (tmp_path / "bad.py").write_text(body)
        with pytest.raises(SystemExit) as ended:
            demo.step("bad.py")
        assert ended.value.code == code
    (tmp_path / "killed.py").write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(SystemExit) as ended:
        demo.step("killed.py")
    assert ended.value.code == 9


def test_rows_of_evals(tmp_path):
    """Distinct questions, or with `answered` only those with an answer; a task with too many rows is left out."""
    folder = tmp_path / "assets" / "evals-all"
    rows = {
        "a/one.jsonl": [
            {"input": "what is 1", "ideal": "one"},
            {"input": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "ideal": ["x", "y"]},
            {"input": "no answer"},
            {"input": " ", "ideal": "blank"},
            {"input": "blank answer", "ideal": " "},
        ],
        "b/two.jsonl": [{"input": "what is 1", "ideal": "eins"}, {"input": 5, "ideal": "5"}, [1], "text"],
        "c/much.jsonl": [{"input": f"{i}", "ideal": "x"} for i in range(material.LARGEST + 1)],
    }
    for name, lines in rows.items():
        (folder / name).parent.mkdir(parents=True)
        write_rows(folder / name, lines)
    (folder / "b" / "three.jsonl").write_text("no json\n")
    answers = dict(material.evals_rows(tmp_path, 4))
    assert answers == {"what is 1": "eins", "q": "x", "no answer": None, "blank answer": None}
    assert dict(material.evals_rows(tmp_path, 2, answered=True)) == {"what is 1": "eins", "q": "x"}
    with pytest.raises(UserError, match="5 rows.* more than the 4 questions"):
        material.evals_rows(tmp_path, 5)
    with pytest.raises(UserError, match="tasks=some: use all or demo"):
        material.evals_rows(tmp_path, 1, tasks="some")
    assert common.ROOT.is_dir()


def test_pairs(run, tmp_path):
    """near is 0.35 and 0.4 below first on two targets; of seed 2 alone 0.3 and 0.4."""
    from tests.report.test_targets import run as finished

    for number in range(2):
        for seed, shift in ((1, 0.0), (2, 0.1)):
            finished(tmp_path, "random", f"t-{number}", seed, 2.0)
            finished(tmp_path, "first", f"t-{number}", seed, 1.9)
            finished(tmp_path, "near", f"t-{number}", seed, 1.5 if number else 1.5 + shift)
    lines = run("pairs", f"runs={tmp_path}")
    assert {line for line in lines[:2]} == {"-0.100 first, 2 targets", "-0.475 near, 2 targets"}
    (pair,) = lines[2:]
    assert pair.startswith("-0.375 [") and pair.endswith("near - first: below zero on 2 of 2")
    assert run("pairs", f"runs={tmp_path}", "seeds=2")[2].startswith("-0.350 [")
    with pytest.raises(SystemExit, match="^error: runs=.*fewer than two selections"):
        run("pairs", f"runs={tmp_path}/random-t-0-1-")
