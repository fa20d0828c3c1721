"""What a program tries that wants out of the sandbox, or a pass that it has not earned; as this user and as another."""

import json
import os
import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT, needs_sandbox
from tests.escapes import ESCAPES, FORGERIES, TESTS, Suite, attempts, run

pytestmark = [pytest.mark.process, needs_sandbox()]
OTHER_PYTHON = "/usr/bin/python3"  # one that others may read; a virtual environment's is often below a home folder


@pytest.fixture(scope="module")
def ended():
    return attempts()


@pytest.fixture(scope="module")
def ended_as_another():
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root starts programs as another user, and with setpriv")
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", OTHER_PYTHON]
    done = subprocess.run(
        [*command, "-m", "tests.escapes"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"another user has no Python or sandbox: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def contained(name, passed, why):
    assert not passed
    if name in ESCAPES:
        assert re.search(ESCAPES[name][1], why), why
    assert why


@pytest.mark.parametrize("name", [*ESCAPES, *FORGERIES])
def test_no_program_gets_out(name, ended):
    contained(name, *ended[name])


@pytest.mark.parametrize("name", [*ESCAPES, *FORGERIES])
def test_nor_as_another_user(name, ended_as_another):
    contained(name, *ended_as_another[name])


def test_the_tries_are_ones_that_succeed_outside():
    """What is harmless, without the sandbox: an attempt that fails everywhere would show nothing."""
    names = ("own environment in /proc", "list of processes", "passwords", "any file of /etc", "project")
    names += ("a link to a file",)
    names += ("a file whose path is known", "files of others in /tmp", "a link to a folder", "second process", "vfork")
    names += ("TCP to this machine", "own server", "socket in the file system", "abstract socket", "netlink")
    assert {name: why for name, (passed, why) in attempts(unsafe=True, only=names).items() if not passed} == {}


def test_the_right_answer_passes_the_forgers_tests():
    assert run("def add(a, b): return a + b", 10, 512, Suite(TESTS, "add")) == (True, "")
