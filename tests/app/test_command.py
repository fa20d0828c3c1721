"""The command `near`: the same as the scripts, however it is started."""

import sys
from importlib import import_module

import pytest
from hydra.core.global_hydra import GlobalHydra

import near
from near.app import command, entry, options
from near.common.command_line import Command, current
from near.common.errors import UserError
from near.common.files import provenance
from tests.conftest import ROOT, composed, process


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch):
    monkeypatch.setattr("near.common.command_line._current", None)


def typed(monkeypatch, *words: str) -> None:
    """`near`, called with `words` in this process."""
    monkeypatch.setattr(sys, "argv", list(words))
    GlobalHydra.instance().clear()
    try:
        command.main()
    finally:
        GlobalHydra.instance().clear()


def test_it_has_every_script_and_says_what_each_does(monkeypatch, capsys):
    assert set(command.SCRIPTS) == set(entry.SCRIPTS) == set(options.SCRIPTS) - {"verify", "diff"}
    assert set(options.SCRIPTS) <= {*command.SCRIPTS, *command.COMMANDS}
    for words in ((), ("-h",), ("--help",)):
        typed(monkeypatch, "near", *words)
        lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
        assert set(lines) == {"near", *command.SCRIPTS, *command.COMMANDS}
    typed(monkeypatch, "near", "--version")
    assert capsys.readouterr().out == f"near {near.__version__}\n"
    for module, _ in command.COMMANDS.values():
        assert callable(import_module(module).main)


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (("/usr/bin/near",), ("near", "train")),
        (("/site/near/__main__.py",), ("python", "-m", "near", "train")),
        (("somewhere/near",), ("near", "train")),
    ],
)
def test_a_script_is_called_as_the_file_would_be(monkeypatch, words, start):
    calls = []
    monkeypatch.setattr(entry, "run", lambda main: calls.append((main, list(sys.argv))))
    typed(monkeypatch, *words, "train", "-m", "selector=near,random")
    assert calls == [(entry.SCRIPTS["train"], [*words, "-m", "selector=near,random"])]
    assert current() == Command("train", start)
    assert provenance()["command"] == " ".join([*start, "-m", "selector=near,random"])


def test_a_script_of_its_own_file_is_named_by_it(monkeypatch):
    monkeypatch.setattr(entry, "run", lambda main: None)
    monkeypatch.setattr(sys, "argv", ["there/train.py", "seed=1"])
    entry.start("train")
    assert current() == Command("train", ("python", "there/train.py"))
    assert provenance()["command"] == "python train.py seed=1"


def test_from_python_the_program_is_what_was_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["there/mine.py", "x"])
    assert provenance()["command"] == "python mine.py x"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "trian is not a command; did you mean train?; near --help lists them"),
        (["selector=near"], "selector=near is not a command"),
        (["train.py"], "train.py is not a command; did you mean train?"),
        (["train", "max_k=3"], "max_k is not in the configuration; did you mean max_K?"),
        (["select", "selector=neer"], "selector=neer: no such choice; did you mean near?"),
        (["eval", "from_yaml=x.yaml"], "from_yaml is for train.py, merge.py, select.py, not for eval.py"),
        (["merge", "from_yaml=x.yaml"], "from_yaml=x.yaml can't be read (no such file or directory)"),
        (["cache", "prune"], "prune what? give --signature"),
    ],
)
def test_a_fault_is_one_line(monkeypatch, capsys, tmp_path, words, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEAR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as caught:
        typed(monkeypatch, "near", *words)
    assert caught.value.code
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in line and "error: " in line
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("script", sorted(command.SCRIPTS))
def test_a_jobs_name_is_the_scripts_whatever_started_it(script):
    needed = {"merge": ("adapter_name_or_path=a", "export_dir=b"), "report": ("runs=a",)}
    whole, _ = composed(script, needed.get(script, ()))
    assert whole.hydra.job.name == script
    if script in ("select", "train"):
        assert whole.hydra.run.dir.startswith(f"runs/{script}/")


def test_the_files_of_the_scripts_are_thin():
    for script in command.SCRIPTS:
        lines = (ROOT / f"{script}.py").read_text().splitlines()
        assert len(lines) <= 40 and f'start("{script}")' in lines[-1]


def test_pages_are_written_in_the_repository_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("near.app.pages.DOCS", tmp_path)
    for name in ("options", "keys"):
        with pytest.raises(UserError, match="does not exist; run this in a clone of near's repository"):
            import_module(command.COMMANDS[name][0]).main()


@pytest.mark.process
def test_help_answers_before_heavy_imports():
    done = process("-X", "importtime", "-m", "near", "select", "--help")
    assert done.returncode == 0 and "max_K" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported and not imported & {"torch", "transformers", "datasets", "faiss"}
