"""Bundles: a tiny one, of wheels made here, is written, cut, joined, installed and run without a network."""

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib import metadata
from io import BytesIO
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from near.app.bundle import bundle, parts, wheels
from near.app.bundle.node import install
from near.app.bundle.wheels import Target, Wheels
from near.common.errors import UserError
from tests.app.test_docs import composes
from tests.conftest import ROOT

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORM = f"manylinux_2_17_{os.uname().machine}"
MAIN = """
import sys, tiny_base
def main():
    print("near", tiny_base.answer, *sys.argv[1:])
if __name__ == "__main__":
    main()
"""
NEAR = {
    "near/__init__.py": "",
    "near/__main__.py": MAIN,
    "near-0.1.0.dist-info/entry_points.txt": "[console_scripts]\nnear = near.__main__:main\n",
}
BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "{name}-1.0-{tag}.whl"
    with zipfile.ZipFile(f"{{folder}}/{{name}}", "w") as archive:
        archive.writestr("{name}-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        archive.writestr("{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        archive.writestr("{name}-1.0.dist-info/RECORD", "")
    return name
"""


def wheel(
    folder: Path, name: str, requires: tuple[str, ...] = (), files: dict | None = None, version="1.0", tag=""
) -> Path:
    path = folder / f"{name}-{version}-{tag or 'py3-none-any'}.whl"
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: train"]
    lines += [f"Requires-Dist: {text}" for text in requires]
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (files or {}).items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag or 'py3-none-any'}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def source(folder: Path, name: str, tag: str) -> None:
    """A project that is published without a wheel, and becomes one with `tag`."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(name=name, tag=tag),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    }
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
        for member, content in files.items():
            info = tarfile.TarInfo(f"{name}-1.0/{member}")
            info.size = len(content)
            archive.addfile(info, BytesIO(content.encode()))


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory) -> Path:
    """A folder for `pip --find-links`: pip, two tiny packages, and a source without a wheel."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    pip = metadata.distribution("pip")
    with zipfile.ZipFile(folder / f"pip-{pip.version}-py3-none-any.whl", "w") as archive:
        for file in pip.files:
            if ".." not in file.parts and file.suffix != ".pyc":
                archive.write(file.locate(), str(file))
    wheel(folder, "tiny_base", ("other; python_version < '3'",), {"tiny_base.py": "answer = 42"})
    wheel(folder, "tiny_extra", ("tiny-base>=1", "torch>=1"))
    source(folder, "tiny_source", "py3-none-any")
    source(folder, "tiny_machine", "py3-none-linux_x86_64")
    return folder


@pytest.fixture(scope="module")
def shelf(wheelhouse, tmp_path_factory):
    """Write a bundle of a near that requires the packages given."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        patch.delenv(name)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheelhouse), "CONFIG_FILE": os.devnull}.items():
        patch.setenv(f"PIP_{name}", value)
    build = Wheels.build

    def write(folder: Path, *words: str, requires: tuple[str, ...] = ()) -> Path:
        def made(self, project):
            if project != bundle.ROOT:
                return build(self, project)
            self.chosen["near"] = wheel(self.folder, "near", requires, NEAR, version="0.1.0")

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Wheels, "build", made)
            inner.setattr(bundle, "PROJECT", ("LICENSE",))
            bundle.main([str(folder), "--no-assets", "--platform", PLATFORM, "--extras", "train", *words])
        return folder

    yield write
    patch.undo()


REQUIRES = (
    "tiny-base",
    "tiny-extra; extra == 'train'",
    "torch>=2; extra == 'train'",
    "none; platform_system == 'Windows'",
)


@pytest.fixture(scope="module")
def made(shelf, tmp_path_factory) -> Path:
    return shelf(tmp_path_factory.mktemp("made") / "bundle", "--without", "Torch", requires=REQUIRES)


@pytest.fixture
def copied(made, tmp_path) -> Path:
    subprocess.run(["cp", "-r", made, tmp_path / "copied"], check=True)
    return tmp_path / "copied"


