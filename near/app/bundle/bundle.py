"""A bundle for machines without a network: wheels, assets, the project and install.sh, in one folder."""

import argparse
import importlib.util
import os
import platform
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from near import __version__
from near.app.bundle.parts import NAME, cut, read_size
from near.app.bundle.wheels import PLATFORM, Target, Wheels
from near.app.command import SCRIPTS
from near.common.errors import UserError, did_you_mean
from near.common.extras import EXTRAS
from near.common.files import FULL, expanded_user, file_digest, folder_aside, link, refuse_special, write_json
from near.common.text import plural
from near.data.builtin.assets import PREFIX, defaults, resolve

ROOT = Path(__file__).resolve().parents[3]
NODE = Path(__file__).parent / "node"
PROJECT = (
    *("bench", "conf", "docs", "hydra_plugins", "near", "sweeps", "LICENSE", "README.md", "pyproject.toml"),
    *("requirements.txt", *(f"{name}.py" for name in SCRIPTS)),
)


@dataclass(frozen=True)
class Manifest:
    """manifest.json of a bundle.

    Attributes:
        schema: 1.
        near: its version.
        created: the time.
        python: such as 3.11.
        platform: such as manylinux_2_28_x86_64.
        extras: of near.
        left_out: by name of package, the versions that the machine's package may have.
        packages: version by name.
        assets: names of folders in assets/.
        files: name, size and sha256 of each file, but for this one and SHA256SUMS.
    """

    schema: int
    near: str
    created: str
    python: str
    platform: str
    extras: list[str]
    left_out: dict[str, str]
    packages: dict[str, str]
    assets: list[str]
    files: list[dict]


def write_bundle(
    folder: Path, target: Target, extras: Sequence[str], without: Sequence[str], assets: Sequence[str], part_size: int
) -> Manifest:
    """Write a bundle to `folder`, complete or not at all. part_size: bytes of a part at most; 0: not in parts."""
    constraints = [ROOT / "requirements.txt", ROOT / ".ci" / "extras.txt"]
    with folder_aside(folder) as new:
        bundle, temporary = (new / NAME if part_size else new), new / "tmp"
        for path in (bundle / "wheels", temporary):
            path.mkdir(parents=True)
        wheels = Wheels(bundle / "wheels", target, without, constraints, temporary)
        wheels.build(ROOT)
        wheels.add([Requirement(f"near[{','.join(extras)}]"), Requirement("pip>=23")])
        if unknown := [name for name in without if name not in wheels.bounds]:
            needed = did_you_mean(unknown[0], wheels.bounds)
            raise UserError(f"--without {unknown[0]}: nothing in the bundle needs it{needed}")
        shutil.rmtree(temporary)
        for name in assets:
            source = Path(resolve(PREFIX + name, _cache()))
            shutil.copytree(source, bundle / "assets" / name, copy_function=link, ignore=shutil.ignore_patterns(".*"))
        _copy_project(bundle / "project")
        for path in NODE.iterdir():
            if path.is_file():
                shutil.copy(path, bundle / path.name)
        manifest = Manifest(
            schema=1,
            near=__version__,
            created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            python=target.python,
            platform=target.platform,
            extras=list(extras),
            left_out={name: wheels.accepted(name) for name in without},
            packages=wheels.versions(),
            assets=list(assets),
            files=_listed(bundle),
        )
        write_json(bundle / "manifest.json", asdict(manifest))
        sums = [*manifest.files, {"name": "manifest.json", "sha256": file_digest(bundle / "manifest.json")}]
        (bundle / "SHA256SUMS").write_text("".join(f"{f['sha256']}  {f['name']}\n" for f in sums), encoding="utf-8")
        if part_size:
            for name in ("join.sh", "README.md"):
                shutil.copy(NODE / name, new / name)
            cut(bundle, new, part_size)
            shutil.rmtree(bundle)
    return manifest


