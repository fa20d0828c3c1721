"""The second half of install.sh, which has checked the files and the Python's version: environment and assets.

It runs from a bundle, before near and its packages are installed: with the standard library, and the bundle's pip.
"""

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

INSTALLED = "near-bundle.json"  # in the environment: which bundle it has
PATHS = "near_bundle_paths"  # in its site-packages: a .pth, read at every start of its Python, and a module

# PYTHONPATH, which environment modules set, would hide the bundle's packages by older ones: it goes to the end
PYTHONPATH_LAST = """
import os
import sys

late = {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
sys.path.sort(key=lambda path: os.path.abspath(path) in late)
"""

VERSIONS = """
import json, sys
from importlib import metadata
for name in sys.argv[1:]:
    package = next(iter(metadata.distributions(name=name)), None)
    print(json.dumps([name, package and [package.version, str(package.locate_file(""))]]))
"""


class Refused(Exception):
    """One line for the user, with the fix."""


def install(bundle: Path, venv: Path, cache: Path) -> None:
    """Make the environment `venv` from `bundle`, and put its assets into `cache`; what is there already stays."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    check_list(bundle, manifest)
    check_machine(manifest)
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    mark = venv.with_name(f".{venv.name}.near-bundle")  # a lock; not empty while the environment is unfinished
    venv.parent.mkdir(parents=True, exist_ok=True)
    with locked(mark):
        unfinished = mark.stat().st_size > 0
        if not unfinished and venv.exists() and any(venv.iterdir()):
            check_existing(venv, digest)
            print(f"{venv} has this bundle already")
        else:
            check_left_out(bundle, manifest, sys.executable)
            mark.write_text(digest)
            make(bundle, venv, manifest)
            (venv / INSTALLED).write_text(json.dumps({"manifest": digest}) + "\n")
        check_packages(bundle, manifest, str(venv / "bin" / "python"))
        mark.unlink()
    for asset in manifest["assets"]:
        copy_asset(bundle / "assets" / asset, cache / "assets" / asset)


def check_list(bundle: Path, manifest: dict) -> None:
    """Refuse a bundle whose list of sums, by which its files were checked, is not complete."""
    checked = (bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    if missing := [f["name"] for f in manifest["files"] if f"{f['sha256']}  {f['name']}" not in checked]:
        raise Refused(f"{bundle / 'SHA256SUMS'} is damaged (it lacks {missing[0]}); copy the bundle again")


def check_machine(manifest: dict) -> None:
    minor, machine = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", manifest["platform"]).groups()
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise Refused(f"{sys.executable} is not a CPython with its global lock; set PYTHON to one")
    if platform.machine() != machine:
        raise Refused(
            f"this machine is {platform.machine()}, the bundle is for {machine}; make one with near bundle "
            f"--platform manylinux_2_{minor}_{platform.machine()}"
        )
    libc = c_library()
    found = re.fullmatch(r"glibc 2\.(\d+).*", libc)
    if not found:
        raise Refused(f"this machine has {libc}, the bundle needs glibc 2.{minor} or later; use another machine")
    if int(found[1]) < int(minor):
        raise Refused(
            f"this machine has {libc}, the bundle is for glibc 2.{minor} or later; make one with near bundle "
            f"--platform manylinux_2_{found[1]}_{machine}"
        )


def c_library() -> str:
    """Such as `glibc 2.36`."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "no glibc"
    except (ValueError, OSError):
        return "no glibc"


def pip_wheel(bundle: Path) -> Path:
    return next((bundle / "wheels").glob("pip-*.whl"))


def packages(python: str, names: list[str]) -> dict[str, list[str] | None]:
    """Version and folder of each package that a Python finds; None for one that it does not find."""
    command = [python, "-P", "-c", VERSIONS, *names]
    return dict(map(json.loads, run(command, os.environ, f"{python} -c ...").splitlines()))


def check_left_out(bundle: Path, manifest: dict, python: str) -> None:
    """Refuse a Python that lacks a package which the bundle leaves out, or has another version than near works with."""
    sys.path.append(str(pip_wheel(bundle)))
    specifiers = importlib.import_module("pip._vendor.packaging.specifiers")
    sys.path.pop()
    for name, package in packages(python, list(manifest["left_out"])).items():
        versions = manifest["left_out"][name]
        if package is None:
            raise Refused(
                f"the bundle leaves {name} out, and {python} has none; load it (module load ...), set PYTHON to a "
                f"Python that has it, or make a bundle without --without {name}"
            )
        if not specifiers.SpecifierSet(versions).contains(package[0], prereleases=True):
            raise Refused(
                f"{python} has {name} {package[0]}, near needs {name}{versions}; load another version, or make a "
                f"bundle without --without {name}"
            )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep the lock at `path`, a file, during the block; on a file system without locks, go on without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "a") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return
        # the previous owner has removed the file: a lock on it excludes nobody