def sealed(folder: Path, **changes) -> Path:
    """The bundle with another manifest.json, as if it had been made so."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    lines = [f"{file['sha256']}  {file['name']}\n" for file in manifest["files"]]
    lines.append(f"{hashlib.sha256((folder / 'manifest.json').read_bytes()).hexdigest()}  manifest.json\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def shell(script: Path, *words: object, python: str = sys.executable, cwd: Path | None = None, **env: str):
    """Run a script of the bundle in an environment with nothing but a PATH."""
    cwd = cwd or script.parent.parent
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHON": python, **env}
    return subprocess.run(["sh", str(script), *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True)


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line of an error."""
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.process
def test_a_bundle_has_what_near_requires_and_says_what(made):
    names = {path.name.split("-")[0] for path in (made / "wheels").iterdir()}
    assert names == {"near", "pip", "tiny_base", "tiny_extra"}
    manifest = json.loads((made / "manifest.json").read_text())
    assert set(manifest["packages"]) == {"near", "pip", "tiny-base", "tiny-extra"}
    assert manifest["python"] == HERE and manifest["platform"] == PLATFORM
    assert manifest["left_out"] == {"torch": ">=2"}, "all that is required of it"
    on_disk = {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()}
    assert {file["name"] for file in manifest["files"]} == on_disk - {"manifest.json", "SHA256SUMS"}
    for file in manifest["files"]:
        content = (made / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
    assert (made / "project" / "LICENSE").is_file()


@pytest.mark.process
def test_no_path_of_the_index_is_in_it(made, wheelhouse):
    for name in ("manifest.json", "SHA256SUMS", "install.sh", "install.py", "join.sh", "README.md"):
        assert str(wheelhouse) not in (made / name).read_text()


@pytest.mark.process
def test_it_installs_and_runs_without_a_network(made, tmp_path):
    done = shell(made / "install.sh", "an env", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"next: NEAR_CACHE={tmp_path}/.cache '{tmp_path}/an env/bin/near'")
    python = tmp_path / "an env" / "bin" / "python"
    assert subprocess.run([python, "-P", "-m", "near"], capture_output=True, text=True).stdout == "near 42\n"
    of = "from importlib.metadata import version; print(version('torch'))"
    done = subprocess.run([python, "-c", of], capture_output=True, text=True)
    assert done.stdout.strip() == metadata.version("torch"), "the machine's"

    again = shell(made / "install.sh", "an env", cwd=tmp_path)
    assert again.returncode == 0 and "has this bundle already" in again.stdout


@pytest.mark.process
def test_pythonpath_hides_nothing_and_may_bring_what_is_left_out(copied, tmp_path):
    """Environment modules set it, with packages of their versions; once installed, it need not be set."""
    wheel(tmp_path, "tiny_base", files={"tiny_base.py": "answer = 0"}, version="0.5")
    wheel(tmp_path, "by_module", files={"by_module.py": "answer = 1"}, version="2.0")
    for path in tmp_path.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "elsewhere")
    sealed(copied, left_out={"by-module": ">=2"})
    for path in (str(tmp_path / "elsewhere"), ""):
        done = shell(copied / "install.sh", "env", cwd=tmp_path, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        code = "import tiny_base, by_module; print(tiny_base.answer, by_module.answer)"
        command, env = [tmp_path / "env" / "bin" / "python", "-P", "-c", code], {"PYTHONPATH": path}
        assert subprocess.run(command, env=env, capture_output=True, text=True).stdout == "42 1\n"
    (tmp_path / "elsewhere" / "by_module-2.0.dist-info").rename(tmp_path / "gone")
    assert "env/bin/python has none; load it" in refused(shell(copied / "install.sh", "env", cwd=tmp_path))


@pytest.mark.process
def test_the_job_of_the_recipes_runs(made, tmp_path):
    (job,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE | re.DOTALL)
    for command in re.findall(r"env/bin/(near .*)", job):
        composes(command)
    (tmp_path / "bin").mkdir()
    for name, content in (("module", ""), ("srun", 'exec "$@"')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(job)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "near-bundle").symlink_to(made)
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PYTHON": sys.executable, "SCRATCH": str(tmp_path)}
    env |= {"SLURM_CPUS_PER_TASK": "2"}
    done = subprocess.run(["bash", tmp_path / "job.sh"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "near 42 train -m selector=near,random seed=1,2,3 sweep_name=ablation",
        "near 42 report runs=runs/ablation",
    ]


@pytest.mark.process
def test_an_installation_that_was_killed_is_done_again(made, tmp_path):
    env = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    words = ["sh", str(made / "install.sh"), "env"]
    running = subprocess.Popen(words, cwd=tmp_path, env=env, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "env" / "pyvenv.cfg").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert (tmp_path / "env").exists() and not (tmp_path / "env" / install.INSTALLED).exists()
    done = shell(made / "install.sh", "env", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"env"}


@pytest.mark.process
def test_two_jobs_install_once(made, tmp_path):
    env = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    words = ["sh", str(made / "install.sh"), "env"]
    jobs = [subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sorted("has this bundle already" in output for output in outputs) == [False, True]


@pytest.mark.process
def test_a_folder_that_is_not_from_this_bundle_stays(made, copied, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert "mine exists and is not from a bundle; name another folder" in refused(
        shell(made / "install.sh", "mine", cwd=tmp_path)
    )
    (tmp_path / "mine" / install.INSTALLED).write_text('{"manifest": "0"}')
    assert "mine is from another bundle; remove it" in refused(shell(made / "install.sh", "mine", cwd=tmp_path))
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"file", install.INSTALLED}
    assert "is not a folder" in refused(shell(made / "install.sh", "--help"))
    assert "one argument at most" in refused(shell(made / "install.sh", "a", "b"))


@pytest.mark.process
def test_a_damaged_bundle_is_refused(copied):
    path = copied / "wheels" / "tiny_base-1.0-py3-none-any.whl"
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"x", bytes([content[0] ^ 1]) + content[1:], b""):
        path.write_bytes(damaged)
        assert refused(shell(copied / "install.sh")) == f"error: {path} is missing or damaged; copy it again"
    path.unlink()
    assert refused(shell(copied / "install.sh")) == f"error: {path} is missing or damaged; copy it again"
    path.write_bytes(content)
    sums = copied / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    for cut in ("".join(lines[:2]), "".join(lines)[:30], ""):
        sums.write_text(cut)
        assert "SHA256SUMS is damaged" in refused(shell(copied / "install.sh"))
    sums.unlink()
    assert "SHA256SUMS is missing" in refused(shell(copied / "install.sh"))
    assert not (copied.parent / ".venv").exists()


@pytest.mark.process
def test_another_python_is_refused(copied, tmp_path):
    sealed(copied, python="3.99")
    line = refused(shell(copied / "install.sh"))
    assert line.startswith(f"error: this bundle is for Python 3.99; {sys.executable} is Python {HERE}; load one")
    assert "no Python was found" in refused(shell(copied / "install.sh", python="/none"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("platform", "says"),
    [
        ("manylinux_2_17_riscv64", "the bundle is for riscv64; make one with near bundle --platform manylinux_2_17_"),
        (f"manylinux_2_99_{os.uname().machine}", "the bundle is for glibc 2.99 or later; make one with near bundle"),
    ],
)
def test_another_platform_is_refused(copied, platform, says):
    assert says in refused(shell(sealed(copied, platform=platform) / "install.sh"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ({"torch": ">=99"}, "near needs torch>=99; load another version"),
        ({"no-such": ""}, "the bundle leaves no-such out"),
    ],
)
def test_a_machine_without_what_was_left_out_is_refused(copied, left_out, says):
    assert says in refused(shell(sealed(copied, left_out=left_out) / "install.sh"))
    assert not (copied.parent / ".venv").exists()


def test_a_c_library_other_than_glibc_is_refused(monkeypatch):
    monkeypatch.setattr(os, "confstr", lambda name: None)
    with pytest.raises(install.Refused, match="this machine has no glibc, the bundle needs glibc 2.17"):
        install.check_machine({"platform": PLATFORM})


def test_assets_are_copied_once_and_whole(tmp_path):
    source, target = tmp_path / "assets" / "one", tmp_path / "cache" / "assets" / "one"
    source.mkdir(parents=True)
    (source / "file").write_text("new")
    left = target.parent / ".one.0123abcd.part"
    left.mkdir(parents=True)
    for _ in range(2):
        install.copy_asset(source, target)
        assert (target / "file").read_text() == "new" and not left.exists()
    (target / "file").write_text("mine")
    install.copy_asset(source, target)
    assert (target / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def in_parts(shelf, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "bundle"
    return shelf(folder, "--without", "torch", "--part-size", "300K", requires=REQUIRES)


@pytest.mark.process
def test_parts_become_the_bundle(in_parts, made, tmp_path):
    pieces = sorted(in_parts.glob("near-bundle.tar.*"))
    assert len(pieces) > 2 and {p.stat().st_size for p in pieces[:-1]} == {300_000}
    assert {p.name for p in in_parts.iterdir()} == {"join.sh", "README.md", "PARTS.sha256", *(p.name for p in pieces)}
    (tmp_path / ".near-bundle.part").mkdir()  # of a join that was killed
    done = shell(in_parts / "join.sh", tmp_path)
    assert done.returncode == 0, done.stderr
    joined = tmp_path / "near-bundle"
    assert done.stdout.splitlines()[-1] == f"next: sh {joined}/install.sh"
    names = {str(p.relative_to(joined)) for p in joined.rglob("*")}
    assert names == {str(p.relative_to(made)) for p in made.rglob("*")}
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=joined).returncode == 0
    assert "near-bundle exists; remove it" in refused(shell(in_parts / "join.sh", tmp_path))
    assert "none is not a folder" in refused(shell(in_parts / "join.sh", "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["near-bundle"]


@pytest.mark.process
def test_a_missing_or_damaged_part_is_named(in_parts, tmp_path):
    subprocess.run(["cp", "-r", in_parts, tmp_path / "parts"], check=True)
    part = tmp_path / "parts" / "near-bundle.tar.001"
    content = part.read_bytes()
    for damaged in (content[:-1], b"x" + content[1:], None):
        part.unlink() if damaged is None else part.write_bytes(damaged)
        assert refused(shell(tmp_path / "parts" / "join.sh")) == (
            "error: near-bundle.tar.001 is missing or damaged; copy it again"
        )
    part.write_bytes(content)
    sums = tmp_path / "parts" / "PARTS.sha256"
    sums.write_text(sums.read_text().splitlines(keepends=True)[0])
    done = shell(tmp_path / "parts" / "join.sh")
    assert done.returncode == 1 and "copy PARTS.sha256 again if it is cut off" in done.stderr
    sums.unlink()
    assert "PARTS.sha256 is missing" in refused(shell(tmp_path / "parts" / "join.sh"))
    assert [path.name for path in tmp_path.iterdir()] == ["parts"], "nothing is left"


@pytest.mark.process
def test_a_source_that_suits_every_machine_becomes_a_wheel(shelf, tmp_path):
    folder = shelf(tmp_path / "bundle", requires=("tiny-source==1.0", "tiny-base"))
    assert (folder / "wheels" / "tiny_source-1.0-py3-none-any.whl").is_file()
    assert "tiny-source" in json.loads((folder / "manifest.json").read_text())["packages"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("requires", "words", "says"),
    [
        (
            ("tiny-machine",),
            (),
            "^tiny-machine: there is no wheel for .*tiny_machine-1.0-py3-none-linux_x86_64.whl is for",
        ),
        (("not-there>=2",), (), f"^not-there: there is no wheel for Python {HERE} on .*; choose another --python or"),
        (("tiny-base",), ("--without", "trch"), "--without trch: nothing in the bundle needs it; there are: near, pip"),
    ],
)
def test_what_can_not_be_had_is_named_and_nothing_is_left(shelf, tmp_path, requires, words, says):
    with pytest.raises(UserError, match=says):
        shelf(tmp_path / "bundle", *words, requires=requires)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_a_full_disk_is_one_line_and_leaves_nothing(shelf, tmp_path, monkeypatch):
    full = subprocess.CompletedProcess([], 1, "", f"ERROR: [Errno {errno.ENOSPC}] No space left on device")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: full)
    with pytest.raises(UserError, match=f"^no space left for the bundle on the device of {tmp_path}; free some"):
        shelf(tmp_path / "bundle", requires=("tiny-base",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--python", "3.10"), "--python 3.10: near needs Python >=3.11"),
        (("--python", "3"), "--python 3 is not a version such as 3.11"),
        (("--python", "3.11.7"), "--python 3.11.7 is not a version such as 3.11"),
        (("--platform", "win_amd64"), "for example manylinux_2_28_x86_64"),
        (("--platform", "manylinux2014_x86_64"), "for example manylinux_2_28_x86_64"),
        (("--platform", "musllinux_1_2_x86_64"), "for example manylinux_2_28_x86_64"),
        (("--extras", "trian"), "--extras trian is not an extra of near; did you mean train?"),
        (("--without", "near"), "--without near: install.sh needs it"),
        (("--part-size", "1900"), "write a number and K, M or G, such as 1900M"),
        (("--part-size", "0G"), "is not a size of at least 1K"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(words, says, tmp_path):
    with pytest.raises(UserError) as error:
        bundle.main([str(tmp_path / "bundle"), *words])
    assert says in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_folder_with_files_stays(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="exists; remove it, or name another folder"):
            bundle.main([str(folder)])


def test_a_wheel_of_near_can_not_bundle_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    with pytest.raises(UserError, match="near is installed without its repository; make the bundle in a clone"):
        bundle.main([str(tmp_path / "bundle")])


def test_markers_are_those_of_the_other_machine(tmp_path):
    texts = (
        "new; python_version >= '3.13'",
        "arm; platform_machine == 'aarch64'",
        "late; python_full_version < '3.13.4'",
    )
    path = wheel(tmp_path, "asks", (*texts, "ext; extra == 'train'"))

    def names(python: str, machine: str, extra: str = "") -> set[str]:
        of = Wheels(tmp_path, Target(python, f"manylinux_2_28_{machine}"), (), (), tmp_path)
        of.chosen["asks"] = path
        return {requirement.name for requirement in of.required("asks", extra)}

    assert names("3.11", "x86_64") == {"late"}
    assert names("3.13", "aarch64") == {"new", "arm", "late"}, "whichever patch release it is"
    assert names("3.14", "x86_64", "train") == {"new", "ext"}


def test_the_versions_of_what_is_left_out_are_short():
    of = Wheels(Path(), Target("3.11", "manylinux_2_28_x86_64"), ("torch",), (), Path())
    for text, short in (
        ("", ""),
        (">=2,>=2.11,>=1.13", ">=2.11"),
        ("!=2.12,<3,>=2,>=1", ">=2,!=2.12,<3"),
        ("==2.*", "==2.*"),
    ):
        of.bounds["torch"] = SpecifierSet(text)
        assert of.accepted("torch") == short


def test_an_older_glibc_is_accepted_and_a_newer_one_is_not():
    options = Target("3.12", "manylinux_2_28_aarch64").options()
    assert {"manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(options)
    assert "manylinux_2_29_aarch64" not in options and not [word for word in options if "x86_64" in word]


def test_the_addresses_of_an_index_stay_out_of_messages():
    stderr = "WARNING: x\nERROR: 401 Client Error for url: https://me:pass@host/simple/a/\n"
    assert wheels.reason(stderr) == "401 Client Error for url: ..."
    assert "pass" not in wheels.reason("ERROR: git+ssh://me:pass@host/x failed") and wheels.reason("") != ""


def test_sizes():
    assert [parts.read_size(text) for text in ("1K", "1900M", "1.9g", "2GB")] == [
        1000,
        1900 * 10**6,
        1900 * 10**6,
        2 * 10**9,
    ]
