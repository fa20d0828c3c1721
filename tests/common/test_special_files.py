"""Devices, FIFOs, sockets and files of the system are refused before they are opened, wherever they are named."""

import json
import os
import socket
import threading

import numpy as np
import pytest

import near
from near.app.check.check import check_sources
from near.app.from_yaml.expanded import expanded
from near.app.from_yaml.file import read as read_yaml
from near.common.errors import UserError
from near.common.files import file_digest, folder_digest, read_json, read_jsonl, refuse_special_in, special
from near.data.loading import load
from tests.conftest import configured
from tests.dataflex_files import TRAIN_PY


@pytest.fixture(params=["fifo", "zero", "link to zero", "socket", "proc", "sys", "fd"])
def odd(request, tmp_path):
    """The path of something that is neither a file nor a folder; nothing ever writes to it."""
    path, opened = tmp_path / "odd.jsonl", []
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "link to zero":
        path.symlink_to("/dev/zero")
    elif request.param == "socket":
        opened.append(socket.socket(socket.AF_UNIX))
        os.chdir(tmp_path)  # an address of a socket is short
        opened[0].bind("odd.jsonl")
    elif request.param == "fd":
        opened += map(os.fdopen, os.pipe(), ("r", "w"))
        path = f"/dev/fd/{opened[0].fileno()}"
    else:
        path = {"zero": "/dev/zero", "proc": "/proc/self/environ", "sys": "/sys/kernel/notes"}[request.param]
    if not os.path.lexists(path):
        pytest.skip(f"no {path} here")
    here = os.getcwd()
    yield path
    os.chdir(here)
    for one in opened:
        one.close()


def in_time(call, *args):
    """The line of the UserError that `call` raises, within seconds."""
    lines = []

    def work():
        try:
            call(*args)
        except UserError as error:
            lines.append(str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for the end of what has none"
    assert len(lines) == 1 and "did you mean" not in lines[0], lines
    return lines[0]


KEYS = ["data.candidates.path", "data.eval.dataset_info", "data.queries.path", "indices_path", "resume", "cache_dir"]
KEYS += ["model.name_or_path", "embedder.model", "output_dir"]


@pytest.mark.parametrize("key", KEYS)
def test_an_option_of_train(odd, key):
    line = in_time(configured, "train", "data=files", "data.candidates.path=x", f"{key}={odd}")
    assert f"{key}={odd} is " in line


@pytest.mark.parametrize(
    ("script", "key"),
    [("merge", "adapter_name_or_path"), ("merge", "export_dir"), ("merge", "model_name_or_path"), ("eval", "run")]
    + [("report", "runs"), ("select", "data.candidates.path")],
)
def test_options_of_the_other_scripts(odd, script, key):
    words = {"merge": ["adapter_name_or_path=a", "export_dir=b"], "report": ["runs=a"]}.get(script, [])
    assert f"{key}={odd} is " in in_time(configured, script, *words, f"{key}={odd}")


def test_readers_and_python(odd, tmp_path):
    for read in (read_json, read_jsonl, file_digest):
        assert f"{odd} is " in in_time(read, odd)
    assert f"from_yaml={odd} is " in in_time(expanded, TRAIN_PY, [f"from_yaml={odd}"])
    assert f"from_yaml={odd} is " in in_time(read_yaml, odd)
    assert f"{odd} is " in in_time(near.search, str(odd), np.eye(3), 1)
    assert f"{odd} is " in in_time(near.search, np.eye(3), odd, 1)


@pytest.mark.parametrize("named", ["glob", "list", "mapping", "entry"])
def test_what_a_source_leads_to(tmp_path, cache, named):
    os.mkfifo(tmp_path / "odd.jsonl")
    (tmp_path / "a.jsonl").write_text('{"instruction": "q", "output": "a"}\n')
    (tmp_path / "info.json").write_text(json.dumps({"x": {"file_name": "odd.jsonl"}}))
    path = {"glob": f"{tmp_path}/*.jsonl", "list": [f"{tmp_path}/a.jsonl", f"{tmp_path}/odd.jsonl"]}.get(named, "x")
    cfg = configured("select", "data=files", "data.candidates.path=x", f"cache_dir={cache}")
    cfg.data.candidates.path = {"label": f"{tmp_path}/odd.jsonl"} if named == "mapping" else path
    cfg.data.candidates.dataset_info = f"{tmp_path}/info.json" if named == "entry" else None
    assert "odd.jsonl is a FIFO" in in_time(load, cfg.data, "candidates", cfg.cache_dir)


def test_folders_that_hold_one(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "model" / "model.safetensors")
    for call in (refuse_special_in, folder_digest):
        assert "model holds model.safetensors, a FIFO" in in_time(call, tmp_path / "model")
    for word in ("model.name_or_path", "embedder.model", "resume"):
        assert "holds model.safetensors, a FIFO" in in_time(configured, "train", f"{word}={tmp_path}/model")
    assert "holds model.safetensors" in in_time(
        configured, "merge", f"adapter_name_or_path=[{tmp_path}/model]", "export_dir=b"
    )


def test_links_that_lead_nowhere_and_homes_of_nobody(tmp_path):
    (tmp_path / "pool.jsonl").symlink_to(tmp_path / "gone.jsonl")
    line = in_time(configured, "select", "data=files", f"data.candidates.path={tmp_path}/pool.jsonl")
    assert "is a link to" in line and "which is not there" in line
    assert "no user of that name" in in_time(configured, "train", "resume='~nobody-of-this-name/x'")
    assert "no user of that name" in in_time(expanded, TRAIN_PY, ["from_yaml=~nobody-of-this-name/x"])


def test_files_and_folders_are_nothing_special(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "link").symlink_to("a")
    for path in ("a", "link", ".", "none", "none/a"):
        assert special(tmp_path / path) is None
    assert special("a\0b") is None
    check_sources(configured("select", "data=demo"))
    if os.access("/dev/shm", os.W_OK):
        assert special("/dev/shm") is None