def _copy_project(into: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for path in [ROOT / name for name in PROJECT]:
        if path.is_dir():
            shutil.copytree(path, into / path.name, symlinks=True, ignore=ignored)
        else:
            into.mkdir(exist_ok=True)
            shutil.copy(path, into / path.name)


def _listed(bundle: Path) -> list[dict]:
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
    names = [path.relative_to(bundle).as_posix() for path in files]
    return [
        {"name": name, "size": path.stat().st_size, "sha256": file_digest(path)}
        for name, path in zip(names, files, strict=True)
    ]


def _cache() -> str:
    return os.environ.get("NEAR_CACHE", ".cache")


def check_clone() -> None:
    """UserError where near is installed without its repository: another package may have its name on the index."""
    if not (ROOT / "pyproject.toml").is_file() or not (ROOT / "requirements.txt").is_file():
        raise UserError("near is installed without its repository; make the bundle in a clone: python -m near bundle")
    if importlib.util.find_spec("pip") is None:
        raise UserError("pip, which downloads the wheels, is missing; run python -m ensurepip, or uv pip install pip")


def read_target(python: str, name: str) -> Target:
    if not re.fullmatch(r"3\.\d{1,2}", python):
        raise UserError(f"--python {python} is not a version such as 3.11")
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    if not SpecifierSet(requires).contains(f"{python}.99"):
        raise UserError(f"--python {python}: near needs Python {requires}")
    match = PLATFORM.fullmatch(name)
    if not match or int(match[1]) < 5:
        raise UserError(
            f"--platform {name} is not manylinux_2_N_x86_64 or manylinux_2_N_aarch64, N from the machine's glibc 2.N "
            "(ldd --version); for example manylinux_2_28_x86_64"
        )
    return Target(python, name)


def read_names(text: str) -> list[str]:
    """The distinct names in a list such as `train,report`."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def read_extras(text: str) -> list[str]:
    names = read_names(text)
    if unknown := [name for name in names if name not in EXTRAS]:
        raise UserError(f"--extras {unknown[0]} is not an extra of near{did_you_mean(unknown[0], EXTRAS)}")
    return names


def read_without(text: str) -> list[str]:
    names = list(dict.fromkeys(canonicalize_name(name) for name in read_names(text)))
    if needed := {"near", "pip"}.intersection(names):
        raise UserError(f"--without {min(needed)}: install.sh needs it; leave out others, such as torch")
    return names


def read_folder(text: str) -> Path:
    folder = Path(os.path.abspath(expanded_user(text, "FOLDER")))
    refuse_special(folder, "FOLDER")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists; remove it, or name another folder")
    return folder


def main(words: Sequence[str] | None = None) -> None:
    """The command `near bundle FOLDER`."""
    from near.app.faults import fault_line

    parser = argparse.ArgumentParser(prog="near bundle", description=__doc__)
    parser.add_argument("folder", help="the folder to write, new or empty")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine = f"manylinux_2_28_{platform.machine()}"
    parser.add_argument("--python", default=here, help=f"the other machine's Python (default: this one's, {here})")
    parser.add_argument("--platform", default=machine, help=f"and its platform, by its glibc (default: {machine})")
    parser.add_argument("--extras", default="train,report", help="extras of near (default: train,report; '': none)")
    parser.add_argument("--without", default="", metavar="NAMES", help="packages that the machine has, such as torch")
    parser.add_argument("--part-size", metavar="SIZE", help="cut the bundle into files of at most SIZE, such as 1900M")
    parser.add_argument("--no-assets", action="store_true", help="without the built-in model, embedder and data")
    arguments = parser.parse_args(words)
    check_clone()
    target = read_target(arguments.python, arguments.platform)
    extras, without = read_extras(arguments.extras), read_without(arguments.without)
    part_size = read_size(arguments.part_size) if arguments.part_size else 0
    folder = read_folder(arguments.folder)
    print(f"collecting the wheels for {target}", flush=True)
    try:
        assets = [] if arguments.no_assets else defaults()
        manifest = write_bundle(folder, target, extras, without, assets, part_size)
    except (OSError, ModuleNotFoundError) as error:
        if getattr(error, "errno", None) in FULL:
            raise UserError(
                f"no space left for the bundle on the device of {folder.parent}; free some, or name another folder"
            ) from error
        if (line := fault_line(error)) is None:
            raise
        raise UserError(line) from error
    size = sum(file["size"] for file in manifest.files) / 1e6
    left_out = "".join(f", without {name} ({versions})" for name, versions in manifest.left_out.items())
    print(f"{folder}: {plural(len(manifest.packages), 'package')}, {size:,.1f} MB, for {target}{left_out}")
    print(f"next, on the other machine: sh {folder.name}/{'join.sh' if part_size else 'install.sh'}")
