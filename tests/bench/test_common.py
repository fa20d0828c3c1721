"""Shared by all scripts: arguments, the head, separate processes; and each script has a test."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import common
from near.common.errors import UserError
from tests.conftest import ROOT, process

SCRIPTS = sorted(path for path in (ROOT / "bench").glob("*.py") if "common.script(" in path.read_text())
MENTIONED = re.compile(r"python bench/(\w+)\.py((?: [\w.,/=-]+)*)")


def example(*files: str, rows: int = 5, sizes: list[int] = (1, 2), deep: bool = False, name: str = "a") -> None:
    """Has every kind of argument."""


def passes_on(*overrides: str, rows: int = 5) -> None:
    """Passes unknown options on."""


def divides(share: float = 0.5, shares: list[float] = ()) -> None:
    """Has fractions."""


def typed(*words: str, main=example) -> tuple[tuple, dict]:
    bound = common.options(main, words)
    return bound.args, bound.kwargs


def test_arguments_are_of_the_kind_that_main_annotates():
    assert typed() == ((), {})
    assert typed("rows=7", "sizes=3", "deep=True", "name=x=y") == (
        (),
        {"rows": 7, "sizes": [3], "deep": True, "name": "x=y"},
    )
    assert typed("FILE", "a/b=c", "sizes=3,40") == (("FILE", "a/b=c"), {"sizes": [3, 40]})
    assert typed("rows=1", "data=files", "data.path=x", main=passes_on) == (("data=files", "data.path=x"), {"rows": 1})


@pytest.mark.parametrize(
    "word", ["rows=many", "rows=-1", "rows=1.5", "rows=", "rows=1e3", "sizes=1,", "sizes=", "sizes=1;2"]
)
def test_a_number_is_a_whole_number(word):
    with pytest.raises(UserError, match="expected a whole number"):
        typed(word)


def test_fractions():
    assert typed("share=0.25", "shares=.1,1,1e-3", main=divides)[0] == (0.25, [0.1, 1.0, 0.001])
    for word in ("share=half", "share=-1", "share=", "shares=0.1,", "share=nan"):
        with pytest.raises(UserError, match="expected a number, 0 or more"):
            typed(word, main=divides)


@pytest.mark.parametrize("word", ["deep=yes", "deep=1", "deep="])
def test_a_choice_is_true_or_false(word):
    with pytest.raises(UserError, match="expected true or false"):
        typed(word)


def test_what_main_does_not_have_is_refused():
    with pytest.raises(UserError, match="row=5: no such option; did you mean rows"):
        typed("row=5")
    with pytest.raises(UserError, match="--help says"):
        common.options(lambda folder: None, [])
    with pytest.raises(UserError, match="--help says"):
        common.options(lambda folder: None, ["one", "two"])
    with pytest.raises(UserError, match="expected a value"):
        typed("name=")


def test_the_head_says_what_is_not_installed_and_where_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(common, "ROOT", tmp_path)
    assert "no-such-package not installed, near of no commit" in common.head()
    monkeypatch.setenv("PATH", str(tmp_path))  # nor git
    assert common.commit() == "of no commit"


def test_the_head_says_whether_files_were_changed(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "ROOT", tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    assert re.fullmatch(r"at \w{7,}", common.commit())
    (tmp_path / "new").write_text("")
    assert re.fullmatch(r"at \w{7,} with changes", common.commit())


@pytest.fixture()
def scripted(tmp_path):
    """A script with three workers, as a module."""
    path = tmp_path / "scripted.py"
    path.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from bench import common\n"
        "def work(a, b): print('by the way'); return [a, b, os.getpid(), os.environ.get('BENCH_TEST')]\n"
        "def refuse(): raise common.UserError('no such thing')\n"
        "def crash(): raise ValueError('of two\\nlines')\n"
        "def main(): print(common.apart(work, 1, 'x'))\n"
        "if __name__ == '__main__': common.script(main, work, refuse, crash)\n"
    )
    spec = importlib.util.spec_from_file_location("scripted", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT))


@pytest.mark.process
def test_a_worker_is_a_process_of_its_own(scripted, capsys):
    a, b, pid, variable = common.apart(scripted.work, Path("/x"), {"y": [1.5]}, env={"BENCH_TEST": "set"})
    assert (a, b, variable) == ("/x", {"y": [1.5]}, "set") and pid != os.getpid()
    with pytest.raises(UserError, match="^refuse ended with status 1: no such thing$"):
        common.apart(scripted.refuse)
    with pytest.raises(UserError, match="^crash ended with status 1: lines$"):
        common.apart(scripted.crash)
    assert "Traceback" in capsys.readouterr().err
    done = process(scripted.__file__)
    assert done.returncode == 0 and "[1, 'x', " in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["/", str(ROOT / "bench")])
def test_a_script_starts_from_any_folder(folder):
    """Its folder has a select.py, which must not hide the standard library's."""
    done = process(str(ROOT / "bench/store.py"), "keys=20", "dim=4", "appended=3", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "write 20 vectors" in done.stdout


def test_scripts_explain_themselves(monkeypatch, capsys):
    from bench import store

    monkeypatch.setattr(sys, "argv", ["bench/store.py", "--help"])
    common.script(store.main)
    assert "[keys=1000000" in capsys.readouterr().out


def test_a_mistake_ends_in_one_line_and_status_1(monkeypatch, capsys):
    from bench import store

    monkeypatch.setattr(sys, "argv", ["bench/store.py", "kyes=5"])
    with pytest.raises(SystemExit, match="^error: kyes=5: no such option; did you mean keys"):
        common.script(store.main)
    assert capsys.readouterr().out == ""


def test_every_script_is_run_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert len(SCRIPTS) >= 17
    for path in SCRIPTS:
        called = rf"""run(_real)?\(\s*"{path.stem}"|{path.stem}\.main\("""
        assert re.search(called, tests), path.name


def test_commands_in_pages_and_docstrings_are_valid():
    """Every `python bench/...` of the documentation names a script and only options that it has."""
    import importlib

    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *SCRIPTS]
    mentioned = set()
    for page in pages:
        for name, words in MENTIONED.findall(page.read_text().replace("\n", " ")):
            if name.isupper():  # NAME
                continue
            mentioned.add(name)
            module = importlib.import_module(f"bench.{name}")
            options = [w for w in words.split() if "=" in w and "|" not in w]
            needed = ["FOLDER"] if name == "pictures" else []
            common.options(module.main, [*needed, *(w.rstrip(",.") for w in options)])
    assert {"search", "select", "embed", "trainer"} <= mentioned


def test_scripts_hide_no_module_of_the_standard_library():
    """Their folder, with its select.py, is removed from the path before an import may need the library's select."""
    for path in SCRIPTS:
        docstring, *first = ast.parse(path.read_text()).body[:4]
        assert [ast.unparse(statement).split("(")[0] for statement in first] == [
            "import sys",
            "from pathlib import Path",
            "sys.path[0] = str",
        ], path.name
