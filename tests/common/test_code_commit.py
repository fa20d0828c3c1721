"""The commit that files name: of near's own clone, whatever git's variables say."""

import subprocess
from pathlib import Path

import pytest

from near.common import code_commit as module

GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false")


def clone(folder: Path) -> Path:
    (folder / "near" / "common").mkdir(parents=True)
    (folder / "conf").mkdir()
    for file in ("near/common/code_commit.py", "conf/x.yaml"):
        (folder / file).write_text(str(folder))
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "x")):
        subprocess.run((*GIT, *words), cwd=folder, check=True)
    return folder


@pytest.fixture()
def commit(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    folder = clone(tmp_path / "clone")
    monkeypatch.setattr(module, "__file__", str(folder / "near" / "common" / "code_commit.py"))
    return lambda: module.code_commit.__wrapped__()


def test_files_that_differ_or_are_not_tracked_are_changes(commit, tmp_path):
    before = commit()
    assert len(before) == 40
    (tmp_path / "clone" / "notes.txt").write_text("not of the package")
    assert commit() == before
    (tmp_path / "clone" / "near" / "mine.py").write_text("x = 1")
    assert commit() == f"{before}+changes"
    (tmp_path / "clone" / "near" / "mine.py").unlink()
    (tmp_path / "clone" / "conf" / "x.yaml").write_text("x: 1")
    assert commit() == f"{before}+changes"


def test_a_variable_of_git_names_no_other_repository(commit, tmp_path, monkeypatch):
    before = commit()
    monkeypatch.setenv("GIT_DIR", str(clone(tmp_path / "other") / ".git"))
    assert commit() == before