def check_existing(venv: Path, digest: str) -> None:
    try:
        installed = json.loads((venv / INSTALLED).read_text())["manifest"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(f"{venv} exists and is not from a bundle; name another folder: sh install.sh VENV") from None
    if installed != digest:
        raise Refused(f"{venv} is from another bundle; remove it, or name another folder: sh install.sh VENV")


def make(bundle: Path, venv: Path, manifest: dict) -> None:
    """The environment, with all wheels of the bundle; an unfinished one is removed first."""
    print(f"installing {len(manifest['packages'])} packages into {venv}", flush=True)
    if venv.exists():
        shutil.rmtree(venv)
    inherits = ["--system-site-packages"] if manifest["left_out"] else []
    run([sys.executable, "-m", "venv", "--without-pip", *inherits, str(venv)], os.environ, "python -m venv")
    # pip from its wheel: the Python's may be missing, or too old for the wheels
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": str(pip_wheel(bundle))}
    start = [str(venv / "bin" / "python"), "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-index", "--no-deps", "--ignore-installed", "--no-compile", "--no-cache-dir"]
    run([*start, *options, *map(str, sorted((bundle / "wheels").glob("*.whl")))], env, "pip install")
    (site,) = venv.glob("lib/python*/site-packages")
    folders = package_folders() if manifest["left_out"] else []
    (site / f"{PATHS}.py").write_text(PYTHONPATH_LAST)
    (site / f"{PATHS}.pth").write_text("".join(f"{line}\n" for line in [*folders, f"import {PATHS}"]))


def package_folders() -> list[str]:
    """Where this Python finds packages: of a virtual environment or PYTHONPATH, too, which another would not see."""
    ours = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.path.abspath(__file__))}
    return [path for path in sys.path if os.path.isdir(path) and path not in ours and not path.endswith("lib-dynload")]


def run(command: list[str], env: Mapping[str, str], what: str) -> str:
    """The output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no output"]
        errors = [line for line in lines if "rror" in line] or lines
        raise Refused(f"{what} failed ({errors[-1][:300]}); mend that, then run install.sh again")
    return done.stdout


def check_packages(bundle: Path, manifest: dict, python: str) -> None:
    """Refuse an environment with other packages than the bundle's, or in which near does not start."""
    for name, package in packages(python, list(manifest["packages"])).items():
        wanted = manifest["packages"][name]
        if package is None:
            raise Refused(f"{python} lacks {name}; remove its environment, then run install.sh again")
        if package[0] != wanted:
            raise Refused(
                f"{name} {package[0]} of {package[1]} hides the bundle's {wanted}; remove it there, or unset the "
                "variable that puts it first, then run install.sh again"
            )
    check_left_out(bundle, manifest, python)
    run([python, "-P", "-m", "near", "--version"], os.environ, "near --version")


def copy_asset(source: Path, target: Path) -> None:
    """Copy a folder into the cache, complete or not at all, under the lock by which near itself makes it."""
    with locked(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return print(f"{target} is there already")
        for left in target.parent.glob(f".{target.name}.????????.part"):  # of an installation that was killed
            shutil.rmtree(left)
        temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
        print(f"copying {target.name} into {target.parent}", flush=True)
        try:
            shutil.copytree(source, temporary)
            os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def main() -> None:
    bundle, venv = Path(__file__).resolve().parent, Path(os.path.abspath(os.path.expanduser(sys.argv[1])))
    cache = Path(os.path.abspath(os.path.expanduser(os.environ.get("NEAR_CACHE") or ".cache")))
    try:
        install(bundle, venv, cache)
    except (Refused, OSError) as error:
        line = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # the first of many files
        print(f"error: {' '.join(str(line).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run install.sh again to go on", file=sys.stderr)
        sys.exit(130)
    print(f"next: NEAR_CACHE={shlex.quote(str(cache))} {shlex.quote(str(venv / 'bin' / 'near'))} select max_K=100")


if __name__ == "__main__":
    main()
